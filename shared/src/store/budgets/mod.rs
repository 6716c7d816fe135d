//! What executions may spend, held to where pages are dispatched. Most executions have no budget and cost nothing here.
//!
//! Pages below a path are counted exactly: each once, when it is first dispatched, under a lock on the execution's row.
//! Time and bytes end the dispatching; pages in hand go on to their own end. Budgets that change meanwhile are in
//! [`change`]: whoever skips pages holds a lock that such a change waits for, so that it finds all that were skipped before.
//! What waits when time or bytes are over is skipped by `over`; which failed pages a retry finds places for is in
//! `places`, and who gets places that come free in `refill`.

pub mod change;
mod over;
pub(super) mod places;
pub(super) mod refill;

use std::collections::HashSet;

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::dispatch::ReservedPage;
use super::{Store, StoreError};
use crate::domain::id::{ExecutionId, PageId};
use crate::domain::page_url::PageUrl;
use crate::domain::skip::{Skip, SkipReason};
use crate::domain::workflow::Budgets;

/// How many waiting pages are looked at for those below a path, when its budget is used up: of all lanes together.
const AHEAD: i64 = 5_000;

/// Budgets as columns.
#[derive(Debug, Default)]
pub(super) struct BudgetRows {
    pub(super) kinds: Vec<String>,
    pub(super) prefixes: Vec<String>,
    pub(super) most: Vec<i64>,
}

impl BudgetRows {
    pub(super) fn of(budgets: &Budgets) -> Self {
        let mut rows = Self::default();
        let mut add = |kind: &str, prefix: &str, most: u64| {
            rows.kinds.push(kind.to_owned());
            rows.prefixes.push(prefix.to_owned());
            rows.most.push(i64::try_from(most).unwrap_or(i64::MAX));
        };
        if let Some(time) = budgets.time {
            add("time", "", time.as_secs());
        }
        if let Some(bytes) = budgets.bytes {
            add("bytes", "", bytes);
        }
        for budget in &budgets.path_prefixes {
            add("path_prefix", &budget.prefix, budget.max_pages);
        }
        rows
    }
}

/// A budget of an execution, as it stands.
struct Budget {
    kind: String,
    prefix: String,
    max: i64,
    used: i64,
    /// Seconds, bytes or pages.
    spent: i64,
    /// Pages that are to be put back below it.
    to_fill: Option<i64>,
}

impl Budget {
    fn is_of(&self, page: &PageUrl) -> bool {
        self.kind == "path_prefix" && page.as_url().path().starts_with(&self.prefix)
    }

    /// Why a page is skipped once it is used up. The statements that skip many pages say the same.
    fn skip(&self) -> Skip {
        let Self { prefix, max, .. } = self;
        match self.kind.as_str() {
            "time" => Skip::new(
                SkipReason::TimeBudget,
                format!("the execution's time of {max} s was over (`budgets.time`)"),
            ),
            "bytes" => Skip::new(
                SkipReason::ByteBudget,
                format!("the execution had received {max} bytes (`budgets.bytes`)"),
            ),
            _ => Skip::new(
                SkipReason::PathBudget,
                format!("the {max} pages below `{prefix}` were used up (`budgets.path_prefixes`)"),
            ),
        }
    }
}

impl Store {
    /// Leaves those reserved pages of an execution that its budgets admit, for publishing. The others are skipped, and
    /// give back their places in `max_pages` and their hosts' turns.
    ///
    /// # Errors
    /// As every statement of the store; the pages are due again then.
    pub async fn within_budgets(
        &self,
        execution: ExecutionId,
        pages: Vec<ReservedPage>,
    ) -> Result<Vec<ReservedPage>, StoreError> {
        if pages.is_empty() {
            return Ok(pages);
        }
        match self.refused_by_budgets(execution, &pages).await {
            Ok(refused) => Ok(pages.into_iter().filter(|page| !refused.contains(&page.page_id)).collect()),
            Err(error) => {
                self.return_unpublished(&pages).await?;
                Err(error)
            }
        }
    }

    /// Counts the pages that are admitted, and skips the others; answers these.
    async fn refused_by_budgets(
        &self,
        execution: ExecutionId,
        pages: &[ReservedPage],
    ) -> Result<HashSet<PageId>, StoreError> {
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        let mut budgets = locked(&mut transaction, execution).await?;
        let over = budgets.iter().find(|budget| budget.kind != "path_prefix" && budget.spent >= budget.max);
        let mut refused: Vec<(&ReservedPage, Skip)> = Vec::new();
        let is_over = over.is_some();
        if let Some(skip) = over.map(Budget::skip) {
            refused.extend(pages.iter().map(|page| (page, skip.clone())));
        } else {
            let before = counted_before(&mut transaction, pages).await?;
            let mut counted = Vec::new();
            for page in pages.iter().filter(|page| !before.contains(&page.page_id.0)) {
                let mut its: Vec<_> = budgets.iter_mut().filter(|budget| budget.is_of(&page.url)).collect();
                if let Some(budget) = its.iter().find(|budget| budget.used >= budget.max) {
                    refused.push((page, budget.skip()));
                } else if !its.is_empty() {
                    its.iter_mut().for_each(|budget| budget.used += 1);
                    counted.push(page.page_id.0);
                }
            }
            count(&mut transaction, execution, &budgets, &counted).await?;
        }
        refuse(&mut transaction, execution, &refused).await?;
        let refused: HashSet<PageId> = refused.iter().map(|(page, _)| page.page_id).collect();
        // What waits when time or bytes are over, the finisher skips.
        if !is_over && !refused.is_empty() {
            skip_ahead(&mut transaction, execution, &refused).await?;
        }
        transaction.commit().await?;
        Ok(refused)
    }
}

/// The budgets of an execution, locked until the transaction ends: coordinators admit pages one after the other.
async fn locked(connection: &mut PgConnection, execution: ExecutionId) -> Result<Vec<Budget>, StoreError> {
    // First the execution's row, as whoever changes its budgets does: the statement after it sees all of them. Then
    // by execution_budgets_pkey, in its order.
    lock(&mut *connection, execution).await?;
    let budgets = sqlx::query_as!(
        Budget,
        r#"SELECT budget.kind, budget.prefix, budget.max, budget.used, budget.to_fill, (CASE budget.kind
            WHEN 'time' THEN floor(EXTRACT(EPOCH FROM now() - execution.started_at))
            WHEN 'bytes' THEN (SELECT COALESCE(sum(bytes), 0) FROM page_counters WHERE execution_id = execution.id)
            ELSE budget.used END)::bigint AS "spent!"
        FROM execution_budgets AS budget JOIN workflow_executions AS execution ON execution.id = budget.execution_id
        WHERE budget.execution_id = $1
        ORDER BY budget.kind, budget.prefix FOR UPDATE OF budget"#,
        execution.0,
    )
    .fetch_all(connection)
    .await?;
    Ok(budgets)
}

/// Locks an execution's row until the transaction ends. The statement after it sees all that whoever held the row before has
/// done.
pub(super) async fn lock(connection: &mut PgConnection, execution: ExecutionId) -> Result<(), StoreError> {
    // Not `FOR UPDATE`: whoever records pages holds the row's key, and a busy fleet always does.
    sqlx::query_scalar!("SELECT id FROM workflow_executions WHERE id = $1 FOR NO KEY UPDATE", execution.0)
        .fetch_optional(connection)
        .await?;
    Ok(())
}

/// Those of the pages that were counted when they were dispatched before; or were tried before anything counted them.
async fn counted_before(
    connection: &mut PgConnection,
    pages: &[ReservedPage],
) -> Result<HashSet<Uuid>, StoreError> {
    // By primary key.
    let ids: Vec<Uuid> = pages.iter().map(|page| page.page_id.0).collect();
    let counted = sqlx::query_scalar!(
        "SELECT id FROM url_queue WHERE id = ANY($1) AND (budgeted OR attempt > 0)",
        &ids,
    )
    .fetch_all(connection)
    .await?;
    Ok(counted.into_iter().collect())
}

/// Writes down that these pages were counted, and what the budgets of paths have come to by that.
async fn count(
    connection: &mut PgConnection,
    execution: ExecutionId,
    budgets: &[Budget],
    counted: &[Uuid],
) -> Result<(), StoreError> {
    if counted.is_empty() {
        return Ok(());
    }
    let of_paths = budgets.iter().filter(|budget| budget.kind == "path_prefix");
    let (prefixes, used): (Vec<String>, Vec<i64>) =
        of_paths.map(|budget| (budget.prefix.clone(), budget.used)).unzip();
    // By primary keys. The pages are ours: they are reserved, and were never published.
    sqlx::query!(
        "WITH counted AS (
            UPDATE url_queue SET budgeted = true WHERE id = ANY($1)
        )
        UPDATE execution_budgets AS budget SET used = new.used
        FROM unnest($3::text[], $4::int8[]) AS new (prefix, used)
        WHERE budget.execution_id = $2 AND budget.kind = 'path_prefix' AND budget.prefix = new.prefix",
        counted,
        execution.0,
        &prefixes,
        &used,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Skips reserved pages.
async fn refuse(
    connection: &mut PgConnection,
    execution: ExecutionId,
    refused: &[(&ReservedPage, Skip)],
) -> Result<(), StoreError> {
    if refused.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = refused.iter().map(|(page, _)| page.page_id.0).collect();
    let epochs: Vec<i32> = refused.iter().map(|(page, _)| page.epoch).collect();
    let reasons: Vec<String> = refused.iter().map(|(_, skip)| skip.reason.as_str().to_owned()).collect();
    let details: Vec<String> = refused.iter().map(|(_, skip)| skip.detail.clone()).collect();
    // By primary keys, waiting only for the execution's row and its counters. A page that was never tried has taken a place of
    // `max_pages` for nothing: it gives it back, and pages that were skipped for want of one are put back by the
    // finisher. One that waits for a retry is counted with it no longer, under the nil worker: that does not come. Of a
    // host with a delay one page was reserved, so that its turn is free; when pages start, the claim says. Counters are
    // locked before hosts and lanes.
    sqlx::query!(
        "WITH held AS (
            SELECT page.id, skip.reason, skip.detail
            FROM unnest($2::uuid[], $3::int4[], $4::text[], $5::text[]) AS skip (id, epoch, reason, detail)
                JOIN url_queue AS page ON page.id = skip.id AND page.epoch = skip.epoch
            WHERE page.status IS NOT DISTINCT FROM 'queued'
            FOR UPDATE OF page SKIP LOCKED
        ), refused AS (
            UPDATE url_queue AS page
            SET status = 'skipped', error = held.detail, error_class = held.reason, processed_at = now(),
                queued_at = NULL, admitted = page.attempt > 0
            FROM held WHERE page.id = held.id
            RETURNING page.attempt, page.host, page.host_delay_ms,
                page.charged + page.site_faults + page.rate_limit_faults + page.unavailable_faults + page.proxy_faults
                    + page.browser_faults + page.worker_faults > 0 AS is_retried
        ), counted AS (
            INSERT INTO page_counters AS c (execution_id, worker_id, retried)
            SELECT $1::uuid, '00000000-0000-0000-0000-000000000000', -count(*) FROM refused WHERE is_retried
            HAVING count(*) > 0
            ON CONFLICT (execution_id, worker_id) DO UPDATE SET retried = c.retried + excluded.retried
            RETURNING execution_id
        ), given_back AS (
            UPDATE workflow_executions AS execution SET pages_admitted = execution.pages_admitted - places.count
            FROM (SELECT count(*) FROM refused WHERE attempt = 0) AS places
            WHERE execution.id = $1 AND places.count > 0
        ), turn AS (
            SELECT host, max(host_delay_ms) AS delay_ms FROM refused
            WHERE (SELECT count(*) FROM counted) >= 0 GROUP BY host
        ), free_host AS (
            SELECT hosts.host, turn.delay_ms FROM turn JOIN hosts USING (host)
            WHERE turn.delay_ms > 0 FOR UPDATE OF hosts SKIP LOCKED
        ), free_turn AS (
            UPDATE hosts
            SET next_dispatch_at = hosts.next_dispatch_at - free_host.delay_ms * 1.03 * interval '1 millisecond'
            FROM free_host WHERE hosts.host = free_host.host
        )
        UPDATE lanes SET due_at = now(), misses = 0
        WHERE (execution_id, host) IN (
            SELECT lane.execution_id, lane.host FROM turn JOIN lanes AS lane USING (host)
            WHERE lane.execution_id = $1 FOR UPDATE OF lane SKIP LOCKED)",
        execution.0,
        &ids,
        &epochs,
        &reasons,
        &details,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Skips pages that wait behind these in their lanes, below paths whose budgets are used up, so that they need not
/// be reserved one by one; and those that would wait again for the place in `max_pages` that was given back.
async fn skip_ahead(
    connection: &mut PgConnection,
    execution: ExecutionId,
    refused: &HashSet<PageId>,
) -> Result<(), StoreError> {
    // By primary key, then url_queue_pending_idx in its order, each lane a part of AHEAD, and url_queue_limit_idx in
    // its order. Nobody is waited for. A prefix has no `?`, so that it can be compared with the URL's path and query
    // together.
    let refused: Vec<Uuid> = refused.iter().map(|page| page.0).collect();
    sqlx::query!(
        "WITH lane AS (
            SELECT DISTINCT host FROM url_queue WHERE id = ANY($2)
        ), ahead AS (
            SELECT page.id, page.url
            FROM lane CROSS JOIN LATERAL (
                SELECT id, url FROM url_queue
                WHERE execution_id = $1 AND host = lane.host AND status = 'pending' AND NOT admitted
                ORDER BY priority DESC, not_before, id LIMIT $3::bigint / (SELECT count(*) FROM lane)
            ) AS page
            UNION ALL (
                SELECT id, url FROM url_queue
                WHERE execution_id = $1 AND status = 'skipped' AND error_class = 'limit'
                ORDER BY priority DESC, created_at, id LIMIT $3)
        ), spent AS (
            SELECT prefix, max FROM execution_budgets
            WHERE execution_id = $1 AND kind = 'path_prefix' AND used >= max
        ), leftover AS (
            SELECT page.id, spent.prefix, spent.max
            FROM ahead
                JOIN spent ON starts_with(regexp_replace(ahead.url, '^[a-z]+://[^/]*', ''), spent.prefix)
                JOIN url_queue AS page ON page.id = ahead.id
            WHERE NOT page.admitted
              AND (page.status = 'pending' OR page.status = 'skipped' AND page.error_class = 'limit')
            FOR UPDATE OF page SKIP LOCKED
        )
        UPDATE url_queue AS page
        SET status = 'skipped', error_class = $4, processed_at = now(),
            error = 'the ' || leftover.max || ' pages below `' || leftover.prefix
                || '` were used up (`budgets.path_prefixes`)'
        FROM leftover WHERE page.id = leftover.id",
        execution.0,
        &refused,
        AHEAD,
        SkipReason::PathBudget.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(())
}
