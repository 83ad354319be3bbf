-- Aggregate reports that others have sent about our domains. report_key is a hash over who vouches for it, organization,
-- id and domain, made by the gate: the same report counts once. An absent value is the empty text.
CREATE TABLE inbound_reports (
    report_key    BYTEA  NOT NULL PRIMARY KEY,
    received      BIGINT NOT NULL, -- seconds since the epoch
    reporter      TEXT COLLATE "C" NOT NULL, -- the verified author domain of its message; empty: nobody vouches for it
    organization  TEXT COLLATE "C" NOT NULL, -- as it says itself
    report_id     TEXT   NOT NULL,
    policy_domain TEXT COLLATE "C" NOT NULL,
    policy        TEXT COLLATE "C" NOT NULL, -- p: none, quarantine, reject
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
    report_key   BYTEA  NOT NULL,
    place        BIGINT NOT NULL, -- in the report, from 0
    n            BIGINT NOT NULL, -- messages
    source_ip    TEXT COLLATE "C" NOT NULL,
    header_from  TEXT   NOT NULL,
    disposition  TEXT COLLATE "C" NOT NULL, -- none, pass, quarantine, reject
    dkim_aligned TEXT COLLATE "C" NOT NULL, -- pass, fail
    spf_aligned  TEXT COLLATE "C" NOT NULL,
    dkim_passed  TEXT COLLATE "C" NOT NULL, -- domains, with spaces between
    spf_passed   TEXT COLLATE "C" NOT NULL,
    reasons      TEXT   NOT NULL, -- types, with spaces between
    PRIMARY KEY (report_key, place)
);
