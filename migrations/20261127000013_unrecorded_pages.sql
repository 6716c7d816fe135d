-- Pages are not charged for a database that takes no records, nor for the loss of a worker that is heard again.

ALTER TABLE workers
    -- Pages that it has executed, and that have waited to be recorded for longer than a heartbeat: `page/epoch/attempt`, those
    -- first that have waited longest. Others must not have them while it lives, and they took nobody down. NULL where there are
    -- none, and of older versions.
    ADD COLUMN unrecorded text[];

ALTER TABLE lost_attempts
    -- `provisional`: its worker was given up, and nothing else speaks against the page. When the worker is heard again that
    -- becomes `taken_back`: the page is charged with it no longer. Every other one is `final`.
    ADD COLUMN standing text NOT NULL DEFAULT 'final',
    ADD CONSTRAINT lost_attempts_standing_check CHECK (standing IN ('final', 'provisional', 'taken_back'));
-- What is to be taken back when a worker is heard again.
CREATE INDEX lost_attempts_provisional_idx ON lost_attempts (worker_id) WHERE standing = 'provisional';
