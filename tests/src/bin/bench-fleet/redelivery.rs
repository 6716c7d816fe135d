//! Every message delivered twice: the same end, and how much longer it takes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crawlify_shared::domain::workflow::Limits;
use harness::crawl::NO_LIMITS;
use harness::synthetic::page_address;

use crate::fleet::Fleet;
use crate::verdict::Verdicts;

const ROUNDS: usize = 5;
/// How long a page takes: 64 slots then do 320 pages a second, ten times as many as browsers do on two cores.
const TAKES: &str = "200";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Pages of each crawl.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    pages: u32,
}

/// Measures it: with pages that take their time, as a browser's do, and with pages that cost nothing, so that a message is a
/// large part of what there is to do.
///
/// # Errors
/// A fleet does not start, or a crawl does not end as it must.
pub(crate) async fn measure(options: &Options, verdicts: &mut Verdicts) -> Result<()> {
    let (ratio, range) = compare(options.pages, &["--takes", TAKES]).await?;
    verdicts.at_most("wall time with every message twice, against once", ratio, 1.2);
    verdicts.figure("lowest .. highest", range);
    let (ratio, range) = compare(options.pages, &[]).await?;
    verdicts.figure("the same of pages that cost nothing", format!("{ratio:.2}"));
    verdicts.figure("lowest .. highest", range);
    Ok(())
}

/// In alternation; the median, and the lowest and the highest.
async fn compare(pages: u32, of_workers: &[&str]) -> Result<(f64, String)> {
    let once = Fleet::start_with(4, 16, &[], of_workers).await?;
    let twice = Fleet::start_with(4, 16, &["--double"], of_workers).await?;
    let mut ratios = Vec::new();
    for _ in 0..=ROUNDS {
        let calm = crawl(&once, pages).await?;
        ratios.push(crawl(&twice, pages).await?.as_secs_f64() / calm.as_secs_f64());
    }
    // The first round warms up.
    ratios.remove(0);
    ratios.sort_by(f64::total_cmp);
    once.stop().await;
    twice.stop().await;
    Ok((ratios[ROUNDS / 2], format!("{:.2} .. {:.2}", ratios[0], ratios[ROUNDS - 1])))
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
