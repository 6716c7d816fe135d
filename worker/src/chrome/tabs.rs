//! The tabs of one browser: a browser context for each execution, so that cookies never mix, and within it tabs that
//! are used again. Idle tabs are bounded. Everything that a page opens by itself is closed. Loads nothing.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::network::CookieParam;
use chromiumoxide_cdp::cdp::browser_protocol::page::NavigateParams;
use chromiumoxide_cdp::cdp::browser_protocol::target::{
    GetBrowserContextsParams, GetTargetsParams, SetDiscoverTargetsParams,
};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::Isolation;
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use super::attach::{AttachedTab, BrowserContext, Opener};
use super::connection::{CallError, Connection};
use super::driver::{DomProgram, Session, Static};
use super::shared_workers::end_greedy;
use super::static_lane::{Page, StaticLane};
use crate::egress::Egress;

/// Executions without a page whose cookies are kept; those of the one that was used longest ago go first.
const PARKED: usize = 32;
/// How long the cookies of an execution that has no page here are kept.
const PARKED_FOR: Duration = Duration::from_secs(15 * 60);
/// A page that has a tab to itself for so long, without being anybody's, is left.
const LEAVE_AFTER: Duration = Duration::from_secs(1);
/// Sites of one execution that have tabs for static pages; the one that was used longest ago gives way.
const STATIC_ORIGINS: usize = 8;

/// The tabs of one browser.
#[derive(Debug)]
pub(super) struct Tabs {
    opener: Arc<Opener>,
    limits: TabLimits,
    contexts: Mutex<HashMap<ExecutionId, Context>>,
    /// The cookies of executions that have no context now.
    parked: Mutex<HashMap<ExecutionId, Parked>>,
    /// Targets that nobody here has opened, when it was looked last.
    strangers: Mutex<HashSet<String>>,
    /// How many tabs are in use. Written by [`Lease`], awaited before the browser is replaced.
    in_use: watch::Sender<usize>,
}

/// How many tabs there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct TabLimits {
    /// Kept open without a page.
    pub(super) idle: usize,
    /// For the static pages of one origin.
    pub(super) static_tabs: usize,
}

/// What is left of an execution's context.
#[derive(Clone, Debug)]
struct Parked {
    cookies: Vec<CookieParam>,
    /// When its last page ended.
    last_used: Instant,
}

/// The browser context of one execution.
#[derive(Debug)]
struct Context {
    made: Arc<OnceCell<BrowserContext>>,
    idle: Vec<IdleTab>,
    /// By origin.
    lanes: HashMap<String, (Arc<StaticLane>, Instant)>,
    in_use: usize,
    last_used: Instant,
}

/// A tab without a page of anybody's.
#[derive(Debug)]
struct IdleTab {
    tab: AttachedTab,
    since: Instant,
    /// The last page is left: it does nothing any more.
    is_empty: bool,
}

/// The right to use a tab of an execution's context. While it lives, neither the context nor the browser goes.
#[derive(Debug)]
pub(super) struct Lease {
    tabs: Arc<Tabs>,
    execution: ExecutionId,
}

impl Tabs {
    /// What knows how its tabs have ended.
    pub(super) fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Begins to watch a browser's targets.
    pub(super) async fn start(
        connection: Connection,
        limits: TabLimits,
        egress: Option<Arc<Egress>>,
        deadline: Instant,
    ) -> Result<Arc<Self>, CallError> {
        let opener = Opener::new(connection, egress);
        opener.connection().call(None, &SetDiscoverTargetsParams::new(true), deadline).await?;
        Ok(Arc::new(Self {
            opener: Arc::new(opener),
            limits,
            contexts: Mutex::default(),
            parked: Mutex::default(),
            strangers: Mutex::default(),
            in_use: watch::Sender::new(0),
        }))
    }

    /// Takes a free tab of the execution's context, or opens one.
    pub(super) async fn take(
        self: &Arc<Self>,
        session: &Session,
        deadline: Instant,
    ) -> Result<(AttachedTab, Lease), CallError> {
        let (lease, made) = self.lease(session.execution_id);
        if session.isolation == Isolation::Page {
            return Ok((self.opener.open_apart(session, deadline).await?, lease));
        }
        while let Some(tab) = self.pop_idle(session.execution_id) {
            if tab.events.watch().borrow().gone {
                self.discard(&tab);
            } else {
                return Ok((tab, lease));
            }
        }
        let context = made.get_or_try_init(|| self.make_context(session, deadline)).await?;
        Ok((self.opener.open(context, session, deadline).await?, lease))
    }

    /// Reads a page without rendering it.
    pub(super) async fn read_static(
        self: &Arc<Self>,
        session: &Session,
        url: &PageUrl,
        program: &DomProgram,
        fresh: bool,
        deadline: Instant,
    ) -> Result<Static, CallError> {
        let (_lease, made) = self.lease(session.execution_id);
        let context = made.get_or_try_init(|| self.make_context(session, deadline)).await?;
        let lane = self.lane(session, url);
        lane.read(&self.opener, context, session, Page { url, program, fresh }, deadline).await
    }

    /// Keeps a tab for the next page of its execution.
    pub(super) fn give_back(&self, execution: ExecutionId, tab: AttachedTab) {
        let mut contexts = self.contexts();
        match contexts.get_mut(&execution).filter(|_| !tab.is_apart()) {
            Some(context) => context.idle.push(IdleTab { tab, since: Instant::now(), is_empty: false }),
            None => self.discard(&tab),
        }
        let idle = contexts.values().map(|context| context.idle.len()).sum::<usize>();
        if idle <= self.limits.idle {
            return;
        }
        // Tabs can be opened again; cookies, which the context keeps, cannot be had again.
        let with_tabs = contexts.values_mut().filter(|context| !context.idle.is_empty());
        if let Some(oldest) = with_tabs.min_by_key(|context| (context.in_use > 0, context.last_used)) {
            let idle = oldest.idle.remove(0);
            self.discard(&idle.tab);
        }
    }

    /// Closes a tab without waiting.
    pub(super) fn discard(&self, tab: &AttachedTab) {
        self.opener.close(tab);
    }

    /// Disposes of the contexts that nobody used for so long, with their tabs, storage, caches and connections. Their cookies
    /// are kept.
    pub(super) async fn park_unused(&self, patience: Duration, deadline: Instant) {
        let unused: Vec<_> = {
            let contexts = self.contexts();
            let unused = contexts.iter().filter(|(_, context)| context.is_unused(patience));
            unused.map(|(execution, context)| (*execution, context.made.get().cloned())).collect()
        };
        for (execution, made) in unused {
            let cookies = match &made {
                Some(made) => self.opener.cookies(made, deadline).await,
                None => Ok(Vec::new()),
            };
            let cookies = match cookies {
                Ok(cookies) => cookies,
                // The browser does not know it any more, and its cookies are gone.
                Err(CallError::Refused(_)) => Vec::new(),
                Err(_) => continue,
            };
            // It may have been used meanwhile.
            let mut contexts = self.contexts();
            let Entry::Occupied(entry) = contexts.entry(execution) else { continue };
            if !entry.get().is_unused(patience) {
                continue;
            }
            let context = entry.remove();
            if !cookies.is_empty() {
                self.parked().insert(execution, Parked { cookies, last_used: context.last_used });
            }
            self.dispose(&context);
        }
        let mut parked = self.parked();
        parked.retain(|_, parked| parked.last_used.elapsed() <= PARKED_FOR);
        while parked.len() > PARKED {
            let oldest = parked.iter().min_by_key(|(_, parked)| parked.last_used);
            let Some(oldest) = oldest.map(|(execution, _)| *execution) else { break };
            parked.remove(&oldest);
        }
    }

    /// Leaves the pages that nobody came to replace: they would go on working, and asking their hosts for more.
    pub(super) fn leave_idle_pages(&self) {
        for context in self.contexts().values_mut() {
            let idle =
                context.idle.iter_mut().filter(|idle| !idle.is_empty && idle.since.elapsed() > LEAVE_AFTER);
            for idle in idle {
                idle.is_empty = true;
                let nowhere = NavigateParams::new("about:blank");
                self.opener.connection().send(Some(&idle.tab.session), &nowhere);
            }
        }
    }

    /// Looks at what the pages of all tabs load.
    pub(super) fn look_at_loads(&self) {
        self.opener.look_at_loads();
    }

    /// Closes pages that were opened by pages and do not say by which, such as those of links with `rel=noopener`. One must
    /// have been there the last time too: it may be one of ours that is just being opened. Ends workers of sites that load too much.
    ///
    /// # Errors
    /// The browser does not answer.
    pub(super) async fn close_strangers(&self, deadline: Instant) -> Result<(), CallError> {
        let connection = self.opener.connection();
        // The browser's own first page is in none of these, and stays.
        let contexts =
            connection.call(None, &GetBrowserContextsParams {}, deadline).await?.browser_context_ids;
        let targets = connection.call(None, &GetTargetsParams::default(), deadline).await?.target_infos;
        let made: Vec<_> =
            self.contexts().values().filter_map(|context| context.made.get().cloned()).collect();
        end_greedy(&self.opener, &made, &targets);
        let pages = targets.into_iter().filter(|target| {
            target.r#type == "page"
                && target.browser_context_id.as_ref().is_some_and(|id| contexts.contains(id))
        });
        let unknown = pages.map(|target| String::from(target.target_id)).filter(|id| !self.opener.knows(id));
        let unknown: HashSet<String> = unknown.collect();
        let mut before = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        for target in unknown.intersection(&before) {
            self.opener.close_target(target);
        }
        *before = unknown;
        Ok(())
    }

    /// Takes over the cookies of executions that had no context in the browser before this one.
    pub(super) fn inherit_parked(&self, before: &Self) {
        let parked = before.parked().clone();
        let mut here = self.parked();
        parked.into_iter().for_each(|(execution, parked)| {
            here.entry(execution).or_insert(parked);
        });
    }

    /// Takes over the cookies that executions have in the browser before this one: what they logged in to, they stay logged
    /// in to. Of what was handed over before, only that which was used `since` then. What cannot be had, as the other browser is
    /// lost, is left.
    pub(super) async fn inherit(&self, before: &Self, since: Option<Instant>, deadline: Instant) {
        if since.is_none() {
            self.inherit_parked(before);
        }
        let made: Vec<_> = before
            .contexts()
            .iter()
            .filter(|(_, context)| since.is_none_or(|since| context.last_used >= since))
            .filter_map(|(execution, context)| {
                Some((*execution, context.made.get()?.clone(), context.last_used))
            })
            .collect();
        for (execution, context, last_used) in made {
            let Ok(cookies) = before.opener.cookies(&context, deadline).await else { continue };
            let here = self.contexts().get(&execution).and_then(|context| context.made.get().cloned());
            match here {
                // It has begun anew here, while its last pages went on there.
                Some(here) => self.opener.give_cookies(&here, cookies, deadline).await,
                None => {
                    self.parked().insert(execution, Parked { cookies, last_used });
                }
            }
        }
    }

    /// Makes an execution's context, with the cookies that it had before.
    async fn make_context(&self, session: &Session, deadline: Instant) -> Result<BrowserContext, CallError> {
        let parked = self.parked().get(&session.execution_id).cloned();
        let since = parked.as_ref().map(|parked| parked.last_used);
        let cookies = parked.map(|parked| parked.cookies).unwrap_or_default();
        let context = self.opener.create_context(session, cookies, deadline).await?;
        // The browser before may have handed over later ones meanwhile.
        let later = self.parked().remove(&session.execution_id);
        if let Some(later) = later.filter(|later| since.is_none_or(|since| later.last_used > since)) {
            self.opener.give_cookies(&context, later.cookies, deadline).await;
        }
        Ok(context)
    }

    /// Waits until no tab is in use.
    pub(super) async fn unused(&self) {
        let _ = self.in_use.subscribe().wait_for(|in_use| *in_use == 0).await;
    }

    fn lease(self: &Arc<Self>, execution: ExecutionId) -> (Lease, Arc<OnceCell<BrowserContext>>) {
        let mut contexts = self.contexts();
        let context = contexts.entry(execution).or_insert_with(|| Context {
            made: Arc::default(),
            idle: Vec::new(),
            lanes: HashMap::new(),
            in_use: 0,
            last_used: Instant::now(),
        });
        context.in_use += 1;
        self.in_use.send_modify(|in_use| *in_use += 1);
        (Lease { tabs: self.clone(), execution }, context.made.clone())
    }

    fn pop_idle(&self, execution: ExecutionId) -> Option<AttachedTab> {
        Some(self.contexts().get_mut(&execution)?.idle.pop()?.tab)
    }

    /// The lane of a URL's origin, within an execution's context, which is leased.
    fn lane(&self, session: &Session, url: &PageUrl) -> Arc<StaticLane> {
        let origin = url.as_url().origin().ascii_serialization();
        let new = || Arc::new(StaticLane::new(&origin, self.limits.static_tabs));
        let mut contexts = self.contexts();
        let Some(context) = contexts.get_mut(&session.execution_id) else { return new() };
        if context.lanes.len() >= STATIC_ORIGINS && !context.lanes.contains_key(&origin) {
            let oldest =
                context.lanes.iter().min_by_key(|(_, (_, used))| *used).map(|(origin, _)| origin.clone());
            context.lanes.remove(&oldest.unwrap_or_default());
        }
        let (lane, used) = context.lanes.entry(origin.clone()).or_insert_with(|| (new(), Instant::now()));
        *used = Instant::now();
        lane.clone()
    }

    fn dispose(&self, context: &Context) {
        for idle in &context.idle {
            self.opener.forget(&idle.tab);
        }
        if let Some(made) = context.made.get() {
            self.opener.dispose_context(made);
        }
    }

    fn contexts(&self) -> MutexGuard<'_, HashMap<ExecutionId, Context>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parked(&self) -> MutexGuard<'_, HashMap<ExecutionId, Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    fn is_unused(&self, patience: Duration) -> bool {
        self.in_use == 0 && self.last_used.elapsed() >= patience
    }
}

impl Lease {
    /// Whose context the tab is of.
    pub(super) fn execution(&self) -> ExecutionId {
        self.execution
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(context) = self.tabs.contexts().get_mut(&self.execution) {
            context.in_use -= 1;
            context.last_used = Instant::now();
        }
        self.tabs.in_use.send_modify(|in_use| *in_use -= 1);
    }
}
