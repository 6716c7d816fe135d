-- The nodes that failed, the last one first.
SELECT
    node_id,
    started_at,
    error,
    retry_count
FROM node_executions
WHERE execution_id = :id
    AND status = 'failed'
ORDER BY started_at DESC;
