-- Executions that are paused, cancelled at once, limited anew and retried while others dispatch, claim and finish; and
-- schedules that start executions.

ALTER TABLE workflow_executions
    -- Raised by every act of control, so that a caller can say which state it decided upon.
    ADD COLUMN control_version integer NOT NULL DEFAULT 0,
    -- The share of the fleet that it gets beside other executions.
    ADD COLUMN weight integer NOT NULL DEFAULT 1,
    -- Executions with a higher one go first.
    ADD COLUMN priority integer NOT NULL DEFAULT 0,
    -- Of a cancelled one, how its pages in hand end: by themselves (`graceful`), or given up (`now`).
    ADD COLUMN cancel_mode text,
    -- Pages that failed before this moment are put back by and by, and it does not end while there are any.
    ADD COLUMN retry_failed_before timestamptz,
    -- Which schedule started it; no foreign key, since it outlives the schedule.
    ADD COLUMN schedule_id uuid,
    DROP CONSTRAINT workflow_executions_status_check,
    ADD CONSTRAINT workflow_executions_status_check
        CHECK (status IN ('pending', 'running', 'paused', 'completed', 'failed', 'cancelled')),
    ADD CONSTRAINT workflow_executions_weight_check CHECK (weight BETWEEN 1 AND 1000),
    ADD CONSTRAINT workflow_executions_cancel_mode_check CHECK (cancel_mode IN ('graceful', 'now')),
    -- A limit may be set below what was admitted already; it then admits nothing more.
    DROP CONSTRAINT workflow_executions_admitted_check;
-- Whose leftover pages are swept, and which pages in hand are given up.
CREATE INDEX workflow_executions_cancelled_idx ON workflow_executions (completed_at) WHERE status = 'cancelled';
-- Whether a run of a schedule has not ended.
CREATE INDEX workflow_executions_schedule_idx ON workflow_executions (schedule_id)
    WHERE schedule_id IS NOT NULL AND status IN ('pending', 'running', 'paused');

-- What a retry puts back, oldest failure first.
CREATE INDEX url_queue_failed_idx ON url_queue (execution_id, processed_at) WHERE status = 'failed';
-- What a raised page limit puts back, in the dispatcher's order.
CREATE INDEX url_queue_limit_idx ON url_queue (execution_id, priority DESC, created_at, id)
    WHERE status = 'skipped' AND error_class = 'limit';

-- When a workflow is to be executed, again and again.
CREATE TABLE schedules (
    id          uuid PRIMARY KEY,
    workflow_id uuid NOT NULL REFERENCES workflows (id) ON DELETE CASCADE,
    -- Five fields, or six with seconds first; in the time of `time_zone`, a name of the IANA database.
    cron        text NOT NULL,
    time_zone   text NOT NULL DEFAULT 'UTC',
    enabled     boolean NOT NULL DEFAULT true,
    -- What happens when a run is due and an earlier one has not ended.
    overlap     text NOT NULL DEFAULT 'skip',
    -- NULL while disabled, and when no run is to come.
    next_run_at timestamptz,
    -- Since when a run waits for the end of an earlier one (`queue`); it is one however many fell due meanwhile.
    waiting_since timestamptz,
    -- When an execution was last started, and which; no foreign key, since it may be deleted.
    last_run_at timestamptz,
    last_execution_id uuid,
    -- What became of the run that was last due.
    last_outcome text,
    -- Raised by every change and every run: whoever decides upon a row says which one it saw.
    version     integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT schedules_overlap_check CHECK (overlap IN ('skip', 'queue', 'cancel_previous', 'allow')),
    CONSTRAINT schedules_last_outcome_check CHECK (last_outcome IN
        ('started', 'skipped', 'queued', 'replaced', 'workflow_not_active', 'workflow_invalid', 'schedule_invalid'))
);
-- What the scheduler looks through.
CREATE INDEX schedules_due_idx ON schedules (next_run_at) WHERE enabled;
CREATE INDEX schedules_waiting_idx ON schedules (id) WHERE waiting_since IS NOT NULL;
CREATE INDEX schedules_workflow_idx ON schedules (workflow_id);
