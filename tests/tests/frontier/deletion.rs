//! Workflows that are deleted: gone at once for everybody, and removed portion by portion, whoever dies in between.

use chrono::Utc;
use crawlify_shared::domain::id::{ExecutionId, ScheduleId, WorkflowId};
use crawlify_shared::domain::schedule::OverlapPolicy;
use crawlify_shared::domain::workflow::parse_config;
use crawlify_shared::store::Store;
use crawlify_shared::store::control::{CancelMode, Controlled};
use crawlify_shared::store::deletion::DeleteWorkflow;
use crawlify_shared::store::executions::StartExecution;
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use crawlify_shared::store::schedules::ScheduleText;
use crawlify_shared::store::schedules::fire::Occasion;
use crawlify_shared::store::start::Beginning;
use futures_util::future::join;
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, page_url, small_table, small_workflow};

const PAGES: [&str; 5] = [
    "http://shop.test/1",
    "http://shop.test/2",
    "http://shop.test/3",
    "http://shop.test/4",
    "http://shop.test/5",
];
/// Rows of each table.
const ALL: &str = "SELECT concat_ws(' ', (SELECT count(*) FROM workflows), (SELECT count(*) FROM workflow_versions),
    (SELECT count(*) FROM workflow_executions), (SELECT count(*) FROM url_queue), (SELECT count(*) FROM node_records),
    (SELECT count(*) FROM node_definitions), (SELECT count(*) FROM extracted_items), (SELECT count(*) FROM skipped_links),
    (SELECT count(*) FROM lanes), (SELECT count(*) FROM page_counters), (SELECT count(*) FROM node_counters))";
/// Those of one execution, which is the only one of its workflow.
const OF_ONE: &str = "SELECT concat_ws(' ', 1, 1, 1, (SELECT count(*) FROM url_queue WHERE execution_id = $1),
    (SELECT count(*) FROM node_executions WHERE execution_id = $1),
    (SELECT count(*) FROM node_definitions WHERE execution_id = $1),
    (SELECT count(*) FROM extracted_items WHERE execution_id = $1),
    (SELECT count(*) FROM skipped_links WHERE execution_id = $1), (SELECT count(*) FROM lanes WHERE execution_id = $1),
    (SELECT count(*) FROM page_counters WHERE execution_id = $1),
    (SELECT count(*) FROM node_counters WHERE execution_id = $1))";
const PAGES_LEFT: &str = "SELECT count(*) FROM url_queue";

async fn workflow_of(crawl: &Crawl, execution: ExecutionId) -> WorkflowId {
    WorkflowId(crawl.store.execution(execution).await.unwrap().unwrap().workflow_id)
}

/// Crawls the start pages of an execution, which find others, and cancels it.
async fn crawl_some(crawl: &Crawl, execution: ExecutionId, worker: &HotStore) {
    let pages = crawl.store.reserve_pages(execution, 100).await.unwrap();
    let requests: Vec<_> =
        pages.iter().map(|page| ClaimRequest { page_id: page.page_id, epoch: page.epoch }).collect();
    let pages = worker.claim(&requests, LEASE, false).await.unwrap();
    let links: Vec<_> = (0..3).map(|number| format!("http://shop.test/found/{number}")).collect();
    let group: Vec<_> = pages.iter().map(|page| finished(page, &small_table(), &links)).collect();
    assert_eq!(worker.record(&group).await.unwrap().len(), PAGES.len());
    crawl.store.cancel_execution(execution, CancelMode::Graceful, None).await.unwrap();
}

#[tokio::test]
async fn a_workflow_of_more_rows_than_a_portion_is_gone_at_once_and_removed_by_whoever_comes_next() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let (doomed, kept) = (crawl.execution, crawl.another(NO_LIMITS, &PAGES).await);
    let worker = crawl.worker().await;
    for execution in [doomed, kept] {
        crawl_some(&crawl, execution, &worker).await;
    }
    crawl
        .change(
            "INSERT INTO skipped_links (id, execution_id, url, url_hash, reason, detail, parent_id, discovered_by)
             SELECT gen_random_uuid(), execution_id, url, decode(md5(url), 'hex'), 'depth', '', id, 'links' FROM url_queue",
        )
        .await;
    let rows_kept: String = sqlx::query_scalar(OF_ONE).bind(kept.0).fetch_one(&crawl.pool).await.unwrap();
    let counts_kept = crawl.store.page_counts(kept).await.unwrap();
    let rows = crawl.texts(ALL).await;

    let workflow = workflow_of(&crawl, doomed).await;
    assert_eq!(crawl.store.delete_workflow(workflow).await.unwrap(), DeleteWorkflow::Deleted);
    assert_eq!(crawl.store.delete_workflow(workflow).await.unwrap(), DeleteWorkflow::NotFound);
    assert!(crawl.store.workflow(workflow).await.unwrap().is_none());
    assert!(crawl.store.execution(doomed).await.unwrap().is_none());
    assert!(crawl.store.summary(doomed).await.unwrap().is_none());
    assert_eq!(crawl.store.retry_execution(doomed, None).await.unwrap().act, Controlled::NotFound);
    let listed = crawl.store.executions(None, None, 10, 0).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.id).collect::<Vec<_>>(), [kept.0]);
    assert_eq!(crawl.store.execution_count(None, None).await.unwrap(), 1);
    assert_eq!(crawl.store.workflow_count(None).await.unwrap(), 1);
    let what_it_said = "SELECT (SELECT count(*) FROM workflows WHERE config <> '{}')
        + (SELECT count(*) FROM workflow_versions WHERE config <> '{}')";
    assert_eq!(crawl.number(what_it_said).await, 2, "the other one's alone");
    let params = "SELECT count(DISTINCT execution_id) FROM node_definitions WHERE input <> '{}'";
    assert_eq!(crawl.number(params).await, 1, "the other one's alone");
    // A program that knows of no deletion neither changes it nor tries a page of it once more.
    let reviving = sqlx::query("UPDATE workflows SET status = 'active' WHERE deleted_at IS NOT NULL");
    assert!(reviving.execute(&crawl.pool).await.is_err());
    let for_ever = "SELECT count(*) FROM workflow_executions e JOIN workflows w ON w.id = e.workflow_id
        WHERE w.deleted_at IS NOT NULL AND e.status <> 'cancelled'";
    assert_eq!(crawl.number(for_ever).await, 0);
    assert_eq!(crawl.texts(ALL).await, rows, "all rows are left to the portions");

    // Whoever has deleted it has died. Two others come at the same time.
    let stores = [0, 1].map(|_| Store::connect(&crawl.database.url(), 1).unwrap());
    let mut left = crawl.number(PAGES_LEFT).await;
    let mut rounds = 0;
    loop {
        let (one, other) = join(stores[0].remove_deleted(None, 2), stores[1].remove_deleted(None, 2)).await;
        let removed = one.unwrap() + other.unwrap();
        let still_left = crawl.number(PAGES_LEFT).await;
        assert!(left - still_left <= 4, "a portion is of two pages: {left}, then {still_left}");
        left = still_left;
        if removed == 0 {
            break;
        }
        rounds += 1;
    }
    assert!(rounds >= 2, "8 pages were removed in {rounds} rounds");
    assert_eq!(crawl.texts(ALL).await, [rows_kept]);
    assert_eq!(crawl.store.page_counts(kept).await.unwrap(), counts_kept);
}

#[tokio::test]
async fn nothing_starts_a_deleted_workflow() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let workflow = workflow_of(&crawl, crawl.execution).await;
    let text = ScheduleText {
        cron: "0 4 * * *",
        time_zone: "UTC",
        enabled: true,
        overlap: OverlapPolicy::Allow,
        next_run_at: Some(Utc::now() - chrono::Duration::days(1)),
    };
    let schedule = ScheduleId(crawl.store.create_schedule(workflow, text).await.unwrap().unwrap().id);
    let parsed = parse_config(&small_workflow()).unwrap();
    let start_urls = [page_url("http://shop.test/")];
    let run = Beginning { start_urls: &start_urls, key: Some("once"), ..Beginning::of(1, &parsed) };
    let StartExecution::Started(keyed) = crawl.store.start_execution(workflow, &run).await.unwrap() else {
        panic!("it does not start");
    };
    assert_eq!(crawl.store.delete_workflow(workflow).await.unwrap(), DeleteWorkflow::InUse);
    assert_eq!(crawl.store.due_schedules(10).await.unwrap().len(), 1, "nothing was deleted");
    for execution in [crawl.execution, keyed] {
        crawl.store.cancel_execution(execution, CancelMode::Graceful, None).await.unwrap();
    }
    assert_eq!(crawl.store.delete_workflow(workflow).await.unwrap(), DeleteWorkflow::Deleted);

    assert!(crawl.store.due_schedules(10).await.unwrap().is_empty());
    assert!(crawl.store.schedule(schedule).await.unwrap().is_none());
    let fired = crawl.store.fire_schedule(schedule, 0, Occasion::Asked, Some(&run)).await.unwrap();
    assert_eq!(fired, None);
    assert!(crawl.store.create_schedule(workflow, text).await.unwrap().is_none());
    let started = crawl.store.start_execution(workflow, &run).await.unwrap();
    assert_eq!(started, StartExecution::NotFound, "with the key of one that is to be removed");
    assert_eq!(crawl.number("SELECT count(*) FROM workflow_executions").await, 2);
}
