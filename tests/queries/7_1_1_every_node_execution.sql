-- Every node execution of an execution, in time.
SELECT
    node_id,
    status,
    started_at,
    completed_at,
    EXTRACT(EPOCH FROM (completed_at - started_at)) * 1000 AS duration_ms
FROM node_executions
WHERE execution_id = :id
ORDER BY started_at;
