//! The tabs of one browser: a browser context for each execution, so that cookies never mix, and within it tabs that
//! are used again. Idle tabs are bounded. Everything that a page opens by itself is closed. Loads nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::browser::{
    BrowserContextId, SetDownloadBehaviorBehavior, SetDownloadBehaviorParams,
};
use chromiumoxide_cdp::cdp::browser_protocol::emulation::SetUserAgentOverrideParams;
use chromiumoxide_cdp::cdp::browser_protocol::target::{
    AttachToTargetParams, CloseTargetParams, CreateBrowserContextParams, CreateTargetParams,
    DisposeBrowserContextParams, SetDiscoverTargetsParams, TargetId,
};
use chromiumoxide_cdp::cdp::browser_protocol::{inspector, network, page};
use crawlify_shared::domain::id::ExecutionId;
use futures_util::try_join;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use super::connection::{CallError, Connection, Listener};
use super::driver::Session;
use super::page_state::PageEvents;

/// The tabs of one browser.
#[derive(Debug)]
pub(super) struct Tabs {
    connection: Connection,
    idle_limit: usize,
    contexts: Mutex<HashMap<ExecutionId, Context>>,
    attached: Arc<Attached>,
    /// How many tabs are in use. Written by [`Lease`], awaited before the browser is replaced.
    in_use: watch::Sender<usize>,
}

/// The browser context of one execution.
#[derive(Debug)]
struct Context {
    id: Arc<OnceCell<BrowserContextId>>,
    idle: Vec<AttachedTab>,
    in_use: usize,
    last_used: Instant,
}

/// A tab that commands can be sent to.
#[derive(Debug)]
pub(super) struct AttachedTab {
    pub(super) target: String,
    pub(super) session: String,
    pub(super) events: Arc<PageEvents>,
    /// The session headers that were set.
    headers: Vec<(String, String)>,
}

/// The right to use a tab of an execution's context. While it lives, neither the context nor the browser goes.
#[derive(Debug)]
pub(super) struct Lease {
    tabs: Arc<Tabs>,
    execution: ExecutionId,
}

/// The tabs that exist, by their target and by their session: who is told when one crashes or goes.
#[derive(Debug, Default)]
struct Attached(Mutex<HashMap<String, Arc<PageEvents>>>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    target_info: TargetInfo,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Gone {
    target_id: Option<String>,
    session_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TargetInfo {
    target_id: String,
    #[serde(rename = "type")]
    kind: String,
    opener_id: Option<String>,
    opener_frame_id: Option<String>,
}

impl Tabs {
    /// Begins to watch a browser's targets.
    pub(super) async fn start(
        connection: Connection,
        idle_limit: usize,
        deadline: Instant,
    ) -> Result<Arc<Self>, CallError> {
        let attached = Arc::new(Attached::default());
        connection.listen("", attached.clone());
        connection.call(None, &SetDiscoverTargetsParams::new(true), deadline).await?;
        Ok(Arc::new(Self {
            connection,
            idle_limit,
            contexts: Mutex::default(),
            attached,
            in_use: watch::Sender::new(0),
        }))
    }

    /// Takes a free tab of the execution's context, or opens one.
    pub(super) async fn take(
        self: &Arc<Self>,
        session: &Session,
        deadline: Instant,
    ) -> Result<(AttachedTab, Lease), CallError> {
        let (lease, id, mut idle) = self.lease(session.execution_id);
        while let Some(mut tab) = idle.take().or_else(|| self.pop_idle(session.execution_id)) {
            if tab.events.watch().borrow().gone {
                self.discard(&tab);
                continue;
            }
            if tab.headers != session.headers {
                self.set_headers(&tab, &session.headers, deadline).await?;
                tab.headers.clone_from(&session.headers);
            }
            return Ok((tab, lease));
        }
        let id = id.get_or_try_init(|| self.create_context(deadline)).await?;
        let tab = self.open(id, &session.headers, deadline).await?;
        Ok((tab, lease))
    }

    /// Keeps a tab for the next page of its execution.
    pub(super) fn give_back(&self, execution: ExecutionId, tab: AttachedTab) {
        let mut contexts = self.contexts();
        match contexts.get_mut(&execution) {
            Some(context) => context.idle.push(tab),
            None => self.discard(&tab),
        }
        let idle = contexts.values().map(|context| context.idle.len()).sum::<usize>();
        if idle <= self.idle_limit {
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
        self.connection.ignore(&tab.session);
        self.attached.remove(tab);
        self.connection.send(None, &CloseTargetParams::new(TargetId::new(tab.target.as_str())));
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

    fn lease(
        self: &Arc<Self>,
        execution: ExecutionId,
    ) -> (Lease, Arc<OnceCell<BrowserContextId>>, Option<AttachedTab>) {
        let mut contexts = self.contexts();
        let context = contexts.entry(execution).or_insert_with(|| Context {
            id: Arc::default(),
            idle: Vec::new(),
            in_use: 0,
            last_used: Instant::now(),
        });
        context.in_use += 1;
        self.in_use.send_modify(|in_use| *in_use += 1);
        (Lease { tabs: self.clone(), execution }, context.id.clone(), context.idle.pop())
    }

    fn pop_idle(&self, execution: ExecutionId) -> Option<AttachedTab> {
        self.contexts().get_mut(&execution)?.idle.pop()
    }

    async fn create_context(&self, deadline: Instant) -> Result<BrowserContextId, CallError> {
        let create = CreateBrowserContextParams::builder().dispose_on_detach(true).build();
        let id = self.connection.call(None, &create, deadline).await?.browser_context_id;
        let mut deny = SetDownloadBehaviorParams::new(SetDownloadBehaviorBehavior::Deny);
        deny.browser_context_id = Some(id.clone());
        self.connection.call(None, &deny, deadline).await?;
        Ok(id)
    }

    async fn open(
        &self,
        context: &BrowserContextId,
        headers: &[(String, String)],
        deadline: Instant,
    ) -> Result<AttachedTab, CallError> {
        let mut create = CreateTargetParams::new("about:blank");
        create.browser_context_id = Some(context.clone());
        let target_id = self.connection.call(None, &create, deadline).await?.target_id;
        // From here on the target exists, and must not be left behind whatever happens.
        let unfinished = Unfinished { connection: &self.connection, target: Some(target_id.clone()) };
        let mut attach = AttachToTargetParams::new(target_id.clone());
        attach.flatten = Some(true);
        let session = String::from(self.connection.call(None, &attach, deadline).await?.session_id);
        let target = String::from(target_id);
        let events = Arc::new(PageEvents::new(&target, &session));
        self.connection.listen(&session, events.clone());
        let tab = AttachedTab { target, session, events, headers: headers.to_vec() };
        self.attached.add(&tab);
        let on = Some(tab.session.as_str());
        let page_events = page::EnableParams::default();
        let lifecycle_events = page::SetLifecycleEventsEnabledParams::new(true);
        let crash_events = inspector::EnableParams {};
        let prepared = try_join!(
            self.connection.call(on, &page_events, deadline),
            self.connection.call(on, &lifecycle_events, deadline),
            self.connection.call(on, &crash_events, deadline),
            async {
                if headers.is_empty() { Ok(()) } else { self.set_headers(&tab, headers, deadline).await }
            },
        );
        if let Err(error) = prepared {
            self.discard(&tab);
            return Err(error);
        }
        unfinished.finish();
        Ok(tab)
    }

    /// Sets the headers that every request of the tab carries.
    ///
    /// Chrome sends extra headers only while its Network domain is on, which costs an event for each request; so it is
    /// switched on only where there are headers. The user agent needs no such thing.
    async fn set_headers(
        &self,
        tab: &AttachedTab,
        headers: &[(String, String)],
        deadline: Instant,
    ) -> Result<(), CallError> {
        let on = Some(tab.session.as_str());
        let is_user_agent = |name: &str| name.eq_ignore_ascii_case("user-agent");
        let has_user_agent =
            |headers: &[(String, String)]| headers.iter().any(|(name, _)| is_user_agent(name));
        if has_user_agent(headers) || has_user_agent(&tab.headers) {
            let agent = headers.iter().find(|(name, _)| is_user_agent(name));
            // An empty user agent is the browser's own again.
            let agent = agent.map_or("", |(_, agent)| agent.as_str());
            self.connection.call(on, &SetUserAgentOverrideParams::new(agent), deadline).await?;
        }
        let rest: serde_json::Map<_, _> = headers
            .iter()
            .filter(|(name, _)| !is_user_agent(name))
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        if rest.is_empty() {
            self.connection.call(on, &network::DisableParams {}, deadline).await?;
        } else {
            // No response body is ever asked for, so none need be kept.
            let enable =
                network::EnableParams::builder().max_total_buffer_size(0).max_resource_buffer_size(0).build();
            let extra = network::SetExtraHttpHeadersParams::new(network::Headers::new(rest));
            try_join!(
                self.connection.call(on, &enable, deadline),
                self.connection.call(on, &extra, deadline)
            )?;
        }
        Ok(())
    }

    fn dispose(&self, context: Option<Context>) {
        let Some(context) = context else { return };
        for tab in &context.idle {
            self.connection.ignore(&tab.session);
            self.attached.remove(tab);
        }
        if let Some(id) = context.id.get() {
            self.connection.send(None, &DisposeBrowserContextParams::new(id.clone()));
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

impl Attached {
    fn add(&self, tab: &AttachedTab) {
        let mut attached = self.lock();
        attached.insert(tab.target.clone(), tab.events.clone());
        attached.insert(tab.session.clone(), tab.events.clone());
    }

    fn remove(&self, tab: &AttachedTab) {
        let mut attached = self.lock();
        attached.remove(&tab.target);
        attached.remove(&tab.session);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<PageEvents>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Attached {
    fn event(&self, connection: &Connection, method: &str, params: &RawValue) {
        match method {
            "Target.targetCreated" => {
                if let Ok(Created { target_info: target }) = serde_json::from_str(params.get())
                    && target.kind == "page"
                    && (target.opener_id.is_some() || target.opener_frame_id.is_some())
                {
                    connection.send(None, &CloseTargetParams::new(TargetId::new(target.target_id)));
                }
            }
            "Target.targetCrashed" | "Target.targetDestroyed" | "Target.detachedFromTarget" => {
                let Ok(gone) = serde_json::from_str::<Gone>(params.get()) else { return };
                let name = gone.session_id.or(gone.target_id).unwrap_or_default();
                if let Some(tab) = self.lock().get(&name) {
                    tab.mark_gone();
                }
            }
            _ => {}
        }
    }
}

/// Closes a target whose preparation is given up half-way, also by being dropped.
struct Unfinished<'a> {
    connection: &'a Connection,
    target: Option<TargetId>,
}

impl Unfinished<'_> {
    fn finish(mut self) {
        self.target = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(target) = self.target.take() {
            self.connection.send(None, &CloseTargetParams::new(target));
        }
    }
}
