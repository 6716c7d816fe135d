//! A dispatcher's step, with few and with very many pages waiting on many hosts.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::CancelMode;
use harness::crawl::NO_LIMITS;

use crate::fleet::Fleet;
use crate::frontier::fill;
use crate::verdict::Verdicts;

/// Pages that a step asks for: the window of a fleet with 16 slots.
const ROOM: i64 = 64;
const STEPS: usize = 400;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many pages wait in the end.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pages: i64,
    /// On how many hosts.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    hosts: i64,
}

/// Measures it.
///
/// # Errors
/// Postgres does not start or does not answer.
pub(crate) async fn measure(options: &Options, verdicts: &mut Verdicts) -> Result<()> {
    let fleet = Fleet::without_processes().await?;
    for (what, delay) in [("no delay", Duration::ZERO), ("1 s a host", Duration::from_secs(1))] {
        let limits = Limits { rate_limit_delay: delay, ..NO_LIMITS };
        let few = fleet.execute(&["http://h0.test/".to_owned()], limits).await?;
        fill(&fleet, few, 100_000, options.hosts).await?;
        fleet.settle().await?;
        steps(&fleet, few, STEPS / 4).await?;
        let of_few = steps(&fleet, few, STEPS).await?;
        fleet.store.cancel_execution(few, CancelMode::Graceful, None).await?;
        let many = fleet.execute(&["http://h0.test/".to_owned()], limits).await?;
        let begun = Instant::now();
        fill(&fleet, many, options.pages, options.hosts).await?;
        writeln!(std::io::stderr(), "{} pages written in {:.0?}", options.pages, begun.elapsed())?;
        fleet.client.batch_execute("UPDATE hosts SET next_dispatch_at = '-infinity'").await?;
        fleet.settle().await?;
        steps(&fleet, many, STEPS / 4).await?;
        let of_many = steps(&fleet, many, STEPS).await?;
        fleet.store.cancel_execution(many, CancelMode::Graceful, None).await?;
        let title = |pages: i64| format!("p99 of a step, {pages} pages, {what}, ms");
        verdicts.figure(&title(100_000), format!("{:.1}", of_few));
        verdicts.at_most(&title(options.pages), of_many, 50.0);
        verdicts.at_most(&format!("the second against the first, {what}"), of_many / of_few, 1.5);
        fleet.client.batch_execute("TRUNCATE url_queue, lost_attempts, lanes, hosts").await?;
    }
    fleet.stop().await;
    Ok(())
}

/// The 99th percentile of a dispatcher's step, in milliseconds: what runs, who lives, which pages, whose ends do not
/// matter here.
async fn steps(fleet: &Fleet, execution: ExecutionId, count: usize) -> Result<f64> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        fleet.store.running_executions(Some(execution)).await?;
        fleet.store.live_slots(Duration::from_secs(15)).await?;
        let pages = fleet.store.reserve_pages(execution, ROOM).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        ensure!(!pages.is_empty(), "a step found no page");
        // They have ended: a window is never larger than the fleet.
        let ids: Vec<_> = pages.iter().map(|page| page.page_id.0).collect();
        let end = "UPDATE url_queue SET status = 'completed' WHERE id = ANY($1)";
        fleet.client.execute(end, &[&ids]).await?;
    }
    times.sort_by(f64::total_cmp);
    Ok(times[count * 99 / 100])
}
