//! What the rest of the worker knows of a browser. A fake driver implements the same traits, so that most tests run
//! without Chrome. Every call has a deadline of its own and ends at the latest then.

use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure, HostContact};
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{
    Block, Field, Headers, Isolation, Proxy, Read, ScrollTo, Selector, Target, WaitFor, WaitUntil,
};
use crawlify_shared::loops::BrokenLoop;
use serde_json::Value;
use url::Url;

/// A browser that hands out tabs. One per worker process.
#[async_trait]
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// Gives a tab of the execution's own browser context: a used one that is free, or a new one.
    ///
    /// # Errors
    /// The browser is not running; `TabError::is_browser_lost` is true.
    async fn open(&self, session: &Session, deadline: tokio::time::Instant)
    -> Result<Box<dyn Tab>, TabError>;

    /// Reads a page without rendering it: the browser fetches it with the cookies of the execution's context, parses
    /// it, and runs the program on the document. No scripts, no layout, no resources; many at a time share one tab.
    ///
    /// In such a document an element that is there counts as visible. `fresh`: the server is asked whatever is cached.
    async fn read_static(
        &self,
        session: &Session,
        url: &PageUrl,
        program: &DomProgram,
        fresh: bool,
        deadline: tokio::time::Instant,
    ) -> Static;

    /// How many bytes an execution has received since this was asked last: all that its pages load, not only documents.
    /// `None` where nobody counts, or where it has no tabs now.
    fn take_received(&self, execution: ExecutionId) -> Option<u64>;

    /// Whether a browser is running and answers, so that pages may be taken.
    fn is_ready(&self) -> bool;

    /// Waits until [`Driver::is_ready`].
    async fn ready(&self);

    /// Waits until one of its own loops breaks, without which there is never a browser again. For ever where it has
    /// none.
    async fn broken(&self) -> BrokenLoop {
        std::future::pending().await
    }

    /// Closes the browser, removes its profile, and waits for both.
    async fn close(&self);
}

/// What tabs of one execution have in common.
#[derive(Clone, Debug)]
pub struct Session {
    /// Tabs of different executions never share cookies or caches.
    pub execution_id: ExecutionId,
    /// Sent with every request; `User-Agent` overrides the browser's own.
    pub headers: Headers,
    /// What is added to the browser's own `User-Agent`, where the headers have none.
    pub agent: Option<String>,
    /// What is not loaded with pages.
    pub block: Block,
    /// Whether the tabs of the execution share a browser context, or each has its own.
    pub isolation: Isolation,
    /// The proxy that everything is requested through.
    pub proxy: Option<Proxy>,
}

/// One tab, in the hands of one page at a time. Dropping it without [`Tab::release`] destroys it.
#[async_trait]
pub trait Tab: Send + std::fmt::Debug {
    /// Loads a page and waits as `wait_until` says. `first` begins to run as soon as the page is there, so that
    /// [`Tab::run`] with the same program has its results sooner.
    ///
    /// # Errors
    /// The page's own failure (DNS, timeout, ...) or the browser's, as a [`TabError`] with its class.
    async fn navigate(
        &mut self,
        url: &PageUrl,
        wait_until: WaitUntil,
        first: Option<&DomProgram>,
        deadline: tokio::time::Instant,
    ) -> Result<Document, TabError>;

    /// Runs a program in an isolated world of the page, in one call, and answers for each step how it went; `None`
    /// for one that was not run, because its group had ended: by a failed step before it, or by `ended`, which names
    /// the groups that ended before.
    ///
    /// # Errors
    /// The run as a whole was lost: the tab crashed, the browser died, the page navigated away, or was too busy to say
    /// how far it had come when the deadline passed. Nothing is known of its steps.
    async fn run(
        &mut self,
        program: &DomProgram,
        ended: &[usize],
        deadline: tokio::time::Instant,
    ) -> Result<Vec<Option<StepResult>>, TabError>;

    /// Has the page receive what a person would do with pointer and keys. Where that leads to another document, that is
    /// waited for as `wait_until` says, and answered; further programs run in it.
    ///
    /// # Errors
    /// As [`Tab::navigate`].
    async fn input(
        &mut self,
        input: &Input,
        wait_until: WaitUntil,
        deadline: tokio::time::Instant,
    ) -> Result<Option<Document>, TabError>;

    /// Waits for the document that a run was lost to: one that came late of what was done to the page. `None`: there is none,
    /// as in tabs whose pages stay where they are.
    ///
    /// # Errors
    /// As [`Tab::navigate`].
    async fn follow(
        &mut self,
        _wait_until: WaitUntil,
        _deadline: tokio::time::Instant,
    ) -> Result<Option<Document>, TabError> {
        Ok(None)
    }

    /// Where the page is by now, as its scripts may change its address; `None` where they do not, and before it was loaded.
    ///
    /// # Errors
    /// As [`Tab::run`].
    async fn look_again(&mut self, _deadline: tokio::time::Instant) -> Result<Option<Document>, TabError> {
        Ok(None)
    }

    /// How many requests for documents followed the one of [`Tab::navigate`], as far as that is known: of redirects, refreshes,
    /// scripts and what was done to the page. An address that a script only rewrites was not requested. Known also where
    /// another call has failed.
    fn asked_beside(&self) -> u32 {
        0
    }

    /// Gives the tab back for the next page of its execution.
    async fn release(self: Box<Self>);
}

/// What a person does with pointer and keys. Points are pixels of the window, from its left and its top.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Presses and releases the main button here.
    Click(f64, f64),
    /// Moves the pointer here.
    Hover(f64, f64),
    /// Types into what has the focus.
    Keys {
        /// Key by key; a line break is the Enter key.
        text: String,
        /// The pause between two keys.
        delay: Duration,
    },
}

/// What was loaded.
#[derive(Clone, Debug)]
pub struct Document {
    /// After redirects.
    pub final_url: Url,
    /// What relative links resolve against: the final URL, or the document's `<base>`.
    pub base_url: Url,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
    /// How long the server asks to be left alone (`Retry-After`, RFC 9110), where that was seen.
    pub retry_after: Option<Duration>,
    /// How long its server took from the request to the response's headers, where it was asked and that is known.
    pub answered_in: Option<Duration>,
    /// How many bytes its body has, where that is known; 0 where it is not.
    pub bytes: u64,
}

impl Document {
    /// A document that came with an HTTP error is not what the workflow was written for: the page fails, with its class.
    pub(crate) fn http_failure(&self) -> Option<(Failure, HostContact)> {
        let status = self.status.filter(|status| *status >= 400)?;
        let back_off = matches!(status, 429 | 503).then(|| self.retry_after.unwrap_or_default());
        Some((Failure::of_status(status), HostContact { back_off, ..HostContact::default() }))
    }
}

/// A page that was read without being rendered, or why it could not be.
#[derive(Clone, Debug)]
pub enum Static {
    /// It was read.
    Read {
        /// What was fetched. With an HTTP status of 400 or more, no step was run.
        document: Box<Document>,
        /// As [`Tab::run`] answers.
        results: Vec<Option<StepResult>>,
        /// Whether redirects led there; nobody tells how many.
        is_redirected: bool,
    },
    /// It takes a tab to tell: the response is no plain HTML document, the connection failed, an element that is
    /// waited for is not there, all of its time was over before it was read. The reason is for people.
    NeedsFull(String),
    /// Our tab for such pages failed, or there is no browser: this says nothing of the page.
    Lost(String),
}

/// Steps that one call runs. It is translated for the browser once, however many pages it runs on.
#[derive(Debug, Default)]
pub struct DomProgram {
    pub(super) steps: Vec<DomStep>,
    pub(super) encoded: OnceLock<String>,
}

impl DomProgram {
    /// Makes a program.
    pub fn new(steps: Vec<DomStep>) -> Self {
        Self { steps, encoded: OnceLock::new() }
    }

    /// Its steps.
    pub fn steps(&self) -> &[DomStep] {
        &self.steps
    }
}

/// One thing to do in the page.
#[derive(Clone, Debug)]
pub struct DomStep {
    /// What to do.
    pub op: DomOp,
    /// Steps that end together.
    pub group: usize,
    /// Whether a failure of this step, its retries included, ends its group.
    pub ends_group: bool,
    /// How often it is run again after a failure.
    pub max_retries: u16,
    /// The pause before each further run.
    pub retry_delay: Duration,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum DomOp {
    /// Waits for an element's state. The output is `null`.
    WaitFor(WaitFor),
    /// The `href` attributes of all matches as written, empty ones left out: an array of strings.
    Links(Selector),
    /// What `read` gives for the first match (or for all, as an array). `null` where nothing matches and `multiple`
    /// is false. With `fields`: an array of objects, keys without a match left out.
    Read {
        /// Which elements.
        selector: Selector,
        /// What is read from each.
        read: Read,
        /// All matches, as an array.
        multiple: bool,
        /// Without `multiple`: no match is a failure (`selector_missing`) instead of `null`.
        required: bool,
        /// Objects instead of values; their transforms and defaults are not applied here.
        fields: Vec<Field>,
    },
    /// Waits until the element can be clicked on, and scrolls there. The output is the point to click on, `{"x", "y"}`.
    Locate {
        /// Which element.
        target: Target,
        /// Whether it gets the focus; then it may be covered.
        focus: bool,
    },
    /// Scrolls the window. The output is where that led to, `{"x", "y"}`.
    Scroll(ScrollTo),
}

/// How one step went.
#[derive(Clone, Debug)]
pub struct StepResult {
    /// Page clock mapped to ours.
    pub started_at: DateTime<Utc>,
    /// Not before `started_at`.
    pub completed_at: DateTime<Utc>,
    /// The raw output, or why there is none. A failure of the class `nav_timeout` means that the time of the whole run was
    /// over then, and that the steps after it were not run.
    pub output: Result<Value, Failure>,
    /// Of an output that is too long only the beginning is there; so long the whole is, in UTF-16 units of a string or
    /// matches of an array.
    pub cut_from: Option<u64>,
    /// How many times it was run again.
    pub retries: u16,
}

impl TabError {
    /// Whether a run was lost because the page went elsewhere.
    pub(crate) fn has_left(&self) -> bool {
        self.tab_usable && self.failure.class == ErrorClass::NavTimeout
    }
}

/// A call on a tab failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", failure.message)]
pub struct TabError {
    /// As the page's outcome will say it.
    pub failure: Failure,
    /// Whether the tab can be used again. One that cannot must not be released.
    pub tab_usable: bool,
}
