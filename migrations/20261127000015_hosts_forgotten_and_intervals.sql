-- Hosts that nobody visits any more are forgotten, and intervals between starts are held against the delays that they had to keep.

-- Indexes of very many hosts take longer than a statement may otherwise.
SET LOCAL statement_timeout = 0;

-- In the order in which programs that run beside this name them.
LOCK TABLE lanes IN SHARE ROW EXCLUSIVE MODE;

ALTER TABLE hosts
    -- When it is looked at next whether it can be forgotten: two months after it was there first, or was used last, and then once a
    -- day while somebody visits it.
    ADD COLUMN forget_at timestamptz NOT NULL DEFAULT now() + interval '60 days',
    -- The delays in milliseconds that the last starts had to keep, in the order of `recent_starts`; NULL where nobody said it.
    ADD COLUMN recent_delays_ms integer[] NOT NULL DEFAULT '{}',
    -- The delay that the interval of `min_interval_ms` had to keep, and when the later one of its two starts was.
    ADD COLUMN min_interval_delay_ms integer,
    ADD COLUMN min_interval_at timestamptz;
CREATE INDEX hosts_forget_idx ON hosts (forget_at);
-- Hosts that are left alone now, or were: of most hosts nothing is here.
CREATE INDEX hosts_held_back_idx ON hosts (greatest(backoff_until, unreachable_until))
    WHERE greatest(backoff_until, unreachable_until) > '-infinity';

-- Nobody knows which delays these had to keep.
UPDATE hosts SET recent_starts = '{}', min_interval_ms = NULL WHERE recent_starts <> '{}' OR min_interval_ms IS NOT NULL;
-- Not all that are there now on the same day.
UPDATE hosts SET forget_at = forget_at + random() * interval '30 days';

-- Until when a host was used, as far as anybody has written that down: '-infinity' where nobody had to.
CREATE FUNCTION host_was_used_at(h hosts) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT greatest(h.next_dispatch_at, h.next_start_at, h.delay_seen_at, h.backoff_until, h.unreachable_until, h.asked_at,
        h.refused_since, h.recent_starts[1])
$$;

-- Whether an execution visits a host. Volatile, so that it sees what was committed until now, and not until the start of the
-- statement that asks: whoever has just got the lock of a host sees the lanes that were opened under it.
CREATE FUNCTION host_is_visited(of_host text) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    -- By lanes_host_idx.
    SELECT EXISTS (SELECT FROM lanes WHERE host = of_host)
$$;

-- Sees to it that the hosts of new lanes are there, and stay: a lane without its host is dispatched by nobody. Done here and not by
-- whoever opens lanes, as these are many, and older programs among them.
CREATE FUNCTION keep_hosts_of_lanes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- One that may be forgotten before the others see its lane is held until they do. Only `FOR UPDATE` keeps us waiting, and those
    -- who take that lock wait for nobody: who forgets hosts, dispatchers, and who skips pages for their budgets.
    PERFORM h.host FROM hosts h
    -- By hosts_pkey: the sum keeps the planner from reading all that are due.
    WHERE h.host IN (SELECT o.host FROM opened o) AND h.forget_at - interval '1 hour' < now()
    ORDER BY h.host FOR KEY SHARE OF h;

    -- Known ones are left out first: whoever holds one may wait for a lane that we hold.
    INSERT INTO hosts (host)
    SELECT DISTINCT o.host FROM opened o WHERE NOT EXISTS (SELECT FROM hosts h WHERE h.host = o.host) ORDER BY o.host
    ON CONFLICT (host) DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER lanes_keep_hosts AFTER INSERT ON lanes REFERENCING NEW TABLE AS opened
    FOR EACH STATEMENT EXECUTE FUNCTION keep_hosts_of_lanes();

-- As before, without the hosts, which come with the lanes.
CREATE OR REPLACE FUNCTION open_lanes(executions uuid[], names text[]) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    -- The dispatcher may have one in its hands just now, and lay it aside for minutes, as it does not see the new pages: it is
    -- waited for, which itself waits for nobody. In one order.
    UPDATE lanes SET due_at = now(), misses = 0
    WHERE (execution_id, host) IN (
        SELECT l.execution_id, l.host FROM lanes l JOIN unnest(executions, names) AS n (execution_id, host) USING (execution_id, host)
        WHERE l.misses > 0
        ORDER BY l.execution_id, l.host FOR UPDATE OF l);

    -- Known ones are left out first: whoever holds one may wait for one that we hold.
    INSERT INTO lanes (execution_id, host)
    SELECT execution_id, host FROM unnest(executions, names) AS n (execution_id, host)
    WHERE NOT EXISTS (SELECT FROM lanes l WHERE l.execution_id = n.execution_id AND l.host = n.host)
    ORDER BY execution_id, host
    ON CONFLICT (execution_id, host) DO NOTHING;
END
$$;

-- Of the intervals between starts of a host, that which is the most too short for the delay that it had to keep, or the least longer:
-- in milliseconds, so that the jitter of short delays hides nothing. A later start is planned with the delay of the earlier one or with
-- one that has come since, so the lesser of both counts; one that nobody said is not compared. No row where there is no interval.
CREATE FUNCTION tightest_interval(starts timestamptz[], delays_ms integer[])
RETURNS TABLE (interval_ms integer, delay_ms integer, began_at timestamptz) LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT i.interval_ms, i.delay_ms, i.began_at
    FROM (
        SELECT least(ceil(EXTRACT(EPOCH FROM p.at - p.at_before) * 1000), 2147483647)::int AS interval_ms,
            least(p.delay_ms, p.delay_before_ms) AS delay_ms, p.at AS began_at
        FROM (
            SELECT s.at, s.delay_ms, lag(s.at) OVER by_time AS at_before, lag(s.delay_ms) OVER by_time AS delay_before_ms
            FROM unnest(starts, delays_ms) AS s (at, delay_ms)
            WINDOW by_time AS (ORDER BY s.at, s.delay_ms)
        ) p
        WHERE p.delay_ms IS NOT NULL AND p.delay_before_ms IS NOT NULL
    ) i
    ORDER BY i.interval_ms - i.delay_ms, i.began_at DESC LIMIT 1
$$;

-- As before, with the delays that starts had to keep. And the lock is the one of an update that leaves the name as it is, so that
-- nobody waits for it who only wants a host to stay.
CREATE FUNCTION note_contacts(
    hosts_asked text[], starts timestamptz[], back_offs_ms bigint[], answers_ms integer[], were_found boolean[], missing_origins text[],
    news boolean[], too_fast boolean[], pages_served integer[], first_ones boolean[], claims timestamptz[], bare_ones boolean[],
    refusals text[], refused_before boolean[], delays_ms integer[]
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    WITH contact AS (
        SELECT * FROM unnest(hosts_asked, starts, back_offs_ms, answers_ms, were_found, missing_origins, news, too_fast, pages_served, first_ones,
            claims, bare_ones, refusals, refused_before, delays_ms)
            AS c (host, started_at, back_off_ms, answered_in_ms, was_found, missing, is_news, is_too_fast, served, is_first, claimed_at,
                is_bare, refused_with, was_refused, delay_ms)
    ), host AS (
        -- In one order. That a host was found, or has served a page, is news only of one that was not, or had refused one, before.
        SELECT h.* FROM (SELECT host, bool_or(is_news) AS is_news FROM contact GROUP BY host) c JOIN hosts h USING (host)
        WHERE c.is_news OR remembers_refusals(h)
        ORDER BY h.host FOR NO KEY UPDATE OF h
    ), said AS (
        SELECT c.host, array_agg(c.started_at) FILTER (WHERE c.started_at IS NOT NULL) AS starts,
            array_agg(c.delay_ms) FILTER (WHERE c.started_at IS NOT NULL) AS delays_ms,
            max(c.back_off_ms) AS back_off_ms, max(c.answered_in_ms) AS answered_in_ms, bool_or(c.was_found) AS was_found,
            array_agg(DISTINCT c.missing) FILTER (WHERE c.missing IS NOT NULL) AS missing,
            count(*) FILTER (WHERE c.is_bare) AS bare, max(c.refused_with) AS refused_with, sum(c.served) AS served_of_all,
            -- Those that were in workers' hands before the host refused one say nothing of what it does since.
            COALESCE(sum(c.served) FILTER (WHERE n.is_new), 0) AS served,
            COALESCE(bool_or(c.was_refused AND c.served > 0) FILTER (WHERE n.is_new), false) AS served_again,
            count(*) FILTER (WHERE n.is_new AND c.back_off_ms IS NOT NULL) > 0 AS is_refused,
            COALESCE(bool_or(c.is_first) FILTER (WHERE n.is_new AND c.back_off_ms IS NOT NULL), false) AS is_first,
            COALESCE(bool_or(c.is_too_fast) FILTER (WHERE n.is_new), false) AS is_too_fast,
            COALESCE(bool_and(c.is_bare) FILTER (WHERE n.is_new AND c.back_off_ms IS NOT NULL), false) AS is_bare
        FROM contact c JOIN host old USING (host) CROSS JOIN LATERAL (SELECT c.claimed_at >= old.backoff_until AS is_new) n
        GROUP BY c.host
    )
    UPDATE hosts h
    SET recent_starts = COALESCE(p.starts, old.recent_starts), recent_delays_ms = COALESCE(p.delays_ms, old.recent_delays_ms),
        min_interval_ms = CASE WHEN t.is_tighter THEN i.interval_ms ELSE old.min_interval_ms END,
        min_interval_delay_ms = CASE WHEN t.is_tighter THEN i.delay_ms ELSE old.min_interval_delay_ms END,
        min_interval_at = CASE WHEN t.is_tighter THEN i.began_at ELSE old.min_interval_at END,
        latency_ms = CASE WHEN c.answered_in_ms IS NULL THEN old.latency_ms
            WHEN old.latency_ms = 0 THEN c.answered_in_ms ELSE (old.latency_ms * 7 + c.answered_in_ms) / 8 END,
        pace_level = b.level, backoff_level = (b.level + 3) / 4, refused_level = b.refused_level, served = b.served,
        is_doubted = b.is_doubted, credit = b.credit, refused = b.refused, refused_since = b.since,
        refused_with = COALESCE(c.refused_with, old.refused_with), asked_at = now(),
        backoff_until = greatest(old.backoff_until, b.until),
        next_start_at = greatest(old.next_start_at, b.until),
        unreachable = u.times,
        unreachable_until = CASE WHEN c.was_found THEN '-infinity'
            -- From the third time on, 1 s to 1 min.
            WHEN u.is_counted AND u.times >= 3
                THEN now() + least(1000 * (1 << least(u.times - 3, 6)), 60000) * interval '1 millisecond'
            ELSE old.unreachable_until END,
        unreachable_origins = CASE WHEN c.was_found THEN '{}' WHEN u.is_counted AND u.times = 1 THEN c.missing
            ELSE ARRAY(SELECT DISTINCT origin FROM unnest(old.unreachable_origins || c.missing) AS origin) END
    FROM host old JOIN said c USING (host)
        CROSS JOIN LATERAL (
            -- The newest, newest first; a page that takes long is recorded after many that started after it.
            SELECT (array_agg(s.at ORDER BY s.at DESC, s.delay_ms DESC))[1:128] AS starts,
                (array_agg(s.delay_ms ORDER BY s.at DESC, s.delay_ms DESC))[1:128] AS delays_ms
            FROM (
                SELECT noted.at, noted.delay_ms FROM unnest(old.recent_starts, old.recent_delays_ms) AS noted (at, delay_ms)
                UNION ALL
                SELECT told.at, told.delay_ms FROM unnest(c.starts, c.delays_ms) AS told (at, delay_ms)
            ) s
            -- Most say nothing of a start.
            WHERE c.starts IS NOT NULL
        ) p
        LEFT JOIN LATERAL tightest_interval(p.starts, p.delays_ms) i ON true
        CROSS JOIN LATERAL (
            SELECT COALESCE(i.interval_ms - i.delay_ms < old.min_interval_ms - old.min_interval_delay_ms, i.interval_ms IS NOT NULL)
                AS is_tighter
        ) t
        CROSS JOIN LATERAL (
            SELECT host_said_long_ago(old.backoff_until, old.asked_at, old.delay_ms) AS it
        ) past
        CROSS JOIN LATERAL (
            -- What it has served makes it faster: by a step a page at first, by one for eight of them near the pace at which it
            -- refused some.
            SELECT CASE WHEN past.it THEN 0
                    WHEN old.pace_level > old.refused_level + 4 THEN greatest(old.pace_level - c.served, old.refused_level + 4)
                    WHEN old.pace_level < old.refused_level - 4 THEN greatest(old.pace_level - c.served, 0)
                    ELSE greatest(old.pace_level - (old.served + c.served) / 8, 0) END::int AS level,
                CASE WHEN NOT (past.it OR c.is_refused) AND abs(old.pace_level - old.refused_level) <= 4
                    THEN (old.served + c.served) % 8 ELSE 0 END AS served,
                CASE WHEN past.it OR c.served > 0 THEN 0 ELSE old.refused END AS refused,
                greatest(least(CASE WHEN past.it THEN 16 ELSE old.credit END + c.served_of_all - 8 * c.bare, 16), -100) AS credit,
                old.is_doubted AND NOT past.it AS is_doubted
        ) e
        CROSS JOIN LATERAL (
            -- It says that it is asked too fast. Or there were many a 503 that did not say why, and a page that heard one is served
            -- after the pause, as one that is broken never is: they meant the pace.
            SELECT c.is_refused AND c.is_too_fast AS is_told,
                c.served_again AND e.is_doubted AND e.credit < 0 AS is_shown,
                -- Steps from what was asked for to every 250 ms, and from what is asked for to every 8 s.
                greatest(4, ceil(4 * log(2.0, 250.0 / greatest(old.delay_ms, 16))))::int AS to_first,
                floor(4 * log(2.0, 8000.0 / greatest(old.delay_ms, 16)))::int AS to_last
        ) r
        CROSS JOIN LATERAL (
            -- Then it is asked half as fast from then on: every 250 ms at first, every 2 min in the end. Where it never said so, every
            -- 8 s, which is reached the faster the longer it refused everything.
            SELECT CASE WHEN r.is_told AND e.level = 0 THEN r.to_first
                    WHEN r.is_told AND old.delay_ms >= 120000 THEN e.level
                    WHEN r.is_told THEN least(e.level + 4, 60)
                    WHEN r.is_shown THEN greatest(e.level, least(e.level + r.to_last,
                        CASE WHEN e.level = 0 THEN r.to_first - 4 ELSE e.level END + 4 * least(greatest(old.refused, 1), 4)))
                    ELSE e.level END AS level,
                CASE WHEN r.is_told OR r.is_shown OR e.level = 0 THEN 0 ELSE e.served END AS served,
                CASE WHEN (r.is_told OR r.is_shown) AND e.refused = 0 THEN e.level ELSE old.refused_level END AS refused_level,
                NOT (r.is_told OR r.is_shown) AND (e.is_doubted OR c.bare > 0) AS is_doubted,
                CASE WHEN r.is_told OR r.is_shown THEN 8 ELSE e.credit END AS credit,
                -- A page that was refused before says nothing new of the host: few that never work do not stop it. One that
                -- wants long pauses is asked again for some hours only.
                CASE WHEN NOT c.is_first THEN e.refused
                    WHEN e.refused > 0 AND old.refused_since < now() - interval '6 hours' THEN greatest(e.refused + 1, 12)
                    ELSE least(e.refused + 1, 1000) END AS refused,
                CASE WHEN e.refused > 0 THEN old.refused_since WHEN c.is_first THEN now() END AS since,
                -- Left alone for longer each time in a row, 1 s to 5 min, at least as long as it asked for, and for its pace. Not for
                -- long where a page is refused again that did not hear why: others will show whether it is the page.
                now() + CASE WHEN c.is_refused THEN greatest(c.back_off_ms,
                    CASE WHEN c.is_first THEN least(1000 * (1 << least(e.refused, 9)), 300000)
                        WHEN c.is_bare AND e.refused < 2 THEN 250 ELSE 1000 END,
                    CASE WHEN e.level > 0 AND r.is_told THEN least(2 * old.delay_ms, 120000)
                        WHEN e.level > 0 AND c.is_first THEN least(2 * old.delay_ms, 16000) END)
                    ELSE c.back_off_ms END * interval '1 millisecond' AS until
        ) b
        CROSS JOIN LATERAL (
            -- Pages that were in workers' hands when it went count as one time; and what is long past counts no more.
            SELECT counted.it AS is_counted,
                CASE WHEN c.was_found THEN 0::int2
                    WHEN NOT counted.it THEN old.unreachable
                    WHEN old.unreachable >= 3 AND old.unreachable_until < now() - interval '10 minutes' THEN 1::int2
                    ELSE least(old.unreachable + 1, 1000)::int2 END AS times
            FROM (SELECT c.missing IS NOT NULL AND NOT c.was_found AND old.unreachable_until <= now()) AS counted (it)
        ) u
    WHERE h.host = old.host;
END
$$;

-- For workers of before, which do not say the delays.
CREATE OR REPLACE FUNCTION note_contacts(
    hosts_asked text[], starts timestamptz[], back_offs_ms bigint[], answers_ms integer[], were_found boolean[], missing_origins text[],
    news boolean[], too_fast boolean[], pages_served integer[], first_ones boolean[], claims timestamptz[], bare_ones boolean[],
    refusals text[], refused_before boolean[]
) RETURNS void LANGUAGE sql AS $$
    SELECT note_contacts(hosts_asked, starts, back_offs_ms, answers_ms, were_found, missing_origins, news, too_fast, pages_served,
        first_ones, claims, bare_ones, refusals, refused_before, NULL::integer[])
$$;
