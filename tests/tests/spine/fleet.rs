//! One crawl, and the fleet that works on it: what each operation does, and how the crawl comes to its end.
//!
//! Nobody waits for a time that can be done to the rows: that a worker was not heard of, that a pause is over.

use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;

use crawlify_coordinator::Coordinator;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::{CancelMode, LimitChanges};
use crawlify_shared::store::rescue::Patience;
use crawlify_worker::Worker;
use harness::crawl::{Crawl, NO_LIMITS};
use harness::wait::wait_for;
use tokio::time::timeout;
use uuid::Uuid;

use super::broker::UnreliableBroker;
use super::browser::Web;
use super::operation::Operation;
use super::process::{Place, Process};
use super::site::Site;

pub(super) const WORKERS: usize = 2;
/// How long the fleet is given to visit some pages more: it may have nothing to do.
const A_WHILE: Duration = Duration::from_millis(100);
/// How long anything may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(40);
/// The coordinator has its own patience; here nobody is unheard of for so long but [`Fleet::silence`] says so.
const PATIENCE: Patience =
    Patience { worker_lost_after: Duration::from_secs(600), after_start: Duration::ZERO, server: None };
/// No message is unheard of for so long.
const NONE_IS_LOST: Duration = Duration::from_secs(600);
/// In the end, when no message is lost any more, it may still have been before.
const LOST_SOON: Duration = Duration::from_millis(300);

// Whoever writes the same rows at the same moment is neither waited for nor held up: each comes again.
const SILENCE: &str = "UPDATE workers SET heartbeat_at = now() - interval '1 hour'
    WHERE id IN (SELECT id FROM workers WHERE id = ANY($1) FOR UPDATE SKIP LOCKED)";
const OVERDUE: &str = "UPDATE url_queue SET locked_until = now() - interval '1 second'
    WHERE id IN (SELECT id FROM url_queue WHERE status = 'processing' AND locked_by = $1 FOR UPDATE SKIP LOCKED)";
const PAUSES_END: &str = "UPDATE url_queue SET not_before = now()
    WHERE id IN (SELECT id FROM url_queue WHERE status = 'pending' AND not_before > now() FOR UPDATE SKIP LOCKED)";
const LOOK_AT_ALL_LANES: &str = "UPDATE lanes SET due_at = now(), misses = 0
    WHERE (execution_id, host) IN (SELECT execution_id, host FROM lanes FOR UPDATE SKIP LOCKED)";
const CUT_CONNECTIONS: &str = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name IN ('crawlify-worker', 'crawlify-coordinator')";

/// Dropped in this order: the database goes last.
pub(super) struct Fleet {
    workers: Vec<Process<Worker>>,
    /// Those that were told to stop.
    leaving: Vec<Process<Worker>>,
    coordinator: Process<Coordinator>,
    /// Those that were killed.
    dead: Vec<Uuid>,
    pub(super) place: Place,
    pub(super) crawl: Crawl,
}

impl Fleet {
    pub(super) async fn start(site: Site, max_pages: Option<u64>) -> Self {
        let starts = site.start_urls();
        let starts: Vec<_> = starts.iter().map(String::as_str).collect();
        let limits = Limits { max_pages, ..NO_LIMITS };
        let crawl = Crawl::of(&site.workflow(), limits, &starts).await;
        let (broker, web) = (Arc::<UnreliableBroker>::default(), Arc::new(Web::of(site)));
        let place = Place { database: crawl.database.url(), broker, web };
        let coordinator = place.start_coordinator().await;
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            workers.push(place.start_worker().await);
        }
        Self { workers, leaving: Vec::new(), coordinator, dead: Vec::new(), place, crawl }
    }

    /// Lets the fleet work until it has visited so many pages more, or it takes too long.
    pub(super) async fn work(&self, pages: u64) {
        let _ = timeout(A_WHILE, self.place.web.visited(pages)).await;
    }

    pub(super) async fn perform(&mut self, operation: Operation) {
        let (store, execution) = (self.crawl.store.clone(), self.crawl.execution);
        match operation {
            Operation::KillWorker { worker } => {
                let killed = self.exchange(worker).await;
                self.dead.push(killed.role.id.0);
            }
            Operation::StopWorker { worker } => {
                let leaving = self.exchange(worker).await;
                leaving.stop.cancel();
                self.leaving.push(leaving);
            }
            Operation::GiveUpWorker { worker } => {
                self.silence(&[self.workers[worker].role.id.0]).await;
                self.rescue(NONE_IS_LOST).await;
            }
            Operation::Overdue { worker } => {
                let worker = self.workers[worker].role.id.0;
                sqlx::query(OVERDUE).bind(worker).execute(&self.crawl.pool).await.unwrap();
                self.rescue(NONE_IS_LOST).await;
            }
            Operation::KillCoordinator => self.coordinator = self.place.start_coordinator().await,
            Operation::Rescue { messages_are_lost } => {
                self.silence(&self.dead).await;
                self.rescue(if messages_are_lost { Duration::ZERO } else { NONE_IS_LOST }).await;
            }
            Operation::PausesEnd => self.end_pauses().await,
            Operation::CutConnections => {
                sqlx::query(CUT_CONNECTIONS).execute(&self.crawl.pool).await.unwrap();
            }
            Operation::Repeat { message } => self.place.broker.repeat(message).await,
            Operation::Lose { messages } => self.place.broker.lose(messages),
            Operation::LoseConfirms { messages } => self.place.broker.lose_confirms(messages),
            Operation::Pause => {
                store.pause_execution(execution, None).await.unwrap();
            }
            Operation::Resume => {
                store.resume_execution(execution, None).await.unwrap();
            }
            Operation::Cancel { now } => {
                let mode = if now { CancelMode::Now } else { CancelMode::Graceful };
                store.cancel_execution(execution, mode, None).await.unwrap();
            }
            Operation::Limit { max_pages } => {
                let max_pages = Some(max_pages.map(i64::from));
                let changes = LimitChanges { max_pages, weight: Some(1), ..LimitChanges::default() };
                store.change_limits(execution, changes, None).await.unwrap();
            }
            Operation::Retry => {
                store.retry_execution(execution, None).await.unwrap();
            }
        }
    }

    /// Nothing happens any more, and nobody is given up who lives: the fleet brings the crawl to its end.
    pub(super) async fn reach_the_end(&self) {
        self.place.broker.behave();
        self.crawl.store.resume_execution(self.crawl.execution, None).await.unwrap();
        self.silence(&self.dead).await;
        self.rescue(Duration::ZERO).await;
        let ended = wait_for("the crawl ended", 2 * WITHIN, async || {
            self.end_pauses().await;
            self.silence(&self.dead).await;
            self.rescue(LOST_SOON).await;
            self.has_ended().await
        });
        if timeout(WITHIN, ended).await.is_err() {
            panic!("the crawl does not end: {:#?}", self.pages().await);
        }
    }

    /// Everybody stops when told to, whatever has happened.
    pub(super) async fn stop(&self) {
        let workers = || self.workers.iter().chain(&self.leaving);
        workers().for_each(|worker| worker.stop.cancel());
        for worker in workers() {
            timeout(WITHIN, worker.role.stopped()).await.expect("the worker stops");
        }
        self.coordinator.stop.cancel();
        timeout(WITHIN, self.coordinator.role.stopped()).await.expect("the coordinator stops");
    }

    /// Puts another worker in the place of one.
    async fn exchange(&mut self, worker: usize) -> Process<Worker> {
        let another = self.place.start_worker().await;
        replace(&mut self.workers[worker], another)
    }

    /// These workers were not heard of for long.
    async fn silence(&self, workers: &[Uuid]) {
        sqlx::query(SILENCE).bind(workers).execute(&self.crawl.pool).await.unwrap();
    }

    async fn rescue(&self, message_lost_after: Duration) {
        self.crawl.store.rescue(Some(PATIENCE), message_lost_after).await.unwrap();
    }

    async fn end_pauses(&self) {
        for statement in [PAUSES_END, LOOK_AT_ALL_LANES] {
            sqlx::query(statement).execute(&self.crawl.pool).await.unwrap();
        }
    }

    async fn has_ended(&self) -> bool {
        let open = "SELECT count(*) FROM url_queue WHERE status IN ('pending', 'queued', 'processing')";
        let row = self.crawl.store.execution(self.crawl.execution).await.unwrap();
        row.expect("the execution is there").status.has_ended() && self.crawl.number(open).await == 0
    }
}
