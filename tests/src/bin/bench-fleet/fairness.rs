//! A small execution beside a large one: how much longer it takes than alone.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::CancelMode;
use harness::crawl::NO_LIMITS;
use harness::synthetic::page_address;

use crate::fleet::Fleet;
use crate::verdict::Verdicts;

const SMALL: Limits = Limits { max_pages: Some(20), ..NO_LIMITS };
const LARGE: Limits = Limits { max_pages: Some(100_000), ..NO_LIMITS };

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many milliseconds a page takes.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    takes: u64,
}

/// Pages of the large execution that are over before the small one starts beside it.
fn head_start(takes: u64) -> i64 {
    if takes == 0 { 5_000 } else { 500 }
}

/// Measures it.
///
/// # Errors
/// The fleet does not start, or the small execution never ends.
pub(crate) async fn measure(options: &Options, verdicts: &mut Verdicts) -> Result<()> {
    let fleet = Fleet::start_with(4, 16, &[], &["--takes", &options.takes.to_string()]).await?;
    let alone = small(&fleet).await?;
    let large = fleet.execute(&[page_address("large.test", 1)], LARGE).await?;
    while pages(&fleet, large).await? < head_start(options.takes) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let beside = small(&fleet).await?;
    ensure!(pages(&fleet, large).await? < 100_000, "the large execution had ended");
    verdicts.figure("a page takes, ms", options.takes.to_string());
    verdicts.figure("20 pages alone, s", format!("{:.2}", alone.as_secs_f64()));
    let limit = 2.0 * alone.as_secs_f64() + 5.0;
    verdicts.at_most("20 pages beside 100,000, s", beside.as_secs_f64(), limit);
    fleet.store.cancel_execution(large, CancelMode::Graceful, None).await?;
    fleet.stop().await;
    Ok(())
}

async fn small(fleet: &Fleet) -> Result<Duration> {
    let begun = Instant::now();
    let execution = fleet.execute(&[page_address("small.test", 1)], SMALL).await?;
    fleet.completed(execution).await?;
    ensure!(pages(fleet, execution).await? == 20, "the small execution has 20 pages");
    Ok(begun.elapsed())
}

async fn pages(fleet: &Fleet, execution: ExecutionId) -> Result<i64> {
    let query = "SELECT COALESCE(sum(completed), 0)::int8 FROM page_counters WHERE execution_id = $1";
    Ok(fleet.client.query_one(query, &[&execution.0]).await?.get(0))
}
