-- How many node executions there are.
SELECT COUNT(*) FROM node_executions WHERE execution_id = :id;
