-- Who makes reports due and who gets them, as far as one owner can be told from another: what is bounded and shared out.
ALTER TABLE report_jobs ADD COLUMN organization TEXT NOT NULL DEFAULT '';
ALTER TABLE report_jobs ADD COLUMN destination_organization TEXT NOT NULL DEFAULT '';
-- How many reports of its organization on the same UTC day were planned before it.
ALTER TABLE report_jobs ADD COLUMN turn BIGINT NOT NULL DEFAULT 0;

CREATE INDEX report_jobs_by_organization ON report_jobs (organization, period_begin);
CREATE INDEX report_jobs_by_destination ON report_jobs (destination_organization, period_begin);
CREATE INDEX report_jobs_by_turn ON report_jobs (state, turn, due);
