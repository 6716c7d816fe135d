-- Places below a path that come free are filled, and no more pages are put back for them than that takes.

-- In the order in which programs that run beside this lock them.
LOCK TABLE workflow_executions, execution_budgets IN ACCESS EXCLUSIVE MODE;

ALTER TABLE execution_budgets
    -- Of a path: how many of the pages that it has skipped are still to be put back, as places below it came free; zero where enough
    -- were, which is looked at once more at the end. NULL where nothing came free since its places were all taken.
    ADD COLUMN to_fill bigint;

ALTER TABLE workflow_executions
    -- Where places below its paths came free: pages that had none are looked at, by id in url_queue_skipped_idx, and this is the last
    -- one that was looked at; the greatest id while those that were put back are waited for. NULL once no place can be filled; the
    -- execution does not end before.
    ADD COLUMN budget_places_after uuid;
-- Whose skipped pages are to be looked at.
CREATE INDEX workflow_executions_places_idx ON workflow_executions (id)
    WHERE budget_places_after IS NOT NULL AND status IN ('running', 'paused');
