-- Workflows, executions, the frontier, what was executed, what was extracted, counters.
-- Forward only: a later migration changes what this one made.

-- A user's definition of a crawl.
CREATE TABLE workflows (
    id          uuid PRIMARY KEY,
    name        text NOT NULL,
    description text NOT NULL DEFAULT '',
    -- As its author wrote it; always a copy of the newest row of workflow_versions.
    config      jsonb NOT NULL,
    status      text NOT NULL DEFAULT 'draft',
    -- The newest version's number, from 1.
    version     integer NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workflows_status_check CHECK (status IN ('draft', 'active', 'paused', 'archived')),
    CONSTRAINT workflows_version_check CHECK (version >= 1)
);
-- For lists, newest first.
CREATE INDEX workflows_created_at_idx ON workflows (created_at DESC, id DESC);

-- Every definition that a workflow ever had. Rows are never changed: an execution points at one.
CREATE TABLE workflow_versions (
    workflow_id uuid NOT NULL REFERENCES workflows (id) ON DELETE CASCADE,
    version     integer NOT NULL,
    config      jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workflow_versions_pkey PRIMARY KEY (workflow_id, version)
);

-- One run of one workflow version.
CREATE TABLE workflow_executions (
    id             uuid PRIMARY KEY,
    workflow_id    uuid NOT NULL,
    version        integer NOT NULL,
    status         text NOT NULL DEFAULT 'pending',
    started_at     timestamptz NOT NULL DEFAULT now(),
    completed_at   timestamptz,
    -- Why it failed, for people.
    error          text,
    -- Totals, written once when the execution ends; while it runs they are added up from the counters.
    stats          jsonb NOT NULL DEFAULT '{}',
    context        jsonb NOT NULL DEFAULT '{}',
    -- At most this many pages are ever dispatched; NULL is no limit.
    max_pages      bigint,
    -- How many pages were dispatched so far, each counted once however often it is tried.
    pages_admitted bigint NOT NULL DEFAULT 0,
    -- Least milliseconds between the starts of two pages of one host.
    host_delay_ms  integer NOT NULL DEFAULT 0,
    -- No cascade: an execution that starts while its workflow is being deleted makes the deletion fail.
    CONSTRAINT workflow_executions_version_fkey FOREIGN KEY (workflow_id, version)
        REFERENCES workflow_versions (workflow_id, version),
    CONSTRAINT workflow_executions_status_check
        CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    CONSTRAINT workflow_executions_admitted_check CHECK (max_pages IS NULL OR pages_admitted <= max_pages)
);
-- What the dispatcher and the finisher look through.
CREATE INDEX workflow_executions_running_idx ON workflow_executions (started_at) WHERE status = 'running';
CREATE INDEX workflow_executions_workflow_idx ON workflow_executions (workflow_id, version);

-- The frontier: one row is one page, that is one URL in one execution. The row is the truth, a message is a hint.
CREATE TABLE url_queue (
    id            uuid PRIMARY KEY,
    execution_id  uuid NOT NULL REFERENCES workflow_executions (id) ON DELETE CASCADE,
    url           text NOT NULL,
    -- The first 16 bytes of the SHA-256 of the normalised URL.
    url_hash      bytea NOT NULL,
    -- Lower case, without port: the unit of politeness.
    host          text NOT NULL,
    depth         integer NOT NULL DEFAULT 0,
    priority      integer NOT NULL DEFAULT 0,
    status        text NOT NULL DEFAULT 'pending',
    -- Charged when a worker claims the page, so that a killed worker counts.
    attempt       integer NOT NULL DEFAULT 0,
    -- Raised whenever the page goes back to `pending`; a claim must bring the current one.
    epoch         integer NOT NULL DEFAULT 0,
    -- Whether it was ever dispatched, and so counts towards max_pages.
    admitted      boolean NOT NULL DEFAULT false,
    -- Not dispatched before this.
    not_before    timestamptz NOT NULL DEFAULT now(),
    -- While a dispatcher publishes it, no other one may: until then.
    reserved_until timestamptz,
    -- When it became `queued`.
    queued_at     timestamptz,
    -- How often it was published once more since its last claim, because it was `queued` for long.
    requeues      integer NOT NULL DEFAULT 0,
    -- When, by whom it was claimed, and until when the claim holds at the latest.
    locked_at     timestamptz,
    locked_by     uuid,
    locked_until  timestamptz,
    -- Why the last attempt failed.
    error         text,
    error_class   text,
    -- How many of its nodes failed; a page with any is `completed` all the same.
    failed_nodes  integer NOT NULL DEFAULT 0,
    -- After redirects.
    final_url     text,
    parent_id     uuid,
    discovered_by text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    processed_at  timestamptz,
    CONSTRAINT url_queue_status_check CHECK
        (status IN ('pending', 'queued', 'processing', 'completed', 'failed', 'skipped', 'cancelled')),
    CONSTRAINT url_queue_url_key UNIQUE (execution_id, url_hash)
) WITH (
    -- Room for the updates of a row in its own page of the table.
    fillfactor = 80,
    -- A young crawl multiplies the table in seconds; with old statistics the planner chooses badly.
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 500
);
-- What the dispatcher picks from, in its order.
CREATE INDEX url_queue_pending_idx ON url_queue (execution_id, priority DESC, created_at, id)
    WHERE status = 'pending';
-- What the rescuer looks through, what the dispatcher's window counts, and what the finisher must find empty.
CREATE INDEX url_queue_open_idx ON url_queue (execution_id, status) WHERE status IN ('queued', 'processing');

-- When a host may next be asked for a page. Rows exist only for hosts that an execution with a delay visits.
CREATE TABLE hosts (
    host             text PRIMARY KEY,
    -- The dispatcher sends no page of the host before this.
    next_dispatch_at timestamptz NOT NULL DEFAULT '-infinity',
    -- No page of the host starts before this.
    next_start_at    timestamptz NOT NULL DEFAULT '-infinity'
);

-- Who is alive. A worker's lease on its pages is this row.
CREATE TABLE workers (
    id           uuid PRIMARY KEY,
    name         text NOT NULL,
    slots        integer NOT NULL,
    -- Which pages it wants, as far as the dispatcher's window is concerned.
    status       text NOT NULL DEFAULT 'ready',
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workers_status_check CHECK (status IN ('ready', 'draining', 'lost', 'stopped'))
);

-- What ran: one row for each node of each attempt of a page. The first ten columns are as users of the old system
-- know them.
CREATE TABLE node_executions (
    id           uuid NOT NULL DEFAULT gen_random_uuid(),
    execution_id uuid NOT NULL,
    node_id      varchar(255) NOT NULL,
    status       varchar(50) NOT NULL DEFAULT 'pending',
    started_at   timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    completed_at timestamptz,
    -- The node's params.
    input        jsonb,
    output       jsonb,
    error        text,
    retry_count  integer DEFAULT 0,
    page_id      uuid,
    node_type    varchar(50),
    phase        varchar(255),
    attempt      integer,
    worker_id    uuid,
    error_class  varchar(50),
    -- The node's place in the order of execution, over all phases, from 0.
    position     smallint,
    -- The id is made from page, attempt and position, and the fence lets one attempt write once: `id` is unique,
    -- though a partitioned table can only promise it together with the day.
    CONSTRAINT node_executions_pkey PRIMARY KEY (id, started_at),
    CONSTRAINT node_executions_status_check
        CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled'))
) PARTITION BY RANGE (started_at);
CREATE INDEX node_executions_execution_id_idx ON node_executions (execution_id, started_at);
CREATE INDEX node_executions_status_idx ON node_executions (status);
-- An insert never fails for want of a day's partition.
CREATE TABLE node_executions_default PARTITION OF node_executions DEFAULT;

-- Makes the partition of a day unless it is there. The coordinator calls it for today and the days to come.
CREATE FUNCTION create_node_executions_partition(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    partition_name text := 'node_executions_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass(partition_name) IS NULL THEN
        EXECUTE format(
            'CREATE TABLE IF NOT EXISTS %I PARTITION OF node_executions FOR VALUES FROM (%L) TO (%L)',
            partition_name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
    END IF;
EXCEPTION
    -- Another coordinator was faster, or rows of that day already lie in the default partition.
    WHEN duplicate_table OR check_violation THEN NULL;
END
$$;

-- What a page gave: at most one item a page and schema.
CREATE TABLE extracted_items (
    id           uuid PRIMARY KEY,
    execution_id uuid NOT NULL REFERENCES workflow_executions (id) ON DELETE CASCADE,
    page_id      uuid NOT NULL,
    url          text NOT NULL,
    schema_name  text,
    data         jsonb NOT NULL,
    extracted_at timestamptz NOT NULL DEFAULT now()
);
-- The order in which items are listed and exported.
CREATE INDEX extracted_items_execution_idx ON extracted_items (execution_id, extracted_at, id);

-- As users of the old system know it.
CREATE VIEW extracted_data AS
    SELECT id, execution_id, url, data, schema_name AS schema, extracted_at FROM extracted_items;

-- How pages of an execution ended, by worker: no two workers wait for one row. Reads add the rows up.
CREATE TABLE page_counters (
    execution_id   uuid NOT NULL REFERENCES workflow_executions (id) ON DELETE CASCADE,
    worker_id      uuid NOT NULL,
    completed      bigint NOT NULL DEFAULT 0,
    failed         bigint NOT NULL DEFAULT 0,
    retried        bigint NOT NULL DEFAULT 0,
    items          bigint NOT NULL DEFAULT 0,
    urls_found     bigint NOT NULL DEFAULT 0,
    nodes_executed bigint NOT NULL DEFAULT 0,
    nodes_failed   bigint NOT NULL DEFAULT 0,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT page_counters_pkey PRIMARY KEY (execution_id, worker_id)
);

-- How runs of a node ended and how long they took, by worker.
CREATE TABLE node_counters (
    execution_id uuid NOT NULL REFERENCES workflow_executions (id) ON DELETE CASCADE,
    worker_id    uuid NOT NULL,
    phase        text NOT NULL,
    node_id      text NOT NULL,
    node_type    text NOT NULL,
    completed    bigint NOT NULL DEFAULT 0,
    failed       bigint NOT NULL DEFAULT 0,
    cancelled    bigint NOT NULL DEFAULT 0,
    retries      bigint NOT NULL DEFAULT 0,
    duration_us  bigint NOT NULL DEFAULT 0,
    -- How many durations fell into each bucket of shared::store::counters::DURATION_BUCKETS_US, the last one open.
    durations    bigint[] NOT NULL,
    CONSTRAINT node_counters_pkey PRIMARY KEY (execution_id, worker_id, phase, node_id)
);
