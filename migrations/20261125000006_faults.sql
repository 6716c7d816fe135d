-- Faults by whose they are: a dead proxy, browser or worker uses up none of a page's own attempts.

ALTER TABLE url_queue
    -- Failures of the page itself and of its site, which are charged to it.
    ADD COLUMN charged smallint NOT NULL DEFAULT 0,
    -- How often its proxy, its browser, its worker failed or was lost.
    ADD COLUMN proxy_faults smallint NOT NULL DEFAULT 0,
    ADD COLUMN browser_faults smallint NOT NULL DEFAULT 0,
    ADD COLUMN worker_faults smallint NOT NULL DEFAULT 0;
-- What was tried so far was all charged.
UPDATE url_queue SET charged = LEAST(attempt, 32767) WHERE status = 'pending' AND attempt > 0;
-- The pages of an execution that are quarantined.
CREATE INDEX url_queue_poison_idx ON url_queue (execution_id, id) WHERE status = 'failed' AND error_class = 'poison';

-- Attempts that ended with the loss of the browser or the worker that executed them: the evidence against a page that
-- takes down what executes it. Such attempts are rare, and those of innocent pages are among them.
CREATE TABLE lost_attempts (
    page_id      uuid NOT NULL REFERENCES url_queue (id) ON DELETE CASCADE,
    epoch        integer NOT NULL,
    attempt      integer NOT NULL,
    -- What was lost.
    fault        text NOT NULL,
    -- Who had the page.
    worker_id    uuid,
    lost_at      timestamptz NOT NULL DEFAULT now(),
    -- What was seen of it.
    error        text NOT NULL,
    -- A retry begins with attempt 1 again, in a later epoch.
    CONSTRAINT lost_attempts_pkey PRIMARY KEY (page_id, epoch, attempt),
    CONSTRAINT lost_attempts_fault_check CHECK (fault IN ('browser', 'worker'))
);
