//! The tabs of a browser that exist, and what is told of them: who crashed, who went. Closes what pages open by themselves.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::target::{CloseTargetParams, TargetId};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::attach::AttachedTab;
use super::connection::{Connection, Listener};
use super::page_state::PageEvents;

/// How long a tab that was told to close may live on, with the last that its page does and all that it has in memory.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// The tabs that exist, by their target and by their session: who is told when one crashes or goes.
#[derive(Debug, Default)]
pub(super) struct Attached {
    tabs: Mutex<HashMap<String, Arc<PageEvents>>>,
    /// Targets that are not attached to yet.
    opening: Mutex<HashSet<String>>,
    /// Targets that were told to close lately.
    closing: Mutex<HashMap<String, Instant>>,
    crashed: AtomicU64,
}

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

impl Attached {
    /// A target exists, and is about to be attached to.
    pub(super) fn open(&self, target: &str) {
        lock(&self.opening).insert(target.to_owned());
    }

    /// A target is not attached to after all.
    pub(super) fn give_up(&self, target: &str) {
        lock(&self.opening).remove(target);
    }

    /// A tab is listened to.
    pub(super) fn add(&self, tab: &AttachedTab) {
        let mut tabs = lock(&self.tabs);
        tabs.insert(tab.target.clone(), tab.events.clone());
        tabs.insert(tab.session.clone(), tab.events.clone());
        self.give_up(&tab.target);
    }

    /// A tab is told to close.
    pub(super) fn remove(&self, tab: &AttachedTab) {
        let mut closing = lock(&self.closing);
        closing.retain(|_, since| since.elapsed() < CLOSES_WITHIN);
        closing.insert(tab.target.clone(), Instant::now());
        lock(&self.tabs).retain(|name, _| *name != tab.target && *name != tab.session);
    }

    /// Whether a target is a tab of ours, or is to become one.
    pub(super) fn knows(&self, target: &str) -> bool {
        lock(&self.opening).contains(target) || lock(&self.tabs).contains_key(target)
    }

    /// How many names of tabs are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.tabs).len() + lock(&self.opening).len()
    }

    /// Does that with each tab, as often as it has names.
    pub(super) fn for_each(&self, act: impl Fn(&PageEvents)) {
        lock(&self.tabs).values().for_each(|tab| act(tab));
    }

    /// How many tabs have crashed, those included that were being closed.
    pub(super) fn crashed(&self) -> u64 {
        self.crashed.load(Ordering::Relaxed)
    }

    /// Whether a tab may live that was told to close.
    pub(super) fn is_closing(&self) -> bool {
        lock(&self.closing).values().any(|since| since.elapsed() < CLOSES_WITHIN)
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
                let tab = lock(&self.tabs).get(&name).cloned();
                if method == "Target.targetCrashed"
                    && (tab.is_some() || lock(&self.closing).contains_key(&name))
                {
                    self.crashed.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(tab) = tab {
                    tab.mark_gone();
                }
            }
            _ => {}
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
