-- What an execution may spend, what its pages cost, and which links were not followed, and why.

-- Links that a worker did not give to the frontier. They are no rows of url_queue: a link that one page may not
-- follow can be followed from another one, and then nothing has to be taken back, nor can the two orders in which
-- workers record such a pair make a difference. A URL that the frontier knows counts as not skipped here.
CREATE TABLE skipped_links (
    -- Ordered by time, for lists.
    id            uuid NOT NULL,
    execution_id  uuid NOT NULL REFERENCES workflow_executions (id) ON DELETE CASCADE,
    url           text NOT NULL,
    -- As in url_queue.
    url_hash      bytea NOT NULL,
    -- Why, to count by: depth, scope, robots, trap ...
    reason        text NOT NULL,
    -- Why, in a sentence.
    detail        text NOT NULL,
    -- The page that had the link, and the node that found it.
    parent_id     uuid NOT NULL,
    discovered_by text NOT NULL,
    skipped_at    timestamptz NOT NULL DEFAULT now(),
    -- The first reason stays.
    CONSTRAINT skipped_links_pkey PRIMARY KEY (execution_id, url_hash)
);
-- The order in which skipped URLs are listed, and what they are counted by.
CREATE INDEX skipped_links_reason_idx ON skipped_links (execution_id, reason, id);
-- The same for pages of the frontier that were skipped later, by a limit, a budget or robots.txt.
CREATE INDEX url_queue_skipped_idx ON url_queue (execution_id, error_class, id) WHERE status = 'skipped';

-- Every URL that an execution knows of and does not visit.
CREATE VIEW skipped_urls AS
    SELECT id, execution_id, url, error_class AS reason, COALESCE(error, '') AS detail, parent_id, discovered_by,
        processed_at AS skipped_at
    FROM url_queue WHERE status = 'skipped'
    UNION ALL
    SELECT id, execution_id, url, reason, detail, parent_id, discovered_by, skipped_at
    FROM skipped_links s
    WHERE NOT EXISTS (SELECT FROM url_queue q WHERE q.execution_id = s.execution_id AND q.url_hash = s.url_hash);

-- How many bytes the attempts of a page have received, as far as their worker knows.
ALTER TABLE url_queue ADD COLUMN bytes bigint NOT NULL DEFAULT 0;
ALTER TABLE page_counters ADD COLUMN bytes bigint NOT NULL DEFAULT 0;

-- What an execution may spend. Rows are made with the execution; most executions have none.
CREATE TABLE execution_budgets (
    execution_id uuid NOT NULL REFERENCES workflow_executions (id) ON DELETE CASCADE,
    kind         text NOT NULL,
    -- Of a `path_prefix`: how the paths of its pages begin; empty for the others.
    prefix       text NOT NULL DEFAULT '',
    -- Seconds since the start, bytes, or pages.
    max          bigint NOT NULL,
    -- Pages that were admitted, each counted once however often it is tried. Time and bytes are looked up.
    used         bigint NOT NULL DEFAULT 0,
    CONSTRAINT execution_budgets_pkey PRIMARY KEY (execution_id, kind, prefix),
    CONSTRAINT execution_budgets_kind_check CHECK (kind IN ('time', 'bytes', 'path_prefix')),
    CONSTRAINT execution_budgets_used_check CHECK (kind <> 'path_prefix' OR used <= max)
);

-- Whether the page was counted in the budgets of its path prefixes.
ALTER TABLE url_queue ADD COLUMN budgeted boolean NOT NULL DEFAULT false;
