//! The statements of the frontier and of the recorder, one connection, one statement after the other, on a private
//! Postgres with fsync on. Only the statements are measured, not the rows that they need beforehand.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crawlify_shared::domain::outcome::DiscoveredUrl;
use crawlify_shared::domain::page::FinishedPage;
use crawlify_shared::domain::page_url::PageUrl;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use harness::bench::pages::{KNOWN_URLS, known_url};
use harness::bench::shop_crawl::{DurablePostgres, ShopCrawl};
use tokio::runtime::Runtime;

/// Pages that wait while the dispatcher picks some of them.
const WAITING: usize = 10_000;
/// Pages that the dispatcher picks at a time: the least window.
const WINDOW: usize = 16;
const LEASE: Duration = Duration::from_secs(180);

/// A crawl on a server of its own, and what runs its statements.
struct Bench {
    runtime: Runtime,
    postgres: DurablePostgres,
    crawl: ShopCrawl,
}

pub(crate) fn measure(criterion: &mut Criterion) {
    let mut bench = Bench::start().expect("a private Postgres starts");
    let mut group = criterion.benchmark_group("recorder");
    slow(&mut group);
    for pages in [1, 10, 100] {
        let rows = pages * bench.crawl.table.nodes.len();
        group.throughput(Throughput::Elements(rows as u64));
        bench.measure(
            &mut group,
            &format!("record, pages a statement: {pages} ({rows} node rows)"),
            async |crawl| {
                let finished = crawl.finished_pages(pages)?;
                record(crawl, &finished).await
            },
        );
    }
    group.finish();
    let mut group = criterion.benchmark_group("frontier");
    slow(&mut group);
    group.throughput(Throughput::Elements(200));
    bench.measure(&mut group, "insert 200 links, 190 of them known", async |crawl| {
        let mut finished = crawl.finished_pages(1)?;
        finished[0].outcome.discovered = links(&finished[0], 190, 10)?;
        // Without nodes and item, the links are what is left of the statement.
        finished[0].outcome.nodes.clear();
        finished[0].outcome.item = None;
        record(crawl, &finished).await
    });
    for pages in [1, WINDOW] {
        group.throughput(Throughput::Elements(pages as u64));
        bench.measure(&mut group, &format!("claim, pages a statement: {pages}"), async |crawl| {
            let requests = crawl.insert_pending(pages).await?;
            let begun = Instant::now();
            let claimed = crawl.hot.claim(&requests, LEASE, false).await?;
            let took = begun.elapsed();
            ensure!(claimed.len() == pages, "{} of {pages} pages were claimed", claimed.len());
            Ok(took)
        });
    }
    bench.wait_for_dispatch();
    group.throughput(Throughput::Elements(WINDOW as u64));
    bench.measure(&mut group, "pick 16 of 10,000 due pages", async |crawl| {
        let begun = Instant::now();
        let picked = crawl.store.reserve_pages(crawl.execution, WINDOW as i64).await?;
        let took = begun.elapsed();
        ensure!(picked.len() == WINDOW, "{} pages were picked", picked.len());
        crawl.store.return_unpublished(&picked).await?;
        Ok(took)
    });
    bench.measure(&mut group, "return 16 pages that were not published", async |crawl| {
        let picked = crawl.store.reserve_pages(crawl.execution, WINDOW as i64).await?;
        ensure!(picked.len() == WINDOW, "{} pages were picked", picked.len());
        let begun = Instant::now();
        crawl.store.return_unpublished(&picked).await?;
        Ok(begun.elapsed())
    });
    group.throughput(Throughput::Elements(1));
    bench.measure(&mut group, "look at what runs", async |crawl| {
        let begun = Instant::now();
        let running = crawl.store.running_executions(None).await?;
        let took = begun.elapsed();
        ensure!(running.len() == 1, "{} executions run", running.len());
        Ok(took)
    });
    group.finish();
    bench.stop();
}

/// A statement takes milliseconds, and what it needs beforehand takes longer than itself.
fn slow(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.sample_size(15).sampling_mode(SamplingMode::Flat).measurement_time(Duration::from_secs(4));
}

impl Bench {
    fn start() -> Result<Self> {
        let runtime = Runtime::new()?;
        let (postgres, crawl) = runtime.block_on(async {
            let postgres = DurablePostgres::start().await?;
            let crawl = ShopCrawl::start(&postgres.server().url()).await?;
            anyhow::Ok((postgres, crawl))
        })?;
        Ok(Self { runtime, postgres, crawl })
    }

    fn stop(self) {
        let Self { runtime, postgres, crawl } = self;
        runtime.block_on(async {
            crawl.close().await;
            postgres.stop().await;
        });
    }

    /// Fills the frontier, with statistics as a running database has them.
    fn wait_for_dispatch(&mut self) {
        let crawl = &mut self.crawl;
        let filled = self.runtime.block_on(async {
            crawl.insert_pending(WAITING).await?;
            crawl.client.batch_execute("ANALYZE url_queue").await?;
            anyhow::Ok(())
        });
        filled.expect("the frontier is filled");
    }

    /// Measures a statement; `once` prepares it, runs it, and answers how long the statement alone took.
    fn measure(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        name: &str,
        mut once: impl AsyncFnMut(&mut ShopCrawl) -> Result<Duration>,
    ) {
        let (runtime, crawl) = (&self.runtime, &mut self.crawl);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    spent += runtime.block_on(once(crawl)).expect("Postgres does what it is asked");
                }
                spent
            });
        });
    }
}

/// Records pages that this worker has claimed.
async fn record(crawl: &ShopCrawl, finished: &[FinishedPage]) -> Result<Duration> {
    crawl.insert_claimed(finished).await?;
    let begun = Instant::now();
    let written = crawl.hot.record(finished).await?;
    let took = begun.elapsed();
    ensure!(written.len() == finished.len(), "{} of {} pages were recorded", written.len(), finished.len());
    Ok(took)
}

/// Links of a page: to pages that the frontier has, and to new ones.
fn links(page: &FinishedPage, known: usize, new: usize) -> Result<Vec<DiscoveredUrl>> {
    let known = (0..known).map(|link| known_url(link * 5 % KNOWN_URLS));
    let new = (0..new).map(|link| Ok(PageUrl::parse(&format!("{}link-{link}/", page.page.url))?));
    let found = |url: Result<PageUrl>| {
        Ok(DiscoveredUrl {
            url: url?,
            discovered_by: "extract_book_links".to_owned(),
            skipped: None,
            is_sitemap: false,
        })
    };
    known.chain(new).map(found).collect()
}
