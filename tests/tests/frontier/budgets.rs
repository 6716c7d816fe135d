//! Budgets: pages below a path are exact, time and bytes end the dispatching, and nothing waits for ever.

use std::collections::HashSet;
use std::time::Duration;

use crawlify_shared::domain::workflow::{Limits, parse_budget_changes};
use crawlify_shared::store::Store;
use crawlify_shared::store::budgets::change::{StandingBudgets, StandingPathBudget};
use crawlify_shared::store::control::{Controlled, LimitChanges};
use crawlify_shared::store::dispatch::ReservedPage;
use futures_util::future::join_all;
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table, small_workflow};
use harness::wait::wait_for;
use serde_json::{Value, json};

const SKIPPED: &str =
    "SELECT count(*) FROM url_queue WHERE status = 'skipped' AND error_class LIKE '%_budget'";
const WAITING: &str = "SELECT count(*) FROM url_queue WHERE status = 'pending'";
const ADMITTED: &str = "SELECT pages_admitted FROM workflow_executions";
const USED: &str = "SELECT concat_ws(' ', prefix, used) FROM execution_budgets ORDER BY prefix";
const TIME_PASSES: &str = "UPDATE workflow_executions SET started_at = started_at - interval '61 seconds'";
const ALL_END: &str =
    "UPDATE url_queue SET status = 'completed', processed_at = now() WHERE status = 'queued'";

/// An execution with these budgets, and pages `/a/0`, `/b/0`, `/a/1` ...
async fn crawl_of(budgets: Value, limits: Limits, pages: usize) -> Crawl {
    let mut config = small_workflow();
    config["budgets"] = budgets;
    let urls: Vec<String> = (0..pages)
        .map(|n| format!("http://shop.test/{}/{}", if n % 2 == 0 { "a" } else { "b" }, n / 2))
        .collect();
    Crawl::of(&config, limits, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await
}

fn below(prefix: &str, max_pages: u64) -> Value {
    json!({"path_prefixes": [{"prefix": prefix, "max_pages": max_pages}]})
}

/// What the dispatcher does, as far as the store goes.
async fn dispatch(store: &Store, crawl: &Crawl, limit: i64) -> Vec<ReservedPage> {
    let reserved = store.reserve_pages(crawl.execution, limit).await.unwrap();
    store.within_budgets(crawl.execution, reserved).await.unwrap()
}

/// Dispatches until nothing is left to dispatch; answers how many pages that were.
async fn dispatch_all(crawl: &Crawl) -> usize {
    let mut pages = 0;
    for _ in 0..20 {
        pages += dispatch(&crawl.store, crawl, 10).await.len();
    }
    assert_eq!(crawl.number(WAITING).await, 0);
    pages
}

/// Changes budgets of the execution.
async fn change(crawl: &Crawl, budgets: Value) {
    let budgets = parse_budget_changes(&budgets, "").unwrap();
    let changes = LimitChanges { budgets: Some(budgets), ..LimitChanges::default() };
    let changed = crawl.store.change_limits(crawl.execution, changes, None).await.unwrap();
    assert!(matches!(changed, Controlled::Done(_)), "{changed:?}");
}

/// What the finisher does beside ending executions.
async fn sweep(crawl: &Crawl) -> u64 {
    crawl.store.put_pages_back(None).await.unwrap();
    crawl.store.sweep_leftover_pages().await.unwrap() + crawl.store.sweep_over_budget().await.unwrap()
}

#[tokio::test]
async fn pages_below_a_path_are_exact_however_many_dispatch_at_once() {
    const LIMIT: usize = 37;
    let crawl = crawl_of(below("/a/", LIMIT as u64), NO_LIMITS, 200).await;
    let coordinators: Vec<_> = (0..8).map(|_| Store::connect(&crawl.database.url(), 2).unwrap()).collect();
    let mut pages = HashSet::new();
    for _ in 0..40 {
        let steps = coordinators.iter().map(|store| dispatch(store, &crawl, 5));
        for page in join_all(steps).await.into_iter().flatten() {
            assert!(pages.insert(page.page_id), "{} was dispatched twice", page.url);
        }
    }
    let of_a = "SELECT count(*) FROM url_queue WHERE status = 'queued' AND url LIKE '%/a/%'";
    assert_eq!(crawl.number(of_a).await, LIMIT as i64);
    assert_eq!(crawl.number("SELECT used FROM execution_budgets").await, LIMIT as i64);
    assert_eq!(pages.len(), 100 + LIMIT);
    assert_eq!(crawl.number(SKIPPED).await, 100 - LIMIT as i64);
    assert_eq!(crawl.number(WAITING).await, 0);
    let why = "SELECT DISTINCT error FROM url_queue WHERE status = 'skipped'";
    assert_eq!(crawl.texts(why).await, ["the 37 pages below `/a/` were used up (`budgets.path_prefixes`)"]);
}

#[tokio::test]
async fn a_page_counts_once_however_often_it_is_dispatched() {
    let crawl = crawl_of(below("/a/", 2), NO_LIMITS, 6).await;
    for _ in 0..3 {
        assert_eq!(dispatch(&crawl.store, &crawl, 2).await.len(), 2, "one of /a/, one of /b/");
        crawl
            .change("UPDATE url_queue SET status = 'pending', epoch = epoch + 1 WHERE status = 'queued'")
            .await;
    }
    assert_eq!(crawl.number("SELECT used FROM execution_budgets").await, 1);
}

#[tokio::test]
async fn a_page_below_two_paths_counts_for_both() {
    let budgets = json!({"path_prefixes": [
        {"prefix": "/", "max_pages": 5}, {"prefix": "/a/", "max_pages": 2},
    ]});
    let crawl = crawl_of(budgets, NO_LIMITS, 20).await;
    let mut dispatched = 0;
    for _ in 0..20 {
        dispatched += dispatch(&crawl.store, &crawl, 3).await.len();
    }
    assert_eq!(dispatched, 5);
    assert_eq!(crawl.texts(USED).await, ["/ 5", "/a/ 2"]);
    assert_eq!(crawl.number(SKIPPED).await, 15);
}

#[tokio::test]
async fn what_a_budget_refuses_takes_no_place_within_the_page_limit() {
    let crawl = crawl_of(below("/a/", 1), Limits { max_pages: Some(4), ..NO_LIMITS }, 20).await;
    let mut pages = Vec::new();
    for _ in 0..20 {
        // The finisher may come at any moment, also before the budgets are asked.
        let reserved = crawl.store.reserve_pages(crawl.execution, 4).await.unwrap();
        sweep(&crawl).await;
        pages.extend(crawl.store.within_budgets(crawl.execution, reserved).await.unwrap());
        sweep(&crawl).await;
    }
    let of_a = pages.iter().filter(|page| page.url.as_url().path().starts_with("/a/")).count();
    assert_eq!((pages.len(), of_a), (4, 1));
    assert_eq!(crawl.number(ADMITTED).await, 4);
    assert_eq!(crawl.number(WAITING).await, 0);
}

#[tokio::test]
async fn nothing_is_dispatched_after_the_time_and_what_waits_is_skipped() {
    let crawl = crawl_of(json!({"time": 60}), NO_LIMITS, 10).await;
    assert_eq!(dispatch(&crawl.store, &crawl, 3).await.len(), 3);
    assert_eq!(crawl.store.sweep_over_budget().await.unwrap(), 0, "there is time");
    crawl.change(TIME_PASSES).await;
    assert!(dispatch(&crawl.store, &crawl, 3).await.is_empty());
    assert_eq!(crawl.number(SKIPPED).await, 3);
    assert_eq!(crawl.store.sweep_over_budget().await.unwrap(), 4);
    assert_eq!((crawl.number(SKIPPED).await, crawl.number(WAITING).await), (7, 0));
    let why = "SELECT DISTINCT error FROM url_queue WHERE status = 'skipped'";
    assert_eq!(crawl.texts(why).await, ["the execution's time of 60 s was over (`budgets.time`)"]);
}

#[tokio::test]
async fn nothing_is_dispatched_after_the_bytes() {
    let crawl = crawl_of(json!({"bytes": 1_500}), NO_LIMITS, 10).await;
    let worker = crawl.worker().await;
    for expected in [0, 1_000, 2_000] {
        assert_eq!(crawl.number("SELECT COALESCE(sum(bytes), 0)::int8 FROM page_counters").await, expected);
        let pages = dispatch(&crawl.store, &crawl, 1).await;
        if expected == 2_000 {
            assert!(pages.is_empty());
            continue;
        }
        let request =
            crawlify_shared::store::hot::ClaimRequest { page_id: pages[0].page_id, epoch: pages[0].epoch };
        let page = worker.claim(&[request], harness::crawl::LEASE, false).await.unwrap().remove(0);
        let mut finished = finished(&page, &small_table(), &[]);
        finished.outcome.bytes = 1_000;
        worker.record(&[finished]).await.unwrap();
    }
    assert_eq!(crawl.store.sweep_over_budget().await.unwrap(), 7);
    assert_eq!(crawl.number(SKIPPED).await, 8);
    let ended = crawl.store.finish_executions().await.unwrap();
    assert_eq!(ended.len(), 1, "nothing is left to wait for");
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_refused_page_leaves_its_hosts_turn_to_the_next_one_and_those_behind_it_need_none() {
    let limits = Limits { rate_limit_delay: Duration::from_secs(60), ..NO_LIMITS };
    let crawl = crawl_of(below("/a/", 1), limits, 40).await;
    assert_eq!(dispatch(&crawl.store, &crawl, 5).await.len(), 1, "of /a/");
    for _ in 0..2 {
        assert!(dispatch(&crawl.store, &crawl, 5).await.is_empty(), "it is not the host's turn");
        crawl.change("UPDATE hosts SET next_dispatch_at = now()").await;
        let mut pages = dispatch(&crawl.store, &crawl, 5).await;
        if pages.is_empty() {
            assert_eq!(crawl.number(SKIPPED).await, 19, "the refused one, and all behind it");
            pages = dispatch(&crawl.store, &crawl, 5).await;
        }
        assert_eq!(pages.len(), 1, "of /b/, without another wait");
    }
    assert_eq!((crawl.number(SKIPPED).await, crawl.number(ADMITTED).await), (19, 3));
}

#[tokio::test]
async fn only_executions_with_budgets_are_asked_for_them() {
    let crawl = crawl_of(json!({"bytes": 1}), NO_LIMITS, 1).await;
    let other = crawl.another(NO_LIMITS, &["http://other.test/"]).await;
    for execution in crawl.store.running_executions(None).await.unwrap() {
        assert_eq!(execution.has_budgets, execution.id != other);
    }
}

#[tokio::test]
async fn a_raised_page_limit_brings_nothing_back_that_a_budget_has_skipped() {
    let crawl = crawl_of(below("/a/", 1), Limits { max_pages: Some(3), ..NO_LIMITS }, 20).await;
    for _ in 0..5 {
        dispatch(&crawl.store, &crawl, 3).await;
        sweep(&crawl).await;
    }
    let by_limit = "SELECT count(*) FROM url_queue WHERE status = 'skipped' AND error_class = 'limit'";
    assert_eq!((crawl.number(by_limit).await, crawl.number(SKIPPED).await), (8, 9));
    let raised = LimitChanges { max_pages: Some(None), ..LimitChanges::default() };
    crawl.store.change_limits(crawl.execution, raised, None).await.unwrap();
    sweep(&crawl).await;
    assert_eq!((crawl.number(by_limit).await, crawl.number(SKIPPED).await), (0, 9));
    assert_eq!(dispatch(&crawl.store, &crawl, 20).await.len(), 8);
}

#[tokio::test]
async fn pages_that_the_time_has_skipped_wait_again_when_there_is_more_and_the_execution_does_not_end_before()
{
    let crawl = crawl_of(json!({"time": 60}), NO_LIMITS, 10).await;
    assert_eq!(dispatch(&crawl.store, &crawl, 3).await.len(), 3);
    crawl.change(TIME_PASSES).await;
    assert!(dispatch(&crawl.store, &crawl, 3).await.is_empty());
    assert_eq!(sweep(&crawl).await, 4);
    crawl.change(ALL_END).await;
    change(&crawl, json!({"time": 30})).await;
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0, "it is over all the same");
    change(&crawl, json!({"time": 600})).await;
    assert!(crawl.store.finish_executions().await.unwrap().is_empty(), "its pages are to be put back");
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 7);
    assert_eq!((crawl.number(SKIPPED).await, crawl.number(WAITING).await), (0, 7));
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0, "once");
    assert_eq!(dispatch_all(&crawl).await, 7);
    crawl.change(ALL_END).await;
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
}

#[tokio::test]
async fn pages_come_back_only_when_neither_time_nor_bytes_are_over() {
    let crawl = crawl_of(json!({"time": 60, "bytes": 1_000}), NO_LIMITS, 4).await;
    crawl
        .change(
            "INSERT INTO page_counters (execution_id, worker_id, bytes)
             SELECT id, gen_random_uuid(), 1000 FROM workflow_executions",
        )
        .await;
    crawl.change(TIME_PASSES).await;
    assert_eq!(sweep(&crawl).await, 4);
    change(&crawl, json!({"bytes": null})).await;
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0, "the time is over");
    change(&crawl, json!({"time": null})).await;
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 4);
}

#[tokio::test]
async fn an_execution_that_is_just_being_ended_goes_on_when_its_pages_were_put_back_meanwhile() {
    let crawl = crawl_of(json!({"time": 60}), NO_LIMITS, 3).await;
    crawl.change(TIME_PASSES).await;
    assert_eq!(sweep(&crawl).await, 3);
    // A change of its budgets and what follows, in one: the end sees neither, as it began before.
    let mut act = crawl.pool.begin().await.unwrap();
    let changed = "UPDATE workflow_executions SET control_version = control_version + 1";
    sqlx::query(changed).execute(&mut *act).await.unwrap();
    sqlx::query("UPDATE url_queue SET status = 'pending'").execute(&mut *act).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let acting = async {
        let within = Duration::from_secs(10);
        wait_for("the end waits for the change", within, async || crawl.number(waiting).await == 1).await;
        act.commit().await.unwrap();
    };
    let (ended, ()) = tokio::join!(crawl.store.finish_executions(), acting);
    assert!(ended.unwrap().is_empty());
}

#[tokio::test]
async fn a_path_may_get_less_than_it_has_used_and_more_again() {
    let crawl = crawl_of(below("/a/", 5), NO_LIMITS, 40).await;
    assert_eq!(dispatch_all(&crawl).await, 25);
    change(&crawl, below("/a/", 3)).await;
    assert_eq!(sweep(&crawl).await, 0);
    let standing = "SELECT concat_ws(' ', prefix, used, max) FROM execution_budgets";
    assert_eq!(crawl.texts(standing).await, ["/a/ 5 3"]);
    assert_eq!((crawl.number(WAITING).await, crawl.number(SKIPPED).await), (0, 15));
    change(&crawl, below("/a/", 7)).await;
    assert_eq!(crawl.store.put_pages_back(Some(crawl.execution)).await.unwrap(), 15);
    assert_eq!(dispatch_all(&crawl).await, 2);
    assert_eq!(crawl.texts(standing).await, ["/a/ 7 7"]);
    assert_eq!((crawl.number(SKIPPED).await, crawl.number(ADMITTED).await), (13, 27));
}

#[tokio::test]
async fn a_new_path_counts_what_is_dispatched_from_then_on_and_one_that_stays_goes_on_counting() {
    let crawl = crawl_of(below("/a/", 2), NO_LIMITS, 20).await;
    assert_eq!(dispatch(&crawl.store, &crawl, 4).await.len(), 4, "two of /a/, two of /b/");
    let both =
        json!({"path_prefixes": [{"prefix": "/b/", "max_pages": 2}, {"prefix": "/a/", "max_pages": 3}]});
    change(&crawl, both).await;
    assert_eq!(dispatch_all(&crawl).await, 3);
    assert_eq!(crawl.texts(USED).await, ["/a/ 3", "/b/ 2"]);
    assert_eq!(crawl.number(SKIPPED).await, 13);
    let tried_before =
        "UPDATE url_queue SET status = 'pending', attempt = 1, epoch = epoch + 1 WHERE url LIKE '%/b/0'";
    crawl.change(tried_before).await;
    assert_eq!(dispatch_all(&crawl).await, 1, "it has begun before there was a budget for it");
    assert_eq!(crawl.texts(USED).await, ["/a/ 3", "/b/ 2"]);
}

#[tokio::test]
async fn what_a_change_does_not_name_stays_and_budgets_that_are_removed_skip_nothing_any_more() {
    let budgets = json!({"time": 60, "bytes": 9, "path_prefixes": [{"prefix": "/a/", "max_pages": 1}]});
    let crawl = crawl_of(budgets, NO_LIMITS, 20).await;
    assert_eq!(dispatch_all(&crawl).await, 11);
    change(&crawl, json!({"time": 600})).await;
    change(&crawl, json!({"bytes": null})).await;
    let path = StandingPathBudget { prefix: "/a/".to_owned(), max_pages: 1, used: 1 };
    let standing = StandingBudgets { time_seconds: Some(600), bytes: None, path_prefixes: vec![path] };
    assert_eq!(crawl.store.budgets(crawl.execution).await.unwrap(), standing);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0);
    change(&crawl, Value::Null).await;
    assert_eq!(crawl.store.budgets(crawl.execution).await.unwrap(), StandingBudgets::default());
    assert!(!crawl.store.running_executions(None).await.unwrap()[0].has_budgets);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 9);
    assert_eq!(dispatch_all(&crawl).await, 9);
}

#[tokio::test]
async fn very_many_skipped_pages_are_looked_at_once_each_in_portions() {
    let crawl = crawl_of(below("/a/", 1), NO_LIMITS, 1).await;
    assert_eq!(dispatch_all(&crawl).await, 1);
    crawl
        .change(
            "INSERT INTO url_queue (id, execution_id, url, url_hash, host, status, error_class, processed_at)
             SELECT gen_random_uuid(), e.id, 'http://shop.test/a/p/' || n, decode(md5(n::text), 'hex'), 'shop.test',
                 'skipped', 'path_budget', now()
             FROM workflow_executions e, generate_series(1, 12000) n",
        )
        .await;
    crawl.change(ALL_END).await;
    let unfinished = "SELECT count(*) FROM workflow_executions WHERE budget_pages_after IS NOT NULL";
    change(&crawl, json!({"bytes": 1_000})).await;
    assert_eq!(crawl.number(unfinished).await, 1);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0, "another budget was changed");
    assert_eq!(crawl.number(unfinished).await, 0);
    change(&crawl, below("/a/", 20_000)).await;
    for expected in [5_000, 5_000, 2_000] {
        assert!(crawl.store.finish_executions().await.unwrap().is_empty(), "some wait, others are to");
        assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), expected);
    }
    assert_eq!((crawl.number(unfinished).await, crawl.number(WAITING).await), (0, 12_000));
}
