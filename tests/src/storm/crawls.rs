//! The crawls of the storm: started and awaited, whatever becomes of the database meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, Utc};
use crawlify_shared::config::SecretUrl;
use crawlify_shared::domain::id::{ExecutionId, WorkflowId};
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Budgets, Render, Robots, Share, parse_document};
use crawlify_shared::store::Store;
use crawlify_shared::store::executions::StartExecution;
use crawlify_shared::store::start::Beginning;
use crawlify_shared::store::workflows::{WorkflowStatus, WorkflowText};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use super::waste::Waste;
use crate::crawl::NO_LIMITS;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Deeper than any way through the site: which way a page is found by depends on who is the first.
const DEPTH: u32 = 500;

/// A workflow whose executions can be started and looked at.
#[derive(Debug)]
pub(super) struct Crawls {
    store: Store,
    pub(super) pool: PgPool,
    workflow: WorkflowId,
    version: i32,
    start_urls: Vec<PageUrl>,
    /// Whether some pages may be read without being rendered.
    pub(super) goes_static: bool,
}

/// Crawls while nothing happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calm {
    /// The one that others are compared with.
    pub(super) execution: ExecutionId,
    /// Pages that were completed in all of them.
    pub(super) pages: u64,
    pub(super) took: Duration,
}

impl Crawls {
    /// Stores the workflow, which then starts at this address.
    pub(super) async fn prepare(document: &Value, start: &str, database: &SecretUrl) -> Result<Self> {
        let mut document = document.clone();
        document["config"]["start_urls"] = json!([start]);
        document["config"]["max_depth"] = json!(DEPTH);
        let definition = parse_document(&document).map_err(|problems| anyhow!("{problems:?}"))?;
        let store = Store::connect(database, 4)?;
        let text = WorkflowText {
            name: &definition.name,
            description: &definition.description,
            config: &definition.config,
        };
        let row = store.create_workflow(text, WorkflowStatus::Active).await?;
        let pool = PgPool::connect(database.expose()).await?;
        let goes_static = definition.workflow.phases.iter().any(|phase| phase.render != Render::Full);
        let start_urls = definition.workflow.start_urls;
        let (workflow, version) = (WorkflowId(row.id), row.version);
        Ok(Self { store, pool, workflow, version, start_urls, goes_static })
    }

    /// Crawls so many times at once, each to its end.
    pub(super) async fn run_calm(&self, at_once: usize, until: Instant) -> Result<Calm> {
        let begun = Instant::now();
        let executions = try_join_all((0..at_once).map(|_| self.run_one(until))).await?;
        let took = begun.elapsed();
        if executions.iter().any(|(_, has_ended)| !has_ended) {
            bail!("a calm crawl has not ended after {took:.0?}");
        }
        let pages = "SELECT count(*) FROM url_queue WHERE status = 'completed'";
        let pages: i64 = sqlx::query_scalar(pages).fetch_one(&self.pool).await?;
        let execution = executions.into_iter().map(|(execution, _)| execution).min();
        let execution = execution.context("there was a crawl")?;
        Ok(Calm { execution, pages: u64::try_from(pages)?, took })
    }

    /// Crawls once; answers whether the end came in time.
    async fn run_one(&self, until: Instant) -> Result<(ExecutionId, bool)> {
        let execution = self.start(until).await?;
        loop {
            // While the database is away nothing is known.
            if let Ok(Some(row)) = self.store.execution(execution).await
                && row.status.has_ended()
            {
                return Ok((execution, true));
            }
            if Instant::now() > until {
                return Ok((execution, false));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Crawls again and again, so many at a time, until it is time to start no other; each should end by `end`. Answers every
    /// execution that there was, those that have not ended among them.
    pub(super) async fn run_until(
        &self,
        last_start: Instant,
        at_once: usize,
        end: Instant,
    ) -> Result<Vec<ExecutionId>> {
        let before = self.executions().await?;
        let lanes = (0..at_once).map(|_| async {
            while Instant::now() < last_start {
                self.run_one(end).await?;
            }
            anyhow::Ok(())
        });
        try_join_all(lanes).await?;
        // One that was started although the database could not say so any more is among them.
        loop {
            let running = "SELECT count(*) FROM workflow_executions WHERE status = 'running'";
            if sqlx::query_scalar::<_, i64>(running).fetch_one(&self.pool).await? == 0 {
                break;
            }
            if Instant::now() > end {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let mut all = self.executions().await?;
        all.retain(|execution| !before.contains(execution));
        Ok(all)
    }

    /// When each page was completed since this moment, in order.
    pub(super) async fn page_ends(&self, since: DateTime<Utc>) -> Result<Vec<DateTime<Utc>>> {
        let query = "SELECT processed_at FROM url_queue WHERE status = 'completed' AND processed_at > $1
            ORDER BY processed_at";
        Ok(sqlx::query_scalar(query).bind(since).fetch_all(&self.pool).await?)
    }

    /// The paths of all pages, each with how often it was claimed in all executions.
    pub(super) async fn attempts_by_path(&self) -> Result<BTreeMap<String, u64>> {
        self.by_path("SELECT url, attempt FROM url_queue").await
    }

    /// The same paths, each with the most claims that its pages can have had, those among them that went back
    /// uncharged. A claim must bring the page's epoch, which rises whenever a page that was claimed goes back; so
    /// there is one for each epoch at the most.
    pub(super) async fn claims_by_path(&self) -> Result<BTreeMap<String, u64>> {
        self.by_path("SELECT url, epoch + 1 FROM url_queue").await
    }

    /// Adds up what a question says of each page, by path.
    async fn by_path(&self, question: &'static str) -> Result<BTreeMap<String, u64>> {
        let rows: Vec<(String, i32)> = sqlx::query_as(question).fetch_all(&self.pool).await?;
        let mut sums = BTreeMap::new();
        for (url, number) in rows {
            *sums.entry(Url::parse(&url)?.path().to_owned()).or_default() += u64::try_from(number)?;
        }
        Ok(sums)
    }

    /// All attempts that completed no page. Pages of one worker that were returned within a few seconds are one loss: it would have
    /// to be unheard of for a whole lease again to be lost once more.
    pub(super) async fn waste(&self) -> Result<Waste> {
        // Losses that were taken back, as the worker was heard again, have cost an attempt all the same.
        let query = "SELECT COALESCE(sum(worker_faults + taken_back), 0),
                COALESCE(sum(greatest(attempt - (status = 'completed')::int - worker_faults - taken_back, 0)), 0),
                (SELECT count(*) FROM (
                        SELECT lost_at - lag(lost_at) OVER (PARTITION BY worker_id ORDER BY lost_at) AS later
                        FROM lost_attempts WHERE fault = 'worker') l
                    WHERE later IS NULL OR later > interval '10 seconds')
            FROM url_queue CROSS JOIN LATERAL (
                SELECT count(*)::int4 AS taken_back FROM lost_attempts
                WHERE page_id = url_queue.id AND standing = 'taken_back') losses";
        let (with_workers, otherwise, losses): (i64, i64, i64) =
            sqlx::query_as(query).fetch_one(&self.pool).await?;
        Ok(Waste {
            with_workers: u64::try_from(with_workers)?,
            otherwise: u64::try_from(otherwise)?,
            losses: u64::try_from(losses)?,
        })
    }

    pub(super) async fn close(self) {
        self.store.close().await;
        self.pool.close().await;
    }

    async fn start(&self, until: Instant) -> Result<ExecutionId> {
        // A start whose answer is lost comes again, and is the same start.
        let key = Uuid::new_v4().to_string();
        loop {
            let beginning = Beginning {
                version: self.version,
                limits: NO_LIMITS,
                robots: Robots::Ignore,
                start_urls: &self.start_urls,
                sitemaps: &[],
                budgets: &Budgets::default(),
                share: Share::default(),
                key: Some(&key),
            };
            let started = self.store.start_execution(self.workflow, &beginning).await;
            match started {
                Ok(StartExecution::Started(execution) | StartExecution::Repeated(execution)) => {
                    return Ok(execution);
                }
                Ok(other) => bail!("the workflow does not start: {other:?}"),
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Every execution, the oldest first.
    pub(super) async fn executions(&self) -> Result<Vec<ExecutionId>> {
        let query = "SELECT id FROM workflow_executions ORDER BY id";
        let ids: Vec<Uuid> = sqlx::query_scalar(query).fetch_all(&self.pool).await?;
        Ok(ids.into_iter().map(ExecutionId).collect())
    }
}
