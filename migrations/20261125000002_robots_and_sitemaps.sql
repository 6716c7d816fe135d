-- What sites say about crawlers (robots.txt, RFC 9309), and sitemaps as pages of the frontier.

-- The robots file of an origin, as one worker fetched it for the fleet.
CREATE TABLE robots_files (
    -- Scheme, host and port, the port only where it is not the scheme's own: `https://example.com`.
    origin            text PRIMARY KEY,
    -- The HTTP status of the last answer that said something: 2xx to 4xx. NULL before there was one.
    status            smallint,
    -- The file, at most 500 KiB of it; NULL where there is none (4xx), which allows everything.
    body              bytea,
    -- What the file asked for, in the group that applied to the crawl that fetched it; 0 is nothing.
    crawl_delay_ms    integer NOT NULL DEFAULT 0,
    -- When `status` and `body` were fetched.
    fetched_at        timestamptz,
    -- Fetched again after this.
    expires_at        timestamptz NOT NULL DEFAULT '-infinity',
    -- Until then one worker fetches it, and the others wait for what it finds.
    fetching_until    timestamptz NOT NULL DEFAULT '-infinity',
    -- Since when it can neither be had nor is said to be absent: 5xx, 429, no connection.
    unreachable_since timestamptz,
    -- Why, for people.
    error             text
);
-- What nobody has asked for in a long time is deleted.
CREATE INDEX robots_files_expires_idx ON robots_files (expires_at);

-- Whether robots files are obeyed, and with them the pace that they ask for (hosts.crawl_delay_ms). One that began before
-- it was written down keeps to such a pace.
ALTER TABLE workflow_executions ADD COLUMN obeys_robots boolean NOT NULL DEFAULT true;

-- Whether the page is a sitemap: downloaded without a tab, and its URLs become pages of depth 0. The depth of a
-- sitemap counts the sitemap indexes above it.
ALTER TABLE url_queue ADD COLUMN is_sitemap boolean NOT NULL DEFAULT false;
