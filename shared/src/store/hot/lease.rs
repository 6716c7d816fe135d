//! The lease: a worker's row, whose heartbeat keeps all of the worker's pages its own.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::HotStore;
use super::line::Unanswered;
use crate::domain::id::{ExecutionId, PageId};
use crate::domain::page::ClaimedPage;
use crate::store::{StoreError, schema_version};

/// So many pages of a worker are named at the most that wait to be recorded. It has hardly ever as many in hand.
const MOST_NAMED: usize = 1_000;

/// What the fleet thinks of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its pages are its own.
    Alive,
    /// It was given up, and its pages were given to others. This heartbeat brought it back, without those pages.
    WasLost,
    /// The fleet does not know it: its row is gone. It must announce itself again.
    Unknown,
}

/// What a worker says with a heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// So many pages it takes at once now.
    pub slots: usize,
    /// So many pages it wants under way.
    pub wants: usize,
    /// It takes no more.
    pub is_draining: bool,
    /// Pages wait to be recorded. Where none do, its row names none any longer ([`HotStore::name_unrecorded`]).
    pub has_unrecorded: bool,
}

/// What a worker learns with a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// What the fleet thinks of it.
    pub standing: Standing,
    /// Executions that were cancelled at once while it still holds pages of them: these are to be given up.
    pub abandoned: Vec<ExecutionId>,
    /// When the server was started that says so, as far as that was told: another one, which has taken over, says another time.
    pub server_started_at: Option<DateTime<Utc>>,
}

/// An attempt of a page that was executed, and waits to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnrecordedPage {
    /// The frontier row.
    pub page_id: PageId,
    /// Its epoch when it was claimed.
    pub epoch: i32,
    /// The number of the attempt.
    pub attempt: i32,
}

impl From<&ClaimedPage> for UnrecordedPage {
    fn from(page: &ClaimedPage) -> Self {
        Self { page_id: page.page_id, epoch: page.epoch, attempt: page.attempt }
    }
}

/// As the worker's row has it, and the rescuer compares it.
impl fmt::Display for UnrecordedPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.page_id, self.epoch, self.attempt)
    }
}

impl HotStore {
    /// Announces the worker, unless the database is older than it: its records would be refused, while pages that cannot be
    /// recorded are charged with that. Coordinators migrate it. Answers when the server was started.
    ///
    /// # Errors
    /// As every statement of the store; and [`StoreError::Unusable`] where the schema is older.
    pub async fn announce(&self, name: &str, slots: usize) -> Result<DateTime<Utc>, StoreError> {
        let slots = i32::try_from(slots).unwrap_or(i32::MAX);
        let client = self.client().await?;
        let versions = client.query_one("SELECT max(version) FROM _sqlx_migrations WHERE success", &[]).await;
        match versions {
            Ok(versions) => is_new_enough(versions.get::<_, Option<i64>>(0).unwrap_or_default())?,
            // Some roles may see the tables of a worker alone.
            Err(Unanswered::Refused(error)) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
            Err(error) => return Err(error.into()),
        }
        // As of a heartbeat, one that comes after the goodbye says nothing.
        let announce = "WITH announced AS (
                INSERT INTO workers AS w (id, name, slots) VALUES ($1, $2, $3)
                ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), status = 'ready', slots = excluded.slots
                    WHERE w.status <> 'stopped'
            )
            SELECT pg_postmaster_start_time()";
        Ok(client.query_one(announce, &[&self.worker.0, &name, &slots]).await?.get(0))
    }

    /// Says that the worker is alive, and how it does.
    ///
    /// # Errors
    /// As every statement of the store. A worker that meets them for too long must stop its pages.
    pub async fn heartbeat(&self, vitals: Vitals) -> Result<Heartbeat, StoreError> {
        let [slots, wants] =
            [vitals.slots, vitals.wants].map(|pages| i32::try_from(pages).unwrap_or(i32::MAX));
        let status = if vitals.is_draining { "draining" } else { "ready" };
        let client = self.client().await?;
        // Reads workflow_executions_cancelled_idx, as far back as a page may be held, and url_queue_open_idx.
        let statement = client
            .prepare_cached(
                "WITH beat AS (
                    UPDATE workers w SET heartbeat_at = now(), status = $2, slots = $3, wants = $4,
                        unrecorded = CASE WHEN $5 THEN w.unrecorded END
                    -- One that was sent before the goodbye, and comes after it, says nothing.
                    FROM (SELECT id, status FROM workers WHERE id = $1 AND status <> 'stopped' FOR UPDATE) before
                    WHERE w.id = before.id
                    RETURNING before.status
                 )
                 SELECT status, ARRAY(
                    SELECT e.id FROM workflow_executions e
                    WHERE e.status = 'cancelled' AND e.cancel_mode = 'now'
                      AND e.completed_at > now() - interval '1 day'
                      AND EXISTS (SELECT FROM url_queue q
                          WHERE q.execution_id = e.id AND q.status = 'processing' AND q.locked_by = $1)),
                    pg_postmaster_start_time()
                 FROM beat",
            )
            .await?;
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&self.worker.0, &status, &slots, &wants, &vitals.has_unrecorded];
        let Some(row) = client.query_opt(&statement, &parameters).await? else {
            return Ok(Heartbeat {
                standing: Standing::Unknown,
                abandoned: Vec::new(),
                server_started_at: None,
            });
        };
        let standing = match row.get(0) {
            "ready" | "draining" => Standing::Alive,
            _ => Standing::WasLost,
        };
        let abandoned: Vec<uuid::Uuid> = row.get(1);
        Ok(Heartbeat {
            standing,
            abandoned: abandoned.into_iter().map(ExecutionId).collect(),
            server_started_at: Some(row.get(2)),
        })
    }

    /// Says which pages have waited for long to be recorded, those first that have waited longest; these and no others. As long as
    /// the worker lives they stay its own, and if it is lost, it is not their doing. Apart from the heartbeat, which must not fail
    /// for want of room for them.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn name_unrecorded(&self, pages: &[UnrecordedPage]) -> Result<(), StoreError> {
        let names: Vec<String> = pages.iter().take(MOST_NAMED).map(ToString::to_string).collect();
        let names = (!names.is_empty()).then_some(names);
        let client = self.client().await?;
        client.execute("UPDATE workers SET unrecorded = $2 WHERE id = $1", &[&self.worker.0, &names]).await?;
        Ok(())
    }

    /// Says whose workflows this worker's version cannot run: all of them. Answers which of them others may run: a worker that was
    /// heard within `lost_after`, and has not said the same.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn refuse(
        &self,
        executions: &[ExecutionId],
        lost_after: Duration,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        let names: Vec<_> = executions.iter().map(|execution| execution.0).collect();
        let client = self.client().await?;
        let statement = "WITH told AS (UPDATE workers SET refuses = $2::uuid[] WHERE id = $1)
            SELECT refused.id FROM unnest($2::uuid[]) AS refused (id)
            WHERE EXISTS (SELECT FROM workers w
                WHERE w.id <> $1 AND w.status IN ('ready', 'draining')
                  AND w.heartbeat_at > now() - $3::float8 * interval '1 second'
                  AND NOT COALESCE(refused.id = ANY (w.refuses), false))";
        let rows = client.query(statement, &[&self.worker.0, &names, &lost_after.as_secs_f64()]).await?;
        Ok(rows.iter().map(|row| ExecutionId(row.get(0))).collect())
    }

    /// Notes that from now on this page is the only one here: if the worker is lost, it is the page's doing. Its lease goes on for
    /// as long as it has waited for that.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn begin_alone(&self, page: &ClaimedPage) -> Result<(), StoreError> {
        let client = self.client().await?;
        let note = "WITH held AS (
                UPDATE url_queue q SET locked_until = q.locked_until + (now() - q.locked_at)
                WHERE q.id = $2 AND q.epoch = $3 AND q.attempt = $4 AND q.status IS NOT DISTINCT FROM 'processing' AND q.locked_by = $1
            )
            UPDATE workers SET alone_with = $2, alone_epoch = $3 WHERE id = $1";
        client.execute(note, &[&self.worker.0, &page.page_id.0, &page.epoch, &page.attempt]).await?;
        Ok(())
    }

    /// Says goodbye: whatever the worker still holds is free for others at once.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn retire(&self) -> Result<(), StoreError> {
        let client = self.client().await?;
        client.execute("UPDATE workers SET status = 'stopped' WHERE id = $1", &[&self.worker.0]).await?;
        Ok(())
    }
}

fn is_new_enough(there: i64) -> Result<(), StoreError> {
    let needed = schema_version();
    if there >= needed {
        return Ok(());
    }
    let older = format!(
        "its schema has version {there} and this worker needs {needed}: `crawlify migrate` or a coordinator of this version brings \
         it up to date"
    );
    Err(StoreError::Unusable(older.into()))
}
