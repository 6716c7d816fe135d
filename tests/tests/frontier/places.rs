//! Places: in the page limit of an execution and below its paths, at a host that bears only so many pages, in a dispatcher's step.

use std::time::Duration;

use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageEnd, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus};
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::{Controlled, LimitChanges};
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, small_table, small_workflow};
use serde_json::json;

use super::behind_a_dispatcher;

const ONE_AT_A_TIME: Limits = Limits { host_concurrency: Some(1), ..NO_LIMITS };

async fn reads(crawl: &Crawl) -> i64 {
    crawl.number("SELECT sum(idx_tup_read)::int8 FROM pg_stat_user_indexes WHERE relname = 'url_queue'").await
}

#[tokio::test]
async fn once_the_page_limit_is_reached_a_step_looks_at_none_of_those_that_wait_to_be_skipped() {
    let limits = Limits { max_pages: Some(2), ..NO_LIMITS };
    let crawl = Crawl::start(limits, &["http://a.test/1", "http://a.test/2"]).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    let failure = Failure::new(ErrorClass::Http5xx, "the server answered with HTTP status 500");
    let again = FinishedPage {
        outcome: PageOutcome::failed(failure.clone()),
        next: NextStatus::Retry(failure, Duration::ZERO),
        ..finished(&pages[0], &small_table(), &[])
    };
    worker.record(&[again]).await.unwrap();
    crawl
        .change(
            "INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, priority)
             SELECT gen_random_uuid(), (SELECT id FROM workflow_executions), 'http://a.test/many/' || n,
                 decode(md5(n::text), 'hex'), 'a.test', 1, 90 FROM generate_series(1, 20000) n; ANALYZE url_queue",
        )
        .await;
    let before = reads(&crawl).await;
    assert_eq!(
        crawl.queue().await.len(),
        1,
        "the page that has its place already, although others come first"
    );
    for _ in 0..20 {
        assert_eq!(crawl.queue().await.len(), 0);
    }
    // What a connection has read is told when it has been idle for a while.
    let mut read = 0;
    for _ in 0..150 {
        read = reads(&crawl).await - before;
        if read > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((1..2_000).contains(&read), "{read} rows were read in 21 steps");
}

/// The end of a page that was not loaded.
fn forbidden(page: &ClaimedPage) -> FinishedPage {
    let failure = Failure::new(ErrorClass::Robots, "robots.txt disallows it");
    FinishedPage {
        outcome: PageOutcome::nothing(PageEnd::Skipped(failure.clone())),
        next: NextStatus::Skipped(failure),
        ..finished(page, &small_table(), &[])
    }
}

#[tokio::test]
async fn pages_that_robots_txt_forbids_give_their_places_back() {
    let limits = Limits { max_pages: Some(2), ..NO_LIMITS };
    let urls = ["http://a.test/1", "http://a.test/2", "http://a.test/3", "http://a.test/4"];
    let crawl = Crawl::start(limits, &urls).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    assert_eq!(pages.len(), 2);
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 2, "the others are skipped meanwhile");
    worker.record(&[forbidden(&pages[0]), finished(&pages[1], &small_table(), &[])]).await.unwrap();
    assert!(crawl.store.finish_executions().await.unwrap().is_empty(), "another page may come");
    crawl.store.sweep_leftover_pages().await.unwrap();
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1);
    let third = crawl.claim(&worker).await;
    assert_eq!(third.len(), 1);
    worker.record(&[finished(&third[0], &small_table(), &[])]).await.unwrap();
    crawl.store.sweep_leftover_pages().await.unwrap();
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0);
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    let ends = "SELECT concat_ws(' ', status, error_class, count(*)) FROM url_queue GROUP BY status, error_class ORDER BY 1";
    assert_eq!(crawl.texts(ends).await, ["completed 2", "skipped limit 1", "skipped robots 1"]);
    assert_eq!(crawl.number("SELECT pages_admitted FROM workflow_executions").await, 2);
    crawl.assert_counters_are_a_recount().await;
}

/// Dispatches what there is, within the budgets.
async fn dispatch(crawl: &Crawl) -> Vec<ClaimRequest> {
    let mut requests = Vec::new();
    for _ in 0..5 {
        let pages = crawl.store.reserve_pages(crawl.execution, 100).await.unwrap();
        let pages = crawl.store.within_budgets(crawl.execution, pages).await.unwrap();
        requests.extend(pages.iter().map(|page| ClaimRequest { page_id: page.page_id, epoch: page.epoch }));
    }
    requests
}

#[tokio::test]
async fn pages_that_robots_txt_forbids_give_their_places_below_a_path_back() {
    const PLACES: usize = 50;
    let mut config = small_workflow();
    config["budgets"] = json!({"path_prefixes": [{"prefix": "/archive/", "max_pages": PLACES}]});
    let mut urls: Vec<_> = (0..PLACES).map(|number| format!("http://b.test/archive/{number}")).collect();
    urls.push("http://c.test/".to_owned());
    let crawl = Crawl::of(&config, NO_LIMITS, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = crawl.worker().await;
    let pages = worker.claim(&dispatch(&crawl).await, LEASE, false).await.unwrap();
    assert_eq!(pages.len(), PLACES + 1);
    let (archive, leading): (Vec<_>, Vec<_>) = pages.into_iter().partition(|page| page.host == "b.test");
    let links: Vec<_> = (0..60).map(|number| format!("http://a.test/archive/{number}")).collect();
    worker.record(&[finished(&leading[0], &small_table(), &links)]).await.unwrap();
    assert!(dispatch(&crawl).await.is_empty(), "every place is taken");
    let by_path = "SELECT count(*) FROM url_queue WHERE status = 'skipped' AND error_class = 'path_budget'";
    assert_eq!(crawl.number(by_path).await, 60);

    let used = "SELECT used FROM execution_budgets";
    // Some more come back than find places, of those that there are.
    for (pages, expected) in [(&archive[..3], 3 + 16), (&archive[3..], 57)] {
        let group: Vec<_> = pages.iter().map(forbidden).collect();
        worker.record(&group).await.unwrap();
        assert!(crawl.store.finish_executions().await.unwrap().is_empty(), "others may come");
        crawl.store.sweep_leftover_pages().await.unwrap();
        assert_eq!(crawl.number(used).await, (PLACES - group.len()) as i64);
        assert!(crawl.store.finish_executions().await.unwrap().is_empty(), "others are to come");
        assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), expected);
        let pages = worker.claim(&dispatch(&crawl).await, LEASE, false).await.unwrap();
        assert_eq!(pages.len(), group.len());
        let ended: Vec<_> = pages.iter().map(|page| finished(page, &small_table(), &[])).collect();
        worker.record(&ended).await.unwrap();
        assert_eq!(crawl.number(used).await, PLACES as i64);
    }
    assert_eq!(crawl.number(by_path).await, 10);
    assert_eq!(crawl.number("SELECT pages_admitted FROM workflow_executions").await, 1 + PLACES as i64);
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    crawl.assert_counters_are_a_recount().await;
}

/// Ends every page that can be dispatched; answers how many.
async fn complete(crawl: &Crawl, worker: &HotStore) -> usize {
    let pages = worker.claim(&dispatch(crawl).await, LEASE, false).await.unwrap();
    let ended: Vec<_> = pages.iter().map(|page| finished(page, &small_table(), &[])).collect();
    worker.record(&ended).await.unwrap();
    pages.len()
}

#[tokio::test]
async fn a_free_place_below_a_path_brings_no_more_pages_back_however_many_were_skipped_and_for_whatever() {
    let mut config = small_workflow();
    config["budgets"] = json!({"path_prefixes": [
        {"prefix": "/archive/", "max_pages": 2}, {"prefix": "/full/", "max_pages": 1},
        {"prefix": "/roomy/", "max_pages": 1_000},
    ]});
    let urls = ["archive/1", "archive/2", "full/1", "roomy/1"].map(|path| format!("http://b.test/{path}"));
    let crawl = Crawl::of(&config, NO_LIMITS, &urls.each_ref().map(String::as_str)).await;
    let worker = crawl.worker().await;
    let pages = worker.claim(&dispatch(&crawl).await, LEASE, false).await.unwrap();
    let (archive, others): (Vec<_>, Vec<_>) =
        pages.into_iter().partition(|page| page.url.as_str().contains("/archive/"));
    assert_eq!((archive.len(), others.len()), (2, 2));
    let ended: Vec<_> = others.iter().map(|page| finished(page, &small_table(), &[])).collect();
    worker.record(&ended).await.unwrap();
    // More than one portion that no place came free for, and then more than one for which there did.
    crawl
        .change(
            "INSERT INTO url_queue (id, execution_id, url, url_hash, host, status, error_class, processed_at)
             SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, e.id,
                 'http://a.test/' || CASE WHEN n <= 5500 THEN 'full' ELSE 'archive' END || '/n' || n,
                 decode(md5(n::text), 'hex'), 'a.test', 'skipped', 'path_budget', now()
             FROM workflow_executions e, generate_series(1, 12000) n",
        )
        .await;
    // One more for each place: the spare ones are there already.
    for (page, expected) in archive.iter().zip([1 + 16, 1]) {
        worker.record(&[forbidden(page)]).await.unwrap();
        crawl.store.sweep_leftover_pages().await.unwrap();
        assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), expected);
        assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0, "once");
    }
    assert_eq!(complete(&crawl, &worker).await, 2);
    let used = "SELECT concat_ws(' ', prefix, used) FROM execution_budgets ORDER BY prefix";
    assert_eq!(crawl.texts(used).await, ["/archive/ 2", "/full/ 1", "/roomy/ 1"]);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0, "every place is taken");
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    let skipped = "SELECT count(*) FROM url_queue WHERE status = 'skipped' AND error_class = 'path_budget'";
    assert_eq!(crawl.number(skipped).await, 12_000 - 2);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn places_below_a_path_for_which_only_pages_of_a_host_came_back_that_is_gone_are_given_to_others() {
    let mut config = small_workflow();
    config["budgets"] = json!({"path_prefixes": [{"prefix": "/archive/", "max_pages": 2}]});
    let crawl = Crawl::of(&config, NO_LIMITS, &["http://b.test/archive/1", "http://b.test/archive/2"]).await;
    let worker = crawl.worker().await;
    let pages = worker.claim(&dispatch(&crawl).await, LEASE, false).await.unwrap();
    assert_eq!(pages.len(), 2);
    // As many of it as come back for two places, before any other.
    crawl
        .change(
            "INSERT INTO hosts (host, unreachable, unreachable_until, unreachable_origins)
             VALUES ('gone.test', 10, now() + interval '1 hour', '{http://gone.test}');
             INSERT INTO url_queue (id, execution_id, url, url_hash, host, status, error_class, processed_at)
             SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, e.id,
                 'http://' || host.name || '/archive/n' || n, decode(md5(n::text), 'hex'), host.name,
                 'skipped', 'path_budget', now()
             FROM workflow_executions e, generate_series(1, 40) n,
                 LATERAL (SELECT CASE WHEN n <= 18 THEN 'gone.test' ELSE 'a.test' END) AS host (name)",
        )
        .await;
    let group: Vec<_> = pages.iter().map(forbidden).collect();
    worker.record(&group).await.unwrap();
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 2, "two places are given back");
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 2 + 16);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0, "what becomes of them is waited for");
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 18, "their host is gone");
    assert!(crawl.store.finish_executions().await.unwrap().is_empty(), "two places are left");
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 22);
    assert_eq!(complete(&crawl, &worker).await, 2);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0);
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    let ends = "SELECT concat_ws(' ', host, status, error_class, count(*)) FROM url_queue
        GROUP BY host, status, error_class ORDER BY 1";
    let expected = [
        "a.test completed 2",
        "a.test skipped path_budget 20",
        "b.test skipped robots 2",
        "gone.test failed connect 18",
    ];
    assert_eq!(crawl.texts(ends).await, expected);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_step_takes_no_more_pages_than_it_was_asked_for_and_some_of_each_lane() {
    let urls: Vec<_> = (0..99).map(|number| format!("http://host{}.test/{number}", number % 33)).collect();
    let crawl = Crawl::start(NO_LIMITS, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let pages = crawl.store.reserve_pages(crawl.execution, 64).await.unwrap();
    assert_eq!(pages.len(), 64);
    let hosts: std::collections::HashSet<_> = pages.iter().map(|page| page.url.host()).collect();
    assert_eq!(hosts.len(), 33);
}

#[tokio::test]
async fn how_many_pages_a_host_bears_is_changed_while_they_run() {
    let urls: Vec<_> = (0..6).map(|number| format!("http://a.test/{number}")).collect();
    let crawl = Crawl::start(ONE_AT_A_TIME, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let change = async |host_concurrency| {
        let changes = LimitChanges { host_concurrency: Some(host_concurrency), ..LimitChanges::default() };
        crawl.store.change_limits(crawl.execution, changes, None).await.unwrap();
        crawl.queue().await.len()
    };
    assert_eq!(crawl.queue().await.len(), 1);
    assert_eq!(change(Some(3)).await, 2);
    assert_eq!(change(Some(2)).await, 0, "those on the way go on");
    assert_eq!(change(None).await, 3);
}

#[tokio::test]
async fn a_message_that_was_late_finds_nothing_where_another_page_may_have_its_place() {
    let crawl = Crawl::start(ONE_AT_A_TIME, &["http://a.test/1"]).await;
    let other = crawl.another(NO_LIMITS, &["http://a.test/2"]).await;
    let worker = crawl.worker().await;
    let late = crawl.queue().await;
    assert!(crawl.store.reserve_pages(other, 10).await.unwrap().is_empty());
    assert_eq!(crawl.store.rescue(None, Duration::ZERO).await.unwrap().pages_requeued, 1);
    crawl.change("").await;
    let others = crawl.store.reserve_pages(other, 10).await.unwrap();
    let others = others.iter().map(|page| ClaimRequest { page_id: page.page_id, epoch: page.epoch });
    let requests: Vec<_> = late.into_iter().chain(others).collect();
    let claimed = worker.claim(&requests, LEASE, false).await.unwrap();
    assert_eq!(claimed.iter().map(|page| page.url.as_str()).collect::<Vec<_>>(), ["http://a.test/2"]);
}

#[tokio::test]
async fn a_message_that_was_sent_after_all_finds_nothing_where_another_page_may_have_its_place() {
    let crawl = Crawl::start(ONE_AT_A_TIME, &["http://a.test/1"]).await;
    let worker = crawl.worker().await;
    let pages = crawl.store.reserve_pages(crawl.execution, 10).await.unwrap();
    let sent = ClaimRequest { page_id: pages[0].page_id, epoch: pages[0].epoch };
    crawl.store.return_unpublished(&pages).await.unwrap();
    assert!(worker.claim(&[sent], LEASE, false).await.unwrap().is_empty());
    assert_eq!(crawl.claim(&worker).await.len(), 1);
}

#[tokio::test]
async fn what_a_paused_execution_had_on_the_way_keeps_no_place() {
    let crawl = Crawl::start(ONE_AT_A_TIME, &["http://a.test/1"]).await;
    let other = crawl.another(ONE_AT_A_TIME, &["http://a.test/2"]).await;
    let worker = crawl.worker().await;
    let on_the_way = crawl.queue().await;
    assert!(crawl.store.reserve_pages(other, 10).await.unwrap().is_empty());
    crawl.store.pause_execution(crawl.execution, None).await.unwrap();
    crawl.change("").await;
    assert_eq!(crawl.store.reserve_pages(other, 10).await.unwrap().len(), 1);
    assert!(worker.claim(&on_the_way, LEASE, false).await.unwrap().is_empty());
    // It goes on where it stopped.
    crawl.store.resume_execution(crawl.execution, None).await.unwrap();
    crawl.change("UPDATE url_queue SET status = 'completed' WHERE url LIKE '%/2'").await;
    assert!(worker.claim(&on_the_way, LEASE, false).await.unwrap().is_empty(), "that message is void");
    assert_eq!(crawl.claim(&worker).await.len(), 1);
}

#[tokio::test]
async fn what_a_dispatcher_makes_queued_while_a_pause_waits_for_it_keeps_no_place() {
    let crawl = Crawl::start(ONE_AT_A_TIME, &["http://a.test/1"]).await;
    let other = crawl.another(ONE_AT_A_TIME, &["http://a.test/2"]).await;
    let queued =
        "UPDATE url_queue SET status = 'queued', queued_at = now(), admitted = true WHERE execution_id = $1";
    let paused =
        behind_a_dispatcher(&crawl, queued, crawl.store.pause_execution(crawl.execution, None)).await;
    assert!(matches!(paused.unwrap(), Controlled::Done(_)));
    let row = "SELECT concat_ws(' ', status, epoch, queued_at) FROM url_queue WHERE url LIKE '%/1'";
    assert_eq!(crawl.texts(row).await, ["pending 1"]);
    crawl.change("").await;
    assert_eq!(crawl.store.reserve_pages(other, 10).await.unwrap().len(), 1, "its place is free");
}

#[tokio::test]
async fn a_page_that_was_held_during_a_pause_is_sent_anew_and_its_first_message_finds_nothing() {
    let crawl = Crawl::start(ONE_AT_A_TIME, &["http://a.test/1"]).await;
    let worker = crawl.worker().await;
    let on_the_way = crawl.queue().await;
    let mut holding = crawl.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM url_queue FOR UPDATE").execute(&mut *holding).await.unwrap();
    crawl.store.pause_execution(crawl.execution, None).await.unwrap();
    holding.rollback().await.unwrap();
    let row = "SELECT concat_ws(' ', status, epoch) FROM url_queue";
    assert_eq!(crawl.texts(row).await, ["queued 0"]);
    crawl.store.resume_execution(crawl.execution, None).await.unwrap();
    assert_eq!(crawl.texts(row).await, ["pending 1"]);
    assert!(worker.claim(&on_the_way, LEASE, false).await.unwrap().is_empty());
    assert_eq!(crawl.claim(&worker).await.len(), 1);
}

#[tokio::test]
async fn the_pages_of_a_cancelled_execution_that_are_still_in_hand_keep_their_places() {
    let crawl = Crawl::start(ONE_AT_A_TIME, &["http://a.test/1"]).await;
    let other = crawl.another(ONE_AT_A_TIME, &["http://a.test/2"]).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    let mode = crawlify_shared::store::control::CancelMode::Graceful;
    crawl.store.cancel_execution(crawl.execution, mode, None).await.unwrap();
    crawl.store.sweep_leftover_pages().await.unwrap();
    crawl.change("").await;
    assert!(crawl.store.reserve_pages(other, 10).await.unwrap().is_empty());
    worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap();
    crawl.change("").await;
    assert_eq!(crawl.store.reserve_pages(other, 10).await.unwrap().len(), 1);
}
