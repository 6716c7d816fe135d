-- Limits of hosts that hold whoever dispatches and claims at once.

ALTER TABLE hosts
    -- The pace in milliseconds that held when a dispatcher last looked at it. A claim keeps to it where a page was
    -- dispatched with a lesser one.
    ADD COLUMN delay_ms integer NOT NULL DEFAULT 0;

-- How many pages of a host are queued or processing now. Volatile, so that it sees what was committed until now, and not
-- until the start of the statement that asks: whoever has just got the lock of a host sees what its last holder has queued.
CREATE FUNCTION pages_in_flight(of_host text) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    -- By url_queue_open_idx, which is small.
    SELECT count(*) FROM url_queue WHERE host = of_host AND status IN ('queued', 'processing')
$$;
