-- What was found and done about one message that was no plain pass, for some days and within a bound of size.
CREATE TABLE explanations (
    id      TEXT   COLLATE "C" NOT NULL PRIMARY KEY, -- the id in the log and in the reply to the client
    arrived BIGINT NOT NULL,             -- seconds since the epoch
    octets  BIGINT NOT NULL,             -- of the body
    body    BYTEA  NOT NULL              -- JSON, deflated
);

-- The oldest go first; with octets in it, their sum is read from the index alone.
CREATE INDEX explanations_by_arrival ON explanations (arrived, octets);
