-- The ten nodes that are slowest on average.
SELECT
    node_id,
    COUNT(*) AS execution_count,
    ROUND(AVG(EXTRACT(EPOCH FROM (completed_at - started_at)) * 1000)::numeric, 2) AS avg_ms,
    ROUND(MIN(EXTRACT(EPOCH FROM (completed_at - started_at)) * 1000)::numeric, 2) AS min_ms,
    ROUND(MAX(EXTRACT(EPOCH FROM (completed_at - started_at)) * 1000)::numeric, 2) AS max_ms
FROM node_executions
WHERE execution_id = :id
    AND completed_at IS NOT NULL
GROUP BY node_id
ORDER BY avg_ms DESC
LIMIT 10;
