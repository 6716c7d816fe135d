//! A driver without a browser, for tests of what uses one: each URL does what the test says, attempt after attempt.
//! It keeps the contract of [`Driver`] and [`Tab`], deadlines included; it knows nothing of HTML.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::Utc;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::WaitUntil;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

use super::driver::{
    Document, DomProgram, DomStep, Driver, Input, Session, Static, StepResult, Tab, TabError,
};
use super::failure;

/// What happens when a URL is loaded.
#[derive(Clone)]
pub enum FakePage {
    /// It loads, and each step gives what `answer` says.
    Loads {
        /// Where it ends up; `None` is the URL itself.
        final_url: Option<Url>,
        /// The HTTP status.
        status: u16,
        /// The output of a step.
        answer: Answer,
    },
    /// The navigation fails.
    Fails(TabError),
    /// It loads, but the run of its steps is lost.
    LosesRun(TabError),
    /// The navigation never ends, so that its deadline does.
    Hangs,
    /// The navigation never ends, whatever its deadline.
    NeverEnds,
    /// It loads, but the run of its steps never ends, whatever its deadline.
    NeverEndsRun,
    /// The navigation panics.
    Panics,
    /// The browser dies. It is ready again after [`FakeDriver::set_ready`].
    LosesBrowser,
}

/// Gives the output of a step.
pub type Answer = Arc<dyn Fn(&DomStep) -> Result<Value, Failure> + Send + Sync>;

/// The driver without a browser.
#[derive(Debug, Default)]
pub struct FakeDriver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ready: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// What happens at the next loads of a URL; the last entry stays.
    pages: HashMap<String, VecDeque<FakePage>>,
    loads: Vec<(Session, PageUrl)>,
    inputs: Vec<Input>,
    led_to: Option<(Url, u16)>,
    /// What steps give when a URL is read without being rendered.
    statics: HashMap<String, FakePage>,
    static_reads: usize,
    /// So many tabs from now on do not open.
    not_opening: usize,
    open_tabs: usize,
    released_tabs: usize,
}

/// A tab without a browser.
#[derive(Debug)]
struct FakeTab {
    shared: Arc<Shared>,
    session: Session,
    page: Option<FakePage>,
}

impl FakePage {
    /// A page with status 200 whose steps give what `answer` says.
    pub fn loads(answer: impl Fn(&DomStep) -> Result<Value, Failure> + Send + Sync + 'static) -> Self {
        Self::Loads { final_url: None, status: 200, answer: Arc::new(answer) }
    }

    /// A page with a status whose steps give `null`.
    pub fn with_status(status: u16) -> Self {
        Self::Loads { final_url: None, status, answer: Arc::new(|_| Ok(Value::Null)) }
    }

    /// A page whose navigation fails, with a tab that can be used again.
    pub fn fails(class: ErrorClass, message: &str) -> Self {
        Self::Fails(TabError { failure: Failure::new(class, message), tab_usable: true })
    }
}

impl FakeDriver {
    /// Makes a driver that is ready, and knows no pages: each URL's host is not found.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what happens at the next loads of a URL, one entry each; the last one stays.
    #[must_use]
    pub fn with_page(self, url: &str, loads: impl IntoIterator<Item = FakePage>) -> Self {
        let url = PageUrl::parse(url).map_or_else(|_| url.to_owned(), |url| url.as_str().to_owned());
        self.shared.state().pages.insert(url, loads.into_iter().collect());
        self
    }

    /// Says what the steps give when a URL is read without being rendered; others need a tab.
    #[must_use]
    pub fn with_static(
        self,
        url: &str,
        answer: impl Fn(&DomStep) -> Result<Value, Failure> + Send + Sync + 'static,
    ) -> Self {
        let url = PageUrl::parse(url).map_or_else(|_| url.to_owned(), |url| url.as_str().to_owned());
        self.shared.state().statics.insert(url, FakePage::loads(answer));
        self
    }

    /// The same of one that is answered with a status.
    #[must_use]
    pub fn with_static_status(self, url: &str, status: u16) -> Self {
        self.shared.state().statics.insert(url.to_owned(), FakePage::with_status(status));
        self
    }

    /// Where all input leads to, and the status there.
    #[must_use]
    pub fn leading_to(self, url: &str, status: u16) -> Self {
        self.shared.state().led_to = Url::parse(url).ok().map(|url| (url, status));
        self
    }

    /// How often pages were read without being rendered, or should have been.
    pub fn static_reads(&self) -> usize {
        self.shared.state().static_reads
    }

    /// Makes the browser ready, or takes it away.
    pub fn set_ready(&self, ready: bool) {
        self.shared.ready.send_replace(ready);
    }

    /// So many tabs from now on do not open, though the browser is there.
    pub fn set_not_opening(&self, tabs: usize) {
        self.shared.state().not_opening = tabs;
    }

    /// How many of these have not been asked for yet.
    pub fn not_opening(&self) -> usize {
        self.shared.state().not_opening
    }

    /// Every load so far, in order.
    pub fn loads(&self) -> Vec<(Session, PageUrl)> {
        self.shared.state().loads.clone()
    }

    /// Everything that pages received of pointer and keys.
    pub fn inputs(&self) -> Vec<Input> {
        self.shared.state().inputs.clone()
    }

    /// How many tabs are in somebody's hands.
    pub fn open_tabs(&self) -> usize {
        self.shared.state().open_tabs
    }

    /// How many tabs were given back in a usable state.
    pub fn released_tabs(&self) -> usize {
        self.shared.state().released_tabs
    }
}

#[async_trait]
impl Driver for FakeDriver {
    async fn open(&self, session: &Session, _deadline: Instant) -> Result<Box<dyn Tab>, TabError> {
        if !self.is_ready() {
            return Err(failure::browser_lost());
        }
        let mut state = self.shared.state();
        if state.not_opening > 0 {
            state.not_opening -= 1;
            return Err(failure::deadline_passed("a tab was opened"));
        }
        state.open_tabs += 1;
        Ok(Box::new(FakeTab { shared: self.shared.clone(), session: session.clone(), page: None }))
    }

    async fn read_static(
        &self,
        _session: &Session,
        url: &PageUrl,
        program: &DomProgram,
        _fresh: bool,
        deadline: Instant,
    ) -> Static {
        if matches!(
            self.shared.state().pages.get(url.as_str()).and_then(VecDeque::front),
            Some(FakePage::Hangs)
        ) {
            tokio::time::sleep_until(deadline).await;
        }
        let mut state = self.shared.state();
        state.static_reads += 1;
        match state.statics.get(url.as_str()) {
            Some(FakePage::Loads { answer, status, .. }) => Static::Read {
                document: Box::new(document(url.as_url(), *status)),
                results: run(program.steps(), &[], answer),
                is_redirected: false,
            },
            _ => Static::NeedsFull("the test wants a tab for it".to_owned()),
        }
    }

    fn take_received(&self, _: ExecutionId) -> Option<u64> {
        None
    }

    fn is_ready(&self) -> bool {
        *self.shared.ready.borrow()
    }

    async fn ready(&self) {
        // The sender is ours, so that this ends only when it is ready.
        let _ = self.shared.ready.subscribe().wait_for(|ready| *ready).await;
    }

    async fn close(&self) {
        self.set_ready(false);
    }
}

#[async_trait]
impl Tab for FakeTab {
    async fn navigate(
        &mut self,
        url: &PageUrl,
        _wait_until: WaitUntil,
        _first: Option<&DomProgram>,
        deadline: Instant,
    ) -> Result<Document, TabError> {
        self.page = None;
        let page = self.shared.load(&self.session, url);
        match &page {
            None => {
                let failure = Failure::new(ErrorClass::Dns, format!("the test knows no page {url}"));
                Err(TabError { failure, tab_usable: true })
            }
            Some(FakePage::Fails(error)) => Err(error.clone()),
            Some(FakePage::Hangs) => {
                tokio::time::sleep_until(deadline).await;
                Err(failure::deadline_passed("the page was loading"))
            }
            Some(FakePage::NeverEnds) => std::future::pending().await,
            Some(FakePage::Panics) => std::panic::panic_any("the test's page panics"),
            Some(FakePage::LosesBrowser) => {
                self.shared.ready.send_replace(false);
                Err(failure::browser_lost())
            }
            Some(FakePage::LosesRun(_) | FakePage::NeverEndsRun) => {
                self.page = page;
                Ok(document(url.as_url(), 200))
            }
            Some(FakePage::Loads { final_url, status, .. }) => {
                let document = document(final_url.as_ref().unwrap_or(url.as_url()), *status);
                self.page = page;
                Ok(document)
            }
        }
    }

    async fn run(
        &mut self,
        program: &DomProgram,
        ended: &[usize],
        _deadline: Instant,
    ) -> Result<Vec<Option<StepResult>>, TabError> {
        if !*self.shared.ready.borrow() {
            return Err(failure::browser_lost());
        }
        match &self.page {
            Some(FakePage::Loads { answer, .. }) => Ok(run(program.steps(), ended, answer)),
            Some(FakePage::LosesRun(error)) => Err(error.clone()),
            Some(FakePage::NeverEndsRun) => std::future::pending().await,
            _ => Err(failure::tab_crashed()),
        }
    }

    async fn input(
        &mut self,
        input: &Input,
        _wait_until: WaitUntil,
        _deadline: Instant,
    ) -> Result<Option<Document>, TabError> {
        let mut state = self.shared.state();
        state.inputs.push(input.clone());
        Ok(state.led_to.as_ref().map(|(url, status)| document(url, *status)))
    }

    fn asked_beside(&self) -> u32 {
        matches!(self.page, Some(FakePage::Loads { final_url: Some(_), .. })).into()
    }

    async fn release(self: Box<Self>) {
        self.shared.state().released_tabs += 1;
    }
}

impl Drop for FakeTab {
    fn drop(&mut self) {
        self.shared.state().open_tabs -= 1;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, session: &Session, url: &PageUrl) -> Option<FakePage> {
        let mut state = self.state();
        state.loads.push((session.clone(), url.clone()));
        let loads = state.pages.get_mut(url.as_str())?;
        if loads.len() > 1 { loads.pop_front() } else { loads.front().cloned() }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self { state: Mutex::default(), ready: watch::Sender::new(true) }
    }
}

impl fmt::Debug for FakePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loads { .. } => "Loads",
            Self::Fails(_) => "Fails",
            Self::LosesRun(_) => "LosesRun",
            Self::Hangs => "Hangs",
            Self::NeverEnds => "NeverEnds",
            Self::NeverEndsRun => "NeverEndsRun",
            Self::Panics => "Panics",
            Self::LosesBrowser => "LosesBrowser",
        })
    }
}

fn document(url: &Url, status: u16) -> Document {
    Document {
        final_url: url.clone(),
        base_url: url.clone(),
        status: Some(status),
        retry_after: None,
        answered_in: None,
        bytes: 0,
    }
}

fn run(steps: &[DomStep], ended: &[usize], answer: &Answer) -> Vec<Option<StepResult>> {
    let mut ended: HashSet<usize> = ended.iter().copied().collect();
    let mut results = Vec::new();
    for step in steps {
        if ended.contains(&step.group) {
            results.push(None);
            continue;
        }
        let started_at = Utc::now();
        let mut retries = 0;
        let mut output = answer(step);
        while output.is_err() && retries < step.max_retries {
            retries += 1;
            output = answer(step);
        }
        if output.is_err() && step.ends_group {
            ended.insert(step.group);
        }
        let completed_at = Utc::now().max(started_at);
        results.push(Some(StepResult { started_at, completed_at, output, cut_from: None, retries }));
    }
    results
}
