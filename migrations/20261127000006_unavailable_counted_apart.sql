-- 503s are counted apart from a site's other failures, and hosts may answer with more of them before that says something of their pace.

ALTER TABLE url_queue
    -- How often the page was refused with 503.
    ADD COLUMN unavailable_faults smallint NOT NULL DEFAULT 0;

-- Each page that a host serves adds one to its credit, up to 16 instead of 8, and each such 503 takes 8.
ALTER TABLE hosts ALTER COLUMN credit SET DEFAULT 16;
UPDATE hosts SET credit = 16 WHERE credit = 8;

-- What is remembered of hosts that nobody has asked since is as old as this.
UPDATE hosts SET asked_at = now() WHERE pace_level > 0 AND asked_at = '-infinity';
