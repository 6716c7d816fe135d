//! What executions may spend, held to where pages are dispatched. Most executions have no budget and cost nothing here.
//!
//! Pages below a path are counted exactly: each once, when it is first dispatched, under a lock on the budgets' rows.
//! Time and bytes end the dispatching; pages in hand go on to their own end.

use std::collections::HashSet;

use sqlx::PgConnection;
use uuid::Uuid;

use super::frontier::ReservedPage;
use super::{Store, StoreError};
use crate::domain::id::ExecutionId;
use crate::domain::workflow::Budgets;

/// How far ahead in the frontier's order pages below a path are skipped at once, when its budget is used up.
const AHEAD: i64 = 20_000;
/// Pages that one sweep skips at the most.
const SWEPT: i64 = 10_000;

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
}

impl Budget {
    fn is_of(&self, page: &ReservedPage) -> bool {
        self.kind == "path_prefix" && page.url.as_url().path().starts_with(&self.prefix)
    }

    fn detail(&self) -> String {
        match self.kind.as_str() {
            "time" => format!("the execution's time of {} s was over (`budgets.time`)", self.max),
            "bytes" => format!("the execution had received {} bytes (`budgets.bytes`)", self.max),
            _ => format!(
                "the {} pages below `{}` were used up (`budgets.path_prefixes`)",
                self.max, self.prefix
            ),
        }
    }
}

impl Store {
    /// Leaves those reserved pages of an execution that its budgets admit; the others are skipped, and give their places
    /// in `max_pages` back.
    ///
    /// # Errors
    /// As every statement of the store; nothing has changed then, and the reservations run out.
    pub async fn within_budgets(
        &self,
        execution: ExecutionId,
        pages: Vec<ReservedPage>,
    ) -> Result<Vec<ReservedPage>, StoreError> {
        if pages.is_empty() || !self.has_budgets(execution).await? {
            return Ok(pages);
        }
        let mut transaction = self.pool.begin().await?;
        let mut budgets = locked(&mut transaction, execution).await?;
        let over = budgets.iter().find(|budget| budget.kind != "path_prefix" && budget.spent >= budget.max);
        let (mut admitted, mut refused) = (Vec::with_capacity(pages.len()), Vec::new());
        if let Some(detail) = over.map(Budget::detail) {
            refused.extend(pages.into_iter().map(|page| (page, detail.clone())));
        } else {
            let counted = counted_before(&mut transaction, &pages).await?;
            for page in pages {
                if counted.contains(&page.page_id.0) {
                    admitted.push(page);
                    continue;
                }
                match budgets.iter().find(|budget| budget.is_of(&page) && budget.used >= budget.max) {
                    Some(budget) => {
                        let detail = budget.detail();
                        refused.push((page, detail));
                    }
                    None => {
                        budgets
                            .iter_mut()
                            .filter(|budget| budget.is_of(&page))
                            .for_each(|budget| budget.used += 1);
                        admitted.push(page);
                    }
                }
            }
            count(&mut transaction, execution, &budgets, &admitted, &counted).await?;
        }
        refuse(&mut transaction, execution, &refused).await?;
        transaction.commit().await?;
        if !refused.is_empty() {
            self.skip_ahead(execution).await?;
        }
        Ok(admitted)
    }

    async fn has_budgets(&self, execution: ExecutionId) -> Result<bool, StoreError> {
        // By primary key.
        let exists = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM execution_budgets WHERE execution_id = $1) AS "exists!""#,
            execution.0,
        );
        Ok(exists.fetch_one(&self.pool).await?)
    }

    /// Skips waiting pages below paths whose budgets are used up, so that they need not be reserved one by one.
    async fn skip_ahead(&self, execution: ExecutionId) -> Result<(), StoreError> {
        // url_queue_pending_idx in its order, as far as AHEAD. A prefix has no `?`, so that it can be compared with the
        // URL's path and query together.
        sqlx::query!(
            "WITH ahead AS (
                SELECT id, regexp_replace(url, '^[a-z]+://[^/]*', '') AS path FROM url_queue
                WHERE execution_id = $1 AND status = 'pending' AND NOT admitted
                ORDER BY priority DESC, created_at, id LIMIT $2
            ), spent AS (
                SELECT prefix, max FROM execution_budgets
                WHERE execution_id = $1 AND kind = 'path_prefix' AND used >= max
            ), leftover AS (
                SELECT q.id, s.prefix, s.max
                FROM ahead a JOIN spent s ON starts_with(a.path, s.prefix) JOIN url_queue q ON q.id = a.id
                WHERE q.status IS NOT DISTINCT FROM 'pending' AND NOT q.admitted
                FOR UPDATE OF q SKIP LOCKED
            )
            UPDATE url_queue q
            SET status = 'skipped', error_class = 'budget', processed_at = now(), reserved_until = NULL,
                error = 'the ' || l.max || ' pages below `' || l.prefix || '` were used up (`budgets.path_prefixes`)'
            FROM leftover l WHERE q.id = l.id",
            execution.0,
            AHEAD,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Skips what waits in executions whose time is over or whose bytes were received; at most 10,000 pages. Answers
    /// how many.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn sweep_over_budget(&self) -> Result<u64, StoreError> {
        // Reads workflow_executions_running_idx, execution_budgets_pkey, and of what is over url_queue_pending_idx.
        // Pages that a dispatcher holds wait for the next sweep.
        let swept = sqlx::query!(
            "WITH spent AS (
                SELECT DISTINCT ON (e.id) e.id, CASE b.kind
                    WHEN 'time' THEN 'the execution''s time of ' || b.max || ' s was over (`budgets.time`)'
                    ELSE 'the execution had received ' || b.max || ' bytes (`budgets.bytes`)' END AS detail
                FROM workflow_executions e JOIN execution_budgets b ON b.execution_id = e.id
                WHERE e.status = 'running' AND (b.kind = 'time' AND e.started_at + b.max * interval '1 second' <= now()
                    OR b.kind = 'bytes' AND b.max <= (
                        SELECT sum(c.bytes) FROM page_counters c WHERE c.execution_id = e.id))
                ORDER BY e.id
            ), leftover AS (
                SELECT q.id, s.detail FROM spent s JOIN url_queue q ON q.execution_id = s.id
                WHERE q.status = 'pending' AND (q.reserved_until IS NULL OR q.reserved_until < now())
                LIMIT $1 FOR UPDATE OF q SKIP LOCKED
            )
            UPDATE url_queue q
            SET status = 'skipped', error = l.detail, error_class = 'budget', processed_at = now(),
                reserved_until = NULL
            FROM leftover l WHERE q.id = l.id",
            SWEPT,
        )
        .execute(&self.pool)
        .await?;
        Ok(swept.rows_affected())
    }
}

/// The budgets of an execution, locked until the transaction ends: coordinators admit pages one after the other.
async fn locked(connection: &mut PgConnection, execution: ExecutionId) -> Result<Vec<Budget>, StoreError> {
    let budgets = sqlx::query_as!(
        Budget,
        r#"SELECT b.kind, b.prefix, b.max, b.used, (CASE b.kind
            WHEN 'time' THEN EXTRACT(EPOCH FROM now() - e.started_at)
            WHEN 'bytes' THEN (SELECT COALESCE(sum(c.bytes), 0) FROM page_counters c WHERE c.execution_id = e.id)
            ELSE b.used END)::bigint AS "spent!"
        FROM execution_budgets b JOIN workflow_executions e ON e.id = b.execution_id
        WHERE b.execution_id = $1
        ORDER BY b.kind, b.prefix FOR UPDATE OF b"#,
        execution.0,
    )
    .fetch_all(connection)
    .await?;
    Ok(budgets)
}

/// Those of the pages that were counted when they were dispatched before.
async fn counted_before(
    connection: &mut PgConnection,
    pages: &[ReservedPage],
) -> Result<HashSet<Uuid>, StoreError> {
    // By primary key.
    let ids: Vec<Uuid> = pages.iter().map(|page| page.page_id.0).collect();
    let counted = sqlx::query_scalar!("SELECT id FROM url_queue WHERE id = ANY($1) AND budgeted", &ids)
        .fetch_all(connection)
        .await?;
    Ok(counted.into_iter().collect())
}

async fn count(
    connection: &mut PgConnection,
    execution: ExecutionId,
    budgets: &[Budget],
    admitted: &[ReservedPage],
    before: &HashSet<Uuid>,
) -> Result<(), StoreError> {
    let of_a_budget = |page: &&ReservedPage| budgets.iter().any(|budget| budget.is_of(page));
    let new: Vec<Uuid> = admitted
        .iter()
        .filter(of_a_budget)
        .map(|page| page.page_id.0)
        .filter(|page| !before.contains(page))
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let counted = budgets.iter().filter(|budget| budget.kind == "path_prefix");
    let (prefixes, used): (Vec<String>, Vec<i64>) =
        counted.map(|budget| (budget.prefix.clone(), budget.used)).unzip();
    // The pages are ours: they are reserved, and were not published yet.
    sqlx::query!(
        "WITH counted AS (
            UPDATE url_queue SET budgeted = true WHERE id = ANY($1)
        )
        UPDATE execution_budgets b SET used = u.used
        FROM unnest($3::text[], $4::int8[]) AS u (prefix, used)
        WHERE b.execution_id = $2 AND b.kind = 'path_prefix' AND b.prefix = u.prefix",
        &new,
        execution.0,
        &prefixes,
        &used,
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn refuse(
    connection: &mut PgConnection,
    execution: ExecutionId,
    refused: &[(ReservedPage, String)],
) -> Result<(), StoreError> {
    if refused.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = refused.iter().map(|(page, _)| page.page_id.0).collect();
    let epochs: Vec<i32> = refused.iter().map(|(page, _)| page.epoch).collect();
    let details: Vec<String> = refused.iter().map(|(_, detail)| detail.clone()).collect();
    // By primary key. A page that was never tried has taken a place of `max_pages` for nothing: it gives it back, and as
    // many pages that were skipped for want of a place wait again.
    sqlx::query!(
        "WITH refused AS (
            UPDATE url_queue q
            SET status = 'skipped', error = r.detail, error_class = 'budget', processed_at = now(),
                reserved_until = NULL, admitted = q.attempt > 0
            FROM unnest($2::uuid[], $3::int4[], $4::text[]) AS r (id, epoch, detail)
            WHERE q.id = r.id AND q.epoch = r.epoch AND q.status IN ('pending', 'queued')
            RETURNING q.attempt
        ), given_back AS (
            UPDATE workflow_executions e SET pages_admitted = e.pages_admitted - r.places
            FROM (SELECT count(*) FILTER (WHERE attempt = 0) AS places FROM refused) r
            WHERE e.id = $1 AND r.places > 0
        ), beyond_limit AS (
            SELECT q.id FROM url_queue q
            WHERE q.execution_id = $1 AND q.status = 'skipped' AND q.error_class = 'limit'
            ORDER BY q.id LIMIT (SELECT count(*) FROM refused WHERE attempt = 0)
            FOR UPDATE OF q SKIP LOCKED
        )
        UPDATE url_queue q
        SET status = 'pending', error = NULL, error_class = NULL, processed_at = NULL
        FROM beyond_limit b WHERE q.id = b.id",
        execution.0,
        &ids,
        &epochs,
        &details,
    )
    .execute(connection)
    .await?;
    Ok(())
}
