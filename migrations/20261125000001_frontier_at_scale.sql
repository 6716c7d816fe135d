-- The frontier and the records at scale: node executions as compact rows, lanes of pages by host, the pace of hosts.

-- A node of an execution's workflow: what all its records have in common, once.
CREATE TABLE node_definitions (
    -- What records name it by, in four bytes.
    id           integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id uuid NOT NULL REFERENCES workflow_executions (id) ON DELETE CASCADE,
    -- The node's place in the order of execution, over all phases, from 0.
    position     smallint NOT NULL,
    phase        text NOT NULL,
    node_id      text NOT NULL,
    node_type    text NOT NULL,
    -- The node's params.
    input        jsonb NOT NULL,
    CONSTRAINT node_definitions_key UNIQUE (execution_id, position)
);

-- The short name that records use for a worker.
ALTER TABLE workers ADD COLUMN number integer GENERATED ALWAYS AS IDENTITY,
    ADD CONSTRAINT workers_number_key UNIQUE (number);

-- What ran: one row for each node of each attempt of a page. The view `node_executions` shows it as users of the old
-- system know it. Columns are ordered by alignment, widest first, so that no row holds padding.
CREATE TABLE node_records (
    started_at    timestamptz NOT NULL,
    page_id       uuid NOT NULL,
    definition_id integer NOT NULL,
    duration_us   integer NOT NULL,
    worker        integer,
    attempt       smallint NOT NULL,
    retry_count   smallint NOT NULL,
    -- c: completed, f: failed, n: cancelled, it did not run.
    status        "char" NOT NULL,
    error_class   text,
    error         text,
    output        jsonb,
    CONSTRAINT node_records_status_check CHECK (status IN ('c', 'f', 'n'))
) PARTITION BY RANGE (started_at);
-- The nodes of a page. Equal keys share one entry, so this and the next one cost some seven bytes a row.
CREATE INDEX node_records_page_idx ON node_records (page_id);
-- The records of an execution, by way of its definitions.
CREATE INDEX node_records_definition_idx ON node_records (definition_id);
-- Why nodes failed.
CREATE INDEX node_records_failed_idx ON node_records (definition_id) WHERE status = 'f';
-- A time, and so an id, which begins with one.
CREATE INDEX node_records_started_at_idx ON node_records USING brin (started_at);
-- An insert never fails for want of a day's partition.
CREATE TABLE node_records_default PARTITION OF node_records DEFAULT;

-- Makes the partition of a day unless it is there. The coordinator calls it for today and the days to come.
CREATE FUNCTION create_node_records_partition(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    partition_name text := 'node_records_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass(partition_name) IS NULL THEN
        EXECUTE format(
            'CREATE TABLE IF NOT EXISTS %I PARTITION OF node_records FOR VALUES FROM (%L) TO (%L)',
            partition_name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
    END IF;
EXCEPTION
    -- Another coordinator was faster, or rows of that day already lie in the default partition.
    WHEN duplicate_table OR check_violation THEN NULL;
END
$$;

-- The id of a node execution: a UUID of version 7 (RFC 9562) made of when it began, its position, and a hash of all that
-- names it. Made when it is read, so that no row stores it; the same row always gives the same.
CREATE FUNCTION node_execution_id(started_at timestamptz, page_id uuid, attempt integer, place integer) RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (lpad(to_hex(floor(extract(epoch FROM started_at) * 1000)::bigint), 12, '0')
    || '7' || lpad(to_hex(place & 4095), 3, '0')
    || '8' || substr(md5(page_id::text || '/' || attempt || '/' || place), 1, 15))::uuid;

-- What was recorded so far moves into the new table.
INSERT INTO node_definitions (execution_id, position, phase, node_id, node_type, input)
SELECT DISTINCT ON (n.execution_id, n.position) n.execution_id, n.position, COALESCE(n.phase, ''), n.node_id,
    COALESCE(n.node_type, ''), COALESCE(n.input, '{}')
FROM node_executions n JOIN workflow_executions e ON e.id = n.execution_id
WHERE n.position IS NOT NULL AND n.page_id IS NOT NULL
ORDER BY n.execution_id, n.position;
INSERT INTO node_records (started_at, page_id, definition_id, duration_us, worker, attempt, retry_count, status,
    error_class, error, output)
SELECT n.started_at, n.page_id, d.id,
    LEAST(GREATEST(EXTRACT(EPOCH FROM n.completed_at - n.started_at) * 1000000, 0), 2147483647)::integer, w.number,
    COALESCE(n.attempt, 1), COALESCE(n.retry_count, 0),
    CASE n.status WHEN 'completed' THEN 'c' WHEN 'failed' THEN 'f' ELSE 'n' END::"char", n.error_class, n.error,
    n.output
FROM node_executions n
    JOIN node_definitions d ON d.execution_id = n.execution_id AND d.position = n.position
    LEFT JOIN workers w ON w.id = n.worker_id
WHERE n.page_id IS NOT NULL AND n.completed_at IS NOT NULL;
DROP TABLE node_executions;
DROP FUNCTION create_node_executions_partition(date);

-- As users of the old system know it: its ten columns first, then ours.
CREATE VIEW node_executions AS
SELECT node_execution_id(n.started_at, n.page_id, n.attempt, d.position) AS id,
    d.execution_id,
    d.node_id::varchar(255) AS node_id,
    CASE n.status WHEN 'c' THEN 'completed' WHEN 'f' THEN 'failed' ELSE 'cancelled' END::varchar(50) AS status,
    n.started_at,
    n.started_at + n.duration_us * interval '1 microsecond' AS completed_at,
    d.input,
    n.output,
    n.error,
    n.retry_count::integer AS retry_count,
    n.page_id,
    d.node_type::varchar(50) AS node_type,
    d.phase::varchar(255) AS phase,
    n.attempt::integer AS attempt,
    w.id AS worker_id,
    n.error_class::varchar(50) AS error_class,
    d.position
FROM node_records n
    JOIN node_definitions d ON d.id = n.definition_id
    LEFT JOIN workers w ON w.number = n.worker;

-- The recorder's guard: unless every page of a group was ours, nothing of the group is written.
CREATE FUNCTION all_pages_are_ours(held bigint, recorded integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF held IS DISTINCT FROM recorded THEN
        RAISE EXCEPTION '% of % pages have lost their lease', recorded - held, recorded USING ERRCODE = 'CL001';
    END IF;
    RETURN true;
END
$$;

-- The pages of one host in one execution that wait. The dispatcher looks at lanes that are due, never through the pages
-- of hosts whose turn it is not: its step costs the same for ten pages and for ten million.
CREATE TABLE lanes (
    execution_id uuid NOT NULL REFERENCES workflow_executions (id) ON DELETE CASCADE,
    -- As in url_queue.
    host         text NOT NULL,
    -- When the dispatcher looks at it next.
    due_at       timestamptz NOT NULL DEFAULT now(),
    -- How often in a row it found no page there: it then looks more rarely, until a page comes.
    misses       smallint NOT NULL DEFAULT 0,
    CONSTRAINT lanes_pkey PRIMARY KEY (execution_id, host)
) WITH (fillfactor = 70);
CREATE INDEX lanes_due_idx ON lanes (execution_id, due_at);
-- Whose pages a host has: the slowest pace that one of them asks for holds for all.
CREATE INDEX lanes_host_idx ON lanes (host);
INSERT INTO lanes (execution_id, host)
SELECT DISTINCT q.execution_id, q.host FROM url_queue q JOIN workflow_executions e ON e.id = q.execution_id
WHERE e.status IN ('pending', 'running');

-- The unit of politeness: what all executions together ask of a host.
ALTER TABLE hosts
    -- Least milliseconds between two starts that its robots.txt asks for.
    ADD COLUMN IF NOT EXISTS crawl_delay_ms integer NOT NULL DEFAULT 0,
    -- No page of it is dispatched before this, because it answered 429 or 503.
    ADD COLUMN backoff_until timestamptz NOT NULL DEFAULT '-infinity',
    -- How often in a row it did.
    ADD COLUMN backoff_level smallint NOT NULL DEFAULT 0,
    -- How long it took to answer lately: a moving average over pages, each counting one eighth.
    ADD COLUMN latency_ms integer NOT NULL DEFAULT 0,
    -- The last starts, newest first, of pages that had to keep a pace.
    ADD COLUMN recent_starts timestamptz[] NOT NULL DEFAULT '{}',
    -- The smallest interval between two starts that was ever seen; NULL before there were two.
    ADD COLUMN min_interval_ms integer;
INSERT INTO hosts (host) SELECT DISTINCT host FROM lanes ON CONFLICT (host) DO NOTHING;

ALTER TABLE workflow_executions
    -- Of a host at most this many pages at once; NULL is no limit.
    ADD COLUMN host_concurrency integer,
    -- Whether hosts that answer slowly are asked more rarely.
    ADD COLUMN adaptive_delay boolean NOT NULL DEFAULT false,
    -- Whether the unit of politeness is the registrable domain (of the public suffix list) instead of the host name.
    ADD COLUMN per_domain boolean NOT NULL DEFAULT false;

ALTER TABLE url_queue
    -- The pace of its host as the dispatcher found it, in milliseconds; the worker keeps to it.
    ADD COLUMN host_delay_ms integer NOT NULL DEFAULT 0,
    -- Reserving and queueing are one step now.
    DROP COLUMN reserved_until;
UPDATE url_queue SET queued_at = now() WHERE status = 'queued' AND queued_at IS NULL;
-- What the dispatcher picks from: the order within a lane.
DROP INDEX url_queue_pending_idx;
CREATE INDEX url_queue_pending_idx ON url_queue (execution_id, host, priority DESC, created_at, id)
    WHERE status = 'pending';
-- What the rescuer looks through, what the dispatcher's window and a host's concurrency count, and what the finisher
-- must find empty.
DROP INDEX url_queue_open_idx;
CREATE INDEX url_queue_open_idx ON url_queue (execution_id, host) WHERE status IN ('queued', 'processing');
