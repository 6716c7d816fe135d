-- Sites that cannot be reached: their failures are counted apart from the pages' own, and they are asked more and more
-- rarely, by one page at a time.

ALTER TABLE url_queue
    -- How often its site failed. `charged` counts the page's own failures from now on.
    ADD COLUMN site_faults smallint NOT NULL DEFAULT 0;

ALTER TABLE hosts
    -- How often in a row no page of it got a connection; from the third time on those under way at one time count once.
    ADD COLUMN unreachable smallint NOT NULL DEFAULT 0,
    -- From the third time on it is left alone until then, longer each time; from the tenth on its pages fail untried.
    ADD COLUMN unreachable_until timestamptz NOT NULL DEFAULT '-infinity',
    -- The origins (`http://host`, `https://host`) that could not be reached.
    ADD COLUMN unreachable_origins text[] NOT NULL DEFAULT '{}';
-- Hosts whose pages fail untried now.
CREATE INDEX hosts_unreachable_idx ON hosts (unreachable_until) WHERE unreachable >= 10;
