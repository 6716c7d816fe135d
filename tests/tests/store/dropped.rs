//! Callers that go away: the futures of the store are dropped half-way, as those of a request whose client has gone, or of
//! a task that hears of the stop. Nothing stays behind in the connections, which others use afterwards.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crawlify_shared::domain::id::{ScheduleId, WorkflowId};
use crawlify_shared::domain::schedule::OverlapPolicy;
use crawlify_shared::store::Store;
use crawlify_shared::store::control::{CancelMode, LimitChanges};
use crawlify_shared::store::hot::HotStore;
use crawlify_shared::store::rescue::Patience;
use crawlify_shared::store::schedules::ScheduleText;
use crawlify_shared::store::schedules::fire::Occasion;
use crawlify_shared::store::start::Beginning;
use crawlify_shared::store::workflows::{WorkflowStatus, WorkflowText};
use futures_util::future::poll_fn;
use harness::crawl::{Crawl, LEASE, NO_LIMITS, VITALS, finished, page_url, small_table, small_workflow};
use harness::wait::wait_for;

/// Waits that a call of the store may have, and some more.
const POLLS: usize = 12;
const WITHIN: Duration = Duration::from_secs(20);
const IN_TRANSACTION: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND state LIKE 'idle in transaction%'";
const AT_WORK: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND state = 'active' AND pid <> pg_backend_pid()";

type Call<'c> = Pin<Box<dyn Future<Output = ()> + 'c>>;

/// Polls a call so often, then drops it. It is polled when it has something to do, so that each poll is one wait further.
async fn drop_after(polls: usize, mut call: Call<'_>) {
    let mut left = polls;
    poll_fn(|context| {
        left -= 1;
        let polled = call.as_mut().poll(context);
        if left == 0 || polled.is_ready() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// What coordinators ask for, each with its name.
fn calls_of_coordinators<'c>(
    store: &'c Store,
    crawl: &'c Crawl,
    workflow: WorkflowId,
    schedule: ScheduleId,
    beginning: &'c Beginning<'c>,
    config: &'c serde_json::Value,
) -> Vec<(&'static str, Call<'c>)> {
    let execution = crawl.execution;
    let patience = Patience { worker_lost_after: WITHIN, after_start: Duration::ZERO, server: None };
    let more = LimitChanges { weight: Some(2), ..LimitChanges::default() };
    let text = WorkflowText { name: "Dropped", description: "", config };
    vec![
        ("start", Box::pin(async move { drop(store.start_execution(workflow, beginning).await) })),
        (
            "fire",
            Box::pin(async move {
                let version = store.schedule(schedule).await.unwrap().unwrap().version;
                drop(store.fire_schedule(schedule, version, Occasion::Asked, Some(beginning)).await);
            }),
        ),
        ("create", Box::pin(async move { drop(store.create_workflow(text, WorkflowStatus::Draft).await) })),
        (
            "reserve",
            Box::pin(async move {
                let pages = store.reserve_pages(execution, 3).await.unwrap();
                drop(store.return_unpublished(&pages).await);
            }),
        ),
        ("rescue", Box::pin(async move { drop(store.rescue(Some(patience), Duration::ZERO).await) })),
        ("put back", Box::pin(async move { drop(store.put_pages_back(None).await) })),
        ("sweep", Box::pin(async move { drop(store.sweep_leftover_pages().await) })),
        ("finish", Box::pin(async move { drop(store.finish_executions().await) })),
        ("partitions", Box::pin(async move { drop(store.create_partitions(3).await) })),
        ("pause", Box::pin(async move { drop(store.pause_execution(execution, None).await) })),
        ("resume", Box::pin(async move { drop(store.resume_execution(execution, None).await) })),
        ("limits", Box::pin(async move { drop(store.change_limits(execution, more, None).await) })),
        ("retry", Box::pin(async move { drop(store.retry_execution(execution, None).await) })),
        ("summary", Box::pin(async move { drop(store.summary(execution).await) })),
        // It runs, so that nothing of it goes.
        ("delete", Box::pin(async move { drop(store.delete_workflow(workflow).await) })),
        ("remove", Box::pin(async move { drop(store.remove_deleted(None, 10).await) })),
        ("forget", Box::pin(async move { drop(store.forget_hosts(10).await) })),
    ]
}

/// What workers ask for.
fn calls_of_workers<'c>(worker: &'c HotStore, crawl: &'c Crawl) -> Vec<(&'static str, Call<'c>)> {
    vec![
        (
            "record",
            Box::pin(async move {
                let pages = crawl.claim(worker).await;
                let links: Vec<_> =
                    (0..5).map(|link| format!("http://shop.test/{}/{link}", pages.len())).collect();
                let group: Vec<_> =
                    pages.iter().take(2).map(|page| finished(page, &small_table(), &links)).collect();
                drop(worker.record(&group).await);
            }),
        ),
        (
            "claim",
            Box::pin(async move {
                let requests = crawl.queue().await;
                drop(worker.claim(&requests, LEASE, true).await);
            }),
        ),
        ("heartbeat", Box::pin(async move { drop(worker.heartbeat(VITALS).await) })),
        ("announce", Box::pin(async move { drop(worker.announce("test", 4).await) })),
        ("config", Box::pin(async move { drop(worker.workflow_config(crawl.execution).await) })),
        ("robots", Box::pin(async move { drop(worker.reserve_robots_fetch("http://a.test", WITHIN).await) })),
        ("retire", Box::pin(async move { drop(worker.retire().await) })),
    ]
}

#[tokio::test]
async fn whatever_call_is_dropped_wherever_it_waits_leaves_no_transaction_behind() {
    let urls: Vec<_> = (0..60).map(|number| format!("http://shop.test/start/{number}")).collect();
    let crawl = Crawl::start(NO_LIMITS, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // So few connections that whoever comes next gets the one that was left.
    let store = Store::connect(&crawl.database.url(), 1).unwrap();
    let worker = crawl.worker().await;
    let config = small_workflow();
    let workflow = WorkflowId(crawl.store.execution(crawl.execution).await.unwrap().unwrap().workflow_id);
    let text = ScheduleText {
        cron: "0 0 1 1 *",
        time_zone: "UTC",
        enabled: true,
        overlap: OverlapPolicy::Allow,
        next_run_at: None,
    };
    let schedule = ScheduleId(crawl.store.create_schedule(workflow, text).await.unwrap().unwrap().id);
    let parsed = crawlify_shared::domain::workflow::parse_config(&config).unwrap();
    let start_urls = [page_url("http://shop.test/")];
    let beginning = Beginning { start_urls: &start_urls, ..Beginning::of(1, &parsed) };
    for polls in 1..=POLLS {
        let mut calls = calls_of_coordinators(&store, &crawl, workflow, schedule, &beginning, &config);
        calls.extend(calls_of_workers(&worker, &crawl));
        for (name, call) in calls {
            drop_after(polls, call).await;
            store.ping().await.unwrap();
            worker.heartbeat(VITALS).await.unwrap();
            wait_for("statements have ended", WITHIN, async || crawl.number(AT_WORK).await == 0).await;
            // A connection that was closed is there until its server has seen that; one that went back to the pool would stay.
            let ended = format!("{name}, dropped after {polls} polls, has left no transaction open");
            wait_for(&ended, WITHIN, async || crawl.number(IN_TRANSACTION).await == 0).await;
        }
    }
    // A crawl is crawled over these connections as if nothing had been.
    store.resume_execution(crawl.execution, None).await.unwrap();
    store.cancel_execution(crawl.execution, CancelMode::Graceful, None).await.unwrap();
    store.sweep_leftover_pages().await.unwrap();
    assert_eq!(store.page_counts(crawl.execution).await.unwrap().pending, 0);
    crawl.assert_counters_are_a_recount().await;
}
