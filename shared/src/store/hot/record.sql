-- Guard first, then what it guards. $1 is the worker; record_columns.rs has the others. One statement, which writes all or nothing.
WITH page AS (
    SELECT * FROM unnest($2::uuid[], $3::int4[], $4::text[], $5::text[], $6::text[], $7::int8[], $8::int4[],
        $9::text[], $10::bool[], $11::text[], $60::int8[], $70::text[], $71::int4[], $82::bool[])
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
    SELECT n.started_at, n.page_id, n.definition_id, n.duration_us, (SELECT number FROM workers WHERE id = $1),
        n.attempt, n.retry_count, n.status, n.error_class, n.error, n.output
    FROM unnest($12::timestamptz[], $13::uuid[], $14::int4[], $15::int4[], $16::int2[], $17::int2[], $18::"char"[],
        $19::text[], $20::text[], $21::jsonb[])
        AS n (started_at, page_id, definition_id, duration_us, attempt, retry_count, status, error_class, error, output)
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
), new_hosts AS (
    -- Known ones are left out first, as of the links: whoever holds one may wait for one that we hold.
    INSERT INTO hosts (host)
    SELECT DISTINCT host FROM lane WHERE NOT EXISTS (SELECT FROM hosts h WHERE h.host = lane.host) ORDER BY host
    ON CONFLICT (host) DO NOTHING
), new_lanes AS (
    INSERT INTO lanes (execution_id, host)
    SELECT execution_id, host FROM lane
    WHERE NOT EXISTS (SELECT FROM lanes l WHERE l.execution_id = lane.execution_id AND l.host = lane.host)
    ORDER BY execution_id, host
    ON CONFLICT (execution_id, host) DO NOTHING
), woken_lanes AS (
    -- The dispatcher may have one in its hands just now, and lay it aside for minutes, as it does not see the new pages: it is
    -- waited for, which itself waits for nobody. In one order.
    UPDATE lanes SET due_at = now(), misses = 0
    WHERE (execution_id, host) IN (
        SELECT l.execution_id, l.host FROM lanes l JOIN lane USING (execution_id, host) WHERE l.misses > 0
        ORDER BY l.execution_id, l.host FOR UPDATE OF l)
), contact AS (
    SELECT * FROM unnest($36::text[], $37::timestamptz[], $38::int8[], $39::int4[], $72::bool[], $73::text[], $74::bool[],
        $75::bool[], $76::int4[], $77::bool[], $78::timestamptz[], $79::bool[], $80::text[], $81::bool[])
        AS c (host, started_at, back_off_ms, answered_in_ms, was_found, missing, is_news, is_too_fast, served, is_first, claimed_at,
            is_bare, refused_with, was_refused)
), host AS (
    -- That a host was found, or has served a page, is news only of one that was not, or had refused one, before.
    SELECT h.* FROM (SELECT host, bool_or(is_news) AS is_news FROM contact GROUP BY host) c JOIN hosts h USING (host)
    WHERE c.is_news OR h.unreachable > 0 OR h.refused > 0 OR h.pace_level > 0 OR h.credit < 16
    ORDER BY h.host FOR UPDATE OF h
), said AS (
    SELECT c.host, array_agg(c.started_at) FILTER (WHERE c.started_at IS NOT NULL) AS starts,
        max(c.back_off_ms) AS back_off_ms, max(c.answered_in_ms) AS answered_in_ms, bool_or(c.was_found) AS was_found,
        array_agg(DISTINCT c.missing) FILTER (WHERE c.missing IS NOT NULL) AS missing,
        count(*) FILTER (WHERE c.is_bare) AS bare, max(c.refused_with) AS refused_with, sum(c.served) AS served_of_all,
        -- Those that were in workers' hands before the host refused one say nothing of what it does since.
        COALESCE(sum(c.served) FILTER (WHERE n.is_new), 0) AS served,
        COALESCE(bool_or(c.was_refused AND c.served > 0) FILTER (WHERE n.is_new), false) AS served_again,
        count(*) FILTER (WHERE n.is_new AND c.back_off_ms IS NOT NULL) > 0 AS is_refused,
        COALESCE(bool_or(c.is_first) FILTER (WHERE n.is_new AND c.back_off_ms IS NOT NULL), false) AS is_first,
        COALESCE(bool_or(c.is_too_fast) FILTER (WHERE n.is_new), false) AS is_too_fast,
        COALESCE(bool_and(c.is_bare) FILTER (WHERE n.is_new AND c.back_off_ms IS NOT NULL), false) AS is_bare
    FROM contact c JOIN host old USING (host) CROSS JOIN LATERAL (SELECT c.claimed_at >= old.backoff_until AS is_new) n
    GROUP BY c.host
), hosts_asked AS (
    UPDATE hosts h
    SET recent_starts = COALESCE(p.starts, old.recent_starts),
        min_interval_ms = least(old.min_interval_ms, p.min_interval_ms),
        latency_ms = CASE WHEN c.answered_in_ms IS NULL THEN old.latency_ms
            WHEN old.latency_ms = 0 THEN c.answered_in_ms ELSE (old.latency_ms * 7 + c.answered_in_ms) / 8 END,
        pace_level = b.level, backoff_level = (b.level + 3) / 4, refused_level = b.refused_level, served = b.served,
        is_doubted = b.is_doubted, credit = b.credit, refused = b.refused, refused_since = b.since,
        refused_with = COALESCE(c.refused_with, old.refused_with), asked_at = now(),
        backoff_until = greatest(old.backoff_until, b.until),
        next_start_at = greatest(old.next_start_at, b.until),
        unreachable = u.times,
        unreachable_until = CASE WHEN c.was_found THEN '-infinity'
            -- From the third time on, 1 s to 1 min.
            WHEN u.is_counted AND u.times >= 3
                THEN now() + least(1000 * (1 << least(u.times - 3, 6)), 60000) * interval '1 millisecond'
            ELSE old.unreachable_until END,
        unreachable_origins = CASE WHEN c.was_found THEN '{}' WHEN u.is_counted AND u.times = 1 THEN c.missing
            ELSE ARRAY(SELECT DISTINCT origin FROM unnest(old.unreachable_origins || c.missing) AS origin) END
    FROM host old JOIN said c USING (host)
        CROSS JOIN LATERAL (
            SELECT (array_agg(s.at ORDER BY s.at DESC))[1:16] AS starts,
                least(ceil(min(EXTRACT(EPOCH FROM s.at - s.before) * 1000)), 2147483647)::int AS min_interval_ms
            FROM (SELECT at, lag(at) OVER (ORDER BY at) AS before
                  FROM unnest(old.recent_starts || c.starts) AS at) s
        ) p
        CROSS JOIN LATERAL (
            SELECT host_said_long_ago(old.backoff_until, old.asked_at, old.delay_ms) AS it
        ) past
        CROSS JOIN LATERAL (
            -- What it has served makes it faster: by a step a page at first, by one for eight of them near the pace at which it
            -- refused some.
            SELECT CASE WHEN past.it THEN 0
                    WHEN old.pace_level > old.refused_level + 4 THEN greatest(old.pace_level - c.served, old.refused_level + 4)
                    WHEN old.pace_level < old.refused_level - 4 THEN greatest(old.pace_level - c.served, 0)
                    ELSE greatest(old.pace_level - (old.served + c.served) / 8, 0) END::int AS level,
                CASE WHEN NOT (past.it OR c.is_refused) AND abs(old.pace_level - old.refused_level) <= 4
                    THEN (old.served + c.served) % 8 ELSE 0 END AS served,
                CASE WHEN past.it OR c.served > 0 THEN 0 ELSE old.refused END AS refused,
                greatest(least(CASE WHEN past.it THEN 16 ELSE old.credit END + c.served_of_all - 8 * c.bare, 16), -100) AS credit,
                old.is_doubted AND NOT past.it AS is_doubted
        ) e
        CROSS JOIN LATERAL (
            -- It says that it is asked too fast. Or there were many a 503 that did not say why, and a page that heard one is served
            -- after the pause, as one that is broken never is: they meant the pace.
            SELECT c.is_refused AND c.is_too_fast AS is_told,
                c.served_again AND e.is_doubted AND e.credit < 0 AS is_shown,
                -- Steps from what was asked for to every 250 ms, and from what is asked for to every 8 s.
                greatest(4, ceil(4 * log(2.0, 250.0 / greatest(old.delay_ms, 16))))::int AS to_first,
                floor(4 * log(2.0, 8000.0 / greatest(old.delay_ms, 16)))::int AS to_last
        ) r
        CROSS JOIN LATERAL (
            -- Then it is asked half as fast from then on: every 250 ms at first, every 2 min in the end. Where it never said so, every
            -- 8 s, which is reached the faster the longer it refused everything.
            SELECT CASE WHEN r.is_told AND e.level = 0 THEN r.to_first
                    WHEN r.is_told AND old.delay_ms >= 120000 THEN e.level
                    WHEN r.is_told THEN least(e.level + 4, 60)
                    WHEN r.is_shown THEN greatest(e.level, least(e.level + r.to_last,
                        CASE WHEN e.level = 0 THEN r.to_first - 4 ELSE e.level END + 4 * least(greatest(old.refused, 1), 4)))
                    ELSE e.level END AS level,
                CASE WHEN r.is_told OR r.is_shown OR e.level = 0 THEN 0 ELSE e.served END AS served,
                CASE WHEN (r.is_told OR r.is_shown) AND e.refused = 0 THEN e.level ELSE old.refused_level END AS refused_level,
                NOT (r.is_told OR r.is_shown) AND (e.is_doubted OR c.bare > 0) AS is_doubted,
                CASE WHEN r.is_told OR r.is_shown THEN 8 ELSE e.credit END AS credit,
                -- A page that was refused before says nothing new of the host: few that never work do not stop it. One that
                -- wants long pauses is asked again for some hours only.
                CASE WHEN NOT c.is_first THEN e.refused
                    WHEN e.refused > 0 AND old.refused_since < now() - interval '6 hours' THEN greatest(e.refused + 1, 12)
                    ELSE least(e.refused + 1, 1000) END AS refused,
                CASE WHEN e.refused > 0 THEN old.refused_since WHEN c.is_first THEN now() END AS since,
                -- Left alone for longer each time in a row, 1 s to 5 min, at least as long as it asked for, and for its pace. Not for
                -- long where a page is refused again that did not hear why: others will show whether it is the page.
                now() + CASE WHEN c.is_refused THEN greatest(c.back_off_ms,
                    CASE WHEN c.is_first THEN least(1000 * (1 << least(e.refused, 9)), 300000)
                        WHEN c.is_bare AND e.refused < 2 THEN 250 ELSE 1000 END,
                    CASE WHEN e.level > 0 AND r.is_told THEN least(2 * old.delay_ms, 120000)
                        WHEN e.level > 0 AND c.is_first THEN least(2 * old.delay_ms, 16000) END)
                    ELSE c.back_off_ms END * interval '1 millisecond' AS until
        ) b
        CROSS JOIN LATERAL (
            -- Pages that were in workers' hands when it went count as one time; and what is long past counts no more.
            SELECT counted.it AS is_counted,
                CASE WHEN c.was_found THEN 0::int2
                    WHEN NOT counted.it THEN old.unreachable
                    WHEN old.unreachable >= 3 AND old.unreachable_until < now() - interval '10 minutes' THEN 1::int2
                    ELSE least(old.unreachable + 1, 1000)::int2 END AS times
            FROM (SELECT c.missing IS NOT NULL AND NOT c.was_found AND old.unreachable_until <= now()) AS counted (it)
        ) u
    WHERE h.host = old.host
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
        durations = ARRAY(SELECT was + more FROM unnest(c.durations, excluded.durations)
            WITH ORDINALITY AS s (was, more, number) ORDER BY number)
)
SELECT all_pages_are_ours((SELECT count(*) FROM done), cardinality($2)),
    ARRAY(SELECT execution_id FROM missed ORDER BY execution_id, url_hash),
    ARRAY(SELECT url_hash FROM missed ORDER BY execution_id, url_hash)
