//! Keeps one browser alive: launches it, watches over it, and replaces it when it dies, hangs, or has done its work.
//! Knows nothing about what is done with it.

use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::crash::{self, CrashPoint};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::browser::{Browser, Upkeep, WatchEnd};
use super::launch::{Confinement, LaunchFailure, LaunchOptions, launch};
use super::memory::Weights;
use super::profile::ProfileFolders;
use super::tabs::TabLimits;
use crate::egress::Egress;

/// The pause after a failed launch; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between launches.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A browser that lived this long was no failure, so that the pauses begin anew.
const HEALTHY_AGE: Duration = Duration::from_secs(30);
/// How long a retired browser may go on with the pages it has, which is longer than a page's deadline.
const DRAIN_PATIENCE: Duration = Duration::from_secs(180);

/// How long it may take to hand over cookies.
const INHERIT_WITHIN: Duration = Duration::from_secs(5);

/// The browser that tabs are opened in; `None` while there is none.
pub(super) type Current = watch::Sender<Option<Arc<Browser>>>;

/// Everything that a launch needs.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) options: LaunchOptions,
    /// What each execution's traffic goes through.
    pub(super) egress: Option<Arc<Egress>>,
    pub(super) tabs: TabLimits,
    pub(super) upkeep: Upkeep,
    /// Of the current browser and of those that it replaces.
    pub(super) weights: Weights,
    pub(super) profiles: ProfileFolders,
    pub(super) confinements: Vec<Confinement>,
    pub(super) current: Arc<Current>,
    pub(super) stop: CancellationToken,
}

impl Supervisor {
    /// Launches one browser.
    pub(super) async fn launch(&mut self) -> Result<Arc<Browser>, LaunchFailure> {
        let launched = launch(&self.options, &self.profiles, &mut self.confinements).await?;
        let egress = self.egress.clone();
        Ok(Arc::new(Browser::start(launched, self.tabs, egress, &self.weights).await?))
    }

    /// Keeps a browser alive until told to stop, then closes all that still run.
    pub(super) async fn run(mut self, first: Arc<Browser>) {
        let stop = self.stop.clone();
        let mut retired = JoinSet::new();
        let mut browser = Some(first);
        let mut pause = FIRST_PAUSE;
        while let Some(watched) = browser.take() {
            let begun = tokio::time::Instant::now();
            self.current.send_replace(Some(watched.clone()));
            let end = stop.run_until_cancelled(watched.watch_over(self.upkeep)).await;
            while retired.try_join_next().is_some() {}
            match end {
                None => browser = Some(watched),
                Some(WatchEnd::Retired(reason)) => {
                    tracing::info!(reason, browser.pid = watched.launched.id(), "a browser is replaced");
                    // The next one is there before this one goes, so that no page waits.
                    let next = stop.run_until_cancelled(self.launch()).await;
                    match next {
                        Some(Ok(next)) => browser = Some(next),
                        Some(Err(error)) => {
                            tracing::warn!(%error, "no browser started to replace a used one");
                            self.current.send_replace(None);
                            browser = self.relaunch(&mut pause).await;
                        }
                        None => {}
                    }
                    if let Some(next) = &browser {
                        stop.run_until_cancelled(hand_over(&watched, next, None)).await;
                    }
                    let upkeep = Upkeep { until_lost: true, ..self.upkeep };
                    retired.spawn(drain(watched, browser.clone(), upkeep, stop.clone()));
                }
                Some(WatchEnd::Lost(reason)) => {
                    self.current.send_replace(None);
                    tracing::warn!(reason, browser.pid = watched.launched.id(), "browser lost");
                    if begun.elapsed() > HEALTHY_AGE {
                        pause = FIRST_PAUSE;
                    }
                    watched.launched.kill();
                    retired.spawn(close(watched.clone()));
                    crash::reach(CrashPoint::AfterBrowserLossBeforeLaunch);
                    browser = self.relaunch(&mut pause).await;
                    if let Some(next) = &browser {
                        next.tabs.inherit_parked(&watched.tabs);
                    }
                }
            }
            if stop.is_cancelled() {
                break;
            }
        }
        self.current.send_replace(None);
        if let Some(browser) = browser {
            close(browser).await;
        }
        while retired.join_next().await.is_some() {}
    }

    /// Launches until it works; `None` when told to stop.
    async fn relaunch(&mut self, pause: &mut Duration) -> Option<Arc<Browser>> {
        let stop = self.stop.clone();
        loop {
            stop.run_until_cancelled(tokio::time::sleep(*pause)).await?;
            *pause = (*pause * 2).min(LONGEST_PAUSE);
            match stop.run_until_cancelled(self.launch()).await? {
                Ok(browser) => return Some(browser),
                Err(error) => tracing::warn!(%error, "no browser started"),
            }
        }
    }
}

/// Lets a retired browser end its pages, as long as it lives.
async fn drain(browser: Arc<Browser>, next: Option<Arc<Browser>>, upkeep: Upkeep, stop: CancellationToken) {
    let begun = tokio::time::Instant::now();
    let drained = async {
        tokio::select! {
            () = browser.tabs.unused() => {}
            end = browser.watch_over(upkeep) => {
                tracing::warn!(?end, browser.pid = browser.launched.id(), "a retired browser was lost with its last pages");
                // At once: it may have the memory that the next one needs.
                browser.launched.kill();
            }
        }
    };
    let _ = stop.run_until_cancelled(tokio::time::timeout(DRAIN_PATIENCE, drained)).await;
    if let Some(next) = next {
        // The last pages may have logged in.
        stop.run_until_cancelled(hand_over(&browser, &next, Some(begun))).await;
    }
    close(browser).await;
}

/// What executions have in one browser they have in the next; the second time, only what was used `since` the first.
async fn hand_over(browser: &Browser, next: &Browser, since: Option<tokio::time::Instant>) {
    next.tabs.inherit(&browser.tabs, since, tokio::time::Instant::now() + INHERIT_WITHIN).await;
}

/// Kills a browser and waits until nothing of it is left. Tabs that are still held fail from now on.
async fn close(browser: Arc<Browser>) {
    browser.launched.close().await;
}
