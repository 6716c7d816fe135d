//! The scheduler: schedules that are due start executions. Any number of coordinators look at once; the store lets one
//! of them start each run. Never looks at pages.

use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::schedule::Schedule;
use crawlify_shared::domain::workflow::parse_config;
use crawlify_shared::store::schedules::fire::{DueSchedule, Fired, Occasion};
use crawlify_shared::store::start::Beginning;
use crawlify_shared::store::{Store, StoreError};
use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::steps::Step;

/// How often it looks: a run starts at most this long after its time.
const EVERY: Duration = Duration::from_millis(500);
/// Schedules of one step at the most.
const AT_ONCE: i64 = 100;

/// Starts what is due.
#[derive(Debug)]
pub struct Scheduler {
    store: Store,
    metrics: Metrics,
    /// Told when an execution has started.
    frontier_changed: Arc<Notify>,
}

impl Step for Scheduler {
    type Error = StoreError;

    async fn once(&mut self) -> Result<Duration, StoreError> {
        self.step().await?;
        Ok(EVERY)
    }
}

impl Scheduler {
    pub(crate) fn new(store: Store, metrics: Metrics, frontier_changed: Arc<Notify>) -> Self {
        Self { store, metrics, frontier_changed }
    }

    /// Runs what is due, once; answers how many executions were started.
    ///
    /// # Errors
    /// As the store. One schedule's trouble does not keep the others waiting.
    pub async fn step(&self) -> Result<usize, StoreError> {
        let (mut started, mut failed) = (0, None);
        for due in self.store.due_schedules(AT_ONCE).await? {
            match self.fire(&due).await {
                Ok(fired) => started += usize::from(fired.and_then(Fired::execution).is_some()),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if started > 0 {
            self.frontier_changed.notify_one();
        }
        failed.map_or(Ok(started), Err)
    }

    /// Tries one run. `None`: another coordinator, or somebody who has just changed the schedule, was faster.
    async fn fire(&self, due: &DueSchedule) -> Result<Option<Fired>, StoreError> {
        let schedule = match Schedule::parse(&due.cron, &due.time_zone) {
            Ok(schedule) => schedule,
            Err(problems) => {
                // Another version wrote it.
                let why = problems.first().map(ToString::to_string).unwrap_or_default();
                tracing::error!(schedule.id = %due.id, why, "the schedule cannot be read: it starts nothing more");
                self.store.suspend_schedule(due.id, due.version).await?;
                return Ok(None);
            }
        };
        // A run that has waited may start before the next time has come. Where the schedule is disabled, the store does
        // not take this.
        let next =
            due.next_run_at.filter(|next| *next > due.now).map_or_else(|| schedule.next_after(due.now), Some);
        let workflow = parse_config(&due.config).ok();
        let run = workflow.as_ref().map(|workflow| Beginning::of(due.workflow_version, workflow));
        let fired = self.store.fire_schedule(due.id, due.version, Occasion::Due(next), run.as_ref()).await?;
        if let Some(fired) = fired {
            self.metrics.schedule_fires.with_label_values(&[fired.as_str()]).inc();
            match fired.execution() {
                Some(execution) => {
                    self.metrics.executions_scheduled.inc();
                    tracing::info!(schedule.id = %due.id, execution.id = %execution, "a schedule started an execution");
                }
                None => {
                    tracing::info!(schedule.id = %due.id, outcome = fired.as_str(), "a schedule started nothing");
                }
            }
        }
        Ok(fired)
    }
}
