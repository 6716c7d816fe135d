//! What the first pages of a very long execution cost, and what its last ones: the same statements on the same
//! execution, with nothing and with millions of ended pages behind it.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use crawlify_shared::store::hot::HotStore;
use harness::bench::pages::node_table;
use harness::bench::shop_crawl::{ShopCrawl, demo_workflow};

use crate::fleet::Fleet;
use crate::frontier::TIME_ORDERED_ID;
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
    /// Settings of Postgres that need no restart, such as `wal_compression=on`.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
}

/// Measures it.
///
/// # Errors
/// Postgres does not start or does not answer.
pub(crate) async fn measure(options: &Options, verdicts: &mut Verdicts) -> Result<()> {
    let fleet = Fleet::without_processes().await?;
    fleet.set(&options.settings).await?;
    let mut crawl = ShopCrawl::start(&fleet.database_url()).await?;
    crawl.hot.announce("bench", 1).await?;
    cost(&mut crawl, &fleet).await?;
    let first = cost(&mut crawl, &fleet).await?;
    let begun = Instant::now();
    let id = crawl.execution.0;
    let (pages, mut done) = (options.pages, 0);
    while done < options.pages {
        let last = (done + 1_000_000).min(options.pages) - 1;
        fleet
            .client
            .batch_execute(&format!(
                "SET synchronous_commit = off;
                 INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, status, attempt, admitted,
                    processed_at)
                 SELECT {TIME_ORDERED_ID}, '{id}', 'http://127.0.0.1:8090/old/' || n, decode(random, 'hex'),
                    '127.0.0.1', 3, 'completed', 1, true, now()
                 FROM generate_series({done}, {last}) n CROSS JOIN LATERAL (
                    SELECT md5('{id}' || n) AS random, floor(extract(epoch FROM now()) * 1000)::int8 - ({pages} - n) / 20 AS ms) found"
            ))
            .await?;
        done = last + 1;
    }
    fleet.client.batch_execute("VACUUM ANALYZE url_queue").await?;
    fleet.checkpoint().await?;
    writeln!(std::io::stderr(), "{} pages written in {:.0?}", options.pages, begun.elapsed())?;
    cost(&mut crawl, &fleet).await?;
    let last = cost(&mut crawl, &fleet).await?;
    verdicts.figure("dispatch, claim, record of a page at first, us", first.to_string());
    verdicts.figure(&format!("after {} pages, us", options.pages), last.to_string());
    verdicts.at_most("the second against the first", last.sum() / first.sum(), 1.3);
    crawl.close().await;
    fleet.stop().await;
    Ok(())
}

/// Microseconds of a page, and what the server did for it.
#[derive(Default)]
struct Cost {
    dispatch: f64,
    claim: f64,
    record: f64,
    wal_bytes: f64,
    blocks_read: f64,
}

impl Cost {
    fn sum(&self) -> f64 {
        self.dispatch + self.claim + self.record
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dispatch, claim, record, wal_bytes, blocks_read } = self;
        write!(f, "{:.0} ({dispatch:.0}, {claim:.0}, {record:.0}); ", self.sum())?;
        write!(f, "{wal_bytes:.0} bytes of WAL, {blocks_read:.1} blocks read")
    }
}

async fn cost(crawl: &mut ShopCrawl, fleet: &Fleet) -> Result<Cost> {
    let table = std::sync::Arc::new(node_table(&demo_workflow()?.workflow));
    let hot: HotStore = crawl.hot.clone();
    crawl.insert_pending(PAGES).await?;
    let before = server_work(fleet).await?;
    let (mut cost, mut pages) = (Cost::default(), 0);
    while pages < PAGES {
        let finished = crawl.finished_pages(GROUP)?;
        let begun = Instant::now();
        let reserved = fleet.store.reserve_pages(crawl.execution, GROUP as i64).await?;
        cost.dispatch += micros(begun);
        let requests: Vec<_> = reserved
            .iter()
            .map(|page| crawlify_shared::store::hot::ClaimRequest {
                page_id: page.page_id,
                epoch: page.epoch,
            })
            .collect();
        let begun = Instant::now();
        let claimed = hot.claim(&requests, Duration::from_secs(60), false).await?;
        cost.claim += micros(begun);
        let group: Vec<_> = claimed
            .into_iter()
            .zip(finished)
            .map(|(page, mut finished)| {
                finished.page = page;
                finished.table = std::sync::Arc::clone(&table);
                finished
            })
            .collect();
        let begun = Instant::now();
        let written = hot.record(&group).await?.len();
        cost.record += micros(begun);
        anyhow::ensure!(written > 0, "no page was written");
        pages += written;
    }
    let after = server_work(fleet).await?;
    let of_a_page = |sum: f64| sum / pages as f64;
    Ok(Cost {
        dispatch: of_a_page(cost.dispatch),
        claim: of_a_page(cost.claim),
        record: of_a_page(cost.record),
        wal_bytes: of_a_page(after.0 - before.0),
        blocks_read: of_a_page(after.1 - before.1),
    })
}

/// Bytes of WAL that were written, and blocks that were not found in the server's own memory, so far.
async fn server_work(fleet: &Fleet) -> Result<(f64, f64)> {
    // A backend tells its figures at most once a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let query = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8,
        (SELECT blks_read FROM pg_stat_database WHERE datname = current_database())::float8";
    let row = fleet.client.query_one(query, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

fn micros(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6
}
