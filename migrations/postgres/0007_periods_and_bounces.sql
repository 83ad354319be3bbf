-- To whom failure reports went, so that any gate can tell whose bounce has come: it names the report alone.
CREATE TABLE failure_reports (
    id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    address TEXT NOT NULL,
    sent    BIGINT NOT NULL -- seconds since the epoch
);

CREATE INDEX failure_reports_by_age ON failure_reports (sent);

-- Where the owner's wish for shorter periods is heeded, the part of the UTC day that a row is of.
ALTER TABLE report_rows ADD COLUMN begin_hour BIGINT NOT NULL DEFAULT 0;
ALTER TABLE report_rows ADD COLUMN hours BIGINT NOT NULL DEFAULT 24;
