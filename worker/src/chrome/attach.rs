//! Opens targets and prepares them: a browser context, a tab of it that commands can be sent to, the headers it sends and
//! what it does not load. Knows nothing about who uses a tab, or how often.

use std::sync::Arc;

use chromiumoxide_cdp::cdp::browser_protocol::browser::{
    BrowserContextId, GetVersionParams, SetDownloadBehaviorBehavior, SetDownloadBehaviorParams,
};
use chromiumoxide_cdp::cdp::browser_protocol::emulation::SetUserAgentOverrideParams;
use chromiumoxide_cdp::cdp::browser_protocol::network;
use chromiumoxide_cdp::cdp::browser_protocol::target::{
    AttachToTargetParams, CloseTargetParams, CreateBrowserContextParams, CreateTargetParams,
    DisposeBrowserContextParams, TargetId,
};
use chromiumoxide_cdp::cdp::browser_protocol::{inspector, page};
use futures_util::try_join;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::attached::Attached;
use super::block::block;
use super::connection::{CallError, Connection};
use super::driver::Session;
use super::flags::NO_BYPASS;
use super::page_load::network_events;
use super::page_state::PageEvents;
use super::sent_headers::SentHeaders;
use super::unfinished::{Opened, Unfinished};
use super::viewport::paint_a_corner;
use crate::egress::{Egress, Gate};

/// A tab that commands can be sent to.
#[derive(Debug)]
pub(super) struct AttachedTab {
    pub(super) target: String,
    pub(super) session: String,
    pub(super) events: Arc<PageEvents>,
    /// What its traffic goes through.
    pub(super) gate: Option<Arc<Gate>>,
    /// The browser context that goes with the tab; `None` for one that tabs share.
    own_context: Option<BrowserContext>,
}

/// A browser context, and what its traffic goes through, which lives as long.
#[derive(Clone, Debug)]
pub(super) struct BrowserContext {
    pub(super) id: BrowserContextId,
    gate: Option<Arc<Gate>>,
}

/// Opens tabs, and tells each of them when it crashes or goes.
#[derive(Debug)]
pub(super) struct Opener {
    connection: Connection,
    egress: Option<Arc<Egress>>,
    attached: Arc<Attached>,
    /// Contexts that are being made, whoever still waits for them. They end with the browser.
    creating: TaskTracker,
}

impl AttachedTab {
    /// Whether it has a browser context of its own.
    pub(super) fn is_apart(&self) -> bool {
        self.own_context.is_some()
    }
}

impl BrowserContext {
    /// Whether more goes through it than its pages may load, as the guard has counted since this was so the last time.
    pub(super) fn loads_beyond_its_pages(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.has_passed_its_pages())
    }
}

impl Opener {
    /// Begins to listen to what becomes of targets, once the browser is made to tell.
    pub(super) fn new(connection: Connection, egress: Option<Arc<Egress>>) -> Self {
        let attached = Arc::new(Attached::default());
        connection.listen("", attached.clone());
        Self { connection, egress, attached, creating: TaskTracker::new() }
    }

    /// How many tabs have crashed.
    pub(super) fn crashed(&self) -> u64 {
        self.attached.crashed()
    }

    /// Whether a tab may live that was told to close.
    pub(super) fn is_closing(&self) -> bool {
        self.attached.is_closing()
    }

    /// The line to the browser.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Makes a browser context, with these cookies, and with storage, cache and way to the network of its own. It takes no
    /// downloads.
    pub(super) async fn create_context(
        &self,
        session: &Session,
        cookies: Vec<network::CookieParam>,
        deadline: Instant,
    ) -> Result<BrowserContext, CallError> {
        let gate = match (&self.egress, &session.proxy) {
            (Some(egress), proxy) => {
                egress.gate(session.execution_id, proxy.as_ref()).map_err(CallError::NoPort)?
            }
            // To go straight to the network instead would give away who asks.
            (None, Some(_)) => {
                return Err(CallError::Refused(
                    "a proxy is wanted, and this driver has no egress".to_owned(),
                ));
            }
            (None, None) => None,
        };
        let mut create = CreateBrowserContextParams::builder().dispose_on_detach(true).build();
        if let Some(gate) = &gate {
            create.proxy_server = Some(gate.proxy_url());
            create.proxy_bypass_list = Some(NO_BYPASS.to_owned());
        }
        let id = self.created(create, deadline).await?;
        let context = BrowserContext { id: id.clone(), gate };
        let unfinished = Unfinished::new(self, Opened::Context(context.clone()));
        let mut deny = SetDownloadBehaviorParams::new(SetDownloadBehaviorBehavior::Deny);
        deny.browser_context_id = Some(id);
        self.connection.call(None, &deny, deadline).await?;
        self.give_cookies(&context, cookies, deadline).await;
        unfinished.finish();
        Ok(context)
    }

    /// The context that is made. One that nobody waits for any more when it is there is disposed of.
    async fn created(
        &self,
        create: CreateBrowserContextParams,
        deadline: Instant,
    ) -> Result<BrowserContextId, CallError> {
        let (tell, told) = oneshot::channel();
        let connection = self.connection.clone();
        self.creating.spawn(async move {
            let created = connection.call(None, &create, deadline).await;
            if let Err(Ok(unwanted)) = tell.send(created) {
                connection.send(None, &DisposeBrowserContextParams::new(unwanted.browser_context_id));
            }
        });
        Ok(told.await.map_err(|_| CallError::Lost)??.browser_context_id)
    }

    /// Whether a target is a tab of ours, or is to become one.
    pub(super) fn knows(&self, target: &str) -> bool {
        self.attached.knows(target)
    }

    /// How many names of tabs are known, and how many sessions are listened to; the browser's own is one.
    #[cfg(test)]
    pub(super) fn attached(&self) -> (usize, usize) {
        (self.attached.len(), self.connection.listeners())
    }

    /// Looks at what the pages of all tabs load.
    pub(super) fn look_at_loads(&self) {
        self.attached.for_each(|tab| tab.load.look(&self.connection));
    }

    /// Closes a target that is not attached to yet, without waiting.
    pub(super) fn give_up(&self, target: TargetId) {
        self.attached.give_up(target.inner());
        self.connection.send(None, &CloseTargetParams::new(target));
    }

    /// Closes a target, without waiting.
    pub(super) fn close_target(&self, target: &str) {
        self.connection.send(None, &CloseTargetParams::new(TargetId::new(target)));
    }

    /// Disposes of a context, with all its tabs, without waiting.
    pub(super) fn dispose_context(&self, context: &BrowserContext) {
        self.connection.send(None, &DisposeBrowserContextParams::new(context.id.clone()));
    }

    /// Opens a tab that has a context of its own, and takes it along when it is closed.
    pub(super) async fn open_apart(
        &self,
        session: &Session,
        deadline: Instant,
    ) -> Result<AttachedTab, CallError> {
        let context = self.create_context(session, Vec::new(), deadline).await?;
        let unfinished = Unfinished::new(self, Opened::Context(context.clone()));
        let mut tab = self.open(&context, session, deadline).await?;
        tab.own_context = Some(context);
        unfinished.finish();
        Ok(tab)
    }

    /// Opens a tab in a context.
    pub(super) async fn open(
        &self,
        context: &BrowserContext,
        session: &Session,
        deadline: Instant,
    ) -> Result<AttachedTab, CallError> {
        let mut create = CreateTargetParams::new("about:blank");
        create.browser_context_id = Some(context.id.clone());
        let target_id = self.connection.call(None, &create, deadline).await?.target_id;
        // From here on the target exists, and must not be left behind whatever happens.
        let unfinished = Unfinished::new(self, Opened::Target(target_id.clone()));
        self.attached.open(target_id.inner());
        let mut attach = AttachToTargetParams::new(target_id.clone());
        attach.flatten = Some(true);
        let id = String::from(self.connection.call(None, &attach, deadline).await?.session_id);
        let target = String::from(target_id);
        let gate = context.gate.clone();
        let events = Arc::new(PageEvents::new(&target, &id, gate.clone()));
        self.connection.listen(&id, events.clone());
        let tab = AttachedTab { target, session: id, events, gate, own_context: None };
        self.attached.add(&tab);
        let attached = Unfinished::new(self, Opened::Tab(&tab));
        let on = Some(tab.session.as_str());
        let page_events = page::EnableParams::default();
        let lifecycle_events = page::SetLifecycleEventsEnabledParams::new(true);
        let crash_events = inspector::EnableParams {};
        let prepared = try_join!(
            self.connection.call(on, &page_events, deadline),
            self.connection.call(on, &lifecycle_events, deadline),
            self.connection.call(on, &crash_events, deadline),
            self.set_headers(&tab, session, deadline),
            self.set_block(&tab, session, deadline),
            paint_a_corner(&self.connection, &tab.session, deadline),
        );
        prepared?;
        attached.finish();
        unfinished.finish();
        Ok(tab)
    }

    /// Closes a tab, and the context that goes with it, without waiting.
    pub(super) fn close(&self, tab: &AttachedTab) {
        self.forget(tab);
        match &tab.own_context {
            Some(context) => self.dispose_context(context),
            None => self.connection.send(None, &CloseTargetParams::new(TargetId::new(tab.target.as_str()))),
        }
    }

    /// Listens to a tab no longer: its context is being disposed of.
    pub(super) fn forget(&self, tab: &AttachedTab) {
        self.connection.ignore(&tab.session);
        tab.events.load.ignore(&self.connection);
        self.attached.remove(tab);
    }

    async fn set_block(
        &self,
        tab: &AttachedTab,
        session: &Session,
        deadline: Instant,
    ) -> Result<(), CallError> {
        if let Some(names) = block(&self.connection, &tab.session, session, deadline).await? {
            tab.events.watch_names(names);
        }
        Ok(())
    }

    async fn set_headers(
        &self,
        tab: &AttachedTab,
        session: &Session,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let on = Some(tab.session.as_str());
        let sent = SentHeaders::of(&session.headers);
        let user_agent = match (sent.user_agent, &session.agent) {
            (Some(own), _) => own.to_owned(),
            (None, Some(agent)) => {
                let browser = self.connection.call(None, &GetVersionParams {}, deadline).await?;
                format!("{} {agent}", browser.user_agent)
            }
            // An empty one is the browser's own.
            (None, None) => String::new(),
        };
        if !user_agent.is_empty() || sent.languages.is_some() {
            let mut agent = SetUserAgentOverrideParams::new(user_agent);
            agent.accept_language = sent.languages;
            self.connection.call(on, &agent, deadline).await?;
        }
        if !sent.rest.is_empty() {
            let enable = network_events();
            let extra = network::SetExtraHttpHeadersParams::new(network::Headers::new(sent.rest));
            try_join!(
                self.connection.call(on, &enable, deadline),
                self.connection.call(on, &extra, deadline)
            )?;
        }
        Ok(())
    }
}
