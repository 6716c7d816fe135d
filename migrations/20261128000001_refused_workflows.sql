-- A workflow that no worker's version can run does not wait for a newer one for ever.

ALTER TABLE workers
    -- The executions whose workflows its version cannot run, as far as it has tried. NULL where there are none, and of older
    -- versions.
    ADD COLUMN refuses uuid[];
