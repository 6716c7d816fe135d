//! The driver of the real browser: finds and launches it, and hands out its tabs. See `supervisor` for its life.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crawlify_shared::config;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::loops::{BrokenLoop, Loops};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::browser::{Browser, Upkeep};
use super::driver::{DomProgram, Driver, Session, Static, Tab, TabError};
use super::failure;
use super::find::{FindBrowserError, find_browser_or};
use super::launch::{Confinement, LaunchOptions};
use super::memory::Weights;
use super::profile::ProfileFolders;
use super::supervisor::{Current, Supervisor};
use super::tab::ChromeTab;
use super::tabs::TabLimits;
use crate::egress::Egress;
use crate::machine::memory_bytes;

/// How much memory a browser may use where the system does not say how much there is.
const DEFAULT_MEMORY: u64 = 4 << 30;

/// The most memory that a process of pages may have for itself, on a machine that has enough.
const PAGE_MEMORY: u64 = 2 << 30;

/// How the browser is run.
#[derive(Clone, Debug)]
pub struct ChromeOptions {
    /// The program; `None` looks for one.
    pub program: Option<PathBuf>,
    /// Further command-line flags, one each, with or without dashes. One that we set too replaces ours.
    pub extra_flags: Vec<String>,
    /// What all traffic goes through; `None` is straight to the network.
    pub egress: Option<Arc<Egress>>,
    /// A browser is replaced after this many pages.
    pub pages_per_browser: u64,
    /// A browser is replaced after this long.
    pub browser_age: Duration,
    /// A browser is replaced when its processes together use more memory than this, in bytes, and killed when they use a
    /// quarter more. Half as much more is what it may use together with those that it replaced and that still end their last
    /// pages: beyond that one of these is killed. What processes share is not counted.
    pub browser_memory: u64,
    /// A process in which pages live is killed when it uses more memory than this, in bytes; its pages end as `tab_crash`. Where
    /// it is one of a frame alone, the browser is killed.
    pub page_memory: u64,
    /// How often the browser is asked whether it lives, and how long it may take to say so; after two misses it is
    /// replaced.
    pub ping_every: Duration,
    /// At most this many tabs are kept open without a page.
    pub idle_tabs: usize,
    /// How many tabs read the static pages of one site.
    pub static_tabs: usize,
    /// Where profiles are; `None` is the system's folder for temporary files. Where we are root, the account that
    /// the browser runs under must be able to pass through it.
    pub profile_parent: Option<PathBuf>,
}

/// The browser could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no browser on this machine; the message says how to install one.
    #[error(transparent)]
    NoBrowser(#[from] FindBrowserError),
    /// It does not start; the message holds what it printed.
    #[error("`{program}` does not start: {reason}")]
    DoesNotStart {
        /// The program.
        program: String,
        /// What happened.
        reason: String,
    },
}

/// The driver of the real browser. Dropping it kills the browser; [`Driver::close`] also waits for that.
#[derive(Debug)]
pub struct ChromeDriver {
    /// Written by the supervisor, and by whoever clears up after one that panicked.
    current: Arc<Current>,
    description: String,
    egress: Option<Arc<Egress>>,
    stop: CancellationToken,
    loops: Loops,
    /// The supervisor's task.
    tasks: TaskTracker,
}

impl Default for ChromeOptions {
    fn default() -> Self {
        let browser_memory = memory_bytes().map_or(DEFAULT_MEMORY, |bytes| bytes / 10 * 6);
        Self {
            program: None,
            extra_flags: Vec::new(),
            egress: None,
            pages_per_browser: 2_000,
            browser_age: Duration::from_secs(30 * 60),
            browser_memory,
            page_memory: (browser_memory / 4 * 3).min(PAGE_MEMORY),
            ping_every: Duration::from_secs(5),
            idle_tabs: 8,
            static_tabs: 2,
            profile_parent: None,
        }
    }
}

impl ChromeOptions {
    /// The defaults for so many slots, with the flags that `CRAWLIFY_CHROME_FLAGS` adds.
    pub fn for_slots(slots: usize) -> Self {
        // More tabs than this for one site's static pages use no more cores.
        let static_tabs = slots.clamp(1, 4);
        Self { idle_tabs: slots, static_tabs, ..Self::from_environment() }
    }

    /// The defaults, with the flags that `CRAWLIFY_CHROME_FLAGS` adds.
    pub fn from_environment() -> Self {
        Self { extra_flags: config::chrome_flags(), ..Self::default() }
    }
}

impl ChromeDriver {
    /// Finds and launches the browser, and keeps one alive from then on.
    ///
    /// # Errors
    /// There is no browser, or it does not start at all.
    pub async fn start(options: ChromeOptions) -> Result<Arc<Self>, LaunchError> {
        let program = find_browser_or(options.program)?.path;
        let does_not_start =
            |reason: String| LaunchError::DoesNotStart { program: program.display().to_string(), reason };
        let parent = options.profile_parent.unwrap_or_else(std::env::temp_dir);
        let profiles = ProfileFolders::create(&parent)
            .map_err(|error| does_not_start(format!("no profile folder in {}: {error}", parent.display())))?;
        let current = Arc::new(Current::new(None));
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor {
            options: LaunchOptions {
                program: program.clone(),
                extra_flags: options.extra_flags,
                proxy_server: options.egress.as_ref().and_then(|egress| egress.browser_proxy()),
            },
            egress: options.egress.clone(),
            tabs: TabLimits { idle: options.idle_tabs, static_tabs: options.static_tabs },
            upkeep: Upkeep {
                pages: options.pages_per_browser,
                age: options.browser_age,
                memory: options.browser_memory,
                page_memory: options.page_memory,
                ping_every: options.ping_every,
                until_lost: false,
            },
            weights: Weights::default(),
            profiles,
            confinements: Confinement::choices(),
            current: current.clone(),
            stop: stop.clone(),
        };
        let first = supervisor.launch().await.map_err(|error| does_not_start(error.to_string()))?;
        let description = describe(&first);
        tracing::info!(browser = %description, "browser started");
        if !first.launched.confinement.sandbox {
            tracing::warn!("chrome runs without its sandbox: it did not start with it on this machine");
        }
        current.send_replace(Some(first.clone()));
        let (tasks, loops) = (TaskTracker::new(), Loops::new(Vec::new()));
        tasks.spawn(watched(supervisor, first, loops.clone()));
        tasks.close();
        Ok(Arc::new(Self { current, description, egress: options.egress, stop, loops, tasks }))
    }

    /// What runs, for people: `Chromium 156.0.8078.79 headless shell, sandbox on (as nobody)`.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The process id of the browser that tabs are opened in, while there is one.
    pub fn browser_pid(&self) -> Option<i32> {
        self.current.borrow().as_ref().map(|browser| browser.launched.id())
    }

    #[cfg(test)]
    pub(super) fn current_browser(&self) -> Option<Arc<Browser>> {
        self.current.borrow().clone()
    }

    fn watch(&self) -> watch::Receiver<Option<Arc<Browser>>> {
        self.current.subscribe()
    }
}

#[async_trait]
impl Driver for ChromeDriver {
    async fn open(&self, session: &Session, deadline: Instant) -> Result<Box<dyn Tab>, TabError> {
        let browser = self.current.borrow().clone().ok_or_else(failure::browser_lost)?;
        let taken = browser.tabs.take(session, deadline).await;
        let opened = taken.map_err(|error| failure::of_call(error, "a tab was opened"));
        browser.note_opening(opened.as_ref().err().map(|error| error.failure.class));
        let (tab, lease) = opened?;
        Ok(Box::new(ChromeTab::new(tab, lease, browser)))
    }

    async fn read_static(
        &self,
        session: &Session,
        url: &PageUrl,
        program: &DomProgram,
        fresh: bool,
        deadline: Instant,
    ) -> Static {
        let Some(browser) = self.current.borrow().clone() else {
            return Static::Lost("there is no browser".to_owned());
        };
        browser.count_read();
        let read = browser.tabs.read_static(session, url, program, fresh, deadline).await;
        read.unwrap_or_else(|error| Static::Lost(error.to_string()))
    }

    fn take_received(&self, execution: ExecutionId) -> Option<u64> {
        self.egress.as_ref()?.take_received(execution)
    }

    fn is_ready(&self) -> bool {
        self.current.borrow().is_some()
    }

    async fn ready(&self) {
        if self.watch().wait_for(Option::is_some).await.is_err() {
            // The supervisor never lets go of its end before ours; waiting for ever is right if it did.
            std::future::pending::<()>().await;
        }
    }

    async fn broken(&self) -> BrokenLoop {
        self.loops.broken().await
    }

    async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for ChromeDriver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Keeps a browser alive until the stop. Where the supervisor panics, no more tabs are opened: nobody would look after
/// them.
async fn watched(supervisor: Supervisor, first: Arc<Browser>, loops: Loops) {
    let (current, stop) = (Arc::clone(&supervisor.current), supervisor.stop.clone());
    loops.watch("browser", stop.clone(), supervisor.run(first)).await;
    if let Some(browser) = current.send_replace(None) {
        // Until then its pages are given back.
        stop.cancelled().await;
        browser.launched.close().await;
    }
}

fn describe(browser: &Browser) -> String {
    let product = &browser.launched.product;
    let (name, version) = product.split_once('/').unwrap_or((product, "of unknown version"));
    let kind = if name.starts_with("Headless") { " headless shell" } else { "" };
    let confinement = &browser.launched.confinement;
    let sandbox = if confinement.sandbox { "on" } else { "off" };
    let account = confinement.account.as_ref().map(|account| format!(" (as {})", account.name));
    format!("Chromium {version}{kind}, sandbox {sandbox}{}", account.unwrap_or_default())
}
