//! Control of executions: paused, resumed, cancelled, limited anew. They are retried in [`super::retry`].
//!
//! Every act is one conditional statement on the execution's row, which raises `control_version`; of two acts at once
//! the later one sees what the earlier one did. One that looks at more than the row locks it in a statement of its own before:
//! a single one would wait for the row, and then see the pages as they were before it waited. Changed budgets follow in the
//! same transaction. None of them touches more than a window's worth of pages, or some thousand lanes: what concerns millions
//! of them is done in portions by the sweeps ([`super::sweep`]), and until then the row alone keeps pages from being dispatched,
//! claimed or forgotten.

use std::ops::RangeInclusive;

use sqlx::Connection;

use super::budgets::change::{self, FIRST_PAGE};
use super::budgets::lock;
use super::executions::ExecutionStatus;
use super::sweep::SWEPT_AT_ONCE;
use super::{Store, StoreError};
use crate::domain::id::ExecutionId;
use crate::domain::workflow::BudgetChanges;

/// How the pages in hand of a cancelled execution end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum CancelMode {
    /// By themselves.
    Graceful,
    /// They are given up as soon as their workers hear of it.
    Now,
}

impl CancelMode {
    /// The name in rows and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::Now => "now",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Graceful, Self::Now].into_iter().find(|mode| mode.as_str() == name)
    }
}

/// Where an execution stands, and how often it was acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its status.
    pub status: ExecutionStatus,
    /// Raised by each act.
    pub version: i32,
}

/// How an act of control ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controlled {
    /// It was done; so the execution stands now.
    Done(Standing),
    /// It is as was asked for already; nothing changed.
    Already(Standing),
    /// It makes no sense where the execution stands; nothing changed.
    Refused(Standing),
    /// The execution is at none of the versions that the caller decided upon; nothing changed.
    OtherVersion(Standing),
    /// There is no such execution.
    NotFound,
}

/// The versions that a caller has decided upon; `None` is any.
pub type Expected<'a> = Option<&'a [i32]>;

/// What is to be different from now on; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitChanges {
    /// At most so many pages are ever dispatched; `Some(None)` is no limit.
    pub max_pages: Option<Option<i64>>,
    /// Least milliseconds between the starts of two pages of one host.
    pub host_delay_ms: Option<i32>,
    /// At most so many pages of one host at once; `Some(None)` is no limit.
    pub host_concurrency: Option<Option<i32>>,
    /// The share of the fleet, from 1 to 1,000.
    pub weight: Option<i32>,
    /// Executions with a higher one go first.
    pub priority: Option<i32>,
    /// What it may spend.
    pub budgets: Option<BudgetChanges>,
}

/// An execution before an act, and after it where it was done.
pub(super) struct Act {
    pub(super) status: ExecutionStatus,
    pub(super) version: i32,
    pub(super) new_status: Option<ExecutionStatus>,
    pub(super) new_version: Option<i32>,
}

impl Store {
    /// Pauses a running execution: from then on nobody dispatches or claims a page of it. Pages that lie in the broker go
    /// back, so that they keep no place of their hosts. Pages in hand end by themselves, and it does not end.
    ///
    /// # Errors
    /// The database's.
    pub async fn pause_execution(
        &self,
        execution: ExecutionId,
        expected: Expected<'_>,
    ) -> Result<Controlled, StoreError> {
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        // Lock: the execution's row, in a statement of its own: what a dispatcher that held it has just made `queued` would
        // be missed otherwise, and keep its places until the rescuer comes.
        lock(&mut transaction, execution).await?;
        // Reads url_queue_open_idx: as many rows as the dispatcher's window has.
        let act = sqlx::query_as!(
            Act,
            r#"
            WITH execution AS (
                SELECT id, status, control_version FROM workflow_executions
                WHERE id = $1 AND workflow_is_there(workflow_id)
            ), changed AS (
                UPDATE workflow_executions AS target
                SET status = 'paused', control_version = execution.control_version + 1
                FROM execution
                WHERE target.id = execution.id AND execution.status = 'running'
                  AND ($2::int4[] IS NULL OR execution.control_version = ANY ($2))
                RETURNING target.status, target.control_version
            ), published AS (
                SELECT id FROM url_queue
                WHERE execution_id = $1 AND status = 'queued' AND EXISTS (SELECT FROM changed)
                FOR UPDATE SKIP LOCKED
            ), kept_back AS (
                UPDATE url_queue SET status = 'pending', queued_at = NULL, epoch = epoch + 1
                WHERE id = ANY (ARRAY(SELECT id FROM published))
            )
            SELECT execution.status AS "status!: ExecutionStatus", execution.control_version AS "version!",
                changed.status AS "new_status?: ExecutionStatus", changed.control_version AS "new_version?"
            FROM execution LEFT JOIN changed ON true
            "#,
            execution.0,
            expected,
        )
        .fetch_optional(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(judge(act, expected, |status| status == ExecutionStatus::Paused))
    }

    /// Resumes a paused execution. Pages that lie in the broker, because somebody held them when it was paused, are due
    /// again: workers may have forgotten their messages. Those that they have not find nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn resume_execution(
        &self,
        execution: ExecutionId,
        expected: Expected<'_>,
    ) -> Result<Controlled, StoreError> {
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        // Lock: as for a pause.
        lock(&mut transaction, execution).await?;
        // Reads url_queue_open_idx: as many rows as the dispatcher's window has. Those that somebody holds at this
        // moment are found by the rescuer.
        let act = sqlx::query_as!(
            Act,
            r#"
            WITH execution AS (
                SELECT id, status, control_version FROM workflow_executions
                WHERE id = $1 AND workflow_is_there(workflow_id)
            ), changed AS (
                UPDATE workflow_executions AS target
                SET status = 'running', control_version = execution.control_version + 1
                FROM execution
                WHERE target.id = execution.id AND execution.status = 'paused'
                  AND ($2::int4[] IS NULL OR execution.control_version = ANY ($2))
                RETURNING target.status, target.control_version
            ), published AS (
                SELECT id FROM url_queue
                WHERE execution_id = $1 AND status = 'queued' AND EXISTS (SELECT FROM changed)
                FOR UPDATE SKIP LOCKED
            ), due_again AS (
                UPDATE url_queue SET status = 'pending', queued_at = NULL, epoch = epoch + 1
                WHERE id = ANY (ARRAY(SELECT id FROM published))
            )
            SELECT execution.status AS "status!: ExecutionStatus", execution.control_version AS "version!",
                changed.status AS "new_status?: ExecutionStatus", changed.control_version AS "new_version?"
            FROM execution LEFT JOIN changed ON true
            "#,
            execution.0,
            expected,
        )
        .fetch_optional(&mut *transaction)
        .await?;
        transaction.commit().await?;
        drop(connection);
        let resumed = judge(act, expected, |status| status == ExecutionStatus::Running);
        if matches!(resumed, Controlled::Done(_)) {
            // Those in which pages wait, and hardly any other: such a lane has missed 8 times at the most, and waits for 5.12 s then.
            self.end_waits(execution, 1..=8, 6).await?;
        }
        Ok(resumed)
    }

    /// Cancels an execution that has not ended. From then on nobody dispatches or claims a page of it; those that
    /// wait are swept up later, in portions ([`Store::sweep_leftover_pages`]), since they may be millions. One that
    /// was cancelled gracefully may still be cancelled at once.
    ///
    /// # Errors
    /// The database's.
    pub async fn cancel_execution(
        &self,
        execution: ExecutionId,
        mode: CancelMode,
        expected: Expected<'_>,
    ) -> Result<Controlled, StoreError> {
        // Lock, here and below: the execution's row, before its status is looked at; nothing else is. Not `FOR UPDATE`:
        // whoever records pages holds the row's key, and a busy fleet always does.
        let act = sqlx::query_as!(
            Act,
            r#"
            WITH execution AS (
                SELECT id, status, control_version, cancel_mode
                FROM workflow_executions WHERE id = $1 AND workflow_is_there(workflow_id) FOR NO KEY UPDATE
            ), changed AS (
                UPDATE workflow_executions AS target
                SET status = 'cancelled', cancel_mode = $3, control_version = execution.control_version + 1,
                    completed_at = CASE WHEN execution.status = 'cancelled' THEN target.completed_at ELSE now() END
                FROM execution
                WHERE target.id = execution.id
                  AND (execution.status IN ('pending', 'running', 'paused')
                      OR (execution.status = 'cancelled' AND $3 = 'now'
                          AND execution.cancel_mode IS DISTINCT FROM 'now'))
                  AND ($2::int4[] IS NULL OR execution.control_version = ANY ($2))
                RETURNING target.status, target.control_version
            )
            SELECT execution.status AS "status!: ExecutionStatus", execution.control_version AS "version!",
                changed.status AS "new_status?: ExecutionStatus", changed.control_version AS "new_version?"
            FROM execution LEFT JOIN changed ON true
            "#,
            execution.0,
            expected,
            mode.as_str(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(judge(act, expected, |status| status == ExecutionStatus::Cancelled))
    }

    /// Changes the limits of an execution that has not ended. A page limit below what was admitted, or a budget below
    /// what was used, admits nothing more; a higher one puts pages that it left out back ([`Store::put_pages_back`]).
    /// The page limit and budgets, if nothing else is changed, also of one that has ended and was not cancelled: for a retry.
    ///
    /// # Errors
    /// The database's; among them that a value is out of its bounds.
    pub async fn change_limits(
        &self,
        execution: ExecutionId,
        changes: LimitChanges,
        expected: Expected<'_>,
    ) -> Result<Controlled, StoreError> {
        let of_a_retry = LimitChanges {
            max_pages: changes.max_pages,
            budgets: changes.budgets.clone(),
            ..LimitChanges::default()
        };
        let is_for_a_retry = changes == of_a_retry && changes != LimitChanges::default();
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        let act = sqlx::query_as!(
            Act,
            r#"
            WITH execution AS (
                SELECT id, status, control_version FROM workflow_executions
                WHERE id = $1 AND workflow_is_there(workflow_id) FOR NO KEY UPDATE
            ), changed AS (
                UPDATE workflow_executions AS target
                SET max_pages = CASE WHEN $3 THEN $4 ELSE target.max_pages END,
                    host_delay_ms = COALESCE($5, target.host_delay_ms),
                    host_concurrency = CASE WHEN $8 THEN $9 ELSE target.host_concurrency END,
                    weight = COALESCE($6, target.weight),
                    priority = COALESCE($7, target.priority),
                    budget_pages_after = COALESCE($10, target.budget_pages_after),
                    control_version = execution.control_version + 1
                FROM execution
                WHERE target.id = execution.id
                  AND (execution.status IN ('pending', 'running', 'paused')
                      OR $11 AND execution.status IN ('completed', 'failed'))
                  AND ($2::int4[] IS NULL OR execution.control_version = ANY ($2))
                RETURNING target.status, target.control_version
            )
            SELECT execution.status AS "status!: ExecutionStatus", execution.control_version AS "version!",
                changed.status AS "new_status?: ExecutionStatus", changed.control_version AS "new_version?"
            FROM execution LEFT JOIN changed ON true
            "#,
            execution.0,
            expected,
            changes.max_pages.is_some(),
            changes.max_pages.flatten(),
            changes.host_delay_ms,
            changes.weight,
            changes.priority,
            changes.host_concurrency.is_some(),
            changes.host_concurrency.flatten(),
            changes.budgets.as_ref().map(|_| FIRST_PAGE),
            is_for_a_retry,
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let changed = judge(act, expected, |_| false);
        if let (Controlled::Done(_), Some(budgets)) = (changed, &changes.budgets) {
            change::write(&mut transaction, execution, budgets).await?;
        }
        transaction.commit().await?;
        drop(connection);
        if changes.host_delay_ms.is_some() && matches!(changed, Controlled::Done(_)) {
            // Those that wait for their hosts' turns, which is for 30 s at the most; hosts keep to the pace that holds whenever they
            // are looked at.
            self.end_waits(execution, 0..=0, 31).await?;
        }
        Ok(changed)
    }

    /// Has the dispatcher look at once into lanes of an execution that wait with so many misses, and not for longer than so many
    /// seconds: a broad crawl has very many that are laid aside for longer, as they have no page.
    async fn end_waits(
        &self,
        execution: ExecutionId,
        misses: RangeInclusive<i32>,
        seconds: i32,
    ) -> Result<(), StoreError> {
        // By lanes_due_idx; waits for nobody.
        sqlx::query!(
            "UPDATE lanes SET due_at = now()
             WHERE (execution_id, host) IN (
                SELECT execution_id, host FROM lanes
                WHERE execution_id = $1 AND due_at > now() AND due_at < now() + $5::int4 * interval '1 second'
                  AND misses BETWEEN $3::int4 AND $4::int4
                ORDER BY due_at DESC LIMIT $2 FOR UPDATE SKIP LOCKED)",
            execution.0,
            SWEPT_AT_ONCE,
            misses.start(),
            misses.end(),
            seconds,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// Says what a statement did, or why it did nothing.
pub(super) fn judge(
    act: Option<Act>,
    expected: Expected<'_>,
    is_so_already: impl Fn(ExecutionStatus) -> bool,
) -> Controlled {
    let Some(act) = act else { return Controlled::NotFound };
    if let (Some(status), Some(version)) = (act.new_status, act.new_version) {
        return Controlled::Done(Standing { status, version });
    }
    let standing = Standing { status: act.status, version: act.version };
    if expected.is_some_and(|versions| !versions.contains(&act.version)) {
        Controlled::OtherVersion(standing)
    } else if is_so_already(act.status) {
        Controlled::Already(standing)
    } else {
        Controlled::Refused(standing)
    }
}
