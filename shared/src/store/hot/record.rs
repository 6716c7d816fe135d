//! Recording: a group of finished pages, with all that they produced, in one fenced statement.
//!
//! The guard: `UPDATE ... WHERE page, attempt, epoch, processing, ours` must find every page of the group, otherwise the whole
//! statement is undone. Then we look which pages are still ours, and record those. Leases are hardly ever lost, so the
//! statement can write what it is given without asking for each row whether it may. It may be sent again after an
//! ambiguous error: if it was written after all, no page is ours any more.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::HotStore;
use super::known_links::Recorded;
use super::line::{Line, Unanswered};
use super::record_columns::{Columns, Link, nearest};
use crate::crash::{self, CrashPoint};
use crate::domain::id::PageId;
use crate::domain::page::FinishedPage;
use crate::store::StoreError;

/// How often a group is tried whose pages lose their leases while it is recorded.
const TRIES: usize = 5;
/// What the guard raises.
const LEASE_LOST: &str = "CL001";

/// Guard first, then what it guards.
const RECORD: &str = include_str!("record.sql");

/// One page at a time: nothing is held while its row is waited for, so that nobody can deadlock. Dispatchers and whoever
/// sweeps hold rows for moments. One that was claimed meanwhile has no use for it any more. By url_queue_url_key.
const NEARER: &str = "
UPDATE url_queue SET depth = $3, priority = greatest(priority, $4)
WHERE execution_id = $1 AND url_hash = $2 AND depth > $3 AND status IN ('pending', 'queued')";

/// By primary key.
const STILL_OURS: &str = "
SELECT q.id FROM url_queue q JOIN unnest($2::uuid[], $3::int4[], $4::int4[]) AS p (id, attempt, epoch)
    ON q.id = p.id AND q.attempt = p.attempt AND q.epoch = p.epoch
WHERE q.status IS NOT DISTINCT FROM 'processing' AND q.locked_by = $1";

impl HotStore {
    /// Records a group of finished pages. Of a page that comes twice, its last attempt counts, once.
    ///
    /// Answers the pages that were recorded, in no particular order. One that is missing had lost its lease: nothing
    /// of it was written, and its message can be forgotten.
    ///
    /// # Errors
    /// As every statement of the store. After a transient error the same group may be recorded again: if it was
    /// written the first time after all, the second time writes nothing and answers no page.
    pub async fn record(&self, pages: &[FinishedPage]) -> Result<Vec<PageId>, StoreError> {
        let mut ours = last_attempts(pages);
        let mut tries = 0;
        loop {
            if ours.is_empty() {
                return Ok(Vec::new());
            }
            tries += 1;
            match self.write(&ours).await {
                Ok(()) => return Ok(ours.iter().map(|finished| finished.page.page_id).collect()),
                Err(error) if tries < TRIES && is_lease_lost(&error) => {
                    let held = self.still_ours(&ours).await?;
                    ours.retain(|finished| held.contains(&finished.page.page_id));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn write(&self, pages: &[&FinishedPage]) -> Result<(), WriteError> {
        // First of all: with a new connection, what was known is known no longer.
        let client = self.client().await?;
        let ahead = self.clock.read(&client).await?.ahead();
        let mut columns = Columns::default();
        for finished in pages {
            let numbers = self.definitions(&client, finished.page.execution_id, &finished.table).await?;
            columns.add(finished, &numbers, ahead);
        }
        crash::reach(CrashPoint::AfterDefinitionsBeforeRecord);
        let mut links = columns.found_links();
        // Most are known, and not looked at any further.
        self.known_links.retain_news(&mut links, key);
        let links = nearest(links);
        columns.set_links(&links);
        let statement = client.prepare_cached(RECORD).await?;
        let row = client.query_one(&statement, &columns.parameters(&self.worker.0)).await?;
        let missed: HashSet<(Uuid, Vec<u8>)> =
            row.get::<_, Vec<Uuid>>(1).into_iter().zip(row.get::<_, Vec<Vec<u8>>>(2)).collect();
        let (missed, written): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|link| missed.contains(&(link.execution_id.0, link.hash.to_vec())));
        self.known_links.remember(written.iter().map(key));
        // The pages are recorded, whatever comes of this.
        if let Err(error) = self.bring_nearer(&client, &missed).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                links = missed.len(),
                "pages may keep the greater depth until they are found again"
            );
        }
        Ok(())
    }

    /// Gives pages the lesser depth that somebody held while they were found nearer. What is not written is not remembered
    /// either: the next find brings it.
    async fn bring_nearer(&self, client: &Line, links: &[Link<'_>]) -> Result<(), StoreError> {
        for link in links {
            let statement = client.prepare_cached(NEARER).await?;
            let hash = link.hash.as_slice();
            client.execute(&statement, &[&link.execution_id.0, &hash, &link.depth, &link.priority]).await?;
            self.known_links.remember(std::iter::once(key(link)));
        }
        Ok(())
    }

    async fn still_ours(&self, pages: &[&FinishedPage]) -> Result<Vec<PageId>, StoreError> {
        let ids: Vec<_> = pages.iter().map(|finished| finished.page.page_id.0).collect();
        let attempts: Vec<_> = pages.iter().map(|finished| finished.page.attempt).collect();
        let epochs: Vec<_> = pages.iter().map(|finished| finished.page.epoch).collect();
        let client = self.client().await?;
        let statement = client.prepare_cached(STILL_OURS).await?;
        let rows = client.query(&statement, &[&self.worker.0, &ids, &attempts, &epochs]).await?;
        Ok(rows.into_iter().map(|row| PageId(row.get(0))).collect())
    }
}

fn key(link: &Link<'_>) -> ((crate::domain::id::ExecutionId, [u8; 16]), Recorded) {
    ((link.execution_id, link.hash), Recorded { depth: link.depth, priority: link.priority })
}

/// A page that was claimed twice after an ambiguous error was executed twice too. The guard lets one of them pass.
fn last_attempts(pages: &[FinishedPage]) -> Vec<&FinishedPage> {
    let mut last: HashMap<PageId, &FinishedPage> = HashMap::with_capacity(pages.len());
    for finished in pages {
        let chosen = last.entry(finished.page.page_id).or_insert(finished);
        if (chosen.page.epoch, chosen.page.attempt) < (finished.page.epoch, finished.page.attempt) {
            *chosen = finished;
        }
    }
    // In one order, so that two groups lock rows that they have in common one after the other.
    let mut last: Vec<_> = last.into_values().collect();
    last.sort_unstable_by_key(|finished| finished.page.page_id);
    last
}

/// Why a group was not written.
enum WriteError {
    Statement(Unanswered),
    Before(StoreError),
}

impl From<Unanswered> for WriteError {
    fn from(error: Unanswered) -> Self {
        Self::Statement(error)
    }
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Before(error)
    }
}

impl From<WriteError> for StoreError {
    fn from(error: WriteError) -> Self {
        match error {
            // Leases that are lost faster than we can look: later it will be seen whose the pages are.
            WriteError::Statement(Unanswered::Refused(error)) if is_code(&error, LEASE_LOST) => {
                Self::Unavailable(error.into())
            }
            WriteError::Statement(error) => error.into(),
            WriteError::Before(error) => error,
        }
    }
}

fn is_lease_lost(error: &WriteError) -> bool {
    matches!(error, WriteError::Statement(Unanswered::Refused(error)) if is_code(error, LEASE_LOST))
}

fn is_code(error: &tokio_postgres::Error, wanted: &str) -> bool {
    error.code().is_some_and(|code| code.code() == wanted)
}
