-- What was done with the messages of one UTC day, what the shadow policy would have done, and what the upstream said; n
-- counts them. row_key is a hash over day and texts, made by the gate. An absent value is the empty text.
CREATE TABLE comparisons (
    row_key       BYTEA NOT NULL PRIMARY KEY,
    day           BIGINT NOT NULL, -- days since the epoch, UTC
    n             BIGINT NOT NULL,
    opinion       TEXT COLLATE "C" NOT NULL, -- pass, none, fail, fail_tagged, doubt, doubt_tagged
    active        TEXT COLLATE "C" NOT NULL, -- passed_on, tagged_quarantine, tagged_reject, deferred, refused
    shadow        TEXT COLLATE "C" NOT NULL, -- the same words; empty: there was no shadow policy
    reply         TEXT COLLATE "C" NOT NULL, -- accepted, refused, deferred by the upstream; empty: it was not asked
    author_domain TEXT COLLATE "C" NOT NULL, -- this and what follows only where shadow is not as active
    source        TEXT COLLATE "C" NOT NULL, -- d=..., spf=... or a network
    list_id       TEXT COLLATE "C" NOT NULL
);

-- They are read and deleted by days.
CREATE INDEX comparisons_by_day ON comparisons (day);
