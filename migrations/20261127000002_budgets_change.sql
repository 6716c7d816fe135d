-- The budgets of an execution that runs can be changed.

ALTER TABLE execution_budgets
    -- A budget may be set below what was used already; it then admits nothing more.
    DROP CONSTRAINT execution_budgets_used_check;

ALTER TABLE workflow_executions
    -- After a change of its budgets: pages that these have skipped are looked at once more, by id in url_queue_skipped_idx, and
    -- this is the last one that was looked at. NULL once all were; the execution does not end before.
    ADD COLUMN budget_pages_after uuid;
-- Whose skipped pages are to be looked at.
CREATE INDEX workflow_executions_budgets_idx ON workflow_executions (id) WHERE budget_pages_after IS NOT NULL;
