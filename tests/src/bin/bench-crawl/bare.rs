//! The limit: the worker's own browser, which only navigates. No nodes, no rows, no messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Block, Isolation, WaitUntil};
use crawlify_worker::chrome::driver::{Driver, Session, TabError};
use crawlify_worker::chrome::{ChromeDriver, ChromeOptions};
use tokio::task::JoinSet;

use crate::job::{BareJob, Line, Message, Outcome};

/// How long one navigation may take.
const PAGE_WITHIN: Duration = Duration::from_secs(60);
/// How often the number of pages is said.
const SAY_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Shared {
    driver: Arc<ChromeDriver>,
    session: Session,
    wait_until: WaitUntil,
    urls: Vec<PageUrl>,
    /// Taken from by every tab.
    next: AtomicUsize,
    /// Written by every tab, read while they work and at the end.
    loaded: AtomicU64,
    failed: AtomicU64,
}

/// Loads every URL once, each tab the next one as soon as it has loaded one.
///
/// # Errors
/// There is no browser.
pub(crate) async fn navigate(job: BareJob, mut line: Line) -> Result<()> {
    ensure!(!job.urls.is_empty(), "there is no page to load");
    let urls = job.urls.iter().map(|url| PageUrl::parse(url)).collect::<Result<Vec<_>, _>>()?;
    let options = ChromeOptions { idle_tabs: job.tabs, ..ChromeOptions::from_environment() };
    let shared = Arc::new(Shared {
        driver: ChromeDriver::start(options).await?,
        // It loads everything, whatever the crawls block: it is what they are measured against.
        session: Session {
            execution_id: ExecutionId::generate(),
            headers: job.headers.into_iter().collect(),
            agent: None,
            block: Block::default(),
            isolation: Isolation::default(),
            proxy: None,
        },
        wait_until: job.wait_until.into(),
        urls,
        next: AtomicUsize::new(0),
        loaded: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    });
    line.ready(None).await?;
    let begun = Instant::now();
    let mut tabs = JoinSet::new();
    for _ in 0..job.tabs {
        tabs.spawn(work(Arc::clone(&shared)));
    }
    let mut say = tokio::time::interval(SAY_EVERY);
    loop {
        tokio::select! {
            ended = tabs.join_next() => match ended {
                Some(ended) => ended?.map_err(|error| anyhow!("no tab could be opened: {error}"))?,
                None => break,
            },
            _ = say.tick() => line.say(&Message::Pages(shared.loaded.load(Ordering::Relaxed)))?,
        }
    }
    let outcome = Outcome {
        pages: shared.loaded.load(Ordering::Relaxed),
        failed: shared.failed.load(Ordering::Relaxed),
        seconds: begun.elapsed().as_secs_f64(),
        ..Outcome::default()
    };
    line.say(&Message::Done(Box::new(outcome)))?;
    line.end().await;
    shared.driver.close().await;
    Ok(())
}

/// One tab's work: opened and released for each page, as a worker does.
async fn work(shared: Arc<Shared>) -> Result<(), TabError> {
    loop {
        let next = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some(url) = shared.urls.get(next) else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + PAGE_WITHIN;
        let mut tab = shared.driver.open(&shared.session, deadline).await?;
        let loaded = tab.navigate(url, shared.wait_until, None, deadline).await;
        let count = if loaded.is_ok() { &shared.loaded } else { &shared.failed };
        count.fetch_add(1, Ordering::Relaxed);
        if loaded.map_or_else(|error| error.tab_usable, |_| true) {
            tab.release().await;
        }
    }
}
