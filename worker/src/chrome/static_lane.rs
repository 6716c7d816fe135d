//! Pages that are read without being rendered: tabs that hold an empty document of the site's origin, in which our function
//! fetches pages and parses them. A tab reads many pages at a time; one that fails is closed and replaced.
//!
//! The empty document is ours: its request never leaves the browser, so that no policy and no service worker of the
//! site has a say in what is fetched from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::browser::GetVersionParams;
use chromiumoxide_cdp::cdp::browser_protocol::fetch;
use chromiumoxide_cdp::cdp::browser_protocol::network::SetBypassServiceWorkerParams;
use chromiumoxide_cdp::cdp::browser_protocol::page::{CreateIsolatedWorldParams, NavigateParams};
use chromiumoxide_cdp::cdp::js_protocol::runtime::{CallArgument, CallFunctionOnParams, RemoteObjectId};
use chrono::Utc;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Block, WaitUntil};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::attach::{AttachedTab, BrowserContext, Opener};
use super::connection::CallError;
use super::describe;
use super::driver::{Document, DomProgram, Session, Static};
use super::run;
use crate::egress::HEADER;
use crate::http::retry_after;

/// Reads one page; see its own comment.
const READER: &str = include_str!("static_page.js");
/// What a browser accepts as a page, unless the session's headers say otherwise.
const ACCEPT: &str =
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8";
/// A larger document is left to a tab of its own.
const DOCUMENT_BYTES: usize = 16 << 20;
/// How long a tab may take to be there.
const PREPARATION_PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than the page may take its answer is waited for.
const ANSWER_PATIENCE: Duration = Duration::from_millis(500);
/// How long a browser may take to say that it lives, when one of its tabs does not answer.
const BROWSER_PATIENCE: Duration = Duration::from_secs(2);
/// Why a page needs a tab of its own that the tab did not come back from.
const OVERDUE: &str = "to read it without a tab of its own took all of its time";

/// What is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    pub(super) url: &'a PageUrl,
    pub(super) program: &'a DomProgram,
    /// Whether the server is asked whatever is cached.
    pub(super) fresh: bool,
}

/// The tabs of one origin in one browser context.
#[derive(Debug)]
pub(super) struct StaticLane {
    origin: String,
    /// Opened when they are first needed. Locked while one is being opened.
    tabs: Vec<Mutex<Option<Arc<StaticTab>>>>,
    /// Whose turn it is.
    next: AtomicUsize,
}

/// A tab with an empty document.
#[derive(Debug)]
struct StaticTab {
    opener: Arc<Opener>,
    tab: AttachedTab,
    reader: RemoteObjectId,
    /// What it does now is not known: it is used no longer, and nothing more is waited for in it.
    broken: CancellationToken,
    is_closed: AtomicBool,
}

#[derive(Serialize)]
struct Request<'a> {
    url: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    fresh: bool,
    byte_limit: usize,
    timeout_ms: u64,
}

/// What [`READER`] answers.
#[derive(Deserialize)]
struct Reading {
    document: Option<Fetched>,
    /// `None` for a page that was refused: no step was run.
    results: Option<String>,
    #[serde(default)]
    needs_full: String,
}

#[derive(Deserialize)]
struct Fetched {
    url: String,
    base: String,
    /// Whether redirects led there.
    redirected: bool,
    status: u16,
    /// Of a page that was refused.
    retry_after: Option<String>,
    answered_in_ms: f64,
    #[serde(default)]
    bytes: u64,
}

impl StaticLane {
    /// Makes the lane of an origin; nothing is opened yet.
    pub(super) fn new(origin: &str, tabs: usize) -> Self {
        let tabs = (0..tabs.max(1)).map(|_| Mutex::default()).collect();
        Self { origin: origin.to_owned(), tabs, next: AtomicUsize::new(0) }
    }

    /// Reads a page.
    pub(super) async fn read(
        &self,
        opener: &Arc<Opener>,
        context: &BrowserContext,
        session: &Session,
        page: Page<'_>,
        deadline: Instant,
    ) -> Result<Static, CallError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.tabs.len();
        let tab = {
            let mut place = self.tabs[turn].lock().await;
            match place.as_ref().filter(|tab| tab.is_usable()) {
                Some(tab) => tab.clone(),
                None => {
                    let within = deadline.min(Instant::now() + PREPARATION_PATIENCE);
                    let tab =
                        Arc::new(StaticTab::open(opener, context, session, &self.origin, within).await?);
                    place.insert(tab).clone()
                }
            }
        };
        tab.read(session, page, deadline).await
    }
}

impl StaticTab {
    async fn open(
        opener: &Arc<Opener>,
        context: &BrowserContext,
        session: &Session,
        origin: &str,
        deadline: Instant,
    ) -> Result<Self, CallError> {
        // What a script may set goes with each request.
        let headers = session.headers.iter().filter(|(name, _)| !is_settable(name)).cloned().collect();
        let session = Session { headers, block: Block::default(), ..session.clone() };
        let tab = opener.open(context, &session, deadline).await?;
        let unfinished = Unfinished { opener, tab: Some(tab) };
        let Some(tab) = &unfinished.tab else { return Err(CallError::Lost) };
        let connection = opener.connection();
        let on = Some(tab.session.as_str());
        tab.events.answer_empty(true);
        connection.call(on, &fetch::EnableParams::default(), deadline).await?;
        connection.call(on, &SetBypassServiceWorkerParams::new(true), deadline).await?;
        tab.events.begin_navigation();
        let navigated = connection.call(on, &NavigateParams::new(format!("{origin}/")), deadline).await?;
        let loader = navigated.loader_id.map(String::from).unwrap_or_default();
        let mut state = tab.events.watch();
        let loaded = state.wait_for(|state| state.gone || state.has_reached(WaitUntil::Load, &loader));
        tokio::select! {
            loaded = tokio::time::timeout_at(deadline, loaded) => {
                loaded.map_err(|_| CallError::Timeout)?.map_err(|_| CallError::Lost)?;
            }
            () = connection.lost() => return Err(CallError::Lost),
        }
        connection.call(on, &fetch::DisableParams {}, deadline).await?;
        tab.events.answer_empty(false);
        let world = CreateIsolatedWorldParams::new(navigated.frame_id);
        let world = connection.call(on, &world, deadline).await?.execution_context_id;
        let runner = run::RUNNER;
        let make = format!("() => (\n{READER}\n)(\n{runner}\n, {HEADER:?})");
        let mut make = CallFunctionOnParams::new(make);
        make.execution_context_id = Some(world);
        let made = connection.call(on, &make, deadline).await?;
        let reader =
            made.result.object_id.ok_or_else(|| CallError::Refused("no reader was made".to_owned()))?;
        Ok(Self {
            opener: opener.clone(),
            tab: unfinished.finish()?,
            reader,
            broken: CancellationToken::new(),
            is_closed: AtomicBool::new(false),
        })
    }

    fn is_usable(&self) -> bool {
        !self.broken.is_cancelled() && !self.tab.events.watch().borrow().gone
    }

    async fn read(&self, session: &Session, page: Page<'_>, deadline: Instant) -> Result<Static, CallError> {
        if let Some(gate) = &self.tab.gate {
            gate.page_begins();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut headers: Vec<_> = session
            .headers
            .iter()
            .filter(|(name, _)| is_settable(name))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept")) {
            headers.push(("accept", ACCEPT));
        }
        let request = Request {
            url: page.url.as_str(),
            fresh: page.fresh,
            headers,
            byte_limit: DOCUMENT_BYTES,
            timeout_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        };
        let argument = |text: String| CallArgument { value: Some(text.into()), ..CallArgument::default() };
        let mut read =
            CallFunctionOnParams::new("function (request, program) { return this(request, program); }");
        read.object_id = Some(self.reader.clone());
        read.await_promise = Some(true);
        read.return_by_value = Some(true);
        read.arguments = Some(vec![
            argument(serde_json::to_string(&request)?),
            argument(run::program(page.program)?.to_owned()),
        ]);
        let began = Utc::now();
        let answer = self.call(&read, deadline + ANSWER_PATIENCE).await;
        let ended = Utc::now();
        let answer = match answer {
            Ok(answer) if answer.exception_details.is_none() => answer,
            failed => {
                // One page at the most counts for it: the one that has waited for all of its time. Where that waited
                // for another one that hangs, it is loaded in a tab of its own, which harms nothing.
                let is_overdue = self.close() && matches!(failed, Err(CallError::Timeout));
                if is_overdue && self.browser_answers().await {
                    return Ok(Static::NeedsFull(OVERDUE.to_owned()));
                }
                failed?;
                return Err(CallError::Refused("our function failed".to_owned()));
            }
        };
        let reading: Reading = serde_json::from_value(serde_json::from_str(
            answer.result.value.as_ref().and_then(|value| value.as_str()).unwrap_or_default(),
        )?)?;
        let Some(fetched) = reading.document else { return Ok(Static::NeedsFull(reading.needs_full)) };
        let final_url = Url::parse(&fetched.url).unwrap_or_else(|_| page.url.as_url().clone());
        let base_url = Url::parse(&fetched.base).unwrap_or_else(|_| final_url.clone());
        let retry_after = fetched.retry_after.and_then(|text| retry_after(&text, ended));
        let (status, bytes) = (Some(fetched.status), fetched.bytes);
        let answered_in = describe::milliseconds(fetched.answered_in_ms);
        let document = Document { final_url, base_url, status, retry_after, answered_in, bytes };
        Ok(Static::Read {
            document: Box::new(document),
            is_redirected: fetched.redirected,
            results: match reading.results {
                Some(results) => run::results(&results, began, ended)?,
                None => Vec::new(),
            },
        })
    }

    /// Closes it, whoever still holds it: a page that hangs would keep a processor busy until the last of them lets go.
    /// Answers whether it was open.
    fn close(&self) -> bool {
        let was_open = !self.is_closed.swap(true, Ordering::Relaxed);
        if was_open {
            self.broken.cancel();
            self.opener.close(&self.tab);
        }
        was_open
    }

    /// Whether it is this tab alone that does not answer.
    async fn browser_answers(&self) -> bool {
        let deadline = Instant::now() + BROWSER_PATIENCE;
        self.opener.connection().call(None, &GetVersionParams {}, deadline).await.is_ok()
    }

    /// A crash of the tab ends the wait for its answer, and so does another page that it has not come back from.
    async fn call(
        &self,
        command: &CallFunctionOnParams,
        deadline: Instant,
    ) -> Result<chromiumoxide_cdp::cdp::js_protocol::runtime::CallFunctionOnReturns, CallError> {
        let mut state = self.tab.events.watch();
        tokio::select! {
            answer = self.opener.connection().call(Some(&self.tab.session), command, deadline) => answer,
            _ = state.wait_for(|state| state.gone) => Err(CallError::Refused("Target crashed".to_owned())),
            () = self.broken.cancelled() => Err(CallError::Refused("another page was too much for it".to_owned())),
        }
    }
}

impl Drop for StaticTab {
    fn drop(&mut self) {
        self.close();
    }
}

/// Closes a tab whose preparation is given up half-way.
struct Unfinished<'a> {
    opener: &'a Opener,
    tab: Option<AttachedTab>,
}

impl Unfinished<'_> {
    fn finish(mut self) -> Result<AttachedTab, CallError> {
        self.tab.take().ok_or(CallError::Lost)
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(tab) = &self.tab {
            self.opener.close(tab);
        }
    }
}

/// Whether a script may set a request header; the others are set by the browser alone.
/// <https://fetch.spec.whatwg.org/#forbidden-request-header>
fn is_settable(name: &str) -> bool {
    const FORBIDDEN: [&str; 20] = [
        "accept-charset",
        "accept-encoding",
        "access-control-request-headers",
        "access-control-request-method",
        "connection",
        "content-length",
        "cookie",
        "cookie2",
        "date",
        "dnt",
        "expect",
        "host",
        "keep-alive",
        "origin",
        "referer",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    // These two are set for the tab, so that scripts and headers agree.
    const OF_THE_TAB: [&str; 2] = ["user-agent", "accept-language"];
    let name = name.to_ascii_lowercase();
    !FORBIDDEN.contains(&name.as_str())
        && !OF_THE_TAB.contains(&name.as_str())
        && !name.starts_with("proxy-")
        && !name.starts_with("sec-")
}
