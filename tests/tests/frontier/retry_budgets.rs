//! Failed pages that are tried afresh as far as budgets and the page limit have places for them; the others keep what is known of
//! their failures.

use crawlify_shared::domain::workflow::{Limits, parse_budget_changes};
use crawlify_shared::store::control::{Controlled, LimitChanges};
use crawlify_shared::store::retry::SpentBudget;
use futures_util::future::join;
use harness::crawl::{Crawl, NO_LIMITS, small_workflow};
use serde_json::{Value, json};

use super::behind_a_dispatcher;

/// What is under way ends.
const COMPLETED: &str =
    "UPDATE url_queue SET status = 'completed', processed_at = now(), attempt = 1 WHERE status = 'queued'";
/// An untried failure of [`crawl_with_untried_failures`].
const GONE: &str = "failed connect its host is gone";
/// Places in the page limit that are counted, and are neither a page's nor kept for one.
const NOBODYS_PLACES: &str =
    "SELECT pages_admitted - retry_places - (SELECT count(*) FROM url_queue WHERE admitted)
    FROM workflow_executions";

/// Four pages, two of them below `/a/`, of an execution with these budgets; all were dispatched that these admit.
async fn crawl_with(budgets: Value) -> Crawl {
    let mut config = small_workflow();
    config["budgets"] = budgets;
    let pages =
        ["http://shop.test/a/0", "http://shop.test/a/1", "http://shop.test/b/0", "http://shop.test/b/1"];
    let crawl = Crawl::of(&config, NO_LIMITS, &pages).await;
    dispatch(&crawl).await;
    crawl
}

/// Four pages, two of which have used an execution's page limit up, and ended so. The others have failed untried, as those
/// of a host that is gone do; the one with the later URL failed first.
async fn crawl_with_untried_failures(end_of_the_others: &'static str) -> Crawl {
    let pages = ["http://shop.test/1", "http://shop.test/2", "http://shop.test/3", "http://shop.test/4"];
    let crawl = Crawl::start(Limits { max_pages: Some(2), ..NO_LIMITS }, &pages).await;
    assert_eq!(crawl.store.reserve_pages(crawl.execution, 100).await.unwrap().len(), 2);
    crawl
        .change(
            "UPDATE url_queue SET status = 'failed', processed_at = now() - interval '1 minute', error_class = 'connect',
                error = 'its host is gone' WHERE status = 'pending';
             UPDATE url_queue SET processed_at = now() - interval '2 minutes'
                WHERE url = (SELECT max(url) FROM url_queue WHERE status = 'failed')",
        )
        .await;
    crawl.change(end_of_the_others).await;
    crawl
}

/// The pages that were never dispatched before a retry, by URL.
const UNTRIED: &str =
    "SELECT concat_ws(' ', status, error_class, error) FROM url_queue WHERE attempt = 0 ORDER BY url";

/// Asks for a retry, which is refused and changes nothing; answers because of which budgets.
async fn spent(crawl: &Crawl) -> Vec<SpentBudget> {
    const ALL: &str =
        "SELECT concat_ws(' ', q.status, q.error_class, e.status, e.control_version, e.retry_failed_before)
        FROM url_queue q JOIN workflow_executions e ON e.id = q.execution_id ORDER BY q.url";
    let before = crawl.texts(ALL).await;
    let refused = crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    assert!(matches!(refused.act, Controlled::Refused(_)), "{refused:?}");
    crawl.store.put_pages_back(None).await.unwrap();
    crawl.store.sweep_over_budget().await.unwrap();
    assert_eq!(crawl.texts(ALL).await, before);
    refused.spent
}

/// Asks for a retry, which is done; answers how many pages it says go back.
async fn retry(crawl: &Crawl) -> i64 {
    let retried = crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    assert!(matches!(retried.act, Controlled::Done(_)), "{retried:?}");
    retried.pages
}

/// Dispatches all that is due and admitted; answers how many pages that were.
async fn dispatch(crawl: &Crawl) -> usize {
    let reserved = crawl.store.reserve_pages(crawl.execution, 100).await.unwrap();
    crawl.store.within_budgets(crawl.execution, reserved).await.unwrap().len()
}

async fn limit(crawl: &Crawl, max_pages: i64) {
    let limit = LimitChanges { max_pages: Some(Some(max_pages)), ..LimitChanges::default() };
    let changed = crawl.store.change_limits(crawl.execution, limit, None).await.unwrap();
    assert!(matches!(changed, Controlled::Done(_)), "{changed:?}");
}

#[tokio::test]
async fn a_retry_after_the_time_loses_no_failure_and_goes_on_when_there_is_more() {
    let crawl = crawl_with(json!({"time": 60})).await;
    crawl
        .change(
            "UPDATE url_queue SET status = 'completed', processed_at = now() WHERE url LIKE '%/b/%';
             UPDATE url_queue SET status = 'failed', processed_at = now(), error_class = 'dns' WHERE url LIKE '%/a/%';
             UPDATE workflow_executions SET started_at = started_at - interval '61 seconds'",
        )
        .await;
    assert_eq!(spent(&crawl).await, [SpentBudget::Time], "while it runs");
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    assert_eq!(spent(&crawl).await, [SpentBudget::Time], "when it has ended");
    let more = parse_budget_changes(&json!({"time": 600}), "").unwrap();
    let more = LimitChanges { budgets: Some(more), ..LimitChanges::default() };
    let changed = crawl.store.change_limits(crawl.execution, more, None).await.unwrap();
    assert!(matches!(changed, Controlled::Done(_)), "{changed:?}");
    assert_eq!(retry(&crawl).await, 2);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 2);
    assert_eq!(dispatch(&crawl).await, 2);
    crawl.change("UPDATE url_queue SET status = 'completed', processed_at = now()").await;
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_retry_is_refused_because_of_a_path_only_where_no_page_can_go_back() {
    let crawl = crawl_with(json!({"path_prefixes": [{"prefix": "/a/", "max_pages": 1}]})).await;
    // One below the path was tried; the other one has failed untried, as the pages of a host that is gone do.
    crawl
        .change(
            "UPDATE url_queue SET status = 'completed', processed_at = now(), attempt = 1 WHERE status = 'queued';
             UPDATE url_queue SET status = 'failed', processed_at = now(), error_class = 'dns' WHERE status = 'skipped'",
        )
        .await;
    assert_eq!(spent(&crawl).await, [SpentBudget::Path("/a/".to_owned())]);
    crawl
        .change(
            "UPDATE url_queue SET status = 'failed', error_class = 'dns' WHERE budgeted OR url LIKE '%/b/0'",
        )
        .await;
    assert_eq!(retry(&crawl).await, 2);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 2);
    assert_eq!(dispatch(&crawl).await, 2);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0);
    assert_eq!(
        crawl.texts(UNTRIED).await,
        ["failed dns the 1 pages below `/a/` were used up (`budgets.path_prefixes`)"]
    );
    crawl.change(COMPLETED).await;
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1, "the other one is not waited for");
}

#[tokio::test]
async fn of_untried_failures_below_a_path_as_many_go_back_as_it_has_places_and_the_others_stay_failed() {
    let crawl = crawl_with(json!({"path_prefixes": [{"prefix": "/a/", "max_pages": 1}]})).await;
    crawl
        .change(
            "UPDATE url_queue SET status = 'completed', processed_at = now(), attempt = 1 WHERE url LIKE '%/b/%';
             UPDATE url_queue SET status = 'failed', admitted = false, budgeted = false, error_class = 'connect',
                error = 'its host is gone', processed_at = now() - interval '1 minute' WHERE url LIKE '%/a/%';
             UPDATE url_queue SET processed_at = now() - interval '2 minutes' WHERE url LIKE '%/a/1';
             UPDATE execution_budgets SET used = 0;
             UPDATE workflow_executions SET pages_admitted = 2",
        )
        .await;
    let used = "SELECT used FROM execution_budgets";
    for (most, untried) in [(1, vec![GONE, "queued"]), (2, vec!["queued"])] {
        let more = json!({"path_prefixes": [{"prefix": "/a/", "max_pages": most}]});
        let more = LimitChanges {
            budgets: Some(parse_budget_changes(&more, "").unwrap()),
            ..LimitChanges::default()
        };
        crawl.store.change_limits(crawl.execution, more, None).await.unwrap();
        assert_eq!(retry(&crawl).await, 1);
        assert_eq!(crawl.number(used).await, most, "nobody else takes the place from now on");
        assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1);
        assert_eq!(dispatch(&crawl).await, 1);
        assert_eq!(crawl.number(used).await, most, "it is counted once");
        assert_eq!(crawl.texts(UNTRIED).await, untried, "the one that failed first goes first");
        crawl.change(COMPLETED).await;
        crawl.store.sweep_leftover_pages().await.unwrap();
        assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    }
    assert_eq!(crawl.number(NOBODYS_PLACES).await, 0);
}

#[tokio::test]
async fn a_retry_sees_what_a_dispatcher_has_counted_of_a_path_while_it_waited() {
    let crawl = crawl_with(json!({"path_prefixes": [{"prefix": "/a/", "max_pages": 1}]})).await;
    crawl
        .change(
            "UPDATE url_queue SET status = 'failed', processed_at = now(), error_class = 'dns'
                WHERE url LIKE '%/a/%' AND status <> 'queued';
             UPDATE execution_budgets SET used = 0",
        )
        .await;
    let counted = "UPDATE execution_budgets SET used = 1 WHERE execution_id = $1";
    let retried =
        behind_a_dispatcher(&crawl, counted, crawl.store.retry_execution(crawl.execution, None)).await;
    assert_eq!(retried.unwrap().spent, [SpentBudget::Path("/a/".to_owned())]);
}

#[tokio::test]
async fn a_retry_that_has_no_place_for_any_page_loses_no_failure_and_tries_the_oldest_when_there_is_one_more()
{
    let crawl = crawl_with_untried_failures(COMPLETED).await;
    assert_eq!(spent(&crawl).await, [SpentBudget::Pages], "while it runs");
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    assert_eq!(spent(&crawl).await, [SpentBudget::Pages], "when it has ended");
    assert_eq!(crawl.texts(UNTRIED).await, [GONE; 2]);

    limit(&crawl, 3).await;
    assert_eq!(retry(&crawl).await, 1);
    assert!(crawl.store.finish_executions().await.unwrap().is_empty(), "its page is still to go back");
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0, "there is no place for the other one");
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0, "it has its place already");
    assert_eq!(crawl.texts(UNTRIED).await, [GONE, "pending"]);
    assert_eq!(crawl.number("SELECT pages_admitted FROM workflow_executions").await, 3);
    assert_eq!(crawl.queue().await.len(), 1);
    crawl.change(COMPLETED).await;
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    assert_eq!(crawl.texts(UNTRIED).await, [GONE]);
}

#[tokio::test]
async fn pages_that_had_their_places_are_retried_although_the_page_limit_is_used_up() {
    let crawl = crawl_with_untried_failures(
        "UPDATE url_queue SET status = 'failed', processed_at = now(), attempt = 1 WHERE status = 'queued'",
    )
    .await;
    assert_eq!(retry(&crawl).await, 2);
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 2);
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
    assert_eq!(crawl.texts(UNTRIED).await, [GONE; 2]);
    assert_eq!(crawl.queue().await.len(), 2);
}

#[tokio::test]
async fn the_places_of_a_retry_are_nobody_elses_from_its_answer_on() {
    let crawl = crawl_with_untried_failures(COMPLETED).await;
    // One of the failed pages waits instead.
    crawl
        .change(
            "UPDATE url_queue SET status = 'pending', error = NULL, error_class = NULL, processed_at = NULL
             WHERE url = (SELECT min(url) FROM url_queue WHERE status = 'failed')",
        )
        .await;
    limit(&crawl, 3).await;
    assert_eq!(retry(&crawl).await, 1);
    assert!(crawl.queue().await.is_empty(), "a page that waits does not get the last place");
    limit(&crawl, 1).await;
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1, "nor does a lower limit take it away");
    assert_eq!(crawl.number(NOBODYS_PLACES).await, 0);
    assert_eq!(crawl.queue().await.len(), 1);
    assert_eq!(crawl.number("SELECT pages_admitted FROM workflow_executions").await, 3);
}

#[tokio::test]
async fn two_retries_at_once_give_one_place_away_once() {
    let crawl = crawl_with_untried_failures(COMPLETED).await;
    limit(&crawl, 3).await;
    assert_eq!(join(retry(&crawl), retry(&crawl)).await, (1, 1), "it is the same page");
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1);
    assert_eq!(crawl.texts(UNTRIED).await, [GONE, "pending"]);
    assert_eq!(crawl.number("SELECT pages_admitted FROM workflow_executions").await, 3);
    assert_eq!(crawl.number(NOBODYS_PLACES).await, 0);
}

#[tokio::test]
async fn places_for_which_a_retry_finds_no_page_any_more_are_anybodys_again() {
    let crawl = crawl_with_untried_failures(COMPLETED).await;
    limit(&crawl, 4).await;
    assert_eq!(retry(&crawl).await, 2);
    assert_eq!(crawl.number("SELECT pages_admitted FROM workflow_executions").await, 4);
    crawl.change("UPDATE url_queue SET status = 'cancelled' WHERE status = 'failed'").await;
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0);
    let standing =
        "SELECT concat_ws(' ', pages_admitted, retry_places, retry_failed_before) FROM workflow_executions";
    assert_eq!(crawl.texts(standing).await, ["2 0 -infinity"]);
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
}

#[tokio::test]
async fn of_retries_beside_an_older_version_pages_go_back_and_no_place_is_nobodys() {
    let crawl = crawl_with_untried_failures(COMPLETED).await;
    limit(&crawl, 3).await;
    // It counts no pages, and takes their places when they go back.
    crawl
        .change(
            "UPDATE workflow_executions SET status = 'running', completed_at = NULL, retry_failed_before = clock_timestamp()",
        )
        .await;
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1, "there is one place");
    assert_eq!(crawl.texts(UNTRIED).await, [GONE, "pending"]);
    assert_eq!(crawl.number("SELECT pages_admitted FROM workflow_executions").await, 3);
    // It ends a retry of ours without the places that we took.
    let crawl = crawl_with_untried_failures(COMPLETED).await;
    limit(&crawl, 4).await;
    assert_eq!(retry(&crawl).await, 2);
    crawl.change("UPDATE workflow_executions SET retry_failed_before = '-infinity'").await;
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 0);
    assert_eq!(crawl.number("SELECT pages_admitted FROM workflow_executions").await, 2);
    assert_eq!(crawl.number("SELECT retry_places FROM workflow_executions").await, 0);
}

#[tokio::test]
async fn very_many_failed_pages_go_back_in_portions_and_no_more_of_them_than_the_retry_has_said() {
    let crawl = crawl_with_untried_failures(COMPLETED).await;
    crawl
        .change(
            "INSERT INTO url_queue (id, execution_id, url, url_hash, host, status, error_class, processed_at)
             SELECT gen_random_uuid(), e.id, 'http://shop.test/many/' || n, decode(md5(n::text), 'hex'), 'shop.test',
                 'failed', 'connect', now() - interval '1 minute'
             FROM workflow_executions e, generate_series(1, 12000) n",
        )
        .await;
    limit(&crawl, 11_002).await;
    assert_eq!(retry(&crawl).await, 11_000);
    // Whoever records a page that failed before the retry may come after it.
    crawl
        .change(
            "UPDATE url_queue SET status = 'failed', error_class = 'dns', processed_at = now() - interval '1 hour'
             WHERE status = 'completed'",
        )
        .await;
    for expected in [5_000, 5_000, 1_000, 0] {
        assert!(crawl.store.finish_executions().await.unwrap().is_empty(), "some wait, others are to");
        assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), expected);
    }
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE status = 'pending'").await, 11_000);
    assert_eq!(crawl.number(NOBODYS_PLACES).await, 0);
}
