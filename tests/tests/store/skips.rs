//! Links that are not followed: kept with their reason, listed, counted, and forgotten where the frontier knows better.

use crawlify_shared::domain::outcome::DiscoveredUrl;
use crawlify_shared::domain::page::FinishedPage;
use crawlify_shared::domain::skip::{Skip, SkipReason};
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::hot::HotStore;
use futures_util::future::join_all;
use harness::crawl::{Crawl, NO_LIMITS, finished, page_url, small_table};

const PAGES: [&str; 2] = ["http://shop.test/a", "http://shop.test/b"];

fn skipped(path: &str, reason: SkipReason) -> DiscoveredUrl {
    DiscoveredUrl {
        url: page_url(&format!("http://shop.test{path}")),
        discovered_by: "links".to_owned(),
        is_sitemap: false,
        skipped: Some(Skip::new(reason, format!("no reason \0but {}", reason.as_str()))),
    }
}

/// Claims both pages, and gives each the links.
async fn pages(crawl: &Crawl, worker: &HotStore, links: [Vec<DiscoveredUrl>; 2]) -> Vec<FinishedPage> {
    let mut pages = crawl.claim(worker).await;
    pages.sort_by(|one, other| one.url.cmp(&other.url));
    let finished = pages.iter().zip(links).map(|(page, links)| {
        let mut finished = finished(page, &small_table(), &[]);
        finished.outcome.discovered = links;
        finished.outcome.bytes = 1_000;
        finished
    });
    finished.collect()
}

fn followed(path: &str) -> DiscoveredUrl {
    DiscoveredUrl { skipped: None, ..skipped(path, SkipReason::Trap) }
}

/// Everything that the report lists.
async fn listed(crawl: &Crawl) -> Vec<String> {
    let rows = crawl.store.skipped_urls(crawl.execution, None, None, 1_000).await.unwrap();
    let line = |row: &crawlify_shared::store::skips::SkippedUrl| {
        let parent = row.parent_url.as_deref().unwrap_or("-");
        format!("{} {} {} from {parent}", row.url, row.reason, row.detail).replace("http://shop.test", "")
    };
    rows.iter().map(line).collect()
}

#[tokio::test]
async fn a_skipped_link_is_kept_with_its_reason_and_goes_into_no_frontier() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let links = vec![skipped("/x", SkipReason::Trap), followed("/1"), skipped("/y", SkipReason::Scope)];
    let group = pages(&crawl, &worker, [links.clone(), links]).await;
    assert_eq!(worker.record(&group).await.unwrap().len(), 2);
    let reasons = ["/y scope no reason but scope", "/x trap no reason but trap"];
    let found: Vec<_> = listed(&crawl).await;
    assert_eq!(found.len(), 2, "each once: {found:?}");
    assert!(found.iter().zip(reasons).all(|(line, reason)| line.starts_with(reason)), "{found:?}");
    assert!(found[0].ends_with("from /a") || found[0].ends_with("from /b"), "{found:?}");
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue").await, 3);
    assert_eq!(crawl.number("SELECT sum(urls_found)::int8 FROM page_counters").await, 1);
    assert_eq!(crawl.number("SELECT sum(bytes)::int8 FROM page_counters").await, 2_000);
    assert!(worker.record(&group).await.unwrap().is_empty(), "a repetition writes nothing");
    assert_eq!(listed(&crawl).await, found);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_link_that_another_page_may_follow_is_not_skipped_in_whatever_order_they_are_recorded() {
    for order in [[0, 1], [1, 0]] {
        let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
        let worker = crawl.worker().await;
        let links =
            [vec![skipped("/x", SkipReason::Depth), skipped("/y", SkipReason::Scope)], vec![followed("/x")]];
        let group = pages(&crawl, &worker, links).await;
        for place in order {
            worker.record(std::slice::from_ref(&group[place])).await.unwrap();
        }
        let open = "SELECT url FROM url_queue WHERE status = 'pending'";
        assert_eq!(crawl.texts(open).await, ["http://shop.test/x"], "{order:?}");
        assert_eq!(listed(&crawl).await, ["/y scope no reason but scope from /a"], "{order:?}");
        crawl.assert_counters_are_a_recount().await;
    }
}

#[tokio::test]
async fn workers_that_skip_and_follow_the_same_links_at_once_lose_none() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let workers = [crawl.worker().await, crawl.worker().await];
    let paths: Vec<String> = (0..200).map(|number| format!("/{number}")).collect();
    let skipping = paths.iter().map(|path| skipped(path, SkipReason::Depth)).collect();
    let following = paths.iter().rev().map(|path| followed(path)).collect();
    let requests = crawl.queue().await;
    let mut groups = Vec::new();
    for ((worker, request), links) in workers.iter().zip(requests).zip([skipping, following]) {
        let page = worker.claim(&[request], harness::crawl::LEASE, false).await.unwrap().remove(0);
        let mut group = finished(&page, &small_table(), &[]);
        group.outcome.discovered = links;
        groups.push([group]);
    }
    let records = workers.iter().zip(&groups).map(|(worker, group)| worker.record(group));
    assert!(join_all(records).await.into_iter().all(|written| written.unwrap().len() == 1));
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE status = 'pending'").await, 200);
    assert!(listed(&crawl).await.is_empty());
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn the_report_has_the_pages_of_the_frontier_too_and_is_read_piece_by_piece() {
    let crawl = Crawl::start(Limits { max_pages: Some(2), ..NO_LIMITS }, &PAGES).await;
    let worker = crawl.worker().await;
    let links = vec![followed("/1"), followed("/2"), skipped("/x", SkipReason::Trap)];
    let group = pages(&crawl, &worker, [links, vec![skipped("/y", SkipReason::Trap)]]).await;
    worker.record(&group).await.unwrap();
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 2);
    let counts = crawl.store.skip_counts(crawl.execution).await.unwrap();
    let counts: Vec<_> = counts.iter().map(|count| (count.reason.as_str(), count.count)).collect();
    assert_eq!(counts, [("limit", 2), ("trap", 2)]);
    let (mut pieces, mut cursor) = (Vec::new(), None);
    loop {
        let rows = crawl.store.skipped_urls(crawl.execution, None, cursor.as_ref(), 1).await.unwrap();
        let Some(row) = rows.first() else { break };
        cursor = Some(row.cursor());
        pieces.push(format!("{} {}", row.reason, row.url.replace("http://shop.test", "")));
    }
    let (limit, trap) = pieces.split_at(2);
    assert!(limit.iter().all(|piece| piece.starts_with("limit /")), "{pieces:?}");
    assert_eq!(trap.len(), 2, "{pieces:?}");
    let traps = crawl.store.skipped_urls(crawl.execution, Some(SkipReason::Trap), None, 10).await.unwrap();
    assert_eq!(traps.len(), 2);
    crawl.assert_counters_are_a_recount().await;
}
