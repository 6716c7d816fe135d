//! Executes one page: loads it as its shape asks for, runs the program, and puts what came back into an outcome.
//!
//! Never answers an `Err`: whatever happens to the page, its tab or the browser is a [`PageOutcome`]. Knows nothing
//! about stores and brokers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crawlify_shared::crash::{self, CrashPoint};
use crawlify_shared::domain::outcome::{ErrorClass, PageEnd, PageOutcome, Rendered};
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::url_shape::shape;
use crawlify_shared::domain::workflow::Render;
use tokio::time::Instant;

use crate::chrome::driver::{Document, Driver, Session, Static, Tab, TabError};
use crate::gather::Gathered;
use crate::http::Http;
use crate::lanes::Slot;
use crate::metrics::{Metrics, Step};
use crate::nodes::{Nodes, Stopped};
use crate::page::host_turns::{HostTurns, TooFar, is_of_its_host};
use crate::page::overdue::{GRACE, unless_overdue};
use crate::program::{PageRun, Plan, Program, Run};
use crate::render::{Course, Renders, compare};
use crate::when_to_return::Question;

/// How long a tab may take to be free.
const FREE_WITHIN: Duration = Duration::from_secs(15);
/// How long a tab may take to open.
const OPEN_WITHIN: Duration = Duration::from_secs(15);
/// The pause before a page goes back for which no tab opened.
const AFTER_NOT_OPENED: Duration = Duration::from_secs(1);
/// A host that is asked more rarely is not asked twice for the sake of speed.
pub(crate) const UNHURRIED: Duration = Duration::from_secs(1);
/// How long a page may take to be read without being rendered, before it is loaded in a tab.
pub(crate) const READ_WITHIN: Duration = Duration::from_secs(20);

/// What pages are executed with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means<'a> {
    pub(crate) driver: &'a dyn Driver,
    pub(crate) http: &'a Http,
    pub(crate) turns: &'a HostTurns,
    pub(crate) renders: &'a Renders,
    pub(crate) metrics: &'a Metrics,
}

/// When a page may start, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// When the page was ours.
    pub(crate) claimed_at: Instant,
    /// The host's turn, as the claim gave it.
    pub(crate) start_at: Instant,
    /// From the start of the reading or the navigation to the end.
    pub(crate) page: Duration,
}

impl Limits {
    /// How long after `start_at` a page of a host with such a delay has ended at the latest.
    pub(crate) fn longest(self, host_delay: Duration) -> Duration {
        let turns = 3 * HostTurns::longest(host_delay);
        FREE_WITHIN + (OPEN_WITHIN + GRACE) + turns + (self.page + GRACE) + Duration::from_secs(1)
    }
}

/// Executes a page within its limits.
pub(crate) async fn execute(
    page: &ClaimedPage,
    program: &Program,
    means: Means<'_>,
    slot: &mut Slot,
    limits: Limits,
) -> PageOutcome {
    let workflow = &program.workflow;
    let session = Session {
        execution_id: page.execution_id,
        headers: workflow.headers.clone(),
        agent: workflow.agent.clone(),
        block: workflow.block.clone(),
        isolation: workflow.isolation,
        proxy: workflow.proxy.clone(),
    };
    let visit = Visit {
        page,
        program,
        plan: program.plan(page.depth),
        session,
        means,
        limits,
        started_in: OnceLock::new(),
        beside: AtomicU32::new(0),
        read_for: OnceLock::new(),
    };
    let mut outcome = visit.take_course(slot).await;
    // Whatever the page came to.
    visit.note_received(&mut outcome);
    visit.count_beside(&outcome).await;
    outcome.contact.started_in = visit.started_in.get().copied();
    outcome
}

/// The page goes back unharmed.
fn released() -> PageOutcome {
    PageOutcome::nothing(PageEnd::Released)
}

/// Why a page was not read as it came.
enum NotRead {
    /// Only a tab can tell.
    NeedsFull(String),
    /// That is our fault, and says nothing of the page.
    Lost,
    /// Its turn is too far away.
    TooFar,
}

/// What a reading says of its page, if anything.
fn judged(read: &Result<PageOutcome, NotRead>) -> Option<Result<&PageOutcome, &String>> {
    match read {
        Ok(outcome) => Some(Ok(outcome)),
        Err(NotRead::NeedsFull(reason)) => Some(Err(reason)),
        Err(NotRead::Lost | NotRead::TooFar) => None,
    }
}

/// One page on its way.
struct Visit<'a> {
    page: &'a ClaimedPage,
    program: &'a Program,
    plan: &'a Plan,
    session: Session,
    means: Means<'a>,
    limits: Limits,
    /// How long after its claim the host was asked for the page, first.
    started_in: OnceLock<Duration>,
    /// How many requests had no turn of their own.
    beside: AtomicU32,
    /// How much of the page's time went into reading it.
    read_for: OnceLock<Duration>,
}

impl Visit<'_> {
    /// Reads the page, or loads it, or both, as is known of pages of its shape.
    async fn take_course(&self, slot: &mut Slot) -> PageOutcome {
        let (page, plan, means) = (self.page, self.plan, self.means);
        let phases = &self.program.workflow.phases;
        let shape = shape(&page.url);
        let is_unhurried = plan.render == Render::Auto && page.host_delay >= UNHURRIED;
        let render = if is_unhurried { Render::Full } else { plan.render };
        match means.renders.course(page.execution_id, phases, &plan.phases, render, &shape) {
            Course::Full => self.load(slot, Some(self.limits.start_at)).await,
            Course::Static => {
                slot.go_static().await;
                let read = self.read(Some(self.limits.start_at), false).await;
                if let Some(read) = judged(&read) {
                    means.renders.was_read(page.execution_id, &plan.phases, &shape, read.map(|_| ()));
                }
                match read {
                    Ok(outcome) => outcome,
                    Err(NotRead::TooFar) => released(),
                    Err(_) => self.load(slot, None).await,
                }
            }
            Course::Both => {
                // Read first: what the page's scripts leave behind must not help.
                let read = self.read(Some(self.limits.start_at), true).await;
                if matches!(read, Err(NotRead::TooFar)) {
                    return released();
                }
                // That a page is not there, and that its host wants to be left alone, is said to everybody.
                if let Ok(outcome) = &read
                    && let PageEnd::Failed(failure) = &outcome.end
                    && (outcome.contact.back_off.is_some() || !failure.class.is_transient())
                {
                    return read.unwrap_or_else(|_| released());
                }
                let mut outcome = self.load(slot, None).await;
                // What was loaded is what counts; a page that was not is no measure for anything.
                if let Some(read) = judged(&read).filter(|_| outcome.end == PageEnd::Completed) {
                    // A phase that the workflow wants static is so, whatever a tab would have given.
                    let is_on_trial = |phase: &usize| phases[*phase].render == Render::Auto;
                    let on_trial: Vec<_> = plan.phases.iter().copied().filter(is_on_trial).collect();
                    let verdicts = compare(self.program, &on_trial, &outcome, read);
                    means.renders.were_compared(page.execution_id, &shape, verdicts);
                }
                outcome.bytes += read.as_ref().map_or(0, |read| read.bytes);
                outcome
            }
        }
    }

    /// Reads the page without rendering it.
    async fn read(&self, turn: Option<Instant>, fresh: bool) -> Result<PageOutcome, NotRead> {
        self.turn(turn).await.map_err(|TooFar| NotRead::TooFar)?;
        let begun = Instant::now();
        // A tab needs some of the page's time as well.
        let deadline = begun + READ_WITHIN.min(self.limits.page / 2);
        let PageRun { dom, .. } = &self.plan.fused;
        let read = self.means.driver.read_static(&self.session, &self.page.url, dom, fresh, deadline).await;
        let read_for = *self.read_for.get_or_init(|| begun.elapsed());
        self.means.metrics.observe_step(Step::Static, read_for);
        let (document, results) = match read {
            Static::Read { document, results, is_redirected } => {
                self.beside.fetch_add(u32::from(is_redirected), Ordering::Relaxed);
                (document, results)
            }
            Static::NeedsFull(reason) => return Err(NotRead::NeedsFull(reason)),
            Static::Lost(reason) => {
                tracing::debug!(page.id = %self.page.page_id, reason, "a page could not be read as it came");
                return Err(NotRead::Lost);
            }
        };
        // Some servers refuse what is no navigation; that a page is not there they say to everybody.
        if let Some(status @ (400..=403 | 405..=409 | 411..=428 | 430..=499)) = document.status {
            return Err(NotRead::NeedsFull(format!(
                "the server answers with HTTP status {status} without a tab"
            )));
        }
        if let Some(mut outcome) = self.refused(&document) {
            outcome.rendered = Rendered::Static;
            return Ok(outcome);
        }
        let mut gathered = Gathered::new(self.page, self.program, &document);
        if gathered.take(&self.plan.fused, results).is_err() {
            return Err(NotRead::Lost);
        }
        Ok(gathered.into_outcome(PageEnd::Completed, &document, Rendered::Static))
    }

    /// Loads the page in a tab. The tab is there before the host's turn comes, so that opening it does not make the
    /// turn late; waiting for the turn is not the page's fault, so its deadline starts after that.
    async fn load(&self, slot: &Slot, turn: Option<Instant>) -> PageOutcome {
        let begun = Instant::now();
        // Pages that turned out to need one may be before this one. It goes back unharmed if that takes too long.
        let Ok(_turn) = tokio::time::timeout(FREE_WITHIN, slot.tab()).await else {
            return released();
        };
        let _busy = self.means.metrics.slot_busy();
        let open_by = Instant::now() + OPEN_WITHIN;
        let opening = self.means.driver.open(&self.session, open_by);
        let mut tab = match self.unless_overdue(open_by, opening).await.and_then(|opened| opened) {
            Ok(tab) => tab,
            // Nothing of the page was in that browser: it was not to blame, and is none the worse for it.
            Err(error)
                if matches!(
                    error.failure.class,
                    ErrorClass::BrowserLost | ErrorClass::NavTimeout | ErrorClass::TabCrash
                ) =>
            {
                // A worker whose browser is ill must not be the one that takes most.
                tokio::time::sleep(AFTER_NOT_OPENED).await;
                return released();
            }
            Err(error) => return PageOutcome::failed(error.failure),
        };
        self.means.metrics.observe_step(Step::Open, begun.elapsed());
        let turn = self.turn(turn).await;
        let read_for = self.read_for.get().copied().unwrap_or_default();
        let deadline = Instant::now() + self.limits.page.saturating_sub(read_for);
        let (mut outcome, tab_usable) = match turn {
            Ok(()) => {
                let ended = self.on_tab(tab.as_mut(), deadline).await;
                self.beside.fetch_add(tab.asked_beside(), Ordering::Relaxed);
                ended
            }
            Err(TooFar) => (released(), true),
        };
        // Before the tab may go, and what counts with it.
        self.note_received(&mut outcome);
        // A tab that is not given back is destroyed.
        if tab_usable {
            tab.release().await;
        }
        outcome
    }

    /// Waits for work that should end by the deadline, and drops it where it does not.
    async fn unless_overdue<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T, TabError> {
        unless_overdue(self.page.page_id, deadline, self.means.metrics, work).await
    }

    fn note_received(&self, outcome: &mut PageOutcome) {
        if let Some(bytes) = self.means.driver.take_received(self.page.execution_id) {
            *outcome.received.get_or_insert(0) += bytes;
        }
    }

    /// Waits for this turn on the host, or for another one where there is none.
    async fn turn(&self, turn: Option<Instant>) -> Result<(), TooFar> {
        let begun = Instant::now();
        self.means.turns.wait(self.page, turn).await?;
        self.means.metrics.observe_step(Step::Turn, begun.elapsed());
        self.started_in.get_or_init(|| self.limits.claimed_at.elapsed());
        Ok(())
    }

    /// Asks a host that wants to be left alone for how long.
    async fn ask_when_to_return(&self, url: &PageUrl, outcome: &mut PageOutcome, deadline: Instant) {
        let Some(heard) = outcome.contact.back_off else { return };
        let (page, workflow, session) = (self.page, &self.program.workflow, &self.session);
        let question = Question { page, workflow, session, means: self.means };
        outcome.contact.back_off = Some(question.ask(url, heard, deadline).await);
    }

    async fn on_tab(&self, tab: &mut dyn Tab, deadline: Instant) -> (PageOutcome, bool) {
        let begun = Instant::now();
        let first = match self.plan.runs.first() {
            Some(Run::Page(run)) if !run.dom.steps().is_empty() => Some(&run.dom),
            _ => None,
        };
        let navigating = tab.navigate(&self.page.url, self.program.workflow.wait_until, first, deadline);
        let navigated = self.unless_overdue(deadline, navigating).await.and_then(|navigated| navigated);
        self.means.metrics.observe_step(Step::Navigate, begun.elapsed());
        crash::reach(CrashPoint::AfterNavigateBeforeNodes);
        let document = match navigated {
            Ok(document) => document,
            Err(error) => return (PageOutcome::failed(error.failure), error.tab_usable),
        };
        if let Some(mut outcome) = self.refused(&document) {
            self.ask_when_to_return(&self.page.url, &mut outcome, deadline).await;
            return (outcome, true);
        }
        let begun = Instant::now();
        let mut gathered = Gathered::new(self.page, self.program, &document);
        let mut stopped: Option<Stopped> = None;
        let wait_until = self.program.workflow.wait_until;
        let mut nodes = Nodes { tab, wait_until, deadline, has_acted: false };
        for run in &self.plan.runs {
            if let Some(Stopped { error, .. }) = &stopped {
                gathered.lose(run.nodes(), error);
            } else {
                let ran = self.unless_overdue(deadline, nodes.run(run, &mut gathered)).await;
                stopped = match ran {
                    Ok(ran) => ran.err(),
                    Err(error) => {
                        gathered.lose(run.nodes(), &error);
                        Some(error.into())
                    }
                };
            }
        }
        self.means.metrics.observe_step(Step::Nodes, begun.elapsed());
        let tab_usable = stopped.as_ref().is_none_or(|stopped| stopped.error.tab_usable);
        let back_off = stopped.as_ref().and_then(|stopped| stopped.back_off);
        let end = stopped.map_or(PageEnd::Completed, |stopped| PageEnd::Failed(stopped.error.failure));
        let mut outcome = gathered.into_outcome(end, &document, Rendered::Full);
        // Where something that was done to the page has led.
        let led_to = outcome.final_url.as_deref().filter(|url| is_of_its_host(self.page, url));
        if let Some(led_to) = led_to.and_then(|url| PageUrl::parse(url).ok()) {
            outcome.contact.back_off = back_off;
            self.ask_when_to_return(&led_to, &mut outcome, deadline).await;
        }
        (outcome, tab_usable)
    }

    /// What becomes of a page that is a document with an HTTP error. Another host to which it was led is not the page's: that it
    /// wants to be left alone is nothing that this one has said.
    fn refused(&self, document: &Document) -> Option<PageOutcome> {
        let (mut failure, mut contact) = document.http_failure()?;
        if !is_of_its_host(self.page, document.final_url.as_str()) {
            (contact.back_off, failure.is_elsewhere) = (None, true);
        }
        Some(PageOutcome {
            contact,
            final_url: Some(document.final_url.to_string()),
            bytes: document.bytes,
            ..PageOutcome::failed(failure)
        })
    }

    /// Counts the requests that had no turn, because redirects, scripts or clicks have led there. Of another host only the last one
    /// is known to have gone there.
    async fn count_beside(&self, outcome: &PageOutcome) {
        let requests = self.beside.load(Ordering::Relaxed);
        if requests == 0 {
            return;
        }
        let led_to = outcome.final_url.as_deref().and_then(|url| PageUrl::parse(url).ok());
        let led_to = led_to.as_ref().map(|url| url.unit_of_politeness(self.page.host_unit));
        let elsewhere = led_to.filter(|host| *host != self.page.host);
        if let Some(host) = elsewhere {
            self.means.turns.count(host, 1).await;
        }
        let here = requests - u32::from(elsewhere.is_some());
        if here > 0 && !self.page.host_delay.is_zero() {
            self.means.turns.count(&self.page.host, here).await;
        }
    }
}
