-- The pace of hosts that refuse pages, in finer steps: it settles a little below what a host bears.

ALTER TABLE hosts
    -- The `backoff_level` at which it last refused a page after it had served others: near it, its pace rises slowly.
    ADD COLUMN refused_level smallint NOT NULL DEFAULT 0,
    -- Each page that it serves adds one, up to 8, each 503 that says nothing of a pace takes 8. Where there is not enough left,
    -- the 503 means the pace.
    ADD COLUMN credit smallint NOT NULL DEFAULT 8,
    -- Since when it has refused pages in a row, and the class of the last one.
    ADD COLUMN refused_since timestamptz,
    ADD COLUMN refused_with text;

-- Levels were whole doublings of the delay; they are quarters of one.
UPDATE hosts SET backoff_level = backoff_level * 4 WHERE backoff_level > 0;

-- The delay of a host in milliseconds whose pace is so many steps slower than what was asked for: four steps double it. Where
-- nobody asks for a pace, they begin at 16 ms. Two minutes is the longest, unless more was asked for.
CREATE FUNCTION host_pace_ms(asked_ms integer, level integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN level <= 0 THEN asked_ms
        ELSE least(greatest(asked_ms, 16) * power(2::float8, level / 4.0::float8), greatest(asked_ms, 120000))::int END
$$;
