//! What is told of an execution's pages, from counters and small indexes, is what a count of all its rows gives.

use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus};
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::CancelMode;
use crawlify_shared::store::executions::PageCounts;
use crawlify_shared::store::rescue::Patience;
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table};

/// Two of them are one page.
const PAGES: [&str; 4] =
    ["http://shop.test/1", "http://shop.test/2", "http://shop.test/3", "http://shop.test/1#top"];
const ROWS: &str = "SELECT count(*) FILTER (WHERE status IN ('pending', 'queued')),
        count(*) FILTER (WHERE status = 'processing'), count(*) FILTER (WHERE status = 'completed'),
        count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'skipped'),
        count(*) FILTER (WHERE status = 'cancelled')
    FROM url_queue WHERE execution_id = $1";

fn failed(page: &ClaimedPage) -> FinishedPage {
    let failure = Failure::new(ErrorClass::Dns, "the host name does not resolve");
    FinishedPage {
        outcome: PageOutcome::failed(failure.clone()),
        next: NextStatus::Failed(failure),
        ..finished(page, &small_table(), &[])
    }
}

fn retried(page: &ClaimedPage) -> FinishedPage {
    let next = NextStatus::Retry(Failure::new(ErrorClass::Http5xx, "503"), Duration::ZERO);
    FinishedPage { next, ..finished(page, &small_table(), &[]) }
}

fn links(numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    numbers.map(|number| format!("http://shop.test/{number}")).collect()
}

/// What is told at this stage, which must be what the rows say, and of so many pages.
async fn told(crawl: &Crawl, execution: ExecutionId, pages: i64, stage: &str) -> PageCounts {
    let (pending, processing, completed, failed, skipped, cancelled): (i64, i64, i64, i64, i64, i64) =
        sqlx::query_as(ROWS).bind(execution.0).fetch_one(&crawl.pool).await.unwrap();
    let recount = PageCounts { pending, processing, completed, failed, skipped, cancelled };
    let told = crawl.store.page_counts(execution).await.unwrap();
    assert_eq!(told, recount, "{stage}");
    assert_eq!(pending + processing + completed + failed + skipped + cancelled, pages, "{stage}");
    told
}

#[tokio::test]
async fn pages_are_counted_as_a_recount_of_all_rows_counts_them_whatever_becomes_of_them() {
    let crawl = Crawl::start(Limits { max_pages: Some(4), ..NO_LIMITS }, &PAGES).await;
    let other = crawl.another(NO_LIMITS, &PAGES[..2]).await;
    let look = async |pages, stage| told(&crawl, crawl.execution, pages, stage).await;
    let worker = crawl.worker().await;
    look(3, "started").await;
    let requests = crawl.queue().await;
    look(3, "queued").await;
    let mut pages = worker.claim(&requests, harness::crawl::LEASE, false).await.unwrap();
    pages.sort_by(|a, b| a.url.as_str().cmp(b.url.as_str()));
    assert_eq!(look(3, "claimed").await.processing, 3);

    let ended = [finished(&pages[0], &small_table(), &links(1..=6)), retried(&pages[1]), failed(&pages[2])];
    worker.record(&ended).await.unwrap();
    let recorded = look(6, "recorded").await;
    assert_eq!((recorded.completed, recorded.failed, recorded.pending), (1, 1, 4));

    // One that is tried again, and one that takes the last place.
    let pages = crawl.claim(&worker).await;
    assert_eq!(pages.len(), 2);
    crawl.store.sweep_leftover_pages().await.unwrap();
    assert_eq!(look(6, "limited").await.skipped, 2);

    crawl.change("UPDATE url_queue SET worker_faults = 2 WHERE url LIKE '%/2'; DELETE FROM workers").await;
    let patience =
        Patience { worker_lost_after: Duration::from_secs(15), after_start: Duration::ZERO, server: None };
    crawl.store.rescue(Some(patience), Duration::from_secs(30)).await.unwrap();
    let rescued = look(6, "one is quarantined, and one comes back").await;
    assert_eq!((rescued.failed, rescued.pending), (2, 1));

    crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    look(6, "to be retried").await;
    crawl.store.put_pages_back(None).await.unwrap();
    assert_eq!(look(6, "retried").await.pending, 3);

    let worker = crawl.worker().await;
    let requests = crawl.queue_at_most(2).await;
    let pages = worker.claim(&requests[..1], harness::crawl::LEASE, false).await.unwrap();
    crawl.store.cancel_execution(crawl.execution, CancelMode::Graceful, None).await.unwrap();
    let cancelled = look(6, "cancelled, and not swept").await;
    assert_eq!((cancelled.pending, cancelled.processing, cancelled.cancelled), (2, 1, 0));
    crawl.store.sweep_leftover_pages().await.unwrap();
    assert_eq!(look(6, "swept").await.cancelled, 2);
    worker.record(&[finished(&pages[0], &small_table(), &links(7..=8))]).await.unwrap();
    assert_eq!(look(8, "what was in hand has found others").await.pending, 2);
    crawl.store.sweep_leftover_pages().await.unwrap();
    assert_eq!(look(8, "swept again").await.cancelled, 4);

    told(&crawl, other, 2, "the other one").await;
    told(&crawl, ExecutionId::generate(), 0, "none").await;
    crawl.assert_counters_are_a_recount().await;
}
