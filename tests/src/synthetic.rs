//! A driver that executes pages without a browser: each page gives what its number says, at once. With it the real
//! dispatcher, broker, worker, recorder and Postgres can be driven far faster than a browser could.
//!
//! Pages are numbered, `http://HOST/book/N/`, and form a tree: page N links to 2N and 2N + 1, and to 18 pages with
//! lesser numbers, most of which are known by then. So a crawl of any size has one start URL, and no end but its limit or
//! the site's last page.

use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Read, WaitUntil};
use crawlify_worker::chrome::driver::{
    Document, DomOp, DomProgram, DomStep, Driver, Input, Session, Static, StepResult, Tab, TabError,
};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Links of a page.
const LINKS: u64 = 20;

/// What its pages are like.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// No page links to one with a greater number: so many there are.
    pub pages: u64,
    /// Asks for pages over HTTP, as a browser would, though what they say is made up all the same; without it nothing is
    /// asked for.
    pub client: Option<reqwest::Client>,
    /// The page that takes down the process of whoever executes it.
    pub poison: Option<u64>,
    /// How long a page takes.
    pub takes: Duration,
}

/// Executes pages without a browser.
#[derive(Debug)]
pub struct SyntheticDriver(pub Site);

/// A tab without a browser.
#[derive(Debug)]
struct SyntheticTab {
    site: Site,
    page: Option<PageUrl>,
}

#[async_trait]
impl Driver for SyntheticDriver {
    async fn open(&self, _session: &Session, _deadline: Instant) -> Result<Box<dyn Tab>, TabError> {
        Ok(Box::new(SyntheticTab { site: self.0.clone(), page: None }))
    }

    async fn read_static(
        &self,
        _session: &Session,
        _url: &PageUrl,
        _program: &DomProgram,
        _fresh: bool,
        _deadline: Instant,
    ) -> Static {
        Static::NeedsFull("there is no browser".to_owned())
    }

    fn take_received(&self, _: ExecutionId) -> Option<u64> {
        None
    }

    fn is_ready(&self) -> bool {
        true
    }

    async fn ready(&self) {}

    async fn close(&self) {}
}

#[async_trait]
impl Tab for SyntheticTab {
    async fn navigate(
        &mut self,
        url: &PageUrl,
        _wait_until: WaitUntil,
        _first: Option<&DomProgram>,
        deadline: Instant,
    ) -> Result<Document, TabError> {
        let (mut status, mut bytes) = (200, 0);
        if let Some(client) = &self.site.client {
            let asked = client.get(url.as_str()).timeout(deadline - Instant::now()).send().await;
            let failed = |error: reqwest::Error| TabError {
                failure: Failure::new(ErrorClass::Connect, error.without_url().to_string()),
                tab_usable: true,
            };
            let response = asked.map_err(failed)?;
            status = response.status().as_u16();
            bytes = response.bytes().await.map_err(failed)?.len() as u64;
        }
        tokio::time::sleep(self.site.takes).await;
        if self.site.poison == Some(number_of(url)) {
            let _ = kill_process(getpid(), Signal::KILL);
            std::future::pending::<()>().await;
        }
        self.page = Some(url.clone());
        let (final_url, base_url) = (url.as_url().clone(), url.as_url().clone());
        Ok(Document {
            final_url,
            base_url,
            status: Some(status),
            retry_after: None,
            answered_in: None,
            bytes,
        })
    }

    async fn run(
        &mut self,
        program: &DomProgram,
        ended: &[usize],
        _deadline: Instant,
    ) -> Result<Vec<Option<StepResult>>, TabError> {
        let number = self.page.as_ref().map_or(1, number_of);
        // All links come from the workflow's first node of that kind.
        let first_links = program.steps().iter().position(|step| matches!(step.op, DomOp::Links(_)));
        let mut started_at = Utc::now();
        let results = program.steps().iter().enumerate().map(|(place, step)| {
            if ended.contains(&step.group) {
                return None;
            }
            let completed_at = started_at + Duration::from_micros(200);
            let output = Ok(output(step, number, self.site.pages, Some(place) == first_links));
            let result = StepResult { started_at, completed_at, output, cut_from: None, retries: 0 };
            started_at = completed_at;
            Some(result)
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

/// The address of a page.
pub fn page_address(host: &str, number: u64) -> String {
    format!("http://{host}/book/{number}/")
}

fn number_of(url: &PageUrl) -> u64 {
    let number = url.as_url().path_segments().and_then(|mut segments| segments.nth(1)?.parse().ok());
    number.unwrap_or(1)
}

fn output(step: &DomStep, number: u64, pages: u64, is_first_links: bool) -> Value {
    match &step.op {
        DomOp::WaitFor(_) => Value::Null,
        DomOp::Locate { .. } | DomOp::Scroll(_) => json!({"x": 0, "y": 0}),
        DomOp::Links(_) if is_first_links => {
            links(number).filter(|link| *link <= pages).map(|link| format!("/book/{link}/")).collect()
        }
        DomOp::Links(_) => json!([]),
        DomOp::Read { multiple: true, .. } => json!(["one", "two"]),
        DomOp::Read { read: Read::Attribute(_), .. } => json!(format!("/media/{number:08}.png")),
        DomOp::Read { .. } => json!(format!("£{}.{:02}", number % 60, number % 100)),
    }
}

/// Two new pages, and others that are nearer to the root.
fn links(number: u64) -> impl Iterator<Item = u64> {
    let known =
        (1..=LINKS - 2).map(move |step| 1 + (number.wrapping_mul(2_654_435_761) >> step) % number.max(2));
    [number.saturating_mul(2), number.saturating_mul(2).saturating_add(1)].into_iter().chain(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_twenty_links_two_of_which_lead_on() {
        for number in [1, 2, 17, 1_000_000] {
            let links: Vec<_> = links(number).collect();
            assert_eq!(links.len(), 20);
            assert_eq!(links[..2], [number * 2, number * 2 + 1]);
            assert!(links[2..].iter().all(|link| *link <= number.max(2)), "{links:?}");
        }
        assert_eq!(number_of(&PageUrl::parse(&page_address("a.test", 42)).unwrap()), 42);
    }
}
