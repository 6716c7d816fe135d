//! Every message delivered twice: the same end, and how much longer it takes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crawlify_shared::domain::workflow::Limits;
use harness::crawl::NO_LIMITS;
use harness::synthetic::page_address;

use crate::fleet::Fleet;
use crate::verdict::Verdicts;

const ROUNDS: usize = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Pages of each crawl.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pages: u32,
}

/// Measures it, in alternation.
///
/// # Errors
/// A fleet does not start, or a crawl does not end as it must.
pub(crate) async fn measure(options: &Options, verdicts: &mut Verdicts) -> Result<()> {
    let once = Fleet::start(4, 16, false).await?;
    let twice = Fleet::start_with(4, 16, &["--double"], &[]).await?;
    let mut ratios = Vec::new();
    for _ in 0..=ROUNDS {
        let calm = crawl(&once, options.pages).await?;
        ratios.push(crawl(&twice, options.pages).await?.as_secs_f64() / calm.as_secs_f64());
    }
    // The first round warms up.
    ratios.remove(0);
    ratios.sort_by(f64::total_cmp);
    verdicts.at_most("wall time with every message twice, against once", ratios[ROUNDS / 2], 1.2);
    verdicts.figure("lowest .. highest", format!("{:.2} .. {:.2}", ratios[0], ratios[ROUNDS - 1]));
    once.stop().await;
    twice.stop().await;
    Ok(())
}

async fn crawl(fleet: &Fleet, pages: u32) -> Result<Duration> {
    let limits = Limits { max_pages: Some(u64::from(pages)), ..NO_LIMITS };
    let begun = Instant::now();
    let execution = fleet.execute(&[page_address("site.test", 1)], limits).await?;
    fleet.completed(execution).await?;
    let took = begun.elapsed();
    let query = "SELECT count(*) FILTER (WHERE status = 'completed'), COALESCE(sum(attempt), 0)::int8,
            (SELECT count(*) FROM node_executions WHERE execution_id = $1), (SELECT count(*) FROM extracted_items WHERE execution_id = $1)
        FROM url_queue WHERE execution_id = $1 AND status <> 'skipped'";
    let row = fleet.client.query_one(query, &[&execution.0]).await?;
    let pages = i64::from(pages);
    let state: [i64; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    ensure!(
        state[..2] == [pages, pages] && state[2] == 20 * pages && state[3] == pages,
        "it ended as {state:?}"
    );
    Ok(took)
}
