//! Budgets of executions that run already: how they stand, how they are changed, and how pages come back that a budget has
//! skipped which skips them no more.
//!
//! A change marks the execution (`budget_pages_after`) in its own transaction, and the execution does not end until every page
//! that was skipped has been looked at since. Locks: the execution's row, then its budgets.

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{Budget, BudgetRows, locked};
use crate::domain::id::ExecutionId;
use crate::domain::page_url::PageUrl;
use crate::domain::skip::SkipReason;
use crate::domain::workflow::{BudgetChanges, Budgets};
use crate::store::sweep::{SWEPT_AT_ONCE, open_lanes};
use crate::store::{Store, StoreError};

/// Before all pages: where a look at those that were skipped begins.
pub(in crate::store) const FIRST_PAGE: Uuid = Uuid::nil();
/// How many portions are looked at in one go while few of their pages come back: no more than some tenths of a second.
pub(super) const PORTIONS: usize = 20;

/// What an execution may spend, as it stands; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandingBudgets {
    /// Seconds from its start.
    pub time_seconds: Option<i64>,
    /// Received by its pages.
    pub bytes: Option<i64>,
    /// By prefix.
    pub path_prefixes: Vec<StandingPathBudget>,
}

/// How many pages below a path an execution may visit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingPathBudget {
    /// How their paths begin.
    pub prefix: String,
    /// At most so many; may be less than `used` where it was lowered.
    pub max_pages: i64,
    /// Pages that were counted so far, each once.
    pub used: i64,
}

impl Store {
    /// The budgets of an execution; none where it has none, or does not exist.
    ///
    /// # Errors
    /// The database's.
    pub async fn budgets(&self, execution: ExecutionId) -> Result<StandingBudgets, StoreError> {
        // By execution_budgets_pkey, in its order.
        let rows = sqlx::query!(
            "SELECT kind, prefix, max, used FROM execution_budgets WHERE execution_id = $1 ORDER BY kind, prefix",
            execution.0,
        )
        .fetch_all(&self.pool)
        .await?;
        let mut budgets = StandingBudgets::default();
        for row in rows {
            match row.kind.as_str() {
                "time" => budgets.time_seconds = Some(row.max),
                "bytes" => budgets.bytes = Some(row.max),
                _ => budgets.path_prefixes.push(StandingPathBudget {
                    prefix: row.prefix,
                    max_pages: row.max,
                    used: row.used,
                }),
            }
        }
        Ok(budgets)
    }

    /// Puts pages back that a budget has skipped, where no budget does so now, of executions whose budgets were changed; about
    /// [`SWEPT_AT_ONCE`] of them, of all executions or `only` one. Answers how many.
    pub(in crate::store) async fn put_unspent_back(
        &self,
        only: Option<ExecutionId>,
    ) -> Result<u64, StoreError> {
        let mut put_back = 0;
        for _ in 0..PORTIONS {
            let Some(execution) = self.with_changed_budgets(only).await? else { break };
            put_back += self.look_at_skipped(execution).await?;
            if put_back >= SWEPT_AT_ONCE.unsigned_abs() {
                break;
            }
        }
        Ok(put_back)
    }

    /// An execution whose skipped pages are to be looked at.
    async fn with_changed_budgets(
        &self,
        only: Option<ExecutionId>,
    ) -> Result<Option<ExecutionId>, StoreError> {
        // Reads workflow_executions_budgets_idx, which is empty most of the time.
        let found = sqlx::query_scalar!(
            "SELECT id FROM workflow_executions
             WHERE budget_pages_after IS NOT NULL AND status IN ('running', 'paused') AND ($1::uuid IS NULL OR id = $1)
             ORDER BY id LIMIT 1",
            only.map(|id| id.0),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(ExecutionId))
    }

    /// Looks at one portion of the pages of an execution that budgets have skipped, and puts those back that none skips now.
    /// Answers how many.
    async fn look_at_skipped(&self, execution: ExecutionId) -> Result<u64, StoreError> {
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        // The locks are statements of their own, so that the next one sees all that was skipped before they were ours. They are
        // waited for: dispatchers hold them for moments, but again and again.
        let budgets = locked(&mut transaction, execution).await?;
        let is_over = budgets.iter().any(|budget| budget.kind != "path_prefix" && budget.spent >= budget.max);
        // By primary key.
        let after = sqlx::query_scalar!(
            "SELECT budget_pages_after FROM workflow_executions WHERE id = $1 AND status IN ('running', 'paused')",
            execution.0,
        )
        .fetch_optional(&mut *transaction)
        .await?
        .flatten();
        let Some(after) = after else { return Ok(0) };
        let skipped = skipped_by_paths(&mut transaction, execution, after).await?;
        let back: Vec<Uuid> =
            skipped.iter().filter(|page| has_places(&budgets, &page.url)).map(|page| page.id).collect();
        let are_more = skipped.len() as u64 == SWEPT_AT_ONCE.unsigned_abs();
        let last = skipped.last().map_or(after, |page| page.id);
        // Reads url_queue_skipped_idx, and the primary key. Pages that were skipped by time or bytes leave the index; those that
        // stay skipped by a path are passed by. Nobody else locks such pages, so that none is waited for. One that finds no
        // place in `max_pages`, or is below a path that fills up meanwhile, is skipped once more for that.
        // The retry that one has waited for comes after all, and is counted again, under the nil worker.
        let put_back = sqlx::query!(
            r#"WITH by_total AS (
                SELECT id FROM url_queue
                WHERE execution_id = $1 AND status = 'skipped' AND error_class IN ($3, $4) AND NOT $5::bool
                LIMIT $2
            ), put_back AS (
                UPDATE url_queue
                SET status = 'pending', error = NULL, error_class = NULL, processed_at = NULL
                WHERE status IS NOT DISTINCT FROM 'skipped' AND id = ANY (ARRAY(SELECT id FROM by_total) || $6::uuid[])
                RETURNING host,
                    charged + site_faults + rate_limit_faults + unavailable_faults + proxy_faults + browser_faults + worker_faults > 0
                        AS is_retried
            ), counted AS (
                INSERT INTO page_counters AS c (execution_id, worker_id, retried)
                SELECT $1, '00000000-0000-0000-0000-000000000000', count(*) FROM put_back WHERE is_retried
                HAVING count(*) > 0
                ON CONFLICT (execution_id, worker_id) DO UPDATE SET retried = c.retried + excluded.retried
            ), looked_at AS (
                UPDATE workflow_executions
                SET budget_pages_after = CASE WHEN $7::bool OR (SELECT count(*) FROM by_total) = $2 THEN $8::uuid END
                WHERE id = $1
            )
            SELECT host AS "host!", count(*) AS "pages!" FROM put_back GROUP BY host"#,
            execution.0,
            SWEPT_AT_ONCE,
            SkipReason::TimeBudget.as_str(),
            SkipReason::ByteBudget.as_str(),
            is_over,
            &back,
            are_more,
            last,
        )
        .fetch_all(&mut *transaction)
        .await?;
        let pages: i64 = put_back.iter().map(|lane| lane.pages).sum();
        let hosts: Vec<String> = put_back.into_iter().map(|lane| lane.host).collect();
        open_lanes(&mut transaction, &vec![execution.0; hosts.len()], &hosts).await?;
        transaction.commit().await?;
        Ok(u64::try_from(pages).unwrap_or(0))
    }
}

/// A page that had no place below a path.
pub(super) struct SkippedPage {
    pub(super) id: Uuid,
    pub(super) url: String,
}

/// The next [`SWEPT_AT_ONCE`] pages of an execution that paths have skipped.
pub(super) async fn skipped_by_paths(
    connection: &mut PgConnection,
    execution: ExecutionId,
    after: Uuid,
) -> Result<Vec<SkippedPage>, StoreError> {
    // Reads url_queue_skipped_idx in its order, so that the limit ends the scan.
    let skipped = sqlx::query_as!(
        SkippedPage,
        "SELECT id, url FROM url_queue
         WHERE execution_id = $1 AND status = 'skipped' AND error_class = $2 AND id > $3
         ORDER BY id LIMIT $4",
        execution.0,
        SkipReason::PathBudget.as_str(),
        after,
        SWEPT_AT_ONCE,
    )
    .fetch_all(connection)
    .await?;
    Ok(skipped)
}

/// Whether there is room for a page below each path that it is of. All that are below a path with room come back: they are skipped
/// in its own order when it is full.
fn has_places(budgets: &[Budget], url: &str) -> bool {
    // One that this version cannot read fails when it is dispatched.
    let url = PageUrl::parse(url).ok();
    url.is_none_or(|url| budgets.iter().all(|budget| !budget.is_of(&url) || budget.used < budget.max))
}

/// Writes changed budgets, in the transaction that has marked the execution and holds its row.
pub(in crate::store) async fn write(
    connection: &mut PgConnection,
    execution: ExecutionId,
    changes: &BudgetChanges,
) -> Result<(), StoreError> {
    let kinds = named_kinds(changes);
    let wanted = BudgetRows::of(&Budgets {
        time: changes.time.flatten(),
        bytes: changes.bytes.flatten(),
        path_prefixes: changes.path_prefixes.clone().unwrap_or_default(),
    });
    // Lock: the budgets that go, and below those that stay, by execution_budgets_pkey. Whoever skips pages because of one
    // of them is waited for, and waits for nobody but for the execution's row, which is ours.
    sqlx::query!(
        "DELETE FROM execution_budgets AS budget
         WHERE execution_id = $1 AND kind = ANY ($2) AND NOT EXISTS (
             SELECT FROM unnest($3::text[], $4::text[]) AS wanted (kind, prefix)
             WHERE wanted.kind = budget.kind AND wanted.prefix = budget.prefix)",
        execution.0,
        &kinds,
        &wanted.kinds,
        &wanted.prefixes,
    )
    .execute(&mut *connection)
    .await?;
    // What was used of one that stays, stays.
    sqlx::query!(
        "INSERT INTO execution_budgets (execution_id, kind, prefix, max)
         SELECT $1, kind, prefix, max
         FROM unnest($2::text[], $3::text[], $4::int8[]) AS wanted (kind, prefix, max)
         ON CONFLICT ON CONSTRAINT execution_budgets_pkey DO UPDATE SET max = excluded.max",
        execution.0,
        &wanted.kinds,
        &wanted.prefixes,
        &wanted.most,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Of which kind no other budgets stay than those that are wanted.
fn named_kinds(changes: &BudgetChanges) -> Vec<String> {
    let named = [
        ("time", changes.time.is_some()),
        ("bytes", changes.bytes.is_some()),
        ("path_prefix", changes.path_prefixes.is_some()),
    ];
    named.into_iter().filter(|(_, is_named)| *is_named).map(|(kind, _)| kind.to_owned()).collect()
}
