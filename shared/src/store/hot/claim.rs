//! Claiming: `pending` or `queued` becomes `processing`, fenced by the epoch, for many pages in one statement.

use std::time::{Duration, Instant};

use super::HotStore;
use crate::domain::fault::Faults;
use crate::domain::id::{ExecutionId, PageId};
use crate::domain::page::ClaimedPage;
use crate::domain::page_url::{HostUnit, PageUrl};
use crate::store::StoreError;

/// How long a page is left to others whose URL this version cannot read.
const UNREADABLE_REST: Duration = Duration::from_secs(30);

/// A page as a message names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimRequest {
    /// The frontier row.
    pub page_id: PageId,
    /// The dispatch that the message speaks for.
    pub epoch: i32,
}

/// Takes rows by primary key. A row that another worker took, or whose execution does not run, is not returned.
///
/// `pending` counts as well as `queued`: a message whose confirm was lost speaks of a row that is `pending` again. A host
/// with a delay is locked in `hosts`, and its pages get their starting times one after the other, none sooner than it is known
/// to its worker. The delay is kept with a margin of 3 %, so that the jitter of networks and schedulers does not bring two starts
/// closer than the delay. Pages of a host that wants to be left alone, or could not be reached, go back, uncharged, until it may
/// be asked again; and so do those that were dispatched with less than half of the pace that holds now, as more of them are
/// under way than it can bear.
const CLAIM: &str = "
WITH wanted AS (
    -- In one order, so that two workers that were sent the same pages do not wait for each other.
    SELECT q.id, w.epoch, COALESCE(h.delay_ms, 0) AS delay_ms, left_alone.until,
        COALESCE(left_alone.until > now() OR h.delay_ms > 2 * q.host_delay_ms, false) AS goes_back
    FROM unnest($1::uuid[], $2::int4[]) AS w (id, epoch) JOIN url_queue q ON q.id = w.id
        LEFT JOIN hosts h ON h.host = q.host
        CROSS JOIN LATERAL (SELECT greatest(h.backoff_until,
            -- Of a domain, one server may be gone while the others are well.
            CASE WHEN h.unreachable_until > now()
                AND NOT (SELECT e.per_domain FROM workflow_executions e WHERE e.id = q.execution_id)
                THEN h.unreachable_until END) AS until) left_alone
    ORDER BY q.id FOR UPDATE OF q
), returned AS (
    UPDATE url_queue q
    SET status = 'pending', queued_at = NULL, not_before = greatest(w.until, q.not_before), epoch = q.epoch + 1
    FROM wanted w
    WHERE q.id = w.id AND q.epoch = w.epoch AND w.goes_back AND q.status IN ('pending', 'queued')
), claimed AS (
    UPDATE url_queue q
    SET status = 'processing', requeues = 0, error = NULL, error_class = NULL,
        attempt = CASE WHEN q.status = 'processing' THEN q.attempt ELSE q.attempt + 1 END,
        locked_at = now(), locked_by = $3, host_delay_ms = greatest(q.host_delay_ms, w.delay_ms),
        -- A page may have to wait for its host's turn, until after all that are claimed with it.
        locked_until = CASE WHEN q.host_delay_ms = 0 THEN now()
                ELSE greatest((SELECT h.next_start_at FROM hosts h WHERE h.host = q.host), now()) END
            + ($4::int8 + (cardinality($1)::int8 + 1) * (greatest(q.host_delay_ms, w.delay_ms) * 1.03)::int8)
                * interval '1 millisecond'
    FROM wanted w
    WHERE q.id = w.id AND q.epoch = w.epoch
      AND (q.status IN ('pending', 'queued') AND NOT w.goes_back OR ($5 AND q.status = 'processing' AND q.locked_by = $3))
      -- One that was given up, and does not know it yet, would have its pages taken away at once.
      AND EXISTS (SELECT FROM workers WHERE id = $3 AND status IN ('ready', 'draining'))
      -- Not joined, so that no plan can begin with all pages of the execution.
      AND (SELECT e.status FROM workflow_executions e WHERE e.id = q.execution_id) = 'running'
    RETURNING q.id, q.execution_id, q.url, q.depth, q.priority, q.attempt, q.created_at, q.locked_at, q.host,
        q.host_delay_ms, q.is_sitemap, q.charged, q.proxy_faults, q.browser_faults, q.worker_faults,
        q.epoch, q.site_faults, q.rate_limit_faults, q.unavailable_faults,
        (SELECT e.per_domain FROM workflow_executions e WHERE e.id = q.execution_id) AS per_domain
), paced AS (
    INSERT INTO hosts AS h (host, next_start_at, delay_ms)
    SELECT host, now() + count(*) * max(host_delay_ms) * 1.03 * interval '1 millisecond' + interval '20 ms', max(host_delay_ms)
    FROM claimed WHERE host_delay_ms > 0 GROUP BY host ORDER BY host
    ON CONFLICT (host) DO UPDATE
        -- Whoever had the row before may have kept it for a while, and have raised the pace: dispatchers count on the one that
        -- holds now.
        SET next_start_at = greatest(h.next_start_at, h.backoff_until, clock_timestamp() + interval '20 ms')
            + (excluded.next_start_at - now() - interval '20 ms')
                * (greatest(h.delay_ms, excluded.delay_ms)::float8 / excluded.delay_ms)
    RETURNING h.host, h.next_start_at, h.delay_ms
)
SELECT c.id, c.execution_id, c.url, c.depth, c.priority, c.attempt, c.created_at, c.locked_at,
    -- The last page of the host starts one delay before next_start_at, the one before it two delays before it.
    (EXTRACT(EPOCH FROM p.next_start_at - c.locked_at) * 1000
        - greatest(p.delay_ms, max(c.host_delay_ms) OVER (PARTITION BY c.host, c.host_delay_ms > 0)) * 1.03
        * row_number() OVER (PARTITION BY c.host, c.host_delay_ms > 0 ORDER BY c.priority, c.created_at DESC))::int8
        AS start_in_ms, c.host, c.host_delay_ms, c.per_domain, c.is_sitemap,
    c.charged, c.proxy_faults, c.browser_faults, c.worker_faults, c.epoch, c.site_faults,
    c.rate_limit_faults, c.unavailable_faults
FROM claimed c LEFT JOIN paced p ON p.host = c.host AND c.host_delay_ms > 0";

/// By primary key, and in the order of claims. It takes back what our claim has counted, if there was one, or else the turn of
/// the host that was planned for the page, unless somebody has the host; the message that brought the page finds nothing any more. Its
/// lane is not woken: there is time.
const LEAVE_TO_OTHERS: &str = "
WITH ours AS (
    SELECT q.id, q.host, q.host_delay_ms, (q.status = 'processing')::int AS counted
    FROM url_queue q JOIN unnest($2::uuid[], $3::int4[]) AS u (id, epoch) ON q.id = u.id AND q.epoch = u.epoch
    WHERE q.status IN ('pending', 'queued') OR (q.status IS NOT DISTINCT FROM 'processing' AND q.locked_by = $1)
    ORDER BY q.id FOR UPDATE OF q
), free_host AS (
    SELECT h.host, free.delay_ms FROM hosts h JOIN (
        SELECT host, sum(host_delay_ms) AS delay_ms FROM ours WHERE counted = 0 AND host_delay_ms > 0 GROUP BY host
    ) free USING (host) FOR UPDATE OF h SKIP LOCKED
), free_turn AS (
    UPDATE hosts h SET next_dispatch_at = h.next_dispatch_at - free_host.delay_ms * 1.03 * interval '1 millisecond'
    FROM free_host WHERE h.host = free_host.host
)
UPDATE url_queue q
SET status = 'pending', attempt = q.attempt - ours.counted, epoch = q.epoch + 1, queued_at = NULL,
    locked_at = NULL, locked_by = NULL, locked_until = NULL,
    not_before = greatest(q.not_before, now() + $4::int8 * interval '1 millisecond'),
    error_class = 'internal', error = 'waiting for a newer worker: ' || $5
FROM ours WHERE q.id = ours.id";

impl HotStore {
    /// Claims pages for `lease`, which must cover the page's deadline and its recording. `again` also takes what an
    /// earlier, failed call for the same requests has claimed unseen.
    ///
    /// Answers the pages that are ours now; a request without an answer is nobody's business any more: its message
    /// can be forgotten. That is so of one as well whose URL this version cannot read: it went back, uncharged.
    ///
    /// # Errors
    /// As every statement of the store; nothing is known then, and the same requests may be made again.
    pub async fn claim(
        &self,
        requests: &[ClaimRequest],
        lease: Duration,
        again: bool,
    ) -> Result<Vec<ClaimedPage>, StoreError> {
        let ids: Vec<_> = requests.iter().map(|request| request.page_id.0).collect();
        let epochs: Vec<_> = requests.iter().map(|request| request.epoch).collect();
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let client = self.client().await?;
        let statement = client.prepare_cached(CLAIM).await?;
        let rows = client.query(&statement, &[&ids, &epochs, &self.worker.0, &lease_ms, &again]).await?;
        let answered = Instant::now();
        let has_pace = rows.iter().any(|row| row.get::<_, i32>(10) > 0);
        let clock = if has_pace { Some(self.clock.read(&client).await?) } else { None };
        drop(client);
        let mut unreadable = Vec::new();
        let pages = rows.into_iter().filter_map(|row| {
            let page_id = PageId(row.get(0));
            let url = PageUrl::parse(row.get(2)).inspect_err(|error| {
                // Another version wrote it, which is no fault of the page.
                tracing::error!(
                    page.id = %page_id,
                    %error,
                    "the page's URL cannot be read by this version, and is left to others: upgrade this worker"
                );
                unreadable.push(ClaimRequest { page_id, epoch: row.get(17) });
            });
            Some(ClaimedPage {
                page_id,
                execution_id: ExecutionId(row.get(1)),
                url: url.ok()?,
                depth: u32::try_from(row.get::<_, i32>(3)).unwrap_or(0),
                priority: row.get(4),
                attempt: row.get(5),
                epoch: row.get(17),
                created_at: row.get(6),
                claimed_at: row.get(7),
                claimed_here: clock.map_or(answered, |clock| clock.here(row.get(7))),
                start_in: row
                    .get::<_, Option<i64>>(8)
                    .and_then(|ms| u64::try_from(ms).ok())
                    .map_or(Duration::ZERO, Duration::from_millis),
                host: row.get(9),
                host_unit: if row.get(11) { HostUnit::Domain } else { HostUnit::Host },
                host_delay: Duration::from_millis(u64::try_from(row.get::<_, i32>(10)).unwrap_or(0)),
                is_sitemap: row.get(12),
                faults: Faults {
                    charged: row.get(13),
                    site: row.get(18),
                    rate_limit: row.get(19),
                    unavailable: row.get(20),
                    proxy: row.get(14),
                    browser: row.get(15),
                    worker: row.get(16),
                },
            })
        });
        let pages: Vec<_> = pages.collect();
        if !unreadable.is_empty() {
            self.give_back_unreadable(&unreadable).await;
        }
        Ok(pages)
    }

    /// Leaves pages to other workers for `rest`, uncharged, because this version cannot do with them what is to be done: those
    /// that nobody has claimed, or that we have. `why` is said to people.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn leave_to_others(
        &self,
        pages: &[ClaimRequest],
        rest: Duration,
        why: &str,
    ) -> Result<(), StoreError> {
        let (ids, epochs): (Vec<_>, Vec<_>) = pages.iter().map(|page| (page.page_id.0, page.epoch)).unzip();
        let rest_ms = i64::try_from(rest.as_millis()).unwrap_or(i64::MAX);
        let client = self.client().await?;
        client.execute(LEAVE_TO_OTHERS, &[&self.worker.0, &ids, &epochs, &rest_ms, &why]).await?;
        Ok(())
    }

    /// An error would hold up the other pages: what cannot be given back is left to its lease.
    async fn give_back_unreadable(&self, pages: &[ClaimRequest]) {
        let why = "one of an older version cannot read the URL";
        if let Err(error) = self.leave_to_others(pages, UNREADABLE_REST, why).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, pages = pages.len(), "pages that cannot be read are left to their leases");
        }
    }
}
