-- Aggregate reports that others have sent about our domains. report_key is a hash over who vouches for it, organization,
-- id and domain, made by the gate: the same report counts once. An absent value is the empty text.
CREATE TABLE inbound_reports (
    report_key    BLOB   NOT NULL PRIMARY KEY,
    received      BIGINT NOT NULL, -- seconds since the epoch
    reporter      TEXT   NOT NULL, -- the verified author domain of its message; empty: nobody vouches for it
    organization  TEXT   NOT NULL, -- as it says itself
    report_id     TEXT   NOT NULL,
    policy_domain TEXT   NOT NULL,
    policy        TEXT   NOT NULL, -- p: none, quarantine, reject
    begins        BIGINT NOT NULL, -- seconds since the epoch
    ends          BIGINT NOT NULL,
    n_rows        BIGINT NOT NULL,
    messages      BIGINT NOT NULL,
    left_out      BIGINT NOT NULL  -- records that could not be read
);

-- Shown by the end of their period.
CREATE INDEX inbound_reports_by_end ON inbound_reports (ends);
-- The oldest go first; with n_rows in it, their sum is read from the index alone.
CREATE INDEX inbound_reports_by_receipt ON inbound_reports (received, report_key, n_rows);

CREATE TABLE inbound_rows (
    report_key   BLOB   NOT NULL,
    place        BIGINT NOT NULL, -- in the report, from 0
    n            BIGINT NOT NULL, -- messages
    source_ip    TEXT   NOT NULL,
    header_from  TEXT   NOT NULL,
    disposition  TEXT   NOT NULL, -- none, pass, quarantine, reject
    dkim_aligned TEXT   NOT NULL, -- pass, fail
    spf_aligned  TEXT   NOT NULL,
    dkim_passed  TEXT   NOT NULL, -- domains, with spaces between
    spf_passed   TEXT   NOT NULL,
    reasons      TEXT   NOT NULL, -- types, with spaces between
    PRIMARY KEY (report_key, place)
);
