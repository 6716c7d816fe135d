//! One crawl, and whoever works on it: what each operation does, and what must hold at once when it is done.
//!
//! Messages and the pages in workers' hands are kept here; everything else is Postgres, asked through the same
//! functions as in earnest. Nothing here waits for a time to come: what a time would bring is done to the rows.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::fault::Verdict;
use crawlify_shared::domain::id::{ExecutionId, PageId};
use crawlify_shared::domain::outcome::{ErrorClass, Failure, NodeEnd, PageEnd, Rendered};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus, NodeTable};
use crawlify_shared::store::control::{CancelMode, Controlled, LimitChanges};
use crawlify_shared::store::executions::ExecutionStatus;
use crawlify_shared::store::hot::{ClaimRequest, HotStore, Standing};
use crawlify_shared::store::rescue::Patience;
use futures_util::future::join;
use harness::crawl::{Crawl, LEASE, VITALS, finished, small_table};
use tokio::sync::Mutex;

use super::operation::{Answer, End, Operation, Publish, Step};
use super::site::Site;

/// Nobody is unheard of for so long but by [`Operation::Silence`].
const PATIENCE: Patience =
    Patience { worker_lost_after: Duration::from_secs(600), after_start: Duration::ZERO, server: None };

pub(super) struct World<'c> {
    pub(super) crawl: &'c Crawl,
    pub(super) workers: &'c [HotStore],
    pub(super) execution: ExecutionId,
    pub(super) site: &'c Site,
    pub(super) state: RefCell<State>,
    /// Held by each worker's claim: one is under way at a time.
    claiming: Vec<Mutex<()>>,
    table: Arc<NodeTable>,
    /// Whether nothing else happens at this moment, so that it is known what must come of it.
    alone: Cell<bool>,
}

pub(super) struct State {
    pub(super) status: ExecutionStatus,
    /// In the broker.
    messages: Vec<ClaimRequest>,
    /// Every message that ever was.
    published: Vec<ClaimRequest>,
    in_hand: Vec<Held>,
    /// Groups that were sent to be recorded.
    sent: Vec<Vec<Sent>>,
    /// What the store says that it has written, in order.
    pub(super) written: Vec<Written>,
    /// The last claim of each page.
    last_claim: HashMap<PageId, Claim>,
    claims: usize,
}

/// A page that a worker believes to be its own.
#[derive(Clone, Debug)]
struct Held {
    worker: usize,
    claim: usize,
    page: ClaimedPage,
}

/// A claim's number, and its fence.
#[derive(Clone, Copy)]
struct Claim {
    number: usize,
    fence: (i32, i32),
}

#[derive(Clone)]
struct Sent {
    held: Held,
    finished: FinishedPage,
}

/// A record that was written.
pub(super) struct Written {
    pub(super) page_id: PageId,
    pub(super) attempt: i32,
    pub(super) next: NextStatus,
    /// The positions of the nodes.
    pub(super) nodes: Vec<u16>,
    claim: usize,
}

impl Held {
    /// What its message says.
    fn request(&self) -> ClaimRequest {
        ClaimRequest { page_id: self.page.page_id, epoch: self.page.epoch }
    }
}

impl<'c> World<'c> {
    pub(super) fn new(
        crawl: &'c Crawl,
        workers: &'c [HotStore],
        execution: ExecutionId,
        site: &'c Site,
    ) -> Self {
        let state = State {
            status: ExecutionStatus::Running,
            messages: Vec::new(),
            published: Vec::new(),
            in_hand: Vec::new(),
            sent: Vec::new(),
            written: Vec::new(),
            last_claim: HashMap::new(),
            claims: 0,
        };
        let claiming = workers.iter().map(|_| Mutex::default()).collect();
        let (state, table, alone) = (RefCell::new(state), small_table(), Cell::new(true));
        Self { crawl, workers, execution, site, state, claiming, table, alone }
    }

    pub(super) async fn take(&self, step: Step) {
        match step {
            Step::One(operation) => self.perform(operation).await,
            Step::Both(one, other) => {
                self.alone.set(false);
                join(self.perform(one), self.perform(other)).await;
                self.alone.set(true);
                self.state.borrow_mut().status = self.status_in_store().await;
            }
        }
    }

    pub(super) async fn perform(&self, operation: Operation) {
        let store = &self.crawl.store;
        match operation {
            Operation::Dispatch { pages, publish } => self.dispatch(i64::from(pages), publish).await,
            Operation::Claim { worker, messages, answer } => {
                self.claim(usize::from(worker), usize::from(messages), answer).await;
            }
            Operation::Duplicate { message } => {
                let state = &mut *self.state.borrow_mut();
                state.messages.extend(at(&state.published, message).copied());
            }
            Operation::Lose { message } => {
                let messages = &mut self.state.borrow_mut().messages;
                if !messages.is_empty() {
                    messages.remove(usize::from(message) % messages.len());
                }
            }
            Operation::Record { worker, first, pages, end } => {
                let group = self.take_in_hand(usize::from(worker), first, usize::from(pages));
                self.record(group.into_iter().map(|held| self.end(held, end)).collect()).await;
            }
            Operation::Repeat { record } => {
                let group = at(&self.state.borrow().sent, record).cloned();
                self.record(group.unwrap_or_default()).await;
            }
            Operation::Heartbeat { worker } => self.heartbeat(usize::from(worker)).await,
            Operation::Silence { worker } => self.silence(usize::from(worker)).await,
            Operation::Overdue { page } => {
                let page = at(&self.state.borrow().in_hand, page).map(|held| held.page.page_id.0);
                let overdue = "UPDATE url_queue SET locked_until = now() - interval '1 second'
                    WHERE id = $1 AND status = 'processing'";
                sqlx::query(overdue).bind(page).execute(&self.crawl.pool).await.unwrap();
            }
            Operation::Retire { worker } => self.workers[usize::from(worker)].retire().await.unwrap(),
            Operation::Rescue { messages_are_lost } => {
                let after = if messages_are_lost { Duration::ZERO } else { Duration::from_secs(600) };
                store.rescue(Some(PATIENCE), after).await.unwrap();
                store.take_losses_back().await.unwrap();
            }
            Operation::Finish => self.finish().await,
            Operation::Pause => self.note(store.pause_execution(self.execution, None).await.unwrap()),
            Operation::Resume => self.note(store.resume_execution(self.execution, None).await.unwrap()),
            Operation::Cancel { now } => {
                let mode = if now { CancelMode::Now } else { CancelMode::Graceful };
                self.note(store.cancel_execution(self.execution, mode, None).await.unwrap());
            }
            Operation::Limit { max_pages } => {
                let max_pages = Some(max_pages.map(i64::from));
                let changes = LimitChanges { max_pages, weight: Some(1), ..LimitChanges::default() };
                self.note(store.change_limits(self.execution, changes, None).await.unwrap());
            }
            Operation::Retry => self.note(store.retry_execution(self.execution, None).await.unwrap().act),
        }
    }

    pub(super) async fn dispatch(&self, pages: i64, publish: Publish) {
        // Whether a lane is looked at now or in some moments is of no interest here.
        let due = "UPDATE lanes SET due_at = now() WHERE execution_id = $1";
        sqlx::query(due).bind(self.execution.0).execute(&self.crawl.pool).await.unwrap();
        let reserved = self.crawl.store.reserve_pages(self.execution, pages).await.unwrap();
        if self.alone.get() && self.state.borrow().status != ExecutionStatus::Running {
            assert!(reserved.is_empty(), "pages were dispatched though the execution does not run");
        }
        if matches!(publish, Publish::Confirmed | Publish::ConfirmLost) {
            let messages =
                reserved.iter().map(|page| ClaimRequest { page_id: page.page_id, epoch: page.epoch });
            let state = &mut *self.state.borrow_mut();
            state.messages.extend(messages.clone());
            state.published.extend(messages);
        }
        if matches!(publish, Publish::ConfirmLost | Publish::Refused) {
            self.crawl.store.return_unpublished(&reserved).await.unwrap();
        }
    }

    pub(super) async fn claim(&self, worker: usize, messages: usize, answer: Answer) {
        let _claiming = self.claiming[worker].lock().await;
        let requests: HashSet<ClaimRequest> = {
            let State { messages: waiting, in_hand, .. } = &mut *self.state.borrow_mut();
            let taken = messages.min(waiting.len());
            let is_in_hand = |wanted: &ClaimRequest| {
                in_hand.iter().any(|held| held.worker == worker && held.request() == *wanted)
            };
            waiting.drain(..taken).filter(|wanted| !is_in_hand(wanted)).collect()
        };
        let requests: Vec<_> = requests.into_iter().collect();
        let mut claimed = self.workers[worker].claim(&requests, LEASE, false).await.unwrap();
        let mut numbers = self.number(&claimed, false);
        match answer {
            Answer::Comes => {}
            Answer::Lost => {
                claimed = self.workers[worker].claim(&requests, LEASE, true).await.unwrap();
                numbers = self.number(&claimed, true);
            }
            Answer::Never => return,
        }
        if self.alone.get() && self.state.borrow().status != ExecutionStatus::Running {
            assert!(claimed.is_empty(), "pages were claimed though the execution does not run");
        }
        let in_hand = &mut self.state.borrow_mut().in_hand;
        let is_twice = in_hand.iter().find(|held| numbers.contains(&held.claim));
        assert!(is_twice.is_none(), "{is_twice:?} was claimed while it was in hand");
        in_hand.extend(numbers.into_iter().zip(claimed).map(|(claim, page)| Held { worker, claim, page }));
    }

    /// Gives claims their numbers. One that is made `again` may answer what that claim, or one whose answer never came, took for
    /// the worker: that is no other claim, and its fence is the same.
    fn number(&self, claimed: &[ClaimedPage], again: bool) -> Vec<usize> {
        let state = &mut *self.state.borrow_mut();
        let mut numbers = Vec::new();
        for page in claimed {
            let fence = (page.epoch, page.attempt);
            let known = state.last_claim.get(&page.page_id).filter(|claim| again && claim.fence == fence);
            let claim = known.copied().unwrap_or(Claim { number: state.claims, fence });
            state.last_claim.insert(page.page_id, claim);
            state.claims += 1;
            numbers.push(claim.number);
        }
        numbers
    }

    fn take_in_hand(&self, worker: usize, first: u8, pages: usize) -> Vec<Held> {
        let in_hand = &mut self.state.borrow_mut().in_hand;
        let (ours, others): (Vec<_>, Vec<_>) = in_hand.drain(..).partition(|held| held.worker == worker);
        let mut ours = ours;
        if !ours.is_empty() {
            let length = ours.len();
            ours.rotate_left(usize::from(first) % length);
        }
        let kept = ours.split_off(pages.min(ours.len()));
        in_hand.extend(others.into_iter().chain(kept));
        ours
    }

    /// What comes of a page that a worker has in its hands.
    fn end(&self, held: Held, end: End) -> Sent {
        let links = self.site.links_of(held.page.url.as_str());
        let mut finished = finished(&held.page, &self.table, &links);
        match end {
            End::Completed => {}
            End::Static => finished.outcome.rendered = Rendered::Static,
            End::NodesFailed => {
                let failure = Failure::new(ErrorClass::SelectorMissing, "nothing matches");
                finished.outcome.nodes[0].end = NodeEnd::Failed(failure.clone());
                finished.outcome.nodes[1].end = NodeEnd::Cancelled(failure);
            }
            End::Transient => fail(&mut finished, ErrorClass::TabCrash),
            End::BrowserLost => fail(&mut finished, ErrorClass::BrowserLost),
            End::ForGood => fail(&mut finished, ErrorClass::Http4xx),
            End::Released => {
                finished.outcome.end = PageEnd::Released;
                finished.outcome.nodes.clear();
                finished.next = NextStatus::Released;
            }
        }
        Sent { held, finished }
    }

    /// Sends a group, and notes what the store says that it has written: never anything of a page that was claimed once
    /// more since, and nothing twice.
    async fn record(&self, group: Vec<Sent>) {
        let Some(worker) = group.first().map(|sent| sent.held.worker) else { return };
        let pages: Vec<_> = group.iter().map(|sent| sent.finished.clone()).collect();
        let written = self.workers[worker].record(&pages).await.unwrap();
        let state = &mut *self.state.borrow_mut();
        for page_id in written {
            let last_claim = state.last_claim[&page_id].number;
            let sent = group.iter().find(|sent| sent.held.claim == last_claim);
            let sent = sent.unwrap_or_else(|| panic!("{page_id} was recorded by who had it before"));
            assert!(
                state.written.iter().all(|written| written.claim != last_claim),
                "{page_id} was recorded twice"
            );
            state.written.push(Written {
                page_id,
                attempt: sent.finished.page.attempt,
                next: sent.finished.next.clone(),
                nodes: sent.finished.outcome.nodes.iter().map(|node| node.position).collect(),
                claim: last_claim,
            });
        }
        state.sent.push(group);
    }

    /// Every worker records what it has in its hands, as pages that went well.
    pub(super) async fn record_all_in_hand(&self) {
        for worker in 0..self.workers.len() {
            let group = self.take_in_hand(worker, 0, usize::MAX);
            self.record(group.into_iter().map(|held| self.end(held, End::Completed)).collect()).await;
        }
    }

    /// Whatever was ever sent to broker or store comes once more.
    pub(super) async fn everything_comes_again(&self) {
        let sent = self.state.borrow().sent.clone();
        for group in sent {
            self.record(group).await;
        }
        let published = self.state.borrow().published.clone();
        for worker in self.workers {
            let claimed = worker.claim(&published, LEASE, true).await.unwrap();
            assert!(claimed.is_empty(), "a page was claimed after the end: {claimed:?}");
        }
    }

    async fn heartbeat(&self, worker: usize) {
        let beat = self.workers[worker].heartbeat(VITALS).await.unwrap();
        if beat.standing == Standing::Unknown {
            self.begin_anew(worker).await;
        }
        if beat.abandoned.contains(&self.execution) {
            let group = self.take_in_hand(worker, 0, usize::MAX);
            self.record(group.into_iter().map(|held| self.end(held, End::Released)).collect()).await;
        }
    }

    /// An execution ends with its last page, and not before.
    async fn finish(&self) {
        let store = &self.crawl.store;
        store.put_pages_back(None).await.unwrap();
        store.sweep_leftover_pages().await.unwrap();
        let ended = store.finish_executions().await.unwrap();
        if !self.alone.get() {
            return;
        }
        let was = self.state.borrow().status;
        let open = self.open_pages().await;
        let has_ended = ended.iter().any(|(execution, _)| *execution == self.execution);
        let is_over = was == ExecutionStatus::Running && open == 0;
        assert_eq!(has_ended, is_over, "it was {was:?}, and {open} pages were open");
        if has_ended {
            self.state.borrow_mut().status = self.status_in_store().await;
        }
    }

    pub(super) async fn open_pages(&self) -> i64 {
        let open = "SELECT count(*) FROM url_queue
            WHERE execution_id = $1 AND status IN ('pending', 'queued', 'processing')";
        sqlx::query_scalar(open).bind(self.execution.0).fetch_one(&self.crawl.pool).await.unwrap()
    }

    async fn status_in_store(&self) -> ExecutionStatus {
        self.crawl.store.execution(self.execution).await.unwrap().expect("the execution is there").status
    }

    fn note(&self, act: Controlled) {
        if let Controlled::Done(standing) = act {
            self.state.borrow_mut().status = standing.status;
        }
    }
}

/// A page whose nodes ran, but which failed in the end; whether it is tried again is judged as a worker does.
fn fail(finished: &mut FinishedPage, class: ErrorClass) {
    let failure = Failure::new(class, "it failed");
    finished.outcome.end = PageEnd::Failed(failure.clone());
    finished.next = match finished.page.faults.judge(&failure) {
        Verdict::Retry(_) => NextStatus::Retry(failure, Duration::ZERO),
        Verdict::GiveUp => NextStatus::Failed(failure),
        Verdict::Quarantine => NextStatus::Failed(Failure::new(ErrorClass::Poison, "quarantined")),
    };
}

/// The one that is meant.
fn at<T>(all: &[T], number: u8) -> Option<&T> {
    (!all.is_empty()).then(|| &all[usize::from(number) % all.len()])
}
