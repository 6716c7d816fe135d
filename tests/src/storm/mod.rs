//! The storm: a fleet of real processes crawls a site again and again, while every few seconds one of its processes, of its
//! browsers, or a server under it is killed. Afterwards everything must be as if nothing had happened.
//!
//! `run` is the story. It starts everything itself, on loopback addresses and in folders of its own, and leaves nothing
//! but, where something went wrong, the logs.

mod crawls;
mod deck;
mod members;
mod report;
mod servers;
mod verdict;
mod waste;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use crawlify_cli::demo_site::{Content, DemoSite};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use report::Report;

use crate::hostile::LuredSite;
use crate::invariants;
use crate::scratch::Scratch;
use crawls::Crawls;
use deck::{Deck, Victim};
use members::{Members, Unasked};
use report::{Fault, Figures};
use servers::Servers;
use waste::Waste;

/// How long a crawl may take while nothing happens, and how long after the last fault.
const CALM_WITHIN: Duration = Duration::from_secs(600);
/// How often it is looked for processes that have ended by themselves.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What kind of storm.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program `crawlify`.
    pub program: PathBuf,
    /// How long processes are killed.
    pub storm: Duration,
    /// How long after one fault the next one comes.
    pub every: Duration,
    /// What the order of the faults is made of.
    pub seed: u64,
    /// A folder to crawl instead of the built-in shop.
    pub site: Option<PathBuf>,
    /// The workflow for the site, with name and configuration; its start URLs are replaced, and its limits lifted.
    pub workflow: Value,
    /// Coordinator processes.
    pub coordinators: usize,
    /// Worker processes.
    pub workers: usize,
    /// Pages that each worker executes at once.
    pub slots: usize,
    /// Executions at the same time, so that the fleet has something to do while the last pages of one are recovered.
    pub at_once: usize,
}

/// Crawls in calm, then in the storm, and says what came of it. `say` is told how it goes.
///
/// # Errors
/// Something does not start, or the calm crawl is not what others could be held against.
pub async fn run(options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Report> {
    let logs = tempfile::Builder::new().prefix("crawlify-chaos-").tempdir()?;
    let report = crawl_and_strike(options, logs.path(), say).await;
    if !report.as_ref().is_ok_and(Report::is_sound) {
        say(&format!("the logs of all processes are kept in {}", logs.keep().display()));
    }
    report
}

async fn crawl_and_strike(options: &Options, logs: &Path, say: &(dyn Fn(&str) + Sync)) -> Result<Report> {
    let scratch = Arc::new(Scratch::create());
    let site = DemoSite::start(0, options.site.clone().map_or(Content::Shop, Content::Folder)).await?;
    let servers = Servers::start(&scratch).await?;
    let lured = LuredSite::before(&site.url()).await;
    let crawls = Crawls::prepare(&options.workflow, &lured.url(), &servers.database_url).await?;
    let members = Members::start(options, &scratch, logs, &servers)?;

    let calm = crawls.run_calm(options.at_once, Instant::now() + CALM_WITHIN).await?;
    verdict::ensure_calm(&crawls, &site.requests_by_path()).await?;
    say(&format!("calm: {} pages in {:.1} s", calm.pages, calm.took.as_secs_f64()));
    servers.settle_broker().await?;

    let (begun, until) = (chrono::Utc::now(), Instant::now() + options.storm);
    let mut unasked = Unasked::default();
    let (faults, executions) = tokio::select! {
        done = async {
            tokio::join!(
                strike(options, until, &servers, &members, say),
                crawls.run_until(until, options.at_once, until + CALM_WITHIN),
            )
        } => done,
        () = keep_alive(&members, &mut unasked, say) => unreachable!("it has no end"),
    };
    let (faults, executions) = (faults?, executions?);
    say(&format!("the storm is over; there were {} executions", executions.len()));

    let mut broken = verdict::of_rows(&crawls, calm.execution, &executions).await?;
    let asked = site.requests_by_path();
    broken.extend(verdict::of_requests(&crawls, options, &faults, &asked, say).await?);
    let deaths = faults.iter().map(Fault::victim);
    let (wasted, explained) =
        (crawls.waste().await?, Waste::explained(deaths, options.slots, crawls.goes_static));
    for line in wasted.lines(explained) {
        say(&line);
    }
    broken.extend(wasted.beyond(explained));
    let page_ends = crawls.page_ends(begun).await?;
    crawls.close().await;
    let processes = members.stop(&mut unasked).await?;
    broken.extend(invariants::broker::leftovers(&servers.broker_url).await?);
    broken.extend(invariants::around::machine(&processes, &scratch));
    broken.extend(invariants::around::egress(&lured.canary));
    ensure!(lured.tried() > 0, "no page has tried to reach the forbidden address");
    site.stop().await;
    servers.stop().await;
    let figures = Figures {
        calm,
        begun,
        storm: options.storm,
        every: options.every,
        executions: executions.len(),
        page_ends,
        wasted,
        explained,
        unasked,
    };
    Ok(Report::new(options.seed, &figures, &faults, broken))
}

/// Kills one victim after the other until the time is over, and waits until all of them are back.
async fn strike(
    options: &Options,
    until: Instant,
    servers: &Servers,
    members: &Members,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Vec<Fault>> {
    let mut deck = Deck::new(options);
    let (mut faults, mut under_way) = (Vec::new(), JoinSet::new());
    let mut next = Instant::now() + options.every;
    while next < until {
        tokio::time::sleep_until(next).await;
        next += options.every;
        // One that is just coming back is left alone.
        let hit = deck.draw(|victim| match victim {
            Victim::Coordinator(number) => members.kill(&format!("coordinator-{number}")),
            Victim::Worker(number) => members.kill(&format!("worker-{number}")),
            Victim::Browser(number) => members.kill_browser(&format!("worker-{number}")),
            Victim::Broker => servers.kill_broker(),
            Victim::Database => servers.kill_database(),
        });
        if let Some((victim, comes_back)) = hit {
            say(&format!("kill -9 {victim}"));
            let struck = chrono::Utc::now();
            under_way.spawn(async move { comes_back.await.map(|()| Fault::ended_now(victim, struck)) });
        }
        while let Some(fault) = under_way.try_join_next() {
            faults.push(fault??);
        }
    }
    while let Some(fault) = under_way.join_next().await {
        faults.push(fault??);
    }
    ensure!(!faults.is_empty(), "the storm was too short for a fault");
    Ok(faults)
}

/// Starts again what ends by itself, as whatever runs a fleet does. None should: each end is noted, and told by the
/// report.
async fn keep_alive(members: &Members, unasked: &mut Unasked, say: &(dyn Fn(&str) + Sync)) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for revived in members.revive(unasked) {
            say(&revived);
        }
    }
}
