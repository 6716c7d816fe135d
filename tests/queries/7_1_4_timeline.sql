-- The timeline of an execution.
SELECT
    node_id,
    status,
    started_at,
    completed_at,
    completed_at - started_at AS duration
FROM node_executions
WHERE execution_id = :id
ORDER BY started_at;
