-- The last batch of rows that each run of a gate has brought in: one whose fate is unknown (the connection broke at the
-- commit) is offered again, and taken once.
CREATE TABLE store_writers (
    id       BYTEA  NOT NULL PRIMARY KEY, -- random, of one run
    sequence BIGINT NOT NULL,             -- of its last batch
    seen     BIGINT NOT NULL              -- when that came, in seconds since the epoch
);
