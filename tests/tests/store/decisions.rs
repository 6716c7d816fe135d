//! What workers come to about reading pages as they came: stored for each worker, merged for those who look.

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::Rendered;
use crawlify_shared::domain::page::RenderDecision;
use harness::crawl::{Crawl, NO_LIMITS};

const PAGE: [&str; 1] = ["http://shop.test/"];
const SHAPE: &str = "shop.test/product/#";

fn decision(mode: Rendered, reason: &str, static_pages: u64, full_pages: u64) -> RenderDecision {
    RenderDecision {
        phase: "data_extraction".to_owned(),
        shape: SHAPE.to_owned(),
        mode,
        reason: reason.to_owned(),
        static_pages,
        full_pages,
        compared: full_pages,
        disagreed: u64::from(mode == Rendered::Full),
    }
}

#[tokio::test]
async fn figures_of_workers_are_added_and_full_has_the_say() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let (one, two) = (crawl.worker().await, crawl.worker().await);
    let read = |decisions: &[RenderDecision]| -> Vec<_> {
        decisions
            .iter()
            .map(|d| {
                (
                    d.phase.clone(),
                    d.mode,
                    d.reason.clone(),
                    d.static_pages,
                    d.full_pages,
                    d.compared,
                    d.disagreed,
                )
            })
            .collect()
    };
    let store = |worker, decision| {
        let all = [(crawl.execution, decision)];
        async move {
            let worker: &crawlify_shared::store::hot::HotStore = worker;
            worker.store_render_decisions(&all).await.unwrap();
        }
    };
    store(&one, decision(Rendered::Static, "3 of 3 agreed", 90, 3)).await;
    let phase = || "data_extraction".to_owned();
    let stored = crawl.store.render_decisions(crawl.execution).await.unwrap();
    assert_eq!(read(&stored), [(phase(), Rendered::Static, "3 of 3 agreed".to_owned(), 90, 3, 3, 0)]);

    // What a worker says later stands in place of what it said before.
    store(&one, decision(Rendered::Static, "5 of 5 agreed", 200, 5)).await;
    store(&two, decision(Rendered::Full, "`title` differs", 10, 4)).await;
    store(&one, decision(Rendered::Static, "6 of 6 agreed", 210, 6)).await;
    let stored = crawl.store.render_decisions(crawl.execution).await.unwrap();
    assert_eq!(read(&stored), [(phase(), Rendered::Full, "`title` differs".to_owned(), 220, 10, 10, 1)]);

    // Those that concern the most pages come first.
    let mut discovery = decision(Rendered::Static, "2 of 2 agreed", 1000, 2);
    discovery.phase = "url_discovery".to_owned();
    store(&two, discovery).await;
    let stored = crawl.store.render_decisions(crawl.execution).await.unwrap();
    assert_eq!(
        stored.iter().map(|d| d.phase.as_str()).collect::<Vec<_>>(),
        ["url_discovery", "data_extraction"]
    );
    let other = crawl.another(NO_LIMITS, &["http://other.test/"]).await;
    assert!(crawl.store.render_decisions(other).await.unwrap().is_empty());
}

#[tokio::test]
async fn decisions_of_nobody_are_passed_over_and_go_with_their_execution() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let ours = decision(Rendered::Static, "3 of 3 agreed", 90, 3);
    worker
        .store_render_decisions(&[(ExecutionId::generate(), ours.clone()), (crawl.execution, ours)])
        .await
        .unwrap();
    assert_eq!(crawl.number("SELECT count(*) FROM render_decisions").await, 1);
    crawl.change("DELETE FROM workflow_executions").await;
    assert_eq!(crawl.number("SELECT count(*) FROM render_decisions").await, 0);
}

#[tokio::test]
async fn what_a_page_has_a_part_in_is_stored_whatever_it_is() {
    let crawl = Crawl::start(NO_LIMITS, &PAGE).await;
    let worker = crawl.worker().await;
    let mut long = decision(Rendered::Full, &"\u{0}ü".repeat(100_000), 0, u64::MAX);
    long.shape = format!("shop.test/{}", "ü".repeat(100_000));
    let mut as_long = long.clone();
    as_long.shape.push('!');
    // The two are one once they are cut; one of them is stored, and nothing fails.
    worker.store_render_decisions(&[(crawl.execution, long), (crawl.execution, as_long)]).await.unwrap();
    let stored = crawl.store.render_decisions(crawl.execution).await.unwrap();
    assert_eq!(stored.len(), 1);
    assert!(stored[0].reason.len() <= 1000 && stored[0].reason.contains('ü'));
    assert_eq!(stored[0].full_pages, i64::MAX as u64);
}
