//! Hosts that cannot be reached: asked more and more rarely, by one page at a time, and given up in the end.

use std::time::Duration;

use crawlify_shared::domain::fault::{HOST_DOUBTED_AFTER, HOST_GIVEN_UP_AFTER};
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageEnd, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus};
use crawlify_shared::domain::page_url::HostUnit;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::hot::HotStore;
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table};

const TIMES: &str = "SELECT unreachable::int8 FROM hosts WHERE host = 'gone.test'";
/// Seconds that are left of its pause.
const PAUSE: &str = "SELECT ceil(EXTRACT(EPOCH FROM greatest(backoff_until, now()) - now()))::int8 FROM hosts WHERE host = 'gone.test'";
const PAUSE_IS_OVER: &str = "UPDATE hosts SET backoff_until = backoff_until - interval '6 minutes',
    next_start_at = '-infinity' WHERE host = 'gone.test'; UPDATE url_queue SET not_before = now()";

fn urls(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("http://gone.test/{number}")).collect()
}

async fn start(limits: Limits, urls: &[String]) -> (Crawl, HotStore) {
    let crawl = Crawl::start(limits, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = crawl.worker().await;
    (crawl, worker)
}

fn unreached(page: &ClaimedPage) -> FinishedPage {
    let failure = Failure::new(ErrorClass::Connect, "no connection to the host");
    FinishedPage {
        outcome: PageOutcome::failed(failure.clone()),
        next: NextStatus::Retry(failure, Duration::ZERO),
        ..finished(page, &small_table(), &[])
    }
}

/// Has pages fail one after the other until the host was missed so often.
async fn miss(crawl: &Crawl, worker: &HotStore, times: i16) {
    while crawl.number(TIMES).await < i64::from(times) {
        crawl.change(PAUSE_IS_OVER).await;
        let pages = crawl.claim(worker).await;
        worker.record(&[unreached(&pages[0])]).await.unwrap();
        // The others were not loaded.
        let others: Vec<_> = pages[1..]
            .iter()
            .map(|page| FinishedPage {
                outcome: PageOutcome::nothing(PageEnd::Released),
                next: NextStatus::Released,
                ..finished(page, &small_table(), &[])
            })
            .collect();
        worker.record(&others).await.unwrap();
    }
}

#[tokio::test]
async fn a_host_that_is_missed_again_and_again_is_asked_more_rarely_by_one_page_at_a_time() {
    let (crawl, worker) = start(NO_LIMITS, &urls(20)).await;
    let all = crawl.claim(&worker).await;
    assert_eq!(all.len(), 20);
    for (page, times) in all.iter().zip(1..HOST_DOUBTED_AFTER) {
        worker.record(&[unreached(page)]).await.unwrap();
        assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (i64::from(times), 0));
    }
    // All that are in workers' hands then count as one time, and those that are on their way go back.
    for page in &all[2..] {
        worker.record(&[unreached(page)]).await.unwrap();
    }
    assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (i64::from(HOST_DOUBTED_AFTER), 1));
    assert!(crawl.queue().await.is_empty(), "it is left alone");
    for (times, pause) in [(4, 2), (5, 4), (6, 8), (7, 16), (8, 32), (9, 64), (10, 128), (11, 256), (12, 300)]
    {
        crawl.change(PAUSE_IS_OVER).await;
        let pages = crawl.claim(&worker).await;
        assert_eq!(pages.len(), 1, "one page is enough to see whether it is there");
        worker.record(&[unreached(&pages[0])]).await.unwrap();
        assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (times, pause));
    }
    // It is there again.
    crawl.change(PAUSE_IS_OVER).await;
    let pages = crawl.claim(&worker).await;
    worker.record(&[finished(&pages[0], &small_table(), &[])]).await.unwrap();
    assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (0, 0));
    crawl.change("").await;
    assert_eq!(crawl.queue().await.len(), 19, "all at once");
}

#[tokio::test]
async fn failures_between_which_it_is_reached_cost_no_pause() {
    let (crawl, worker) = start(NO_LIMITS, &urls(12)).await;
    for _ in 0..4 {
        miss(&crawl, &worker, HOST_DOUBTED_AFTER - 1).await;
        crawl.change(PAUSE_IS_OVER).await;
        let page = crawl.claim(&worker).await.remove(0);
        worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
        crawl
            .change("UPDATE url_queue SET status = 'pending', locked_by = NULL WHERE status <> 'completed'")
            .await;
        assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (0, 0));
    }
}

#[tokio::test]
async fn the_pages_of_a_host_that_is_gone_fail_untried_and_the_crawl_ends() {
    let mut start_urls = urls(200);
    start_urls.extend(["https://gone.test/secure".to_owned(), "http://well.test/".to_owned()]);
    let (crawl, worker) = start(NO_LIMITS, &start_urls).await;
    crawl
        .change("UPDATE url_queue SET status = 'skipped' WHERE url LIKE 'http_://%' OR host = 'well.test'")
        .await;
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER - 1).await;
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER).await;
    crawl.change("UPDATE url_queue SET status = 'pending' WHERE status = 'skipped'").await;
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 200);
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
    let ends = "SELECT DISTINCT concat_ws(' ', status, error_class, error) FROM url_queue ORDER BY 1";
    assert_eq!(
        crawl.texts(ends).await,
        [
            "failed connect http://gone.test could not be reached 12 times in a row: its pages are not tried",
            "pending"
        ]
    );
    let pending = "SELECT url FROM url_queue WHERE status = 'pending' ORDER BY url";
    assert_eq!(crawl.texts(pending).await, ["http://well.test/", "https://gone.test/secure"]);
    crawl.assert_counters_are_a_recount().await;

    // A retry gives it another chance, as soon as its pause is over.
    crawl.change("UPDATE url_queue SET status = 'cancelled' WHERE status = 'pending'").await;
    assert_eq!(crawl.store.finish_executions().await.unwrap(), [(crawl.execution, "failed".to_owned())]);
    crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 200);
    assert_eq!(crawl.number(TIMES).await, 0);
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
    crawl.change(PAUSE_IS_OVER).await;
    assert_eq!(crawl.queue().await.len(), 200);
}

#[tokio::test]
async fn a_start_gives_a_host_another_chance_and_so_does_time() {
    let (crawl, worker) = start(NO_LIMITS, &urls(30)).await;
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER).await;
    crawl.another(NO_LIMITS, &["http://gone.test/other"]).await;
    assert_eq!(crawl.number(TIMES).await, 0);
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER).await;
    crawl
        .change("UPDATE hosts SET backoff_until = now() - interval '11 minutes', next_start_at = '-infinity'")
        .await;
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0, "nobody has looked lately");
    let page = crawl.claim(&worker).await.remove(0);
    worker.record(&[unreached(&page)]).await.unwrap();
    assert_eq!(crawl.number(TIMES).await, 1);
}

#[tokio::test]
async fn a_server_of_a_domain_that_is_gone_says_nothing_of_the_domain() {
    let limits = Limits { host_unit: HostUnit::Domain, ..NO_LIMITS };
    let (crawl, worker) = start(limits, &["http://www.gone.test/".to_owned()]).await;
    let page = crawl.claim(&worker).await.remove(0);
    worker.record(&[unreached(&page)]).await.unwrap();
    assert_eq!(crawl.number("SELECT max(unreachable)::int8 FROM hosts").await, 0);
}
