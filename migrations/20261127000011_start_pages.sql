-- The pages of an execution are counted without reading all of them.

-- The index reads every page once, which of very many takes longer than a statement may otherwise; nobody writes pages meanwhile.
SET LOCAL statement_timeout = 0;

-- The pages that an execution begins with. All others are counted where they are written (page_counters.urls_found), so both
-- together are as many as it has.
CREATE INDEX url_queue_start_idx ON url_queue (execution_id) WHERE parent_id IS NULL;
