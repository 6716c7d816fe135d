//! The tabs of one browser: a browser context for each execution, so that cookies never mix, and within it tabs that
//! are used again. Idle tabs are bounded. Everything that a page opens by itself is closed. Loads nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::target::SetDiscoverTargetsParams;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::Isolation;
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use super::attach::{AttachedTab, BrowserContext, Opener};
use super::connection::{CallError, Connection};
use super::driver::{DomProgram, Session, Static};
use super::static_lane::{Page, StaticLane};
use crate::egress::Egress;

/// Sites of one execution that have tabs for static pages; the one that was used longest ago gives way.
const STATIC_ORIGINS: usize = 8;

/// The tabs of one browser.
#[derive(Debug)]
pub(super) struct Tabs {
    opener: Arc<Opener>,
    limits: TabLimits,
    contexts: Mutex<HashMap<ExecutionId, Context>>,
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

/// The browser context of one execution.
#[derive(Debug)]
struct Context {
    made: Arc<OnceCell<BrowserContext>>,
    idle: Vec<AttachedTab>,
    /// By origin.
    lanes: HashMap<String, (Arc<StaticLane>, Instant)>,
    in_use: usize,
    last_used: Instant,
}

/// The right to use a tab of an execution's context. While it lives, neither the context nor the browser goes.
#[derive(Debug)]
pub(super) struct Lease {
    tabs: Arc<Tabs>,
    execution: ExecutionId,
}

impl Tabs {
    /// Begins to watch a browser's targets.
    pub(super) async fn start(
        connection: Connection,
        limits: TabLimits,
        egress: Option<Arc<Egress>>,
        deadline: Instant,
    ) -> Result<Arc<Self>, CallError> {
        let opener = Opener::new(connection, egress);
        opener.connection().call(None, &SetDiscoverTargetsParams::new(true), deadline).await?;
        let (contexts, in_use) = (Mutex::default(), watch::Sender::new(0));
        Ok(Arc::new(Self { opener: Arc::new(opener), limits, contexts, in_use }))
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
        let context = made.get_or_try_init(|| self.opener.create_context(session, deadline)).await?;
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
        let context = made.get_or_try_init(|| self.opener.create_context(session, deadline)).await?;
        let lane = self.lane(session, url);
        lane.read(&self.opener, context, session, Page { url, program, fresh }, deadline).await
    }

    /// Keeps a tab for the next page of its execution.
    pub(super) fn give_back(&self, execution: ExecutionId, tab: AttachedTab) {
        let mut contexts = self.contexts();
        match contexts.get_mut(&execution).filter(|_| !tab.is_apart()) {
            Some(context) => context.idle.push(tab),
            None => self.discard(&tab),
        }
        let idle = contexts.values().map(|context| context.idle.len()).sum::<usize>();
        if idle <= self.limits.idle {
            return;
        }
        let unused = contexts.iter().filter(|(_, context)| context.in_use == 0);
        let oldest = unused.min_by_key(|(_, context)| context.last_used).map(|(execution, _)| *execution);
        match oldest {
            Some(oldest) => self.dispose(contexts.remove(&oldest)),
            // The caller still counts as using its context, so this is the common case with few executions.
            None => {
                let context = contexts.get_mut(&execution);
                if let Some(tab) = context.and_then(|context| context.idle.pop()) {
                    self.discard(&tab);
                }
            }
        }
    }

    /// Closes a tab without waiting.
    pub(super) fn discard(&self, tab: &AttachedTab) {
        self.opener.close(tab);
    }

    /// Disposes of the contexts that nobody used for a while, with their cookies and caches.
    pub(super) fn dispose_unused(&self, for_longer_than: Duration) {
        let mut contexts = self.contexts();
        let old: Vec<_> = contexts
            .iter()
            .filter(|(_, context)| context.in_use == 0 && context.last_used.elapsed() > for_longer_than)
            .map(|(execution, _)| *execution)
            .collect();
        for execution in old {
            self.dispose(contexts.remove(&execution));
        }
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
        self.contexts().get_mut(&execution)?.idle.pop()
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

    fn dispose(&self, context: Option<Context>) {
        let Some(context) = context else { return };
        for tab in &context.idle {
            self.opener.forget(tab);
        }
        if let Some(made) = context.made.get() {
            self.opener.dispose_context(made);
        }
    }

    fn contexts(&self) -> MutexGuard<'_, HashMap<ExecutionId, Context>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
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
