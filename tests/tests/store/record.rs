//! What a record writes, and that nothing is written without the page's lease.

use std::time::Duration;

use crawlify_shared::domain::outcome::{ErrorClass, Failure, NodeEnd, PageOutcome, Rendered};
use crawlify_shared::domain::page::{FinishedPage, NextStatus};
use crawlify_shared::domain::page_url::HostUnit;
use crawlify_shared::domain::skip::{Skip, SkipReason};
use crawlify_shared::domain::workflow::Limits;
use futures_util::future::join;
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, small_table};
use harness::wait::wait_for;

const WITHIN: Duration = Duration::from_secs(10);
const PAGE: [&str; 1] = ["http://shop.test/"];
/// Everything that a record could have written.
const WRITTEN: &str = "SELECT (SELECT count(*) FROM node_executions) + (SELECT count(*) FROM extracted_items)
    + (SELECT count(*) FROM url_queue WHERE parent_id IS NOT NULL) + (SELECT count(*) FROM page_counters)
    + (SELECT count(*) FROM node_counters)";

fn links(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("http://shop.test/{number}")).collect()
}

#[tokio::test]
async fn everything_of_a_page_is_written_at_once_and_a_repetition_writes_nothing() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    let group = [finished(&page, &small_table(), &links(3))];
    assert_eq!(worker.record(&group).await.unwrap(), [page.page_id]);
    let written = crawl.number(WRITTEN).await;
    assert_eq!(written, 2 + 1 + 3 + 1 + 2, "nodes, item, links, counters");
    assert!(worker.record(&group).await.unwrap().is_empty());
    assert_eq!(crawl.number(WRITTEN).await, written);
    let rows =
        "SELECT concat_ws(' ', status, attempt, locked_by, final_url, error) FROM url_queue WHERE depth = 0";
    assert_eq!(crawl.texts(rows).await, ["completed 1 http://shop.test/"]);
    let nodes = "SELECT concat_ws(' ', position, node_id, node_type, phase, status, attempt, input, output)
        FROM node_executions ORDER BY position";
    assert_eq!(
        crawl.texts(nodes).await,
        [
            "0 links extract_links url_discovery completed 1 {\"selector\": \"a\"} \
             [\"http://shop.test/0\", \"http://shop.test/1\", \"http://shop.test/2\"]",
            "1 title extract data_extraction completed 1 {\"selector\": \"a\"} \"a title\"",
        ]
    );
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn discovered_urls_are_unique_one_deeper_and_less_urgent() {
    let crawl = Crawl::start(NO_LIMITS, &["http://shop.test/", "http://shop.test/1"]).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    let group: Vec<_> = pages.iter().map(|page| finished(page, &small_table(), &links(4))).collect();
    assert_eq!(worker.record(&group).await.unwrap().len(), 2);
    let found =
        "SELECT concat_ws(' ', url, depth, priority, status, host, discovered_by, attempt) FROM url_queue
        WHERE parent_id IS NOT NULL ORDER BY url";
    let row = |number: u8| format!("http://shop.test/{number} 1 90 pending shop.test links 0");
    assert_eq!(crawl.texts(found).await, [row(0), row(2), row(3)], "the second start URL was there before");
    let again = crawl.claim(&worker).await;
    let group: Vec<_> = again.iter().map(|page| finished(page, &small_table(), &links(6))).collect();
    assert_eq!(worker.record(&group).await.unwrap().len(), 3);
    let deeper = "SELECT concat_ws(' ', url, depth, priority) FROM url_queue WHERE depth > 1 ORDER BY url";
    assert_eq!(crawl.texts(deeper).await, ["http://shop.test/4 2 80", "http://shop.test/5 2 80"]);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_waiting_page_that_is_found_nearer_takes_the_lesser_depth() {
    let crawl = Crawl::start(NO_LIMITS, &["http://shop.test/near", "http://shop.test/far"]).await;
    let worker = crawl.worker().await;
    crawl.change("UPDATE url_queue SET depth = 5, priority = 50 WHERE url LIKE '%/far'").await;
    let (near, far): (Vec<_>, Vec<_>) =
        crawl.claim(&worker).await.into_iter().partition(|page| page.url.as_str().ends_with("/near"));
    let depths =
        "SELECT concat_ws(' ', depth, priority) FROM url_queue WHERE parent_id IS NOT NULL ORDER BY url";
    worker.record(&[finished(&far[0], &small_table(), &links(2))]).await.unwrap();
    assert_eq!(crawl.texts(depths).await, ["6 40", "6 40"]);
    worker.record(&[finished(&near[0], &small_table(), &links(1))]).await.unwrap();
    assert_eq!(crawl.texts(depths).await, ["1 90", "6 40"], "the first was found again, the other was not");
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_page_that_is_found_nearer_while_a_dispatcher_holds_it_takes_the_lesser_depth_all_the_same() {
    let crawl = Crawl::start(NO_LIMITS, &["http://shop.test/near", "http://shop.test/far"]).await;
    let worker = crawl.worker().await;
    crawl.change("UPDATE url_queue SET depth = 5, priority = 50 WHERE url LIKE '%/far'").await;
    let (near, far): (Vec<_>, Vec<_>) =
        crawl.claim(&worker).await.into_iter().partition(|page| page.url.as_str().ends_with("/near"));
    worker.record(&[finished(&far[0], &small_table(), &links(2))]).await.unwrap();
    let mut dispatcher = crawl.pool.begin().await.unwrap();
    let hold = "UPDATE url_queue SET status = 'queued', queued_at = now() WHERE url LIKE '%/0'";
    sqlx::query(hold).execute(&mut *dispatcher).await.unwrap();
    let found = [finished(&near[0], &small_table(), &links(2))];
    let let_go = async {
        let recorded = "SELECT count(*) FROM url_queue WHERE status = 'completed'";
        wait_for("the page is recorded", WITHIN, async || crawl.number(recorded).await == 2).await;
        dispatcher.commit().await.unwrap();
    };
    let (recorded, ()) = join(worker.record(&found), let_go).await;
    assert_eq!(recorded.unwrap(), [near[0].page_id]);
    let depths = "SELECT concat_ws(' ', status, depth, priority) FROM url_queue WHERE parent_id IS NOT NULL ORDER BY url";
    assert_eq!(crawl.texts(depths).await, ["queued 1 90", "pending 1 90"]);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn who_does_not_hold_the_page_writes_nothing() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let (worker, other) = (crawl.worker().await, crawl.worker().await);
    let page = crawl.claim(&worker).await.remove(0);
    let ours = finished(&page, &small_table(), &links(3));
    assert!(other.record(std::slice::from_ref(&ours)).await.unwrap().is_empty(), "another worker");
    for attempt in [0, 2] {
        let mut stale = ours.clone();
        stale.page.attempt = attempt;
        assert!(worker.record(&[stale]).await.unwrap().is_empty(), "attempt {attempt}");
    }
    crawl.change("UPDATE url_queue SET status = 'pending', epoch = epoch + 1, locked_by = NULL").await;
    assert!(worker.record(std::slice::from_ref(&ours)).await.unwrap().is_empty(), "the page was returned");
    assert_eq!(crawl.number(WRITTEN).await, 0);
    let taken = crawl.claim(&other).await.remove(0);
    assert!(worker.record(std::slice::from_ref(&ours)).await.unwrap().is_empty(), "the page was taken over");
    assert_eq!(other.record(&[finished(&taken, &small_table(), &[])]).await.unwrap(), [page.page_id]);
    assert!(worker.record(&[ours]).await.unwrap().is_empty(), "the page has ended");
    assert_eq!(crawl.number("SELECT count(DISTINCT worker_id) FROM node_executions").await, 1);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_released_page_is_not_charged_and_leaves_nothing_but_its_epoch() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let request = crawl.queue().await[0];
    let page = worker.claim(&[request], LEASE, false).await.unwrap().remove(0);
    let mut released = finished(&page, &small_table(), &links(2));
    released.outcome.nodes.clear();
    released.next = NextStatus::Released;
    assert_eq!(worker.record(std::slice::from_ref(&released)).await.unwrap(), [page.page_id]);
    let row = "SELECT concat_ws(' ', status, attempt, epoch, locked_by, processed_at) FROM url_queue";
    assert_eq!(crawl.texts(row).await, ["pending 0 1"]);
    assert!(worker.record(&[released]).await.unwrap().is_empty(), "only once");
    assert!(worker.claim(&[request], LEASE, true).await.unwrap().is_empty(), "the old message finds nothing");
    assert_eq!(crawl.claim(&worker).await[0].attempt, 1);
    assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 0);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_page_that_comes_twice_in_one_group_is_recorded_once() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    let group = [finished(&page, &small_table(), &links(2)), finished(&page, &small_table(), &links(3))];
    assert_eq!(worker.record(&group).await.unwrap(), [page.page_id]);
    assert_eq!(crawl.number("SELECT count(*) FROM node_executions").await, 2);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn after_a_mixture_of_ends_every_counter_is_a_recount() {
    let urls: Vec<String> = (0..24).map(|number| format!("http://shop.test/start/{number}")).collect();
    let crawl = Crawl::start(NO_LIMITS, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (one, other) = (crawl.worker().await, crawl.worker().await);
    let table = small_table();
    for (round, worker) in [&one, &other, &one].into_iter().enumerate() {
        let pages = crawl.claim(worker).await;
        let group: Vec<_> = pages
            .iter()
            .enumerate()
            .map(|(number, page)| with_end(finished(page, &table, &links(number)), number + round))
            .collect();
        for part in group.chunks(7) {
            assert_eq!(worker.record(part).await.unwrap().len(), part.len());
            assert!(worker.record(part).await.unwrap().is_empty());
        }
        crawl.assert_counters_are_a_recount().await;
    }
    let statuses = crawl.texts("SELECT DISTINCT status FROM url_queue ORDER BY 1").await;
    assert_eq!(statuses, ["completed", "failed", "pending"]);
    assert!(crawl.number("SELECT sum(retried)::int8 FROM page_counters").await > 0);
}

/// One of the ways in which a page ends.
fn with_end(mut page: FinishedPage, which: usize) -> FinishedPage {
    let failure = Failure::new(ErrorClass::Script, "it failed");
    match which % 6 {
        1 => page.next = NextStatus::Failed(failure),
        2 => page.next = NextStatus::Retry(failure, std::time::Duration::ZERO),
        3 => {
            page.outcome = PageOutcome::failed(failure.clone());
            page.next = NextStatus::Retry(failure, std::time::Duration::ZERO);
        }
        4 => page.outcome.nodes[1].end = NodeEnd::Failed(failure),
        5 => {
            page.outcome.nodes[0].end = NodeEnd::Failed(failure.clone());
            page.outcome.nodes[1].end = NodeEnd::Cancelled(failure);
            page.outcome.nodes[0].retries = 2;
            page.outcome.item = None;
        }
        _ => {}
    }
    page
}

#[tokio::test]
async fn how_a_page_was_loaded_is_kept_with_it_and_counted_once_it_has_ended() {
    let crawl = Crawl::start(NO_LIMITS, &["http://shop.test/a", "http://shop.test/b"]).await;
    let worker = crawl.worker().await;
    let mut group: Vec<_> =
        crawl.claim(&worker).await.iter().map(|page| finished(page, &small_table(), &[])).collect();
    for page in &mut group {
        page.outcome.rendered = Rendered::Static;
    }
    group[1].next = NextStatus::Retry(Failure::new(ErrorClass::Http5xx, "busy"), Duration::ZERO);
    group[1].outcome.nodes.clear();
    assert_eq!(worker.record(&group).await.unwrap().len(), 2);
    let rendered = "SELECT concat_ws(' ', status, rendered) FROM url_queue ORDER BY 1";
    assert_eq!(crawl.texts(rendered).await, ["completed static", "pending"], "a retry leaves no trace");
    crawl.assert_counters_are_a_recount().await;
    let again: Vec<_> =
        crawl.claim(&worker).await.iter().map(|page| finished(page, &small_table(), &[])).collect();
    assert_eq!(again.len(), 1);
    worker.record(&again).await.unwrap();
    assert_eq!(crawl.texts(rendered).await, ["completed full", "completed static"]);
    assert_eq!(crawl.number("SELECT sum(static_pages)::int8 FROM page_counters").await, 1);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn what_a_sitemap_names_is_at_depth_zero_in_the_lanes_of_its_hosts_although_it_broke_off() {
    let limits = Limits { host_unit: HostUnit::Domain, ..NO_LIMITS };
    let crawl = Crawl::start(limits, &["http://www.shop.test/sitemap.xml"]).await;
    crawl.change("UPDATE url_queue SET is_sitemap = true, depth = 2").await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    assert!(page.is_sitemap && page.depth == 2);
    let urls = ["http://a.shop.test/1", "http://a.shop.test/map.xml", "http://a.shop.test/private"];
    let mut broken = finished(&page, &small_table(), &urls.map(str::to_owned));
    broken.outcome.discovered[1].is_sitemap = true;
    broken.outcome.discovered[2].skipped = Some(Skip::new(SkipReason::Robots, "robots.txt disallows it"));
    let failure = Failure::new(ErrorClass::NotAPage, "it ends before its last element does");
    broken.next = NextStatus::Retry(failure.clone(), Duration::ZERO);
    worker.record(std::slice::from_ref(&broken)).await.unwrap();
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue").await, 1, "it will be read again");
    broken.page = crawl.claim(&worker).await.remove(0);
    broken.next = NextStatus::Failed(failure);
    worker.record(std::slice::from_ref(&broken)).await.unwrap();
    let found = "SELECT concat_ws(' ', url, depth, is_sitemap, host) FROM url_queue
        WHERE parent_id IS NOT NULL ORDER BY url";
    assert_eq!(
        crawl.texts(found).await,
        ["http://a.shop.test/1 0 f shop.test", "http://a.shop.test/map.xml 3 t shop.test"]
    );
    assert_eq!(crawl.texts("SELECT host FROM lanes").await, ["shop.test"]);
    assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 0);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_page_that_must_not_be_loaded_is_skipped_with_the_reason() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    let mut skipped = finished(&page, &small_table(), &links(1));
    let failure = Failure::new(ErrorClass::Robots, "robots.txt disallows it");
    skipped.outcome.nodes.clear();
    skipped.outcome.rendered = Rendered::Static;
    skipped.next = NextStatus::Skipped(failure);
    worker.record(&[skipped]).await.unwrap();
    let rows = "SELECT concat_ws(' ', status, attempt, error_class, error, rendered) FROM url_queue";
    assert_eq!(crawl.texts(rows).await, ["skipped 1 robots robots.txt disallows it"]);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_page_keeps_the_bytes_of_its_documents_and_its_execution_all_that_was_received() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    let mut group = [finished(&page, &small_table(), &[])];
    group[0].next = NextStatus::Retry(Failure::new(ErrorClass::Http5xx, "later"), Duration::ZERO);
    (group[0].outcome.bytes, group[0].outcome.received) = (1_000, Some(70_000));
    worker.record(&group).await.unwrap();
    let page = crawl.claim(&worker).await.remove(0);
    let mut group = [finished(&page, &small_table(), &[])];
    (group[0].outcome.bytes, group[0].outcome.received) = (300, None);
    worker.record(&group).await.unwrap();
    assert_eq!(crawl.number("SELECT bytes FROM url_queue").await, 1_300, "both attempts");
    assert_eq!(crawl.number("SELECT bytes FROM page_counters").await, 70_300);
    assert_eq!(crawl.store.totals(crawl.execution).await.unwrap().bytes, 70_300);
}
