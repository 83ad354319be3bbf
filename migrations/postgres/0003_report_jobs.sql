-- One line for each report to one destination; the ids are hashes, the same on every gate.
CREATE TABLE report_jobs (
    id            TEXT   COLLATE "C" NOT NULL PRIMARY KEY,
    report_id     TEXT   NOT NULL, -- of the report, the same for all its destinations
    policy_domain TEXT   COLLATE "C" NOT NULL,
    configuration TEXT   NOT NULL, -- which published policy: a hash
    period_begin  BIGINT NOT NULL, -- seconds since the epoch
    period_end    BIGINT NOT NULL, -- the last of them
    destination   TEXT   COLLATE "C" NOT NULL, -- the URI of the policy record
    due           BIGINT NOT NULL, -- the next attempt, or when it ended
    deadline      BIGINT NOT NULL, -- no attempt from here on
    state         TEXT   NOT NULL, -- due, claimed, sent, failed, suppressed, skipped
    attempts      BIGINT NOT NULL,
    unanswered    BIGINT NOT NULL, -- ends of data that were sent and not answered: possible deliveries
    holder        TEXT   NOT NULL, -- the gate that has it
    lease         BIGINT NOT NULL, -- until when
    claimed       BIGINT NOT NULL, -- when it was last taken up
    changed       BIGINT NOT NULL,
    recipient     TEXT   NOT NULL, -- the address that it went to
    note          TEXT   NOT NULL,
    messages      BIGINT NOT NULL, -- that the report tells of
    message       BYTEA  NOT NULL  -- while it may have to be sent once more
);

CREATE INDEX report_jobs_by_due ON report_jobs (state, due);
CREATE INDEX report_jobs_by_period ON report_jobs (period_end);
CREATE INDEX report_jobs_by_claim ON report_jobs (claimed);
CREATE INDEX report_jobs_by_recipient ON report_jobs (recipient, changed);

-- Addresses that get no reports for a while, since they bounce or are refused.
CREATE TABLE report_suppressions (
    address TEXT   COLLATE "C" NOT NULL PRIMARY KEY, -- lower case
    strikes BIGINT NOT NULL,
    since   BIGINT NOT NULL, -- seconds since the epoch
    until   BIGINT NOT NULL,
    reason  TEXT   NOT NULL
);

-- What signs the addresses that bounces come to: one for all gates.
CREATE TABLE report_secrets (
    name   TEXT  NOT NULL PRIMARY KEY,
    secret BYTEA NOT NULL
);

-- Rows are read in pages, in the order of their keys.
DROP INDEX report_rows_by_day;
CREATE INDEX report_rows_by_day ON report_rows (day, policy_domain, row_key);
