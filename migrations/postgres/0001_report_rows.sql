-- One line for each (UTC day, everything that an aggregate report tells apart: RFC 9990 section 3.1); n counts the
-- messages. row_key is a hash over day and all the texts, made by the gate, so that the upsert needs no unique index
-- over twenty columns. An absent value is the empty text.
CREATE TABLE report_rows (
    row_key       BYTEA  NOT NULL PRIMARY KEY,
    day           BIGINT NOT NULL, -- days since the epoch, UTC
    n             BIGINT NOT NULL,
    first_seen    BIGINT NOT NULL, -- seconds since the epoch
    last_seen     BIGINT NOT NULL,
    source_ip     TEXT   NOT NULL,
    policy_domain TEXT   COLLATE "C" NOT NULL, -- empty: no policy applied
    discovery     TEXT   NOT NULL, -- psl, treewalk
    policy_record TEXT   NOT NULL, -- as published
    adkim         TEXT   NOT NULL, -- r, s
    aspf          TEXT   NOT NULL,
    p             TEXT   NOT NULL, -- none, quarantine, reject
    sp            TEXT   NOT NULL,
    np            TEXT   NOT NULL,
    fo            TEXT   NOT NULL,
    testing       TEXT   NOT NULL, -- y, n
    requested     TEXT   NOT NULL, -- which of p, sp, np was asked for
    disposition   TEXT   COLLATE "C" NOT NULL, -- none, pass, quarantine, reject
    dkim_aligned  TEXT   NOT NULL, -- pass, fail
    spf_aligned   TEXT   NOT NULL,
    reasons       TEXT   NOT NULL, -- JSON: [{"type":"local_policy","comment":"..."}]
    header_from   TEXT   NOT NULL,
    envelope_from TEXT   NOT NULL, -- empty: null reverse-path
    envelope_to   TEXT   NOT NULL,
    dkim_results  TEXT   NOT NULL, -- JSON: [{"domain":"...","selector":"...","result":"pass"}]
    spf_domain    TEXT   NOT NULL,
    spf_scope     TEXT   NOT NULL, -- mfrom, helo
    spf_result    TEXT   NOT NULL,
    reply         TEXT   NOT NULL  -- accepted, refused_by_upstream, refused_by_gate
);

-- A report is due for a policy domain and a day.
CREATE INDEX report_rows_by_day ON report_rows (day, policy_domain);
