//! Cancelling an execution with very many pages waiting, while the fleet works on it.

use std::time::{Duration, Instant};

use anyhow::Result;
use crawlify_shared::store::control::CancelMode;
use harness::crawl::NO_LIMITS;
use harness::synthetic::page_address;

use crate::fleet::Fleet;
use crate::frontier::fill;
use crate::verdict::Verdicts;

/// How long it crawls before it is cancelled.
const WARM_UP: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many pages wait.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pages: i64,
}

/// Measures it.
///
/// # Errors
/// The fleet does not start, or the database does not answer.
pub(crate) async fn measure(options: &Options, verdicts: &mut Verdicts) -> Result<()> {
    let mut fleet = Fleet::without_processes().await?;
    let execution = fleet.execute(&[page_address("h0.test", 1)], NO_LIMITS).await?;
    // Before anybody crawls: the site has no end, and would be crawled faster than it can be filled.
    fill(&fleet, execution, options.pages, 100).await?;
    fleet.run(2, 16, &[], &[]).await?;
    tokio::time::sleep(WARM_UP).await;
    let begun = Instant::now();
    fleet.store.cancel_execution(execution, CancelMode::Graceful, None).await?;
    verdicts.at_most("cancelling was answered after, ms", begun.elapsed().as_secs_f64() * 1e3, 200.0);
    tokio::time::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed())).await;
    let row = fleet.client.query_one("SELECT now()", &[]).await?;
    let second_later: chrono::DateTime<chrono::Utc> = row.get(0);
    let left = "SELECT count(*) FROM url_queue WHERE status IN ('pending', 'queued', 'processing')";
    while fleet.number(left).await? > 0 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    verdicts.figure("all pages had ended after, s", format!("{:.1}", begun.elapsed().as_secs_f64()));
    // A page that is claimed later would be recorded later; its nodes say when they ran.
    let late = fleet
        .client
        .query_one("SELECT count(*) FROM node_records WHERE started_at > $1", &[&second_later])
        .await?;
    verdicts.at_most("nodes that began later than 1 s after that", late.get::<_, i64>(0) as f64, 0.0);
    let cancelled = fleet.number("SELECT count(*) FROM url_queue WHERE status = 'cancelled'").await?;
    verdicts.figure("pages cancelled", cancelled);
    fleet.stop().await;
    Ok(())
}
