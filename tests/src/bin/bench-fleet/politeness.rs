//! One pace for each host, whoever asks: ten workers, three executions, twenty hosts, judged by the site's own log.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crawlify_shared::domain::workflow::Limits;
use harness::bench::stalls::{Stall, Watch};
use harness::crawl::NO_LIMITS;
use harness::paced_site::PacedSite;
use harness::synthetic::page_address;

use crate::fleet::Fleet;
use crate::verdict::Verdicts;

const DELAY: Duration = Duration::from_millis(500);
const HOSTS: u8 = 20;
/// In milliseconds.
const SMALLEST: f64 = 490.0;
/// So long after a stall the machine still catches up.
const SETTLED: Duration = Duration::from_millis(20);
/// Before this the executions have found too few pages to be at their pace.
const WARM_UP: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long it is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Worker processes.
    #[arg(long, value_name = "N", default_value_t = 10)]
    workers: usize,
}

/// Measures it.
///
/// # Errors
/// The fleet does not start, or the database does not answer.
pub(crate) async fn measure(options: &Options, verdicts: &mut Verdicts) -> Result<()> {
    let (begun, watch) = (Instant::now(), Watch::start());
    let site = PacedSite::start(HOSTS).await?;
    let fleet = Fleet::start(options.workers, 8, true).await?;
    let limits = Limits { rate_limit_delay: DELAY, ..NO_LIMITS };
    for _ in 0..3 {
        let start_urls: Vec<_> = site.hosts.iter().map(|host| page_address(host, 1)).collect();
        fleet.execute(&start_urls, limits).await?;
    }
    tokio::time::sleep(WARM_UP).await;
    let (from, length) = (Instant::now(), Duration::from_secs(options.seconds));
    tokio::time::sleep(length).await;
    let (mut requests, mut gaps) = (0, Vec::new());
    for host in site.log() {
        // The spaces of the whole run count, the rate that of the measured part.
        gaps.extend(host.windows(2).map(|pair| (pair[1] - pair[0], pair[0])));
        requests += host.iter().filter(|at| (from..from + length).contains(at)).count();
    }
    gaps.sort();
    ensure!(!gaps.is_empty(), "no host was asked twice");
    let ms = |gap: Duration| gap.as_secs_f64() * 1e3;
    verdicts.at_least("smallest space between two requests to a host, ms", ms(gaps[0].0), SMALLEST);
    verdicts.figure("median space, ms", format!("{:.1}", ms(gaps[gaps.len() / 2].0)));
    explain(&gaps, begun, &watch.end(), verdicts);
    let possible = f64::from(HOSTS) * length.as_secs_f64() / DELAY.as_secs_f64();
    verdicts.at_least("requests against what the pace allows", requests as f64 / possible, 0.95);
    let shown = fleet.number("SELECT min(min_interval_ms)::int8 FROM hosts").await?;
    verdicts.figure("smallest interval that the database shows, ms", shown);
    fleet.stop().await;
    Ok(())
}

/// Where spaces are too small: whether the machine stood still when the first of the two requests came. It came late then,
/// and no sooner than the next one was planned.
fn explain(gaps: &[(Duration, Instant)], begun: Instant, stalls: &[Stall], verdicts: &mut Verdicts) {
    let ms = |length: Duration| length.as_secs_f64() * 1e3;
    let longest = stalls.iter().map(|stall| stall.length).max().unwrap_or_default();
    verdicts.figure("the machine's longest stall, ms", format!("{:.1}", ms(longest)));
    let too_small: Vec<_> = gaps.iter().filter(|(gap, _)| ms(*gap) < SMALLEST).collect();
    verdicts.figure("spaces that are too small, of all", format!("{} of {}", too_small.len(), gaps.len()));
    for (gap, first) in too_small.into_iter().take(10) {
        let before = |stall: &&Stall| stall.from <= *first && *first <= stall.from + stall.length + SETTLED;
        let stall = stalls.iter().filter(before).map(|stall| stall.length).max().unwrap_or_default();
        let after = first.saturating_duration_since(begun).as_secs_f64();
        let what = format!("  one of {:.1} ms, {after:.1} s after the start: stall before it, ms", ms(*gap));
        verdicts.figure(&what, format!("{:.1}", ms(stall)));
    }
}
