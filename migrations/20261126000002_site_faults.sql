-- Sites that cannot be reached: their failures are counted apart from the pages' own, and they are asked more and more
-- rarely, by one page at a time.

ALTER TABLE url_queue
    -- How often its site failed. `charged` counts the page's own failures from now on.
    ADD COLUMN site_faults smallint NOT NULL DEFAULT 0;

ALTER TABLE hosts
    -- How often in a row no page of it could reach it. From the third time on it is left alone for a while, longer each
    -- time (`backoff_until`); after the twelfth its pages fail without being tried.
    ADD COLUMN unreachable smallint NOT NULL DEFAULT 0,
    -- The origin (`scheme://host:port`) that could not be reached.
    ADD COLUMN unreachable_origin text;
-- What the finisher looks through for pages that fail untried.
CREATE INDEX hosts_unreachable_idx ON hosts (host) WHERE unreachable >= 12;
