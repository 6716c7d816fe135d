//! A browser that visits a made-up site: each visit comes to what the page's fate says. One that is lost takes with it
//! whatever is in it, and is there again after a moment.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::WaitUntil;
use crawlify_worker::chrome::driver::{
    Document, DomOp, DomProgram, Driver, Input, Session, Static, StepResult, Tab, TabError,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::site::{Fault, Site, number_of};

/// How long a browser takes to start again.
const RESTART: Duration = Duration::from_millis(20);

/// The site as all browsers see it.
#[derive(Debug)]
pub(super) struct Web {
    pub(super) site: Site,
    /// How often each page was visited, written by every browser.
    visits: watch::Sender<Vec<u64>>,
}

/// The browser of one worker.
#[derive(Debug)]
pub(super) struct Browser {
    web: Arc<Web>,
    /// Written whenever the browser is lost: when the next one is there. Each such change is the end of every tab.
    ready_at: Arc<watch::Sender<Instant>>,
}

#[derive(Debug)]
struct BrowserTab {
    web: Arc<Web>,
    ready_at: Arc<watch::Sender<Instant>>,
    /// Changes when the browser is lost that has the tab.
    life: watch::Receiver<Instant>,
    page: usize,
}

impl Web {
    pub(super) fn of(site: Site) -> Self {
        let visits = watch::Sender::new(vec![0; site.pages.len()]);
        Self { site, visits }
    }

    /// How often each page was visited.
    pub(super) fn visits(&self) -> Vec<u64> {
        self.visits.borrow().clone()
    }

    /// Waits for so many visits more.
    pub(super) async fn visited(&self, more: u64) {
        let mut visits = self.visits.subscribe();
        let enough = total(&visits.borrow()) + more;
        let _ = visits.wait_for(|visits| total(visits) >= enough).await;
    }

    /// Counts a visit of a page; answers its number.
    fn visit(&self, page: usize) -> u64 {
        let mut number = 0;
        self.visits.send_modify(|visits| {
            visits[page] += 1;
            number = visits[page];
        });
        number
    }
}

fn total(visits: &[u64]) -> u64 {
    visits.iter().sum()
}

impl Browser {
    pub(super) fn of(web: Arc<Web>) -> Self {
        Self { web, ready_at: Arc::new(watch::Sender::new(Instant::now())) }
    }
}

#[async_trait]
impl Driver for Browser {
    async fn open(&self, _session: &Session, _deadline: Instant) -> Result<Box<dyn Tab>, TabError> {
        if !self.is_ready() {
            return Err(lost());
        }
        let (web, ready_at) = (Arc::clone(&self.web), Arc::clone(&self.ready_at));
        Ok(Box::new(BrowserTab { web, life: ready_at.subscribe(), ready_at, page: 0 }))
    }

    async fn read_static(
        &self,
        _session: &Session,
        _url: &PageUrl,
        _program: &DomProgram,
        _fresh: bool,
        _deadline: Instant,
    ) -> Static {
        Static::NeedsFull("the site is for tabs".to_owned())
    }

    fn take_received(&self, _: ExecutionId) -> Option<u64> {
        None
    }

    fn is_ready(&self) -> bool {
        *self.ready_at.borrow() <= Instant::now()
    }

    async fn ready(&self) {
        let ready_at = *self.ready_at.borrow();
        tokio::time::sleep_until(ready_at).await;
    }

    async fn close(&self) {}
}

#[async_trait]
impl Tab for BrowserTab {
    async fn navigate(
        &mut self,
        url: &PageUrl,
        _wait_until: WaitUntil,
        _first: Option<&DomProgram>,
        deadline: Instant,
    ) -> Result<Document, TabError> {
        self.page = number_of(url.as_str());
        let page = &self.web.site.pages[self.page];
        let fault = page.fate.at(self.web.visit(self.page));
        let until = if fault == Some(Fault::Hangs) { deadline } else { Instant::now() + page.takes };
        tokio::select! {
            _ = self.life.changed() => return Err(lost()),
            () = tokio::time::sleep_until(until) => {}
        }
        let status = match fault {
            None => 200,
            Some(Fault::NotThere) => 404,
            Some(Fault::ServerError) => 500,
            Some(Fault::Panics) => std::panic::panic_any("a page panics, as the test wants it to"),
            Some(Fault::LosesBrowser) => {
                self.ready_at.send_replace(Instant::now() + RESTART);
                return Err(lost());
            }
            Some(fault @ (Fault::ConnectionLost | Fault::ProxyDead | Fault::TabCrashes | Fault::Hangs)) => {
                return Err(failed(fault.ends_as()));
            }
        };
        Ok(Document {
            final_url: url.as_url().clone(),
            base_url: url.as_url().clone(),
            status: Some(status),
            retry_after: None,
            answered_in: None,
            bytes: 0,
        })
    }

    async fn run(
        &mut self,
        program: &DomProgram,
        ended: &[usize],
        _deadline: Instant,
    ) -> Result<Vec<Option<StepResult>>, TabError> {
        if self.life.has_changed().unwrap_or(true) {
            return Err(lost());
        }
        let results = program.steps().iter().map(|step| {
            let output = match &step.op {
                DomOp::Links(_) => json!(self.web.site.links_of(self.page)),
                DomOp::Read { .. } => json!(Site::title(self.page)),
                _ => Value::Null,
            };
            let now = Utc::now();
            let result = StepResult {
                started_at: now,
                completed_at: now,
                output: Ok(output),
                cut_from: None,
                retries: 0,
            };
            (!ended.contains(&step.group)).then_some(result)
        });
        Ok(results.collect())
    }

    async fn input(
        &mut self,
        _input: &Input,
        _wait_until: WaitUntil,
        _deadline: Instant,
    ) -> Result<Option<Document>, TabError> {
        Ok(None)
    }

    async fn release(self: Box<Self>) {}
}

fn lost() -> TabError {
    failed(ErrorClass::BrowserLost)
}

fn failed(class: ErrorClass) -> TabError {
    TabError { failure: Failure::new(class, "as the test wants it to"), tab_usable: false }
}
