//! The dispatcher: due rows of the frontier become messages. The only place that sees both store and broker.
//!
//! It keeps the broker's queue short: a window of as many pages as the workers want, shared between the executions. So
//! cancelling, priorities and politeness act at once. A row is made `queued` first and published then: what the broker
//! does not confirm is `pending` again, and what a crash leaves unpublished the rescuer returns.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::broker::{Broker, BrokerError, MESSAGE_VERSION, PageMessage};
use crawlify_shared::config::LeaseTimes;
use crawlify_shared::crash::{self, CrashPoint};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::store::dispatch::{ReservedPage, RunningExecution};
use crawlify_shared::store::{Store, StoreError};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::shares::Shares;
use crate::steps::Step;

/// The window's size where there are no workers, so that a fleet that is just starting finds work.
const FIRST_WINDOW: i64 = 16;
/// Of so many executions pages are published at once: no more than a publisher has patience for, as the broker's
/// connection takes them one after the other.
const MOST_PUBLISHING: usize = 3;
/// The pause while executions run but nothing is due.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// The pause while no execution runs.
const IDLE_PAUSE: Duration = Duration::from_millis(500);
/// The pause after pages were found, unless a worker of the same process has recorded some: long enough that a step finds
/// more than the one page that has just ended, as each step costs five statements.
const AGAIN_PAUSE: Duration = Duration::from_millis(10);

/// Publishes due pages.
#[derive(Debug)]
pub struct Dispatcher {
    store: Store,
    broker: Arc<dyn Broker>,
    lease: LeaseTimes,
    only: Option<ExecutionId>,
    metrics: Metrics,
    /// Told when an execution may have ended.
    drained: Arc<Notify>,
    /// How many executions had nothing left to do the last time.
    idle: usize,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dispatched {
    /// Executions that run.
    pub executions: usize,
    /// Executions of which no page is under way and none is due.
    pub idle: usize,
    /// Pages that are `queued` now.
    pub pages: usize,
    /// Pages whose publishing was not confirmed; they are due again.
    pub unconfirmed: usize,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The database.
    #[error("the frontier cannot be read or marked")]
    Store(#[from] StoreError),
    /// The broker.
    #[error("pages cannot be published")]
    Broker(#[from] BrokerError),
}

impl Step for Dispatcher {
    type Error = DispatchError;

    async fn once(&mut self) -> Result<Duration, DispatchError> {
        let begun = tokio::time::Instant::now();
        let dispatched = self.step().await?;
        if dispatched.pages > 0 {
            self.metrics.dispatch_duration.observe(begun.elapsed().as_secs_f64());
        }
        if dispatched.idle > self.idle {
            self.drained.notify_one();
        }
        self.idle = dispatched.idle;
        Ok(match dispatched {
            Dispatched { executions: 0, .. } => IDLE_PAUSE,
            Dispatched { pages: 0, .. } => BUSY_PAUSE,
            // Wherever there was one due page there may be more; the window says when it is enough.
            _ => AGAIN_PAUSE,
        })
    }
}

impl Dispatcher {
    /// Makes a dispatcher for all executions, or for `only` one. It tells `drained` when one of them may have ended.
    pub(crate) fn new(
        store: Store,
        broker: Arc<dyn Broker>,
        lease: LeaseTimes,
        only: Option<ExecutionId>,
        metrics: Metrics,
        drained: Arc<Notify>,
    ) -> Self {
        Self { store, broker, lease, only, metrics, drained, idle: 0 }
    }

    /// Fills the window of every running execution once: each its share, then what others have left of theirs.
    ///
    /// # Errors
    /// The database or the broker failed; what was reserved is due again.
    pub async fn step(&self) -> Result<Dispatched, DispatchError> {
        let executions = self.store.running_executions(self.only).await?;
        let mut dispatched = Dispatched { executions: executions.len(), ..Dispatched::default() };
        if executions.is_empty() {
            return Ok(dispatched);
        }
        let wanted = self.store.wanted_pages(self.lease.worker_lost_after).await?;
        dispatched.idle =
            executions.iter().filter(|execution| !execution.is_due && is_idle(execution)).count();
        let mut shares = Shares::of(if wanted == 0 { FIRST_WINDOW } else { wanted }, executions);
        let mut failed = None;
        // While the broker confirms the pages of one execution, those of the next one are reserved.
        let (mut publishing, mut published) = (FuturesUnordered::new(), Published::default());
        while let Some((execution, room)) = shares.next() {
            if !execution.is_due {
                continue;
            }
            let pages = match published.during(self.reserve(&execution, room), &mut publishing).await {
                Ok(pages) => pages,
                // One execution's trouble must not keep the younger ones waiting.
                Err(error) => {
                    failed.get_or_insert(error);
                    continue;
                }
            };
            shares.took(&execution, room, pages.len());
            if pages.is_empty() {
                dispatched.idle += usize::from(is_idle(&execution));
            } else {
                publishing.push(self.publish(pages));
            }
            while publishing.len() >= MOST_PUBLISHING
                && let Some(outcome) = publishing.next().await
            {
                published.add(outcome);
            }
            if published.failed.is_some() {
                break;
            }
        }
        while let Some(outcome) = publishing.next().await {
            published.add(outcome);
        }
        dispatched.pages = published.pages;
        dispatched.unconfirmed = published.unconfirmed;
        let failed = published.failed.or(failed.map(DispatchError::from));
        failed.map_or(Ok(dispatched), Err)
    }

    async fn reserve(
        &self,
        execution: &RunningExecution,
        room: i64,
    ) -> Result<Vec<ReservedPage>, StoreError> {
        let pages = self.store.reserve_pages(execution.id, room).await?;
        if execution.has_budgets { self.store.within_budgets(execution.id, pages).await } else { Ok(pages) }
    }

    /// Publishes pages. Answers how many were confirmed, and how many were not.
    async fn publish(&self, pages: Vec<ReservedPage>) -> Result<(usize, usize), DispatchError> {
        crash::reach(CrashPoint::AfterReserveBeforePublish);
        let messages: Vec<_> = pages
            .iter()
            .map(|page| PageMessage {
                v: MESSAGE_VERSION,
                page_id: page.page_id,
                execution_id: page.execution_id,
                epoch: page.epoch,
                url: page.url.clone(),
            })
            .collect();
        let confirmed = match self.broker.publish(&messages).await {
            Ok(confirmed) => confirmed,
            Err(error) => {
                crash::reach(CrashPoint::AfterRefusalBeforeReturn);
                self.store.return_unpublished(&pages).await?;
                return Err(error.into());
            }
        };
        crash::reach(CrashPoint::AfterConfirmBeforeReturn);
        let count = pages.len();
        let unconfirmed: Vec<_> = pages
            .into_iter()
            .zip(confirmed)
            .filter(|(_, confirmed)| !confirmed)
            .map(|(page, _)| page)
            .collect();
        if !unconfirmed.is_empty() {
            tracing::warn!(pages = unconfirmed.len(), "the broker did not confirm");
            self.store.return_unpublished(&unconfirmed).await?;
        }
        let pages = count - unconfirmed.len();
        self.metrics.pages_dispatched.inc_by(pages as u64);
        Ok((pages, unconfirmed.len()))
    }
}

/// What has come of the publishing of one step.
#[derive(Debug, Default)]
struct Published {
    pages: usize,
    unconfirmed: usize,
    /// The first failure.
    failed: Option<DispatchError>,
}

impl Published {
    fn add(&mut self, outcome: Result<(usize, usize), DispatchError>) {
        match outcome {
            Ok((pages, unconfirmed)) => {
                self.pages += pages;
                self.unconfirmed += unconfirmed;
            }
            Err(error) => {
                self.failed.get_or_insert(error);
            }
        }
    }

    /// Does something while pages are being published.
    async fn during<T>(
        &mut self,
        work: impl Future<Output = T>,
        publishing: &mut FuturesUnordered<impl Future<Output = Result<(usize, usize), DispatchError>>>,
    ) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                Some(outcome) = publishing.next(), if !publishing.is_empty() => self.add(outcome),
            }
        }
    }
}

fn is_idle(execution: &RunningExecution) -> bool {
    execution.in_flight == 0
}
