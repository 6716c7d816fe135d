-- What must hold of the rows of an execution that has ended. Each statement gives what breaks its sentence, a line of text
-- a row; so each must give none. $1 is the execution; $2 is an undisturbed one of the same workflow on the same site, or
-- NULL, and then nothing is compared with it. Lines of what is missing begin with `lost`, of what is too much with `twice`.

-- I1: every page has ended, in exactly one way
SELECT format('%s is %s, ended at %s, error %s', url, status, processed_at, error_class)
FROM url_queue
WHERE execution_id = $1 AND (status IN ('pending', 'queued', 'processing') OR processed_at IS NULL
    OR (status = 'completed' AND error_class IS NOT NULL) OR (status = 'failed' AND error_class IS NULL));

-- I2: a node of an attempt of a page has one row
SELECT format('twice: %s rows of node %s of attempt %s of page %s', count(*), n.position, n.attempt, n.page_id)
FROM node_executions n WHERE n.execution_id = $1
GROUP BY n.page_id, n.attempt, n.position HAVING count(*) > 1;

-- I2: the nodes of every page gave what they give in a calm crawl
WITH node AS (
    SELECT n.execution_id, q.url, n.node_id, n.status, CASE jsonb_typeof(n.output)
        -- In the order of the values: scripts of the site may sort what is the same.
        WHEN 'array' THEN (SELECT jsonb_agg(e ORDER BY e) FROM jsonb_array_elements(n.output) e)::text
        -- Where a page has been scrolled to depends on how far it was laid out.
        WHEN 'object' THEN (
            SELECT jsonb_object_agg(f.key, CASE jsonb_typeof(f.value)
                WHEN 'array' THEN (SELECT jsonb_agg(e ORDER BY e) FROM jsonb_array_elements(f.value) e) ELSE f.value END)
            FROM jsonb_each(n.output - '{x,y}'::text[]) f)::text
        ELSE n.output::text END AS output
    FROM node_executions n JOIN url_queue q ON q.id = n.page_id AND q.attempt = n.attempt
    WHERE n.execution_id IN ($1, $2) AND $2::uuid IS NOT NULL AND q.status = 'completed'
)
SELECT format('lost: node %s of %s, %s: %s', node_id, url, status, left(output, 200)) FROM (
    SELECT url, node_id, status, output FROM node WHERE execution_id = $2
    EXCEPT ALL SELECT url, node_id, status, output FROM node WHERE execution_id = $1) AS missing
UNION ALL
SELECT format('twice: node %s of %s, %s: %s', node_id, url, status, left(output, 200)) FROM (
    SELECT url, node_id, status, output FROM node WHERE execution_id = $1
    EXCEPT ALL SELECT url, node_id, status, output FROM node WHERE execution_id = $2) AS more;

-- I3: a page gives one item at the most
SELECT format('twice: %s items of %s', count(*), min(url))
FROM extracted_items WHERE execution_id = $1
GROUP BY page_id, schema_name HAVING count(*) > 1;

-- I3: the items are those of a calm crawl
WITH item AS (
    SELECT execution_id, url, CASE jsonb_typeof(data) WHEN 'object' THEN (
        -- Lists in the order of their values, as above.
        SELECT jsonb_object_agg(f.key, CASE jsonb_typeof(f.value)
            WHEN 'array' THEN (SELECT jsonb_agg(e ORDER BY e) FROM jsonb_array_elements(f.value) e) ELSE f.value END)
        FROM jsonb_each(data) f) ELSE data END AS data
    FROM extracted_items
    WHERE execution_id IN ($1, $2) AND $2::uuid IS NOT NULL
)
SELECT format('lost: item of %s: %s', url, left(data::text, 400)) FROM (
    SELECT url, data FROM item WHERE execution_id = $2
    EXCEPT ALL SELECT url, data FROM item WHERE execution_id = $1) AS missing
UNION ALL
SELECT format('twice: item of %s: %s', url, left(data::text, 400)) FROM (
    SELECT url, data FROM item WHERE execution_id = $1
    EXCEPT ALL SELECT url, data FROM item WHERE execution_id = $2) AS more;

-- I4: what was counted of pages is what a recount finds
WITH counted AS (
    SELECT ARRAY[COALESCE(sum(completed), 0), COALESCE(sum(failed), 0), COALESCE(sum(items), 0),
        COALESCE(sum(urls_found), 0), COALESCE(sum(nodes_executed), 0), COALESCE(sum(nodes_failed), 0),
        COALESCE(sum(static_pages), 0)]::int8[] AS counts
    FROM page_counters WHERE execution_id = $1
), found AS (
    SELECT ARRAY[(SELECT count(*) FROM url_queue WHERE execution_id = $1 AND status = 'completed'),
        (SELECT count(*) FROM url_queue WHERE execution_id = $1 AND status = 'failed'),
        (SELECT count(*) FROM extracted_items WHERE execution_id = $1),
        (SELECT count(*) FROM url_queue WHERE execution_id = $1 AND parent_id IS NOT NULL),
        (SELECT count(*) FROM node_executions WHERE execution_id = $1 AND status <> 'cancelled'),
        (SELECT count(*) FROM node_executions WHERE execution_id = $1 AND status = 'failed'),
        (SELECT count(*) FROM url_queue WHERE execution_id = $1 AND rendered = 'static')]::int8[] AS counts
)
SELECT format('pages: %s counted, %s found', counted.counts, found.counts) FROM counted, found
WHERE counted.counts <> found.counts;

-- I4: what was counted of each node is what a recount finds
WITH counted AS (
    SELECT phase, node_id, ARRAY[sum(completed), sum(failed), sum(cancelled), sum(retries),
        sum((SELECT sum(d) FROM unnest(durations) d))]::int8[] AS counts
    FROM node_counters WHERE execution_id = $1 GROUP BY phase, node_id
), found AS (
    SELECT phase, node_id::text, ARRAY[count(*) FILTER (WHERE status = 'completed'),
        count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'cancelled'),
        sum(retry_count), count(*) FILTER (WHERE status <> 'cancelled')]::int8[] AS counts
    FROM node_executions WHERE execution_id = $1 GROUP BY phase, node_id::text
)
SELECT format('node %s: %s counted, %s found', node_id, counted.counts, found.counts)
FROM counted FULL JOIN found USING (phase, node_id)
WHERE counted.counts IS DISTINCT FROM found.counts;

-- I4: the pages that count towards the limit are those that were dispatched
SELECT format('%s admitted by the execution, %s by its pages', e.pages_admitted, q.admitted)
FROM workflow_executions e
    CROSS JOIN LATERAL (SELECT count(*) AS admitted FROM url_queue WHERE execution_id = e.id AND admitted) q
-- A retry that has not ended has places that its pages are still to take; where it was cancelled before that, for ever.
WHERE e.id = $1 AND q.admitted <> e.pages_admitted
    - CASE WHEN e.status = 'cancelled' OR e.retry_failed_before > '-infinity' THEN e.retry_places ELSE 0 END;

-- I4: the totals of an execution that has ended by itself are those of its counters
SELECT format('%s pages in the totals, %s counted', e.stats, c.counts)
FROM workflow_executions e CROSS JOIN LATERAL (
    SELECT jsonb_build_object('urls_discovered', COALESCE(sum(urls_found), 0), 'urls_processed', COALESCE(sum(completed), 0),
        'urls_failed', COALESCE(sum(failed), 0), 'items_extracted', COALESCE(sum(items), 0),
        'nodes_executed', COALESCE(sum(nodes_executed), 0), 'nodes_failed', COALESCE(sum(nodes_failed), 0)) AS counts
    FROM page_counters WHERE execution_id = e.id) c
WHERE e.id = $1 AND e.status IN ('completed', 'failed') AND e.stats <> c.counts;

-- I5: a URL is one page
SELECT format('twice: %s pages of %s', count(*), url)
FROM url_queue WHERE execution_id = $1 GROUP BY url HAVING count(*) > 1;

-- I5: the pages and their ends are those of a calm crawl
SELECT format('lost: %s, %s', url, status) FROM (
    SELECT url, status FROM url_queue WHERE execution_id = $2
    EXCEPT ALL SELECT url, status FROM url_queue WHERE execution_id = $1) AS missing
UNION ALL
SELECT format('twice: %s, %s', url, status) FROM (
    SELECT url, status FROM url_queue WHERE execution_id = $1
    EXCEPT ALL SELECT url, status FROM url_queue WHERE execution_id = $2) AS more
WHERE $2::uuid IS NOT NULL;

-- I5: the URLs that were skipped are those of a calm crawl
SELECT format('lost: %s, which was skipped', url) FROM (
    SELECT url FROM skipped_urls WHERE execution_id = $2
    EXCEPT ALL SELECT url FROM skipped_urls WHERE execution_id = $1) AS missing
UNION ALL
SELECT format('twice: %s, which was skipped', url) FROM (
    SELECT url FROM skipped_urls WHERE execution_id = $1
    EXCEPT ALL SELECT url FROM skipped_urls WHERE execution_id = $2) AS more
WHERE $2::uuid IS NOT NULL;

-- I6: an item belongs to a page that is completed
SELECT format('item of %s, whose page is %s', i.url, COALESCE(q.status, 'not there'))
FROM extracted_items i LEFT JOIN url_queue q ON q.id = i.page_id AND q.execution_id = i.execution_id
WHERE i.execution_id = $1 AND q.status IS DISTINCT FROM 'completed';

-- I6: a page that was found was found by one that is completed; what sitemaps and robots files name counts all the same
SELECT format('%s, whose parent is %s', q.url, COALESCE(parent.status, 'not there'))
FROM url_queue q LEFT JOIN url_queue parent ON parent.id = q.parent_id AND parent.execution_id = q.execution_id
WHERE q.execution_id = $1 AND q.parent_id IS NOT NULL AND parent.status IS DISTINCT FROM 'completed'
    AND NOT (q.is_sitemap OR COALESCE(parent.is_sitemap, false));

-- I6: a node's row belongs to a page
SELECT DISTINCT format('nodes of page %s, which is not there', n.page_id)
FROM node_executions n LEFT JOIN url_queue q ON q.id = n.page_id AND q.execution_id = n.execution_id
WHERE n.execution_id = $1 AND q.id IS NULL;

-- I7: the execution has ended, and not before its pages
SELECT format('the execution is %s, ended at %s', status, completed_at)
FROM workflow_executions
WHERE id = $1 AND (status NOT IN ('completed', 'failed', 'cancelled') OR completed_at IS NULL)
UNION ALL
SELECT format('%s was found at %s and ended at %s, the execution at %s', q.url, q.created_at, q.processed_at, e.completed_at)
FROM url_queue q JOIN workflow_executions e ON e.id = q.execution_id
-- The pages in hand of a cancelled one may go on, and find others.
WHERE q.execution_id = $1 AND e.status <> 'cancelled' AND (q.created_at > e.completed_at OR q.processed_at > e.completed_at);

-- I9: no lease is left
SELECT format('%s, %s, is held by %s since %s until %s', url, status, locked_by, locked_at, locked_until)
FROM url_queue
WHERE execution_id = $1
    AND (status = 'processing' OR locked_by IS NOT NULL OR locked_at IS NOT NULL OR locked_until IS NOT NULL);

-- I10: attempts are bounded, and a page that is completed had one
SELECT format('%s is %s after %s attempts', url, status, attempt)
FROM url_queue CROSS JOIN LATERAL (
    -- Attempts that nothing is charged for, as their workers, which were given up, were heard again.
    SELECT count(*) AS taken_back FROM lost_attempts WHERE page_id = url_queue.id AND standing = 'taken_back') losses
WHERE execution_id = $1 AND (attempt < (status = 'completed')::int
    -- A retry counts faults from zero, but goes on with the attempts.
    OR (attempt > charged + site_faults + rate_limit_faults + unavailable_faults + proxy_faults + browser_faults + worker_faults + taken_back + 1
        AND (SELECT retry_failed_before FROM workflow_executions WHERE id = $1) IS NULL)
    OR charged > 4 OR site_faults > 4 OR rate_limit_faults > 15 OR unavailable_faults > 8 OR proxy_faults > 15 OR browser_faults > 3 OR worker_faults > 3 OR taken_back > 3);

-- I10: no more retries are counted than there were attempts
SELECT format('%s retries counted, of %s possible', c.retried, q.repeated)
FROM workflow_executions e
    CROSS JOIN LATERAL (SELECT sum(retried) AS retried FROM page_counters WHERE execution_id = e.id) c
    CROSS JOIN LATERAL (SELECT sum(greatest(attempt - 1, 0)) AS repeated FROM url_queue WHERE execution_id = e.id) q
-- Attempts of pages that were retried afresh have left no trace.
WHERE e.id = $1 AND e.status IN ('completed', 'failed', 'cancelled') AND e.retry_failed_before IS NULL AND c.retried > q.repeated;

-- I10: a page is quarantined for three losses, none of which was taken back by then
SELECT format('%s is poison after the loss of %s workers and %s browsers, and %s that was taken back: %s', url, worker_faults,
    browser_faults, taken_back, error)
FROM url_queue CROSS JOIN LATERAL (
    -- Once its execution has ended, it stays failed where losses are taken back. How many there were by then it says itself.
    SELECT count(*) AS taken_back FROM lost_attempts WHERE page_id = url_queue.id AND standing = 'taken_back') losses
WHERE execution_id = $1 AND status = 'failed' AND error_class = 'poison'
    AND (greatest(browser_faults, worker_faults + taken_back) < 3
        OR COALESCE(substring(error FROM '^quarantined: ([0-9]+) ')::int, 0) < 3);

-- I11: nobody writes for an attempt that is not the page's, and the last attempt is the one that was recorded
SELECT format('%s is %s by attempt %s; records are of attempts %s to %s', q.url, q.status, q.attempt, n.first, n.last)
FROM url_queue q JOIN (
    SELECT page_id, min(attempt) AS first, max(attempt) AS last
    FROM node_executions WHERE execution_id = $1 GROUP BY page_id) n ON n.page_id = q.id
WHERE q.execution_id = $1 AND (n.last > q.attempt OR (q.status = 'completed' AND n.last < q.attempt));

-- I11: an attempt is one worker's
SELECT format('%s workers wrote attempt %s of page %s', count(DISTINCT n.worker_id), n.attempt, n.page_id)
FROM node_executions n WHERE n.execution_id = $1
GROUP BY n.page_id, n.attempt HAVING count(DISTINCT n.worker_id) > 1
