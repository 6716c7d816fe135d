-- How pages were loaded: rendered in a tab (`full`), or read as they came, without one (`static`).

-- Of a page that a worker has ended; NULL before. By the end that counts, so a retry leaves no trace here.
ALTER TABLE url_queue ADD COLUMN rendered text,
    ADD CONSTRAINT url_queue_rendered_check CHECK (rendered IN ('full', 'static'));

-- How many of the completed and the failed pages were read as they came; the others were loaded in a tab.
ALTER TABLE page_counters ADD COLUMN static_pages bigint NOT NULL DEFAULT 0;

-- How one worker loads the pages of one shape for one phase, and why. Written every few seconds while it changes.
CREATE TABLE render_decisions (
    execution_id uuid NOT NULL REFERENCES workflow_executions (id) ON DELETE CASCADE,
    -- Workers decide each for itself: no two write one row. Reads merge the rows.
    worker_id    uuid NOT NULL,
    -- The phase's id in the workflow. A page counts for each phase that runs on it.
    phase        text NOT NULL,
    -- What the URLs of pages made from one template have in common: host, path with `#` and `*`, keys of the query.
    shape        text NOT NULL,
    -- How its pages are loaded now; `full` while they are on trial.
    mode         text NOT NULL,
    -- A sentence on why, for people.
    reason       text NOT NULL,
    -- Attempts of pages that were read as they came.
    static_pages bigint NOT NULL,
    -- Attempts of pages that were loaded in a tab, those of `compared` included.
    full_pages   bigint NOT NULL,
    -- Pages that were loaded both ways, to see whether they give the same.
    compared     bigint NOT NULL,
    -- How often that, or pages that could not be read as they came, spoke against reading them so.
    disagreed    bigint NOT NULL,
    -- When the worker last wrote the row.
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT render_decisions_pkey PRIMARY KEY (execution_id, worker_id, phase, shape),
    CONSTRAINT render_decisions_mode_check CHECK (mode IN ('full', 'static'))
);
