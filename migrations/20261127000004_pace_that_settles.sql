-- The pace of hosts that refuse pages, in finer steps: it settles a little below what a host bears.

ALTER TABLE hosts
    -- By how many steps its pace is slower; four halve it. `backoff_level` says the same in halves, for programs of before.
    ADD COLUMN pace_level smallint NOT NULL DEFAULT 0,
    -- The level at which it last refused a page after it had served others: near it, its pace rises slowly.
    ADD COLUMN refused_level smallint NOT NULL DEFAULT 0,
    -- Whether it has answered 503 without a word of its pace since that was last changed, which may mean the pace or the page.
    ADD COLUMN is_doubted boolean NOT NULL DEFAULT false,
    -- Each page that it serves adds one, up to 8, and each such 503 takes 8: negative where there are many of them.
    ADD COLUMN credit smallint NOT NULL DEFAULT 8,
    -- Since when it has refused pages in a row, and the class of the last one.
    ADD COLUMN refused_since timestamptz,
    ADD COLUMN refused_with text,
    -- When pages were last recorded of it while there was something of all this to remember.
    ADD COLUMN asked_at timestamptz NOT NULL DEFAULT '-infinity';

UPDATE hosts SET pace_level = backoff_level * 4 WHERE backoff_level > 0;

-- The delay of a host in milliseconds whose pace is so many steps slower than what was asked for. Where nobody asks for a pace,
-- they begin at 16 ms. Two minutes is the longest, unless more was asked for.
CREATE FUNCTION host_pace_ms(asked_ms integer, level integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN level <= 0 THEN asked_ms
        ELSE least(greatest(asked_ms, 16) * power(2::float8, level / 4.0::float8), greatest(asked_ms, 120000))::int END
$$;

-- Whether what a host said of its pace is so long past that it counts no more: nobody has asked it anything for long.
CREATE FUNCTION host_said_long_ago(backoff_until timestamptz, asked_at timestamptz, delay_ms integer) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT greatest(backoff_until, asked_at) < now() - greatest(interval '10 minutes', 2 * delay_ms * interval '1 millisecond')
$$;
