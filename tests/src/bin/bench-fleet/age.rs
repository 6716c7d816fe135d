//! What the first pages of a very long execution cost, and what its last ones: the same statements on the same
//! execution, with nothing and with millions of ended pages behind it.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use crawlify_shared::store::hot::HotStore;
use harness::bench::pages::node_table;
use harness::bench::shop_crawl::{ShopCrawl, demo_workflow};

use crate::fleet::Fleet;
use crate::verdict::Verdicts;

/// Pages of one look at the costs.
const PAGES: usize = 4_000;
/// Pages of one statement.
const GROUP: usize = 50;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many pages have ended before the last look.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pages: i64,
}

/// Measures it.
///
/// # Errors
/// Postgres does not start or does not answer.
pub(crate) async fn measure(options: &Options, verdicts: &mut Verdicts) -> Result<()> {
    let fleet = Fleet::without_processes().await?;
    let mut crawl = ShopCrawl::start(&fleet.database_url()).await?;
    crawl.hot.announce("bench", 1).await?;
    cost(&mut crawl, &fleet).await?;
    let first = cost(&mut crawl, &fleet).await?;
    let begun = Instant::now();
    let id = crawl.execution.0;
    let mut done = 0;
    while done < options.pages {
        let last = (done + 1_000_000).min(options.pages) - 1;
        fleet
            .client
            .batch_execute(&format!(
                "SET synchronous_commit = off;
                 INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, status, attempt, admitted,
                    processed_at)
                 SELECT gen_random_uuid(), '{id}', 'http://127.0.0.1:8090/old/' || n, decode(md5('{id}' || n), 'hex'),
                    '127.0.0.1', 3, 'completed', 1, true, now()
                 FROM generate_series({done}, {last}) n"
            ))
            .await?;
        done = last + 1;
    }
    fleet.client.batch_execute("VACUUM ANALYZE url_queue").await?;
    writeln!(std::io::stderr(), "{} pages written in {:.0?}", options.pages, begun.elapsed())?;
    cost(&mut crawl, &fleet).await?;
    let last = cost(&mut crawl, &fleet).await?;
    verdicts.figure("dispatch, claim, record of a page at first, us", format!("{:.0}", first));
    verdicts.figure(&format!("after {} pages, us", options.pages), format!("{:.0}", last));
    verdicts.at_most("the second against the first", last / first, 1.3);
    crawl.close().await;
    fleet.stop().await;
    Ok(())
}

/// Microseconds of a page's dispatch, claim and record.
async fn cost(crawl: &mut ShopCrawl, fleet: &Fleet) -> Result<f64> {
    let table = std::sync::Arc::new(node_table(&demo_workflow()?.workflow));
    let hot: HotStore = crawl.hot.clone();
    crawl.insert_pending(PAGES).await?;
    let (mut spent, mut pages) = (Duration::ZERO, 0);
    while pages < PAGES {
        let finished = crawl.finished_pages(GROUP)?;
        let begun = Instant::now();
        let reserved = fleet.store.reserve_pages(crawl.execution, GROUP as i64).await?;
        let requests: Vec<_> = reserved
            .iter()
            .map(|page| crawlify_shared::store::hot::ClaimRequest {
                page_id: page.page_id,
                epoch: page.epoch,
            })
            .collect();
        let claimed = hot.claim(&requests, Duration::from_secs(60), false).await?;
        let group: Vec<_> = claimed
            .into_iter()
            .zip(finished)
            .map(|(page, mut finished)| {
                finished.page = page;
                finished.table = std::sync::Arc::clone(&table);
                finished
            })
            .collect();
        let written = hot.record(&group).await?.len();
        spent += begun.elapsed();
        anyhow::ensure!(written > 0, "no page was written");
        pages += written;
    }
    Ok(spent.as_secs_f64() * 1e6 / pages as f64)
}
