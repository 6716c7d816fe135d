//! One tab at work: loads pages and runs steps in them, each within its deadline. Opens and closes no targets itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chromiumoxide_cdp::cdp::browser_protocol::page::{NavigateParams, NavigateReturns};
use chromiumoxide_cdp::cdp::js_protocol::runtime::{CallArgument, CallFunctionOnReturns, ExecutionContextId};
use chromiumoxide_types::Command;
use chrono::{DateTime, Utc};
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::WaitUntil;
use serde_json::Value;
use tokio::sync::watch::error::RecvError;
use tokio::sync::watch::{Receiver, Ref};
use tokio::time::Instant;

use super::attach::AttachedTab;
use super::browser::Browser;
use super::driver::{Document, DomProgram, Input, StepResult, Tab, TabError};
use super::failure;
use super::page_load::Excess;
use super::page_state::{MAX_DOCUMENTS, PageState};
use super::pending::Pending;
use super::run;
use super::tabs::Lease;

/// Completes "the deadline passed while ...".
pub(super) const BUSY: &str = "the page was busy";
const RUNNING: &str = "its nodes ran";
/// So long before the deadline a run answers what it knows.
const RUN_ENDS_BEFORE: Duration = Duration::from_millis(500);
/// How often a navigation is begun again because the page before it navigated at the same moment.
const CROSSED_NAVIGATIONS: u32 = 2;

/// A tab of the real browser. Dropping it closes the target.
#[derive(Debug)]
pub(super) struct ChromeTab {
    /// `None` once it was given back.
    tab: Option<AttachedTab>,
    pub(super) browser: Arc<Browser>,
    lease: Lease,
    /// The isolated world of the present document.
    pub(super) world: Option<ExecutionContextId>,
    usable: bool,
    /// How many redirects led to the documents that there were.
    pub(super) redirects: u32,
    /// A run that began with the page.
    pub(super) ahead: Option<Ahead>,
}

/// A run that nobody has asked for the results of yet.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Where its program is, which lives longer than this is looked at.
    program: usize,
    began: DateTime<Utc>,
    pending: Pending<CallFunctionOnReturns>,
}

impl ChromeTab {
    pub(super) fn new(tab: AttachedTab, lease: Lease, browser: Arc<Browser>) -> Self {
        Self { tab: Some(tab), browser, lease, world: None, usable: true, redirects: 0, ahead: None }
    }

    pub(super) fn attached(&self) -> Result<&AttachedTab, TabError> {
        self.tab.as_ref().ok_or_else(failure::tab_crashed)
    }

    /// Sends a command to the tab; a crash and a flood of dialogs or loads end the wait for its answer.
    pub(super) async fn call<C: Command>(
        &self,
        command: &C,
        deadline: Instant,
        doing: &str,
    ) -> Result<C::Response, TabError> {
        let tab = self.attached()?;
        let answer = self.browser.launched.connection.call(Some(&tab.session), command, deadline);
        self.unless_broken(async { answer.await.map_err(|error| failure::of_call(error, doing)) }).await
    }

    /// Work in the tab, which ends when the tab or its page is broken.
    pub(super) async fn unless_broken<T>(
        &self,
        work: impl Future<Output = Result<T, TabError>>,
    ) -> Result<T, TabError> {
        let mut state = self.attached()?.events.watch();
        let broken = state.wait_for(|state| failure::of_state(state).is_some());
        tokio::select! {
            biased;
            result = work => match result {
                // A tab that goes because the whole browser went is the browser's loss.
                Err(error) if error.failure.class != ErrorClass::BrowserLost
                    && self.browser.launched.connection.is_lost() => Err(failure::browser_lost()),
                // One that was closed for what its page loads was not lost.
                Err(error) => Err(self.excess().map_or(error, failure::loads_too_much)),
                result => result,
            },
            // Not every wait is one for an answer.
            () = self.browser.launched.connection.lost() => Err(failure::browser_lost()),
            state = broken => {
                Err(state.ok().and_then(|state| failure::of_state(&state)).unwrap_or_else(failure::tab_crashed))
            }
        }
    }

    fn excess(&self) -> Option<Excess> {
        self.tab.as_ref()?.events.watch().borrow().excess
    }

    /// Begins a navigation and waits for the response's headers.
    async fn begin(&self, url: &PageUrl, deadline: Instant) -> Result<NavigateReturns, TabError> {
        let navigate = NavigateParams::new(url.as_str());
        let AttachedTab { events, gate, .. } = self.attached()?;
        let _awaited = gate.as_ref().map(|gate| gate.await_document(url.host()));
        for _ in 0..CROSSED_NAVIGATIONS {
            events.begin_navigation();
            let answer = self.call(&navigate, deadline, "the server had not answered").await?;
            let loader = answer.loader_id.as_ref().map(AsRef::as_ref);
            let was_aborted = answer.error_text.as_deref() == Some("net::ERR_ABORTED");
            let is_download = answer.is_download.unwrap_or(false);
            if !(was_aborted && !is_download && events.watch().borrow().was_crossed(loader)) {
                return Ok(answer);
            }
        }
        events.begin_navigation();
        self.call(&navigate, deadline, "the server had not answered").await
    }

    async fn load(
        &mut self,
        url: &PageUrl,
        wait_until: WaitUntil,
        first: Option<&DomProgram>,
        deadline: Instant,
    ) -> Result<Document, TabError> {
        let mut cuts = self.watch_cuts()?;
        self.attached()?.events.load.begin();
        let navigated = self.begin(url, deadline).await?;
        if let Some(error_text) = &navigated.error_text {
            if failure::is_bare_status(error_text) {
                // What there is now is the browser's own page about it, which nothing should be read from.
                let (description, _) = self.describe_anew(navigated.frame_id, deadline).await?;
                self.redirects += description.redirects(None);
                let url = url.as_url().clone();
                return Ok(Document {
                    base_url: url.clone(),
                    final_url: url,
                    status: description.status(),
                    retry_after: None,
                    answered_in: None,
                    bytes: description.bytes,
                });
            }
            let is_download = navigated.is_download.unwrap_or(false);
            let said = failure::of_navigation(error_text, is_download);
            let failure = match failure::is_of_tunnel(error_text) {
                true => self.why_unreachable(url, deadline).await?.unwrap_or(said),
                false => match self.unreachable_url(deadline).await? {
                    Some(met) => said.met_at(&met, url.as_url()),
                    None => said,
                },
            };
            return Err(TabError { failure, tab_usable: true });
        }
        let loader = navigated.loader_id.map(String::from).unwrap_or_default();
        let mut state = self.attached()?.events.watch();
        loop {
            // The world is made while the page loads. It may be one of a document that gives way to another.
            let frame = || navigated.frame_id.clone();
            let (documents, world) = tokio::join!(
                self.unless_cut(&mut cuts, self.reached(&mut state, wait_until, &loader, deadline), deadline),
                self.make_world(frame(), deadline)
            );
            let documents = documents?;
            let mut ahead = None;
            let description = match world {
                Ok(world) => {
                    let description = self.begin_describing(world, deadline).await?;
                    if let Some(program) = first {
                        ahead = Some(self.begin_run(world, program, &[], deadline).await?);
                    }
                    self.described(description, deadline).await.map(|description| (description, world))
                }
                Err(error) => Err(error),
            };
            let description = match description {
                Err(error) if error.tab_usable => {
                    ahead = None;
                    self.describe_anew(frame(), deadline).await
                }
                description => description,
            };
            match description {
                Ok((description, world)) => {
                    let has_stayed = {
                        let state = state.borrow();
                        state.documents.len() == documents && !state.is_leaving()
                    };
                    if has_stayed {
                        // Which address a later document was asked for at is not known.
                        self.redirects += description.redirects((documents == 1).then_some(url));
                    }
                    if has_stayed && description.is_browsers_error() {
                        let failure = self.why_unreachable(url, deadline).await?;
                        let failure = failure.unwrap_or_else(failure::sent_astray);
                        return Err(TabError { failure, tab_usable: true });
                    }
                    if has_stayed {
                        let document = description.document(Some(url), self.attached()?.gate.as_deref())?;
                        self.world = Some(world);
                        self.ahead = ahead;
                        return Ok(document);
                    }
                }
                // It went while it was looked at; the next document is waited for. The deadline ends this.
                Err(error) if error.tab_usable => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the page is as far as it should be; answers how many documents it took.
    async fn reached(
        &self,
        state: &mut Receiver<PageState>,
        wait_until: WaitUntil,
        loader: &str,
        deadline: Instant,
    ) -> Result<usize, TabError> {
        let reached = state
            .wait_for(|state| state.documents.len() > MAX_DOCUMENTS || state.has_reached(wait_until, loader));
        self.counted(reached, deadline).await
    }

    /// How many documents it took to get to a state.
    pub(super) async fn counted(
        &self,
        state: impl Future<Output = Result<Ref<'_, PageState>, RecvError>>,
        deadline: Instant,
    ) -> Result<usize, TabError> {
        let documents = self
            .unless_broken(async {
                match tokio::time::timeout_at(deadline, state).await {
                    Ok(Ok(state)) => Ok(state.documents.len()),
                    Ok(Err(_)) => Err(failure::tab_crashed()),
                    Err(_) => Err(failure::deadline_passed("the page was loading")),
                }
            })
            .await?;
        if documents > MAX_DOCUMENTS { Err(failure::too_many_documents()) } else { Ok(documents) }
    }

    async fn begin_run(
        &self,
        world: ExecutionContextId,
        program: &DomProgram,
        ended: &[usize],
        deadline: Instant,
    ) -> Result<Ahead, TabError> {
        let time_left = deadline.saturating_duration_since(Instant::now() + RUN_ENDS_BEFORE);
        let time_left = u64::try_from(time_left.as_millis()).unwrap_or(u64::MAX);
        let program_text = run::program(program).map_err(not_understood)?;
        let arguments = vec![argument(program_text), argument(ended), argument(time_left)];
        let began = Utc::now();
        let pending = self.begin_call(world, run::RUNNER, arguments, deadline, RUNNING).await?;
        Ok(Ahead { program: std::ptr::from_ref(program).addr(), began, pending })
    }
}

#[async_trait]
impl Tab for ChromeTab {
    async fn navigate(
        &mut self,
        url: &PageUrl,
        wait_until: WaitUntil,
        first: Option<&DomProgram>,
        deadline: Instant,
    ) -> Result<Document, TabError> {
        (self.world, self.ahead, self.redirects) = (None, None, 0);
        self.browser.count_page();
        // Not usable unless this gets to its end: the caller may drop it half-way.
        let was_usable = std::mem::replace(&mut self.usable, false);
        let loaded = self.load(url, wait_until, first, deadline).await;
        self.usable = was_usable && loaded.as_ref().err().is_none_or(|error| error.tab_usable);
        loaded
    }

    async fn run(
        &mut self,
        program: &DomProgram,
        ended: &[usize],
        deadline: Instant,
    ) -> Result<Vec<Option<StepResult>>, TabError> {
        let world = self.world.ok_or_else(|| internal("nodes were run before a page was loaded"))?;
        let was_usable = std::mem::replace(&mut self.usable, false);
        let ahead = self
            .ahead
            .take()
            .filter(|ahead| ahead.program == std::ptr::from_ref(program).addr() && ended.is_empty());
        let begun = match ahead {
            Some(ahead) => Ok(ahead),
            None => self.begin_run(world, program, ended, deadline).await,
        };
        let (began, answer) = match begun {
            Ok(Ahead { began, pending, .. }) => (began, self.returned(pending, deadline, RUNNING).await),
            Err(error) => (Utc::now(), Err(error)),
        };
        let ended = Utc::now();
        self.usable = was_usable && answer.as_ref().err().is_none_or(|error| error.tab_usable);
        run::results(answer?.as_str().unwrap_or_default(), began, ended).map_err(not_understood)
    }

    async fn input(
        &mut self,
        input: &Input,
        wait_until: WaitUntil,
        deadline: Instant,
    ) -> Result<Option<Document>, TabError> {
        let was_usable = std::mem::replace(&mut self.usable, false);
        let led_to = self.act(input, wait_until, deadline).await;
        self.usable = was_usable && led_to.as_ref().err().is_none_or(|error| error.tab_usable);
        led_to
    }

    async fn follow(
        &mut self,
        wait_until: WaitUntil,
        deadline: Instant,
    ) -> Result<Option<Document>, TabError> {
        let was_usable = std::mem::replace(&mut self.usable, false);
        let led_to = self.arrive(None, wait_until, deadline).await;
        self.usable = was_usable && led_to.as_ref().err().is_none_or(|error| error.tab_usable);
        led_to
    }

    async fn look_again(&mut self, deadline: Instant) -> Result<Option<Document>, TabError> {
        ChromeTab::look_again(self, deadline).await
    }

    fn asked_beside(&self) -> u32 {
        let tab = self.tab.as_ref();
        self.redirects + tab.map_or(0, |tab| tab.events.watch().borrow().documents_after_first)
    }

    async fn release(mut self: Box<Self>) {
        // A tab of whose loads Chrome tells is slower than another one.
        if self.usable
            && let Some(tab) = self.tab.take_if(|tab| !tab.events.load.end())
        {
            self.browser.tabs.give_back(self.lease.execution(), tab);
        }
    }
}

impl Drop for ChromeTab {
    fn drop(&mut self) {
        if let Some(tab) = self.tab.take() {
            self.browser.tabs.discard(&tab);
        }
    }
}

fn argument(value: impl Into<Value>) -> CallArgument {
    CallArgument { value: Some(value.into()), ..CallArgument::default() }
}

pub(super) fn not_understood(error: serde_json::Error) -> TabError {
    internal(format!("what the page answered was not understood: {error}"))
}

pub(super) fn internal(message: impl Into<String>) -> TabError {
    TabError { failure: Failure::new(ErrorClass::Internal, message), tab_usable: false }
}
