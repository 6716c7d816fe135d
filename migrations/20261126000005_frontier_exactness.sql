-- The frontier costs the same once an execution's page limit is reached, and hosts keep exactly to the pace that holds now.

-- Pages that have their place in `max_pages` already and wait again: the only ones that are left once the limit is reached.
CREATE INDEX url_queue_admitted_idx ON url_queue (execution_id, host, priority DESC, created_at, id)
    WHERE status = 'pending' AND admitted;

-- Pages that have a place in `max_pages` and were not loaded, because robots.txt forbids it: it is given back.
CREATE INDEX url_queue_place_idx ON url_queue (execution_id) WHERE status = 'skipped' AND admitted AND error_class = 'robots' AND final_url IS NULL;

ALTER TABLE hosts
    -- When the dispatcher began that has last written `delay_ms`: one that began earlier may not have seen what it saw.
    ADD COLUMN delay_seen_at timestamptz NOT NULL DEFAULT '-infinity';

-- As before, but by executions, of which a host has few, instead of by all pages that are under way. Those of an execution that
-- was cancelled have no lane any more: they count for a quarter of an hour, after which only pages that wait so long for their turn
-- on a host can still be in hand.
CREATE OR REPLACE FUNCTION pages_in_flight(of_host text) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT COALESCE(sum(open.pages), 0)::bigint
    FROM (
        SELECT execution_id FROM lanes WHERE host = of_host
        UNION
        SELECT id FROM workflow_executions WHERE status = 'cancelled' AND completed_at > now() - interval '15 minutes'
    ) AS execution CROSS JOIN LATERAL (
        -- By url_queue_open_idx.
        SELECT count(*) AS pages FROM url_queue
        WHERE execution_id = execution.execution_id AND host = of_host AND status IN ('queued', 'processing')
    ) AS open
$$;

-- Whether a running execution asks a host for only so many pages at once. Messages of its pages that come late must find nothing
-- then, as others may be sent meanwhile.
CREATE FUNCTION host_is_limited(of_host text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM lanes JOIN workflow_executions AS execution ON execution.id = lanes.execution_id
        WHERE lanes.host = of_host AND execution.status = 'running' AND execution.host_concurrency IS NOT NULL)
$$;
