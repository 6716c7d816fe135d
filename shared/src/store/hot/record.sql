-- Guard first, then what it guards. $1 is the worker; record_columns.rs has the others. One statement, which writes all or nothing.
WITH page AS (
    SELECT * FROM unnest($2::uuid[], $3::int4[], $4::text[], $5::text[], $6::text[], $7::int8[], $8::int4[],
        $9::text[], $10::bool[], $11::text[], $60::int8[], $70::text[], $71::int4[], $83::bool[])
        AS p (id, attempt, status, error, error_class, retry_in_ms, failed_nodes, final_url, released, rendered, bytes,
            fault, epoch, is_probe)
), done AS (
    -- Only this worker can hold the row as `processing` with this attempt. By primary key: `IS NOT DISTINCT FROM`
    -- keeps the planner, whose statistics are old while a crawl grows, from comparing with all of url_queue_open_idx.
    UPDATE url_queue q
    SET status = p.status, error = p.error, error_class = p.error_class, failed_nodes = p.failed_nodes,
        final_url = p.final_url, rendered = p.rendered, bytes = q.bytes + p.bytes,
        locked_at = NULL, locked_by = NULL, locked_until = NULL,
        attempt = CASE WHEN p.released THEN q.attempt - 1 ELSE q.attempt END,
        -- A page that goes back must not be claimed by a message of its earlier dispatch.
        epoch = CASE WHEN p.status = 'pending' THEN q.epoch + 1 ELSE q.epoch END,
        -- One that goes back unharmed keeps its place in its lane; and so does the one that a pause of its host begins with, which
        -- is asked for first when that is over: it shows whether the host meant the page.
        not_before = CASE WHEN p.status = 'pending' AND p.retry_in_ms > 0 AND NOT (p.is_probe AND EXISTS (
                SELECT FROM hosts h WHERE h.host = q.host AND h.backoff_until <= q.locked_at))
            THEN now() + p.retry_in_ms * interval '1 millisecond' ELSE q.not_before END,
        charged = q.charged + (p.fault = 'page')::int,
        site_faults = q.site_faults + (p.fault = 'site')::int,
        rate_limit_faults = q.rate_limit_faults + (p.fault = 'rate_limit')::int,
        unavailable_faults = q.unavailable_faults + (p.fault = 'unavailable')::int,
        proxy_faults = q.proxy_faults + (p.fault = 'proxy')::int,
        browser_faults = q.browser_faults + (p.fault = 'browser')::int,
        processed_at = CASE WHEN p.status = 'pending' THEN NULL ELSE now() END
    FROM page p
    WHERE q.id = p.id AND q.attempt = p.attempt AND q.epoch = p.epoch AND q.status IS NOT DISTINCT FROM 'processing' AND q.locked_by = $1
    RETURNING q.id, q.epoch
), lost AS (
    INSERT INTO lost_attempts (page_id, epoch, attempt, fault, worker_id, error)
    SELECT p.id, d.epoch, p.attempt, p.fault, $1, p.error FROM page p JOIN done d ON d.id = p.id WHERE p.fault = 'browser'
), nodes AS (
    INSERT INTO node_records (started_at, page_id, definition_id, duration_us, worker, attempt, retry_count, status,
        error_class, error, output)
    -- Row by row: `FROM unnest(...)` would write all of them to a tuplestore first.
    SELECT unnest($12::timestamptz[]), unnest($13::uuid[]), unnest($14::int4[]), unnest($15::int4[]),
        (SELECT number FROM workers WHERE id = $1), unnest($16::int2[]), unnest($17::int2[]), unnest($18::"char"[]),
        unnest($19::text[]), unnest($20::text[]), unnest($21::jsonb[])
), items AS (
    INSERT INTO extracted_items (id, execution_id, page_id, url, data)
    SELECT * FROM unnest($22::uuid[], $23::uuid[], $24::uuid[], $25::text[], $26::jsonb[])
    ON CONFLICT (id) DO NOTHING
), found AS (
    SELECT * FROM unnest($27::uuid[], $28::uuid[], $29::text[], $30::bytea[], $31::text[], $32::int4[], $33::int4[],
        $34::uuid[], $35::text[], $59::bool[])
        AS u (id, execution_id, url, url_hash, host, depth, priority, parent_id, discovered_by, is_sitemap)
), seen AS (
    -- Each is looked up once, by url_queue_url_key.
    SELECT f.*, q.id AS known_as, q.status AS known_status, q.depth > f.depth AND q.is_sitemap = f.is_sitemap AS is_nearer
    FROM found f LEFT JOIN url_queue q ON q.execution_id = f.execution_id AND q.url_hash = f.url_hash
), farther AS (
    -- Pages that wait, and were reached by a longer way before: their links may be within the depth limit after all.
    -- The depth of a sitemap is another thing than that of a page.
    SELECT known_as AS id, execution_id, url_hash, depth, priority
    FROM seen WHERE is_nearer AND known_status IN ('pending', 'queued')
), nearer AS (
    UPDATE url_queue q SET depth = n.depth, priority = greatest(q.priority, n.priority)
    FROM (
        -- Nobody is waited for, so that nobody can deadlock: whoever holds pages may wait for hosts and lanes that are ours.
        SELECT q.id, f.depth, f.priority FROM farther f JOIN url_queue q ON q.id = f.id
        WHERE q.depth > f.depth AND q.status IN ('pending', 'queued') FOR UPDATE OF q SKIP LOCKED
    ) n
    WHERE q.id = n.id
    RETURNING q.id
), missed AS (
    -- Those that somebody holds just now. Their turn is after this statement, when nothing is ours any more.
    SELECT execution_id, url_hash FROM farther WHERE id NOT IN (SELECT id FROM nearer)
), links AS (
    -- In the order of the unique key, so that two groups with new links in common cannot deadlock. Known ones are left
    -- out first: on a row that somebody is updating, `ON CONFLICT` waits for the end of that, and two groups whose
    -- pages link to each other would wait for each other.
    INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, priority, parent_id, discovered_by, is_sitemap)
    SELECT id, execution_id, url, url_hash, host, depth, priority, parent_id, discovered_by, is_sitemap
    FROM seen WHERE known_as IS NULL
    ORDER BY execution_id, url_hash
    ON CONFLICT (execution_id, url_hash) DO NOTHING
    RETURNING execution_id, host
), skipped AS (
    -- Sorted as the links are. Most groups have none. One that the frontier knows, or will know, is not skipped: the
    -- view `skipped_urls` sees to that.
    INSERT INTO skipped_links (id, execution_id, url, url_hash, reason, detail, parent_id, discovered_by)
    SELECT * FROM unnest($62::uuid[], $63::uuid[], $64::text[], $65::bytea[], $66::text[], $67::text[], $68::uuid[],
        $69::text[]) AS s (id, execution_id, url, url_hash, reason, detail, parent_id, discovered_by)
    ORDER BY execution_id, url_hash
    ON CONFLICT (execution_id, url_hash) DO NOTHING
), lane AS (
    SELECT DISTINCT execution_id, host FROM links
), opened AS (
    -- Most lanes are open.
    SELECT open_lanes(array_agg(execution_id ORDER BY execution_id, host), array_agg(host ORDER BY execution_id, host))
    FROM lane LEFT JOIN lanes l USING (execution_id, host)
    WHERE l.misses IS NULL OR l.misses > 0
    HAVING count(*) > 0
), noted AS (
    -- What pages showed of their hosts; most have nothing to say.
    SELECT note_contacts($36::text[], $37::timestamptz[], $38::int8[], $39::int4[], $72::bool[], $73::text[], $74::bool[],
        $75::bool[], $76::int4[], $77::bool[], $78::timestamptz[], $79::bool[], $80::text[], $81::bool[],
        $82::int4[])
    WHERE EXISTS (
        SELECT FROM unnest($36, $74) AS c (host, is_news) JOIN hosts h USING (host) WHERE c.is_news OR remembers_refusals(h))
), page_totals AS (
    INSERT INTO page_counters AS c (execution_id, worker_id, completed, failed, retried, items, urls_found,
        nodes_executed, nodes_failed, static_pages, bytes)
    SELECT t.execution_id, $1, t.completed, t.failed, t.retried, t.items,
        (SELECT count(*) FROM links l WHERE l.execution_id = t.execution_id),
        t.nodes_executed, t.nodes_failed, t.static_pages, t.bytes
    FROM unnest($40::uuid[], $41::int8[], $42::int8[], $43::int8[], $44::int8[], $45::int8[], $46::int8[], $47::int8[],
        $61::int8[])
        AS t (execution_id, completed, failed, retried, items, nodes_executed, nodes_failed, static_pages, bytes)
    ON CONFLICT (execution_id, worker_id) DO UPDATE SET
        completed = c.completed + excluded.completed, failed = c.failed + excluded.failed,
        retried = c.retried + excluded.retried, items = c.items + excluded.items,
        urls_found = c.urls_found + excluded.urls_found, nodes_executed = c.nodes_executed + excluded.nodes_executed,
        nodes_failed = c.nodes_failed + excluded.nodes_failed,
        static_pages = c.static_pages + excluded.static_pages, bytes = c.bytes + excluded.bytes, updated_at = now()
), node_totals AS (
    INSERT INTO node_counters AS c (execution_id, worker_id, phase, node_id, node_type, completed, failed, cancelled,
        retries, duration_us, durations)
    SELECT t.execution_id, $1, t.phase, t.node_id, t.node_type, t.completed, t.failed, t.cancelled, t.retries,
        t.duration_us, ($57::int8[])[($58 * (t.place - 1) + 1)::int:($58 * t.place)::int]
    FROM unnest($48::uuid[], $49::text[], $50::text[], $51::text[], $52::int8[], $53::int8[], $54::int8[], $55::int8[],
        $56::int8[]) WITH ORDINALITY
        AS t (execution_id, phase, node_id, node_type, completed, failed, cancelled, retries, duration_us, place)
    ON CONFLICT (execution_id, worker_id, phase, node_id) DO UPDATE SET
        completed = c.completed + excluded.completed, failed = c.failed + excluded.failed,
        cancelled = c.cancelled + excluded.cancelled, retries = c.retries + excluded.retries,
        duration_us = c.duration_us + excluded.duration_us,
        durations = ARRAY(SELECT unnest(c.durations) + unnest(excluded.durations))
)
SELECT all_pages_are_ours((SELECT count(*) FROM done), cardinality($2)),
    ARRAY(SELECT execution_id FROM missed ORDER BY execution_id, url_hash),
    ARRAY(SELECT url_hash FROM missed ORDER BY execution_id, url_hash),
    -- Hosts that are there, then lanes: so do all who take locks of both.
    (SELECT count(*) FROM noted), (SELECT count(*) FROM opened)
