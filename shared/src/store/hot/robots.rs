//! The robots files that the fleet shares: one worker fetches a file, all of them go by it.
//!
//! A file is known by a key, the column `origin`: the origin alone, or with a mark of how it was asked where the answer is not
//! for everybody. Knows nothing of how a key is made and of what a file says: that is the worker's business.

use std::time::Duration;

use super::HotStore;
use crate::domain::storable::storable_text;
use crate::store::StoreError;

/// The longest reason that is stored, in bytes.
const MAX_ERROR_BYTES: usize = 1000;

/// What is known of a robots file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRobots {
    /// The file; `None` where there is none.
    pub body: Option<Vec<u8>>,
    /// How long it may be gone by; zero: it must be fetched first.
    pub fresh_for: Duration,
    /// For how long fetch after fetch has failed, where the last one did; see [`HotStore::store_robots_file`].
    pub unreachable_for: Option<Duration>,
    /// Why it could not be had.
    pub error: Option<String>,
}

/// What a fetch of a robots file gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchedRobots {
    /// The file, or that there is none.
    Answer {
        /// The HTTP status.
        status: u16,
        /// `None`: there is none.
        body: Option<Vec<u8>>,
        /// How long crawlers shall wait between two pages; zero is no wish.
        crawl_delay: Duration,
    },
    /// Neither.
    Unreachable {
        /// Why.
        reason: String,
        /// How long the host asks to be left alone, where it does; zero where it does not say how long.
        back_off: Option<Duration>,
    },
}

/// The columns that make a [`StoredRobots`].
const COLUMNS: &str = "body, GREATEST(EXTRACT(EPOCH FROM expires_at - clock_timestamp()) * 1000, 0)::int8,
    (EXTRACT(EPOCH FROM clock_timestamp() - unreachable_since) * 1000)::int8, error";

impl HotStore {
    /// What is known of a robots file.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn robots_file(&self, key: &str) -> Result<Option<StoredRobots>, StoreError> {
        let client = self.client().await?;
        // By primary key. A row that was only reserved has neither an answer nor a failure.
        let statement = client
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM robots_files WHERE origin = $1 AND expires_at > '-infinity'"
            ))
            .await?;
        let row = client.query_opt(&statement, &[&key]).await?;
        Ok(row.as_ref().map(stored))
    }

    /// Asks for the right to fetch a robots file, which no other worker then has for a while. `false`: it
    /// is fresh, or another worker is fetching it.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn reserve_robots_fetch(&self, key: &str, within: Duration) -> Result<bool, StoreError> {
        let within_ms = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        let client = self.client().await?;
        // The row's lock makes one of two workers that ask at once see the other's reservation.
        let statement = client
            .prepare_cached(
                "INSERT INTO robots_files AS r (origin, fetching_until)
                 VALUES ($1, now() + $2::int8 * interval '1 millisecond')
                 ON CONFLICT (origin) DO UPDATE SET fetching_until = excluded.fetching_until
                     WHERE r.expires_at <= now() AND r.fetching_until <= now()
                 RETURNING origin",
            )
            .await?;
        Ok(client.query_opt(&statement, &[&key, &within_ms]).await?.is_some())
    }

    /// Gives back the right to fetch a robots file: it could not be asked for, and another worker, or another
    /// execution, may try its own way.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn release_robots_fetch(&self, key: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached("UPDATE robots_files SET fetching_until = '-infinity' WHERE origin = $1")
            .await?;
        client.execute(&statement, &[&key]).await?;
        Ok(())
    }

    /// Stores what a fetch gave, and answers what is known now. A file that was had before stays while it cannot be
    /// had again, which is then tried more and more rarely: after half the time that it could not be had, 10 seconds
    /// at least and an hour at most, but not before the host wants to be asked again.
    ///
    /// That time begins anew where nobody asked for a day and a half after the file was to be tried again: what two
    /// failures a month apart leave open is no month. A crawl that runs every day keeps it going, also where it begins
    /// late; the pauses that a host asks for do not end it, since none of them is a pause of ours.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn store_robots_file(
        &self,
        key: &str,
        fetched: &FetchedRobots,
        fresh_for: Duration,
    ) -> Result<StoredRobots, StoreError> {
        let client = self.client().await?;
        let row = match fetched {
            FetchedRobots::Answer { status, body, crawl_delay } => {
                let status = i16::try_from(*status).unwrap_or(i16::MAX);
                let fresh_ms = i64::try_from(fresh_for.as_millis()).unwrap_or(i64::MAX);
                let statement = client
                    .prepare_cached(&format!(
                        "INSERT INTO robots_files (origin, status, body, crawl_delay_ms, fetched_at, expires_at)
                         VALUES ($1, $2, $3, $4, now(), now() + $5::int8 * interval '1 millisecond')
                         ON CONFLICT (origin) DO UPDATE SET status = excluded.status, body = excluded.body,
                             crawl_delay_ms = excluded.crawl_delay_ms, fetched_at = excluded.fetched_at,
                             expires_at = excluded.expires_at, fetching_until = '-infinity',
                             unreachable_since = NULL, error = NULL
                         RETURNING {COLUMNS}"
                    ))
                    .await?;
                client.query_one(&statement, &[&key, &status, body, &millis(*crawl_delay), &fresh_ms]).await?
            }
            FetchedRobots::Unreachable { reason, back_off } => {
                let back_off_ms = millis(back_off.unwrap_or_default());
                let reason = storable_text(reason, MAX_ERROR_BYTES);
                // `expires_at` of a row whose last fetch failed is when the next was allowed.
                let statement = client
                    .prepare_cached(&format!(
                        "INSERT INTO robots_files AS r (origin, expires_at, unreachable_since, error)
                         VALUES ($1, now() + greatest(interval '10 seconds', $3::int4 * interval '1 millisecond'), now(), $2)
                         ON CONFLICT (origin) DO UPDATE SET fetching_until = '-infinity', error = excluded.error,
                             (unreachable_since, expires_at) = (
                                 SELECT failing.since, now() + greatest($3::int4 * interval '1 millisecond',
                                     least(greatest((now() - failing.since) / 2, interval '10 seconds'),
                                         interval '1 hour'))
                                 FROM (SELECT CASE WHEN r.expires_at > now() - interval '36 hours'
                                     THEN COALESCE(r.unreachable_since, now()) ELSE now() END AS since) AS failing)
                         RETURNING {COLUMNS}"
                    ))
                    .await?;
                client.query_one(&statement, &[&key, &reason, &back_off_ms]).await?
            }
        };
        Ok(stored(&row))
    }

    /// Leaves a host alone for so long, or longer where that is known already: it answered the request for its robots file
    /// with 429 or 503.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn leave_alone(&self, host: &str, back_off: Duration) -> Result<(), StoreError> {
        let client = self.client().await?;
        // By primary key; the host of every page has a row. As the record does for pages.
        let statement = client
            .prepare_cached(
                "UPDATE hosts SET backoff_until = greatest(backoff_until, now() + $2::int4 * interval '1 millisecond'),
                     next_start_at = greatest(next_start_at, now() + $2::int4 * interval '1 millisecond')
                 WHERE host = $1",
            )
            .await?;
        client.execute(&statement, &[&host, &millis(back_off)]).await?;
        Ok(())
    }

    /// Writes the pace that a host's robots file asks for; zero takes an earlier wish back.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn set_crawl_delay(&self, host: &str, crawl_delay: Duration) -> Result<(), StoreError> {
        let client = self.client().await?;
        // A host without a wish needs no row.
        let statement = client
            .prepare_cached(
                "INSERT INTO hosts AS h (host, crawl_delay_ms)
                 SELECT $1, $2::int4 WHERE $2::int4 > 0 OR EXISTS (SELECT FROM hosts WHERE host = $1)
                 ON CONFLICT (host) DO UPDATE SET crawl_delay_ms = excluded.crawl_delay_ms
                     WHERE h.crawl_delay_ms <> excluded.crawl_delay_ms",
            )
            .await?;
        client.execute(&statement, &[&host, &millis(crawl_delay)]).await?;
        Ok(())
    }

    /// Sees to it that a host's pace is no faster than this, as another crawl may have read in the file, or another file
    /// of the same host.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn raise_crawl_delay(&self, host: &str, crawl_delay: Duration) -> Result<(), StoreError> {
        let client = self.client().await?;
        // By primary key; the host of every page has a row.
        let statement = client
            .prepare_cached("UPDATE hosts SET crawl_delay_ms = $2 WHERE host = $1 AND crawl_delay_ms < $2")
            .await?;
        client.execute(&statement, &[&host, &millis(crawl_delay)]).await?;
        Ok(())
    }

    /// Deletes robots files that nobody has asked for in two months, at most 1,000. Longer than the 30 days after
    /// which one that cannot be had no longer forbids anything.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn forget_robots_files(&self) -> Result<u64, StoreError> {
        let client = self.client().await?;
        // By robots_files_expires_idx; a row that a worker holds is left for the next time.
        let statement = client
            .prepare_cached(
                "DELETE FROM robots_files WHERE origin IN (
                     SELECT origin FROM robots_files
                     WHERE expires_at < now() - interval '60 days' AND fetching_until < now() - interval '60 days'
                     LIMIT 1000 FOR UPDATE SKIP LOCKED)",
            )
            .await?;
        Ok(client.execute(&statement, &[]).await?)
    }
}

fn stored(row: &tokio_postgres::Row) -> StoredRobots {
    let duration = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    StoredRobots {
        body: row.get(0),
        fresh_for: duration(row.get(1)),
        unreachable_for: row.get::<_, Option<i64>>(2).map(duration),
        error: row.get(3),
    }
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
