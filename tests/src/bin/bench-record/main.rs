//! Measures the recorder's statement: node rows a second at 20, 200 and 2,000 rows a statement, against bare binary
//! COPY into the same tables: of the node rows alone, and of all rows that the statement inserts. `make bench-record`
//! runs it; ARCHITECTURE.md has the numbers.
//!
//! The Postgres is a private one with fsync on, as it is in earnest. One connection each, one statement after the
//! other; only the statements are timed, not the making of the rows. Never touches another database.
//!
//! With `--plans FILE` it measures nothing, but writes Postgres' log with the plan of every statement to that file.

mod copier;
mod report;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crawlify_cli::private_postgres::PrivatePostgres;
use crawlify_shared::store::hot::HotStore;
use harness::bench::RECORD_BYTES;
use harness::bench::shop_crawl::{DurablePostgres, ShopCrawl};

use copier::{Copied, Copier};
use report::{Measured, report};

/// Pages of one statement; each has as many node rows as the demo workflow has nodes, which is 20.
const GROUPS: [usize; 3] = [1, 10, 100];
const ROUNDS: usize = 3;
/// How long one measurement takes, counting only what is measured.
const MEASURED: Duration = Duration::from_secs(3);
/// Pages that are prepared at a time, all of which are then recorded: as many as a fleet has in its hands.
const PREPARED: usize = 100;

struct Bench {
    crawl: ShopCrawl,
    copier: Copier,
}

#[tokio::main]
async fn main() -> Result<()> {
    let postgres = DurablePostgres::start().await?;
    let measured = match plans_file()? {
        Some(file) => explain(postgres.server(), &file).await,
        None => measure(postgres.server()).await,
    };
    postgres.stop().await;
    measured
}

fn plans_file() -> Result<Option<PathBuf>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => Ok(None),
        [flag, file] if flag == "--plans" => Ok(Some(PathBuf::from(file))),
        _ => anyhow::bail!("usage: bench-record [--plans FILE]"),
    }
}

/// Has Postgres log its plans, for long enough that it has chosen between plans for these parameters and for any.
async fn explain(postgres: &PrivatePostgres, file: &Path) -> Result<()> {
    let mut bench = prepare(postgres).await?;
    bench
        .crawl
        .client
        .batch_execute(
            "ALTER ROLE CURRENT_USER SET session_preload_libraries = 'auto_explain';
             ALTER ROLE CURRENT_USER SET auto_explain.log_min_duration = 0;
             ALTER ROLE CURRENT_USER SET auto_explain.log_analyze = on;
             ALTER ROLE CURRENT_USER SET auto_explain.log_buffers = on;
             ALTER ROLE CURRENT_USER SET auto_explain.log_triggers = on;
             ALTER ROLE CURRENT_USER SET auto_explain.log_parameter_max_length = 0;",
        )
        .await?;
    // The settings are those of connections that are made from now on.
    bench.crawl.hot = HotStore::connect(&postgres.url(), bench.crawl.worker)?;
    for pages in GROUPS {
        bench.record(pages, Duration::from_secs(2)).await?;
    }
    bench.crawl.close().await;
    std::fs::copy(postgres.folder().join("postgres.log"), file)
        .with_context(|| format!("cannot copy the log of {}", postgres.folder().display()))?;
    Ok(())
}

async fn measure(postgres: &PrivatePostgres) -> Result<()> {
    let mut bench = prepare(postgres).await?;
    bench.explain_fsync(&mut std::io::stdout()).await?;
    // The first statements find cold caches and statements that are not prepared.
    bench.record(10, Duration::from_millis(500)).await?;
    for what in [Copied::Nodes, Copied::All] {
        bench.copy(what, 10, Duration::from_millis(500)).await?;
    }
    let mut results: Vec<[Vec<Measured>; 3]> = GROUPS.iter().map(|_| Default::default()).collect();
    for round in 1..=ROUNDS {
        for (group, [recorded, nodes, all]) in GROUPS.iter().zip(&mut results) {
            recorded.push(bench.record(*group, MEASURED).await?);
            nodes.push(bench.copy(Copied::Nodes, *group, MEASURED).await?);
            all.push(bench.copy(Copied::All, *group, MEASURED).await?);
        }
        writeln!(std::io::stderr(), "round {round} of {ROUNDS} done")?;
    }
    let bytes_a_row = bench.bytes_a_row().await?;
    report(&results, bench.crawl.table.nodes.len(), bytes_a_row, &mut std::io::stdout())?;
    bench.crawl.close().await;
    Ok(())
}

/// A crawl on this server.
async fn prepare(postgres: &PrivatePostgres) -> Result<Bench> {
    let mut crawl = ShopCrawl::start(&postgres.url()).await?;
    // The first record writes the definitions.
    crawl.hot.announce("bench", 1).await?;
    let first = crawl.finished_pages(1)?;
    crawl.insert_claimed(&first).await?;
    crawl.hot.record(&first).await?;
    let copier = Copier::prepare(&crawl.client).await?;
    Ok(Bench { crawl, copier })
}

impl Bench {
    /// Records groups of `pages` pages until `time` was spent in statements.
    async fn record(&mut self, pages: usize, time: Duration) -> Result<Measured> {
        let mut statements = Vec::new();
        let mut spent = Duration::ZERO;
        while spent < time {
            let prepared = self.crawl.finished_pages(PREPARED.max(pages))?;
            self.crawl.insert_claimed(&prepared).await?;
            for group in prepared.chunks(pages) {
                let begun = Instant::now();
                let written = self.crawl.hot.record(group).await?;
                let took = begun.elapsed();
                ensure!(written.len() == group.len(), "{} of {} pages were recorded", written.len(), pages);
                spent += took;
                statements.push(took);
            }
        }
        Ok(self.measured(pages, statements, spent))
    }

    /// Copies rows of groups of `pages` pages until `time` was spent.
    async fn copy(&mut self, what: Copied, pages: usize, time: Duration) -> Result<Measured> {
        let mut statements = Vec::new();
        let mut spent = Duration::ZERO;
        while spent < time {
            let prepared = self.crawl.finished_pages(PREPARED.max(pages))?;
            for group in prepared.chunks(pages) {
                let begun = Instant::now();
                let rows = self.copier.copy(&self.crawl.client, what, group).await?;
                let took = begun.elapsed();
                // A page gives one item and one new page.
                let others = if what == Copied::All { 2 * group.len() as u64 } else { 0 };
                ensure!(rows == self.rows(group.len()) + others, "{rows} rows were copied");
                spent += took;
                statements.push(took);
            }
        }
        Ok(self.measured(pages, statements, spent))
    }

    async fn explain_fsync(&self, to: &mut impl Write) -> Result<()> {
        let row = self
            .crawl
            .client
            .query_one(
                "SELECT version(), current_setting('fsync'), current_setting('synchronous_commit'),
                    current_setting('shared_buffers')",
                &[],
            )
            .await?;
        let (version, fsync): (String, String) = (row.get(0), row.get(1));
        ensure!(fsync == "on", "fsync is {fsync}");
        let (commit, buffers): (String, String) = (row.get(2), row.get(3));
        let version = version.split(" on ").next().unwrap_or(&version);
        writeln!(to, "{version}, fsync {fsync}, synchronous_commit {commit}, shared_buffers {buffers}")?;
        Ok(())
    }

    /// Bytes of `node_records` with its indexes, for each row.
    async fn bytes_a_row(&self) -> Result<f64> {
        let bytes: i64 = self.crawl.client.query_one(RECORD_BYTES, &[]).await?.get(0);
        Ok(bytes as f64)
    }

    /// The node rows of so many pages.
    fn rows(&self, pages: usize) -> u64 {
        (pages * self.crawl.table.nodes.len()) as u64
    }

    fn measured(&self, pages: usize, statements: Vec<Duration>, spent: Duration) -> Measured {
        let rows = statements.len() as f64 * self.rows(pages) as f64;
        Measured { rows_a_second: rows / spent.as_secs_f64(), statements }
    }
}
