//! Executes one page: loads it as its shape asks for, runs the program, and puts what came back into an outcome.
//!
//! Never answers an `Err`: whatever happens to the page, its tab or the browser is a [`PageOutcome`]. Knows nothing
//! about stores and brokers.

use std::sync::OnceLock;
use std::time::Duration;

use crawlify_shared::crash::{self, CrashPoint};
use crawlify_shared::domain::outcome::{ErrorClass, PageEnd, PageOutcome, Rendered};
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::url_shape::shape;
use crawlify_shared::domain::workflow::{Isolation, Render};
use tokio::time::Instant;

use crate::chrome::driver::{Document, DomProgram, Driver, Session, Static, Tab, TabError};
use crate::gather::Gathered;
use crate::http::{self, Http};
use crate::lanes::Slot;
use crate::metrics::{Metrics, Step};
use crate::nodes::{Nodes, Stopped};
use crate::page::host_turns::{HostTurns, TooFar};
use crate::page::overdue::{GRACE, unless_overdue};
use crate::program::{PageRun, Plan, Program, Run};
use crate::render::{Course, Renders, compare};

/// How long a tab may take to be free.
const FREE_WITHIN: Duration = Duration::from_secs(15);
/// How long a tab may take to open.
const OPEN_WITHIN: Duration = Duration::from_secs(15);
/// The pause before a page goes back for which no tab opened.
const AFTER_NOT_OPENED: Duration = Duration::from_secs(1);
/// A host that is asked more rarely is not asked twice for the sake of speed.
pub(crate) const UNHURRIED: Duration = Duration::from_secs(1);
/// How long a page may take to be read without being rendered, before it is loaded in a tab.
const READ_WITHIN: Duration = Duration::from_secs(20);

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
    /// From the start of the navigation to the end.
    pub(crate) page: Duration,
}

impl Limits {
    /// How long after `start_at` a page of a host with such a delay has ended at the latest.
    pub(crate) fn longest(self, host_delay: Duration) -> Duration {
        let turns = 3 * HostTurns::longest(host_delay);
        READ_WITHIN
            + FREE_WITHIN
            + (OPEN_WITHIN + GRACE)
            + turns
            + (self.page + GRACE)
            + Duration::from_secs(1)
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
    let started_in = OnceLock::new();
    let visit = Visit { page, program, plan: program.plan(page.depth), session, means, limits, started_in };
    let shape = shape(&page.url);
    let is_unhurried = visit.plan.render == Render::Auto && page.host_delay >= UNHURRIED;
    let render = if is_unhurried { Render::Full } else { visit.plan.render };
    let mut outcome =
        match means.renders.course(page.execution_id, &workflow.phases, &visit.plan.phases, render, &shape) {
            Course::Full => visit.load(slot, Some(limits.start_at)).await,
            Course::Static => {
                slot.go_static().await;
                let read = visit.read(Some(limits.start_at), false).await;
                if let Some(read) = judged(&read) {
                    means.renders.was_read(page.execution_id, &visit.plan.phases, &shape, read.map(|_| ()));
                }
                match read {
                    Ok(outcome) => outcome,
                    Err(NotRead::TooFar) => released(),
                    Err(_) => visit.load(slot, None).await,
                }
            }
            Course::Both => {
                // Read first: what the page's scripts leave behind must not help.
                let read = visit.read(Some(limits.start_at), true).await;
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
                let mut outcome = visit.load(slot, None).await;
                // What was loaded is what counts; a page that was not is no measure for anything.
                if let Some(read) = judged(&read).filter(|_| outcome.end == PageEnd::Completed) {
                    // A phase that the workflow wants static is so, whatever a tab would have given.
                    let is_on_trial = |phase: &usize| workflow.phases[*phase].render == Render::Auto;
                    let on_trial: Vec<_> = visit.plan.phases.iter().copied().filter(is_on_trial).collect();
                    let verdicts = compare(program, &on_trial, &outcome, read);
                    means.renders.were_compared(page.execution_id, &shape, verdicts);
                }
                outcome.bytes += read.as_ref().map_or(0, |read| read.bytes);
                outcome
            }
        };
    visit.note_received(&mut outcome);
    if let Some(host) = visit.asked_beside(&outcome) {
        means.turns.count(&host).await;
    }
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
}

impl Visit<'_> {
    /// Reads the page without rendering it.
    async fn read(&self, turn: Option<Instant>, fresh: bool) -> Result<PageOutcome, NotRead> {
        self.turn(turn).await.map_err(|TooFar| NotRead::TooFar)?;
        let begun = Instant::now();
        let deadline = begun + READ_WITHIN.min(self.limits.page);
        let PageRun { dom, .. } = &self.plan.fused;
        let read = self.means.driver.read_static(&self.session, &self.page.url, dom, fresh, deadline).await;
        self.means.metrics.observe_step(Step::Static, begun.elapsed());
        let (document, results) = match read {
            Static::Read { document, results } => (document, results),
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
        let deadline = Instant::now() + self.limits.page;
        let (mut outcome, tab_usable) = match turn {
            Ok(()) => self.on_tab(tab.as_mut(), deadline).await,
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

    /// A host that wants to be left alone may say for how long, in a header, which a navigation does not show: the address
    /// that it said so at is asked for once more without a tab.
    async fn ask_when_to_return(&self, url: &PageUrl, outcome: &mut PageOutcome, deadline: Instant) {
        let Some(said) = outcome.contact.back_off else { return };
        // Pages that hear it at the same time do not all ask.
        if !self.means.turns.leave_alone(&self.page.host, said)
            || self.means.turns.wait_to_ask(self.page).await.is_err()
        {
            return;
        }
        let deadline = deadline.min(Instant::now() + READ_WITHIN);
        let said = match self.session.isolation {
            Isolation::Execution => {
                let nothing = DomProgram::default();
                match self.means.driver.read_static(&self.session, url, &nothing, true, deadline).await {
                    Static::Read { document, .. } => document.retry_after,
                    Static::NeedsFull(_) | Static::Lost(_) => None,
                }
            }
            // Pages share no cookies, so none are sent.
            Isolation::Page => self.ask_by_ourselves(url, deadline).await,
        };
        outcome.contact.back_off = outcome.contact.back_off.max(said);
    }

    /// For how long the host wants to be left alone, as it says to us and not to the browser.
    async fn ask_by_ourselves(&self, url: &PageUrl, deadline: Instant) -> Option<Duration> {
        let workflow = &self.program.workflow;
        let outlet = self.means.http.outlet(self.page.execution_id, workflow.proxy.as_ref()).await.ok()?;
        let request = outlet
            .get(url.as_str())
            .headers(http::headers(workflow))
            .timeout(deadline.saturating_duration_since(Instant::now()));
        http::back_off(&outlet.send(request).await.ok()?)
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
        let led_to = outcome.final_url.as_deref().and_then(|url| PageUrl::parse(url).ok());
        if let Some(led_to) = led_to.filter(|url| self.is_on_its_host(url)) {
            outcome.contact.back_off = back_off;
            self.ask_when_to_return(&led_to, &mut outcome, deadline).await;
        }
        (outcome, tab_usable)
    }

    /// What becomes of a page that is a document with an HTTP error. Another host to which it was led is not the page's: that it
    /// wants to be left alone is nothing that this one has said.
    fn refused(&self, document: &Document) -> Option<PageOutcome> {
        let (mut failure, mut contact) = document.http_failure()?;
        let answered = PageUrl::parse(document.final_url.as_str());
        if !answered.is_ok_and(|url| self.is_on_its_host(&url)) {
            (contact.back_off, failure.is_elsewhere) = (None, true);
        }
        Some(PageOutcome {
            contact,
            final_url: Some(document.final_url.to_string()),
            bytes: document.bytes,
            ..PageOutcome::failed(failure)
        })
    }

    /// The host that a redirect, or something that was done to the page, has led to.
    fn asked_beside(&self, outcome: &PageOutcome) -> Option<String> {
        let led_to = PageUrl::parse(outcome.final_url.as_deref()?).ok()?;
        let host = led_to.unit_of_politeness(self.page.host_unit);
        let may_have_a_pace = !self.page.host_delay.is_zero() || host != self.page.host;
        (led_to != self.page.url && may_have_a_pace).then(|| host.to_owned())
    }

    fn is_on_its_host(&self, url: &PageUrl) -> bool {
        url.unit_of_politeness(self.page.host_unit) == self.page.host
    }
}
