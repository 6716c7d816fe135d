//! What is known of one tab's page, kept up to date from the browser's events. Answers dialogs; asks nothing else of
//! the browser.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use chromiumoxide_cdp::cdp::browser_protocol::fetch::{
    ContinueRequestParams, FailRequestParams, FulfillRequestParams, HeaderEntry, RequestId,
};
use chromiumoxide_cdp::cdp::browser_protocol::network::ErrorReason;
use chromiumoxide_cdp::cdp::browser_protocol::page::HandleJavaScriptDialogParams;
use chromiumoxide_types::Binary;
use crawlify_shared::domain::workflow::WaitUntil;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::block::Names;
use super::connection::{Connection, Listener};
use super::page_load::{Excess, PageLoad};
use crate::egress::Gate;

/// A page that opens more dialogs than this is given up.
pub(super) const MAX_DIALOGS: u32 = 10;
/// How many documents one navigation may go through, scripts and refreshes included, before it is given up.
pub(super) const MAX_DOCUMENTS: usize = 20;
/// `<link rel=icon href="data:,">`: no icon is asked for.
const EMPTY_DOCUMENT_BASE64: &str = "PGxpbmsgcmVsPWljb24gaHJlZj0iZGF0YTosIj4=";
/// A refresh that comes later than this is not waited for, in seconds.
const SOON_SECONDS: f64 = 1.0;

/// The listener of one tab's session.
#[derive(Debug)]
pub(super) struct PageEvents {
    /// The main frame, which has the target's id.
    frame: String,
    session: String,
    /// Whether requests that are held up get an empty document for an answer. Written by the tab for static pages.
    answers_empty: AtomicBool,
    /// What is blocked by name, in a tab that blocks so.
    names: OnceLock<Names>,
    /// How much the page loads.
    pub(super) load: Arc<PageLoad>,
    /// Written by the reader of the connection and by the tab that begins a navigation; read by the tab.
    state: watch::Sender<PageState>,
}

/// What is known of the page since its navigation began.
#[derive(Debug, Default)]
pub(super) struct PageState {
    /// The loaders whose documents came into the main frame, the present one last.
    pub(super) documents: Vec<String>,
    /// How many documents came after the first one, and whatever was done to the page meanwhile.
    pub(super) documents_after_first: u32,
    /// The loaders that began a navigation.
    pub(super) started: HashSet<String>,
    /// Whether another document is on its way.
    navigating: bool,
    /// Whether the page has asked for another document that is not on its way yet.
    scheduled: bool,
    parsed: bool,
    loaded: bool,
    idle: bool,
    /// How many dialogs it opened.
    pub(super) dialogs: u32,
    /// It loads more than a page may.
    pub(super) excess: Option<Excess>,
    /// The tab is of no more use: its renderer crashed, or it was closed.
    pub(super) gone: bool,
}

// The events' parameters, as far as they are looked at: a newer Chrome may add what it likes.

#[derive(Deserialize)]
struct Lifecycle<'a> {
    #[serde(borrow, rename = "frameId")]
    frame: Cow<'a, str>,
    #[serde(borrow, rename = "loaderId")]
    loader: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Navigation<'a> {
    #[serde(borrow, rename = "frameId")]
    frame: Cow<'a, str>,
    #[serde(borrow, rename = "loaderId", default)]
    loader: Cow<'a, str>,
    #[serde(borrow, rename = "navigationType", default)]
    kind: Cow<'a, str>,
    #[serde(default)]
    delay: f64,
}

#[derive(Deserialize)]
struct Dialog<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Paused {
    request_id: RequestId,
    frame_id: String,
    resource_type: String,
}

impl PageEvents {
    /// Makes the listener of a session.
    pub(super) fn new(target: &str, session: &str, gate: Option<Arc<Gate>>) -> Self {
        let state = watch::Sender::default();
        Self {
            load: Arc::new(PageLoad::new(target, session, gate, state.clone())),
            frame: target.to_owned(),
            session: session.to_owned(),
            answers_empty: AtomicBool::new(false),
            names: OnceLock::new(),
            state,
        }
    }

    /// Forgets all but whether the tab is gone.
    pub(super) fn begin_navigation(&self) {
        self.state.send_modify(|state| *state = PageState { gone: state.gone, ..PageState::default() });
    }

    /// Something is done to the present document: others are counted from now on, and so are dialogs.
    pub(super) fn begin_act(&self) {
        self.state.send_modify(|state| {
            let present = state.documents.len().saturating_sub(1);
            state.documents.drain(..present);
            state.started.clear();
            state.dialogs = 0;
        });
    }

    /// Answers the requests that are held up with an empty document from now on, or no longer.
    pub(super) fn answer_empty(&self, empty: bool) {
        self.answers_empty.store(empty, Ordering::Relaxed);
    }

    /// Looks from now on whether the names of what is sent tell what it is.
    pub(super) fn watch_names(&self, names: Names) {
        // A tab is prepared once.
        let _ = self.names.set(names);
    }

    /// Answers a request that is held up: it is of a blocked resource, unless it is of the page itself.
    fn answer(&self, connection: &Connection, request: Paused) {
        let on = Some(self.session.as_str());
        let is_page = request.resource_type == "Document" && request.frame_id == self.frame;
        if self.answers_empty.load(Ordering::Relaxed) {
            let mut empty = FulfillRequestParams::new(request.request_id, 200);
            empty.response_headers = Some(vec![HeaderEntry::new("content-type", "text/html; charset=utf-8")]);
            empty.body = Some(Binary::from(EMPTY_DOCUMENT_BASE64.to_owned()));
            connection.send(on, &empty);
        } else if is_page {
            connection.send(on, &ContinueRequestParams::new(request.request_id));
        } else {
            connection.send(on, &FailRequestParams::new(request.request_id, ErrorReason::BlockedByClient));
        }
    }

    /// Notes that the tab is of no more use.
    pub(super) fn mark_gone(&self) {
        self.state.send_modify(|state| state.gone = true);
    }

    /// The state, and when it changes.
    pub(super) fn watch(&self) -> watch::Receiver<PageState> {
        self.state.subscribe()
    }

    fn lifecycle(&self, event: &Lifecycle<'_>) {
        if event.frame != self.frame {
            return;
        }
        self.state.send_if_modified(|state| {
            if event.name == "init" {
                match state.documents.last() {
                    None => self.load.arrive(),
                    Some(present) if *present == event.loader => {}
                    Some(_) => state.documents_after_first += 1,
                }
                if state.documents.len() <= MAX_DOCUMENTS {
                    state.documents.push(event.loader.clone().into_owned());
                }
                (state.parsed, state.loaded, state.idle) = (false, false, false);
                (state.navigating, state.scheduled) = (false, false);
                return true;
            }
            if state.documents.last().is_none_or(|loader| *loader != event.loader) {
                return false;
            }
            match event.name.as_ref() {
                "DOMContentLoaded" => state.parsed = true,
                "load" => state.loaded = true,
                "networkIdle" => state.idle = true,
                _ => return false,
            }
            true
        });
    }

    fn navigation(&self, method: &str, event: &Navigation<'_>) {
        if event.frame != self.frame {
            return;
        }
        self.state.send_if_modified(|state| {
            match method {
                "Page.frameStartedNavigating" if event.kind != "sameDocument" => {
                    if state.started.len() <= MAX_DOCUMENTS {
                        state.started.insert(event.loader.clone().into_owned());
                    }
                    state.navigating = true;
                }
                // It came to nothing: a download, an empty answer, an error without a page.
                "Page.frameStoppedLoading" => state.navigating = false,
                "Page.frameScheduledNavigation" if event.delay < SOON_SECONDS => state.scheduled = true,
                // It is on its way by now, or was given up.
                "Page.frameClearedScheduledNavigation" => state.scheduled = false,
                _ => return false,
            }
            true
        });
    }
}

impl Listener for PageEvents {
    fn event(&self, connection: &Connection, method: &str, params: &RawValue) {
        match method {
            "Page.lifecycleEvent" => {
                if let Ok(event) = serde_json::from_str(params.get()) {
                    self.lifecycle(&event);
                }
            }
            "Page.frameStartedNavigating"
            | "Page.frameStoppedLoading"
            | "Page.frameScheduledNavigation"
            | "Page.frameClearedScheduledNavigation" => {
                if let Ok(event) = serde_json::from_str(params.get()) {
                    self.navigation(method, &event);
                }
            }
            "Page.javascriptDialogOpening" => {
                // Leaving is always agreed to; nothing else is.
                let accept = serde_json::from_str(params.get())
                    .is_ok_and(|dialog: Dialog<'_>| dialog.kind == "beforeunload");
                self.state.send_modify(|state| state.dialogs += 1);
                connection.send(Some(&self.session), &HandleJavaScriptDialogParams::new(accept));
            }
            "Fetch.requestPaused" => {
                if let Ok(request) = serde_json::from_str(params.get()) {
                    self.answer(connection, request);
                }
            }
            "Network.requestWillBeSent" => {
                if let Some(names) = self.names.get() {
                    names.see(connection, &self.session, params);
                }
                self.load.hear(connection, method, params);
            }
            "Inspector.targetCrashed" => self.mark_gone(),
            _ => self.load.hear(connection, method, params),
        }
    }

    fn skipped(&self, connection: &Connection, method: &str, bytes: u64) {
        self.load.skipped(connection, method, bytes);
    }
}

impl PageState {
    /// Whether the page has got as far as it should, counted from the document that `loader` names.
    pub(super) fn has_reached(&self, wait_until: WaitUntil, loader: &str) -> bool {
        self.documents.iter().any(|document| document == loader)
            && !self.is_leaving()
            && match wait_until {
                WaitUntil::DomContentLoaded => self.parsed,
                WaitUntil::Load => self.loaded,
                WaitUntil::NetworkIdle => self.loaded && self.idle,
            }
    }

    /// Whether another document will replace this one, or may.
    pub(super) fn is_leaving(&self) -> bool {
        self.navigating || self.scheduled
    }

    /// Whether a navigation began that is not the one of `loader`.
    pub(super) fn was_crossed(&self, loader: Option<&str>) -> bool {
        self.started.iter().any(|started| Some(started.as_str()) != loader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> PageEvents {
        PageEvents::new("main", "session", None)
    }

    fn lifecycle(events: &PageEvents, frame: &'static str, loader: &'static str, names: &[&'static str]) {
        for name in names {
            events.lifecycle(&Lifecycle { frame: frame.into(), loader: loader.into(), name: (*name).into() });
        }
    }

    fn navigation(events: &PageEvents, method: &str, loader: &'static str) {
        let event = Navigation { frame: "main".into(), loader: loader.into(), kind: "".into(), delay: 0.0 };
        events.navigation(method, &event);
    }

    #[test]
    fn a_page_is_loaded_when_its_own_document_is() {
        let events = events();
        events.begin_navigation();
        lifecycle(&events, "main", "old", &["DOMContentLoaded", "load", "networkIdle"]);
        lifecycle(&events, "frame", "new", &["init", "DOMContentLoaded", "load"]);
        let state = events.watch();
        assert!(!state.borrow().has_reached(WaitUntil::DomContentLoaded, "new"));
        lifecycle(&events, "main", "new", &["init", "DOMContentLoaded"]);
        assert!(state.borrow().has_reached(WaitUntil::DomContentLoaded, "new"));
        assert!(!state.borrow().has_reached(WaitUntil::Load, "new"));
        lifecycle(&events, "main", "new", &["load", "networkIdle"]);
        assert!(state.borrow().has_reached(WaitUntil::NetworkIdle, "new"));
    }

    #[test]
    fn documents_after_the_first_one_are_counted_until_the_next_navigation() {
        let events = events();
        let count = || events.watch().borrow().documents_after_first;
        events.begin_navigation();
        lifecycle(&events, "main", "one", &["init", "load"]);
        lifecycle(&events, "frame", "other", &["init", "load"]);
        assert_eq!(count(), 0);
        // A script sends the page on, and then a click.
        lifecycle(&events, "main", "two", &["init", "load"]);
        assert_eq!(count(), 1);
        events.begin_act();
        lifecycle(&events, "main", "three", &["init", "load"]);
        assert_eq!(count(), 2);
        events.begin_navigation();
        lifecycle(&events, "main", "four", &["init", "load"]);
        assert_eq!(count(), 0);
    }

    #[test]
    fn a_page_that_is_being_left_is_waited_for_until_the_next_document_or_nothing_comes() {
        let events = events();
        lifecycle(&events, "main", "one", &["init", "DOMContentLoaded"]);
        navigation(&events, "Page.frameScheduledNavigation", "");
        navigation(&events, "Page.frameStoppedLoading", "");
        navigation(&events, "Page.frameStartedNavigating", "two");
        navigation(&events, "Page.frameClearedScheduledNavigation", "");
        lifecycle(&events, "main", "one", &["load"]);
        let state = events.watch();
        assert!(!state.borrow().has_reached(WaitUntil::Load, "one"));
        assert!(state.borrow().was_crossed(Some("one")));
        lifecycle(&events, "main", "two", &["init", "DOMContentLoaded", "load"]);
        assert!(state.borrow().has_reached(WaitUntil::Load, "one"));
        navigation(&events, "Page.frameStartedNavigating", "download");
        assert!(!state.borrow().has_reached(WaitUntil::Load, "one"));
        navigation(&events, "Page.frameStoppedLoading", "");
        assert!(state.borrow().has_reached(WaitUntil::Load, "one"));
    }
}
