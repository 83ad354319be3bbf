-- To whom failure reports went, so that any gate can tell whose bounce has come: it names the report alone.
CREATE TABLE failure_reports (
    id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    address TEXT NOT NULL,
    sent    BIGINT NOT NULL -- seconds since the epoch
);

CREATE INDEX failure_reports_by_age ON failure_reports (sent);
