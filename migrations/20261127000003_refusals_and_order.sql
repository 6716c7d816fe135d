-- The pace of hosts that refuse pages, and the order of pages that wait.
--
-- A host that says that it is asked too fast is asked at a slower pace, which becomes faster again while it serves pages;
-- and pages that it refuses so have attempts of their own.

-- Indexes of very many pages take longer than a statement may otherwise.
SET LOCAL statement_timeout = 0;

ALTER TABLE url_queue
    -- How often the page was refused with 429.
    ADD COLUMN rate_limit_faults smallint NOT NULL DEFAULT 0;

ALTER TABLE hosts
    -- How often in a row it answered 429 or 503. `backoff_level` says how many steps its pace is slower now.
    ADD COLUMN refused smallint NOT NULL DEFAULT 0,
    -- Pages that it served since its pace last became slower or faster, while it is slower.
    ADD COLUMN served smallint NOT NULL DEFAULT 0;

-- Levels were of another kind.
UPDATE hosts SET backoff_level = 0 WHERE backoff_level > 0;

ALTER TABLE workers
    -- How many pages it wants under way, those in its slots included, so that no slot ever waits: more where pages are short.
    ADD COLUMN wants integer;

CREATE INDEX hosts_refusing_idx ON hosts (backoff_until) WHERE refused >= 12;

-- The order within a lane: by priority, then by when a page may be tried. One that waits to be tried again comes after all that
-- need not wait, and is not passed by at each look of a dispatcher.
DROP INDEX url_queue_pending_idx;
CREATE INDEX url_queue_pending_idx ON url_queue (execution_id, host, priority DESC, not_before, id)
    WHERE status = 'pending';
DROP INDEX url_queue_admitted_idx;
CREATE INDEX url_queue_admitted_idx ON url_queue (execution_id, host, priority DESC, not_before, id)
    WHERE status = 'pending' AND admitted;
