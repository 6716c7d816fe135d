-- A start that is asked for again, because its answer was lost, is the execution that it made the first time.

-- What the client calls the start; NULL where it gave no name.
ALTER TABLE workflow_executions ADD COLUMN start_key text;
CREATE UNIQUE INDEX workflow_executions_start_key_idx ON workflow_executions (workflow_id, start_key)
    WHERE start_key IS NOT NULL;
