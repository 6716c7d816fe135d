-- Pages that have to be alone in their worker are charged for its loss only if they were.

ALTER TABLE workers
    -- The page that was last executed without company here, and its epoch then.
    ADD COLUMN alone_with uuid,
    ADD COLUMN alone_epoch integer;
