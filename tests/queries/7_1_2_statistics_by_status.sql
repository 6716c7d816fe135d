-- How many node executions ended how, and how long they took on average.
SELECT
    status,
    COUNT(*) AS count,
    ROUND(AVG(EXTRACT(EPOCH FROM (completed_at - started_at)) * 1000)::numeric, 2) AS avg_duration_ms
FROM node_executions
WHERE execution_id = :id
    AND completed_at IS NOT NULL
GROUP BY status;
