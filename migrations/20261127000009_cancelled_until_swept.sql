-- The pages of a cancelled execution are swept until none is left, however long nobody was there to do it.

ALTER TABLE workflow_executions
    -- When it was cancelled for a day and nothing of it was left.
    ADD COLUMN swept_at timestamptz;
CREATE INDEX workflow_executions_unswept_idx ON workflow_executions (completed_at)
    WHERE status = 'cancelled' AND swept_at IS NULL;
