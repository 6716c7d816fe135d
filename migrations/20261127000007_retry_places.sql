-- What a retry answers is what goes back; and a run that somebody has asked for is told from a schedule's own.

ALTER TABLE workflow_executions
    -- Failed pages that a retry has still to put back; NULL while none is under way.
    ADD COLUMN retry_pages bigint,
    -- How many of these have their place in `max_pages` from the retry on, without having it written in their rows yet: they are
    -- counted in `pages_admitted` already, so that nobody else takes them.
    ADD COLUMN retry_places bigint NOT NULL DEFAULT 0;

-- Whether pages of a URL are counted in a budget of a path. By execution_budgets_pkey; most executions have none. A prefix has no
-- `?`, so that it can be compared with path and query together.
CREATE FUNCTION is_below_budgeted_path(of_execution uuid, of_url text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM execution_budgets AS budget
        WHERE budget.execution_id = of_execution AND budget.kind = 'path_prefix'
          AND starts_with(regexp_replace(of_url, '^[a-z]+://[^/]*', ''), budget.prefix))
$$;

ALTER TABLE schedules
    -- Whether somebody has asked for the run that waits: then it starts although the schedule is disabled.
    ADD COLUMN waiting_asked boolean NOT NULL DEFAULT false;
-- Disabling a schedule has forgotten every other one.
UPDATE schedules SET waiting_asked = true WHERE waiting_since IS NOT NULL AND NOT enabled;
