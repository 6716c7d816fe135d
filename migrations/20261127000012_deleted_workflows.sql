-- A workflow is deleted however much its executions have recorded: it is marked, and its rows are removed in portions.

ALTER TABLE workflows
    -- When somebody deleted it. From then on nobody is shown anything of it, and what it said is gone; its executions are removed
    -- by and by, and it goes with the last of them. NULL while it is there.
    ADD COLUMN deleted_at timestamptz;
-- Programs that know of no deletion can neither start it nor give it words again.
ALTER TABLE workflows ADD CONSTRAINT workflows_deleted_check
    CHECK (deleted_at IS NULL OR (status = 'archived' AND name = '' AND config = '{}'));
-- Of which there are rows to remove; mostly none.
CREATE INDEX workflows_deleted_idx ON workflows (deleted_at) WHERE deleted_at IS NOT NULL;

-- Whether nobody has deleted the workflow of an execution. By primary key.
CREATE FUNCTION workflow_is_there(of_workflow uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM workflows WHERE id = of_workflow AND deleted_at IS NULL)
$$;
