//! Schedules that are due start executions, each run once, and do what they say of runs that overlap.

use std::time::Duration;

use chrono::{DateTime, Utc};
use crawlify_shared::domain::id::{ExecutionId, ScheduleId, WorkflowId};
use crawlify_shared::domain::schedule::OverlapPolicy;
use crawlify_shared::domain::workflow::{Budgets, Robots, Share};
use crawlify_shared::store::Store;
use crawlify_shared::store::control::CancelMode;
use crawlify_shared::store::executions::ExecutionStatus;
use crawlify_shared::store::schedules::fire::{Fired, Occasion};
use crawlify_shared::store::schedules::{ScheduleRow, ScheduleText};
use crawlify_shared::store::start::Beginning;
use futures_util::future::join_all;
use harness::crawl::{Crawl, NO_LIMITS, page_url};

const DUE: &str = "UPDATE schedules SET next_run_at = now() - interval '3 days'";
const RUNS: &str = "SELECT count(*) FROM workflow_executions WHERE schedule_id IS NOT NULL";

/// A crawl whose own execution is no business of the schedule of its workflow.
async fn scheduled(overlap: OverlapPolicy) -> (Crawl, ScheduleId) {
    let crawl = Crawl::start(NO_LIMITS, &["http://shop.test/"]).await;
    let workflow = crawl.store.execution(crawl.execution).await.unwrap().unwrap().workflow_id;
    let text = ScheduleText {
        cron: "0 4 * * *",
        time_zone: "UTC",
        enabled: true,
        overlap,
        next_run_at: Some(Utc::now() + chrono::Duration::days(1)),
    };
    let row = crawl.store.create_schedule(WorkflowId(workflow), text).await.unwrap().unwrap();
    (crawl, ScheduleId(row.id))
}

async fn row(crawl: &Crawl, schedule: ScheduleId) -> ScheduleRow {
    crawl.store.schedule(schedule).await.unwrap().unwrap()
}

/// Fires the schedule as a coordinator does that has read it at this version.
async fn fire(store: &Store, schedule: ScheduleId, version: i32, occasion: Occasion) -> Option<Fired> {
    let start_urls = [page_url("http://shop.test/"), page_url("http://shop.test/sale")];
    let budgets = Budgets { time: Some(Duration::from_secs(60)), ..Budgets::default() };
    let run = Beginning {
        version: 1,
        limits: NO_LIMITS,
        budgets: &budgets,
        share: Share { weight: 3, priority: -1 },
        robots: Robots::Ignore,
        start_urls: &start_urls,
        sitemaps: &[page_url("http://shop.test/sitemap.xml")],
        key: None,
    };
    store.fire_schedule(schedule, version, occasion, Some(&run)).await.unwrap()
}

/// Makes the schedule due, and runs whatever is due.
async fn tick(crawl: &Crawl, schedule: ScheduleId) -> Option<Fired> {
    crawl.change(DUE).await;
    let due = crawl.store.due_schedules(10).await.unwrap().remove(0);
    fire(&crawl.store, schedule, due.version, Occasion::Due(tomorrow())).await
}

fn tomorrow() -> Option<DateTime<Utc>> {
    Some(Utc::now() + chrono::Duration::days(1))
}

async fn status(crawl: &Crawl, execution: ExecutionId) -> ExecutionStatus {
    crawl.store.execution(execution).await.unwrap().unwrap().status
}

#[tokio::test]
async fn of_many_coordinators_one_starts_a_run_that_is_due_and_missed_ones_are_one() {
    let (crawl, schedule) = scheduled(OverlapPolicy::Allow).await;
    assert!(crawl.store.due_schedules(10).await.unwrap().is_empty(), "it is not due");
    let coordinators: Vec<_> = (0..8).map(|_| Store::connect(&crawl.database.url(), 1).unwrap()).collect();
    for round in 1..=10 {
        crawl.change(DUE).await;
        let due = crawl.store.due_schedules(10).await.unwrap();
        assert_eq!(due.len(), 1);
        let fires =
            coordinators.iter().map(|store| fire(store, schedule, due[0].version, Occasion::Due(tomorrow())));
        let started = join_all(fires).await.into_iter().flatten().count();
        assert_eq!(started, 1, "in round {round}");
        assert_eq!(crawl.number(RUNS).await, round);
        assert!(
            crawl.store.due_schedules(10).await.unwrap().is_empty(),
            "the days that were missed are over"
        );
    }
    let row = row(&crawl, schedule).await;
    let newest = "SELECT id::text FROM workflow_executions ORDER BY id DESC LIMIT 1";
    assert_eq!(crawl.texts(newest).await, [row.last_execution_id.unwrap().to_string()]);
    assert_eq!((row.version, row.last_outcome.as_deref()), (10, Some("started")));
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue").await, 1 + 10 * 3);
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE is_sitemap").await, 10);
}

#[tokio::test]
async fn a_run_that_would_overlap_is_skipped() {
    let (crawl, schedule) = scheduled(OverlapPolicy::Skip).await;
    let first = tick(&crawl, schedule).await.unwrap().execution().unwrap();
    crawl.store.pause_execution(first, None).await.unwrap();
    assert_eq!(tick(&crawl, schedule).await, Some(Fired::Skipped));
    assert_eq!(row(&crawl, schedule).await.last_execution_id, Some(first.0));
    crawl.store.cancel_execution(first, CancelMode::Graceful, None).await.unwrap();
    assert!(matches!(tick(&crawl, schedule).await, Some(Fired::Started(_))));
}

#[tokio::test]
async fn runs_that_would_overlap_wait_as_one_for_the_end_of_the_earlier_one() {
    let (crawl, schedule) = scheduled(OverlapPolicy::Queue).await;
    let first = tick(&crawl, schedule).await.unwrap().execution().unwrap();
    assert_eq!(tick(&crawl, schedule).await, Some(Fired::Queued));
    let waiting_since = row(&crawl, schedule).await.waiting_since;
    assert!(waiting_since.is_some());
    assert_eq!(tick(&crawl, schedule).await, Some(Fired::Queued));
    assert_eq!(row(&crawl, schedule).await.waiting_since, waiting_since);
    assert!(crawl.store.due_schedules(10).await.unwrap().is_empty(), "the earlier one runs");
    crawl.store.cancel_execution(first, CancelMode::Graceful, None).await.unwrap();
    let due = crawl.store.due_schedules(10).await.unwrap().remove(0);
    assert!(due.next_run_at.unwrap() > due.now, "it starts before its next time");
    let fired = fire(&crawl.store, schedule, due.version, Occasion::Due(due.next_run_at)).await;
    assert!(matches!(fired, Some(Fired::Started(_))));
    assert_eq!(crawl.number(RUNS).await, 2);
    assert_eq!(row(&crawl, schedule).await.waiting_since, None);
    assert!(crawl.store.due_schedules(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_run_that_would_overlap_replaces_the_earlier_one() {
    let (crawl, schedule) = scheduled(OverlapPolicy::CancelPrevious).await;
    let first = tick(&crawl, schedule).await.unwrap().execution().unwrap();
    let Some(Fired::Replaced(second)) = tick(&crawl, schedule).await else { panic!("nothing was replaced") };
    assert_eq!(status(&crawl, first).await, ExecutionStatus::Cancelled);
    assert_eq!(status(&crawl, second).await, ExecutionStatus::Running);
    assert_eq!(status(&crawl, crawl.execution).await, ExecutionStatus::Running, "somebody else's goes on");
}

#[tokio::test]
async fn a_schedule_of_a_workflow_that_cannot_run_starts_nothing_and_goes_on() {
    let (crawl, schedule) = scheduled(OverlapPolicy::Allow).await;
    crawl.change(DUE).await;
    let fired = crawl.store.fire_schedule(schedule, 0, Occasion::Due(tomorrow()), None).await.unwrap();
    assert_eq!(fired, Some(Fired::WorkflowInvalid));
    crawl.change("UPDATE workflows SET status = 'archived'").await;
    assert_eq!(tick(&crawl, schedule).await, Some(Fired::WorkflowNotActive));
    let row = row(&crawl, schedule).await;
    assert_eq!((row.last_outcome.as_deref(), row.last_run_at), (Some("workflow_not_active"), None));
    assert!(row.next_run_at.unwrap() > Utc::now());
    assert_eq!(crawl.number(RUNS).await, 0);
}

#[tokio::test]
async fn a_run_by_hand_keeps_the_next_time_and_one_that_cannot_start_leaves_no_trace() {
    let (crawl, schedule) = scheduled(OverlapPolicy::Skip).await;
    let before = row(&crawl, schedule).await;
    crawl.change("UPDATE schedules SET enabled = false").await;
    let fired = fire(&crawl.store, schedule, 0, Occasion::Asked).await;
    assert!(matches!(fired, Some(Fired::Started(_))));
    assert_eq!(fire(&crawl.store, schedule, 0, Occasion::Asked).await, None, "at another version");
    assert_eq!(fire(&crawl.store, schedule, 1, Occasion::Asked).await, Some(Fired::Skipped));
    let after = row(&crawl, schedule).await;
    assert_eq!((after.next_run_at, after.version), (before.next_run_at, 1));
    assert_eq!(after.last_outcome.as_deref(), Some("started"));
    crawl.change(DUE).await;
    assert!(crawl.store.due_schedules(10).await.unwrap().is_empty(), "it is not enabled");
}

/// Enables or disables the schedule as the API does.
async fn enable(crawl: &Crawl, schedule: ScheduleId, enabled: bool) -> ScheduleRow {
    let version = row(crawl, schedule).await.version;
    let text = ScheduleText {
        cron: "0 4 * * *",
        time_zone: "UTC",
        enabled,
        overlap: OverlapPolicy::Queue,
        next_run_at: tomorrow().filter(|_| enabled),
    };
    crawl.store.update_schedule(schedule, version, text).await.unwrap().unwrap()
}

/// A disabled schedule, the execution that it has started, and a run by hand that waits for the end of that.
async fn disabled_with_a_run_that_waits() -> (Crawl, ScheduleId, ExecutionId) {
    let (crawl, schedule) = scheduled(OverlapPolicy::Queue).await;
    let first = fire(&crawl.store, schedule, 0, Occasion::Asked).await.unwrap().execution().unwrap();
    let version = enable(&crawl, schedule, false).await.version;
    assert_eq!(fire(&crawl.store, schedule, version, Occasion::Asked).await, Some(Fired::Queued));
    (crawl, schedule, first)
}

/// Runs what is due, as the scheduler does, which gives every schedule a next time.
async fn run_due(crawl: &Crawl) -> Vec<Option<Fired>> {
    let mut fired = Vec::new();
    for due in crawl.store.due_schedules(10).await.unwrap() {
        fired.push(fire(&crawl.store, due.id, due.version, Occasion::Due(tomorrow())).await);
    }
    fired
}

#[tokio::test]
async fn a_run_by_hand_that_waits_at_a_disabled_schedule_starts_once_at_the_end_of_the_earlier_one() {
    let (crawl, schedule, first) = disabled_with_a_run_that_waits().await;
    assert!(run_due(&crawl).await.is_empty(), "the earlier one runs");
    // Another change of a schedule that stays disabled is no reason to forget it.
    assert!(enable(&crawl, schedule, false).await.waiting_since.is_some());
    crawl.store.cancel_execution(first, CancelMode::Graceful, None).await.unwrap();
    assert!(matches!(run_due(&crawl).await[..], [Some(Fired::Started(_))]));
    let after = row(&crawl, schedule).await;
    assert_eq!((after.waiting_since, after.next_run_at), (None, None), "it has no time of its own");
    assert_eq!(crawl.number(RUNS).await, 2);
    crawl.change("UPDATE workflow_executions SET status = 'cancelled', completed_at = now()").await;
    assert!(run_due(&crawl).await.is_empty());
    enable(&crawl, schedule, true).await;
    assert!(run_due(&crawl).await.is_empty(), "nothing is left of it");
}

#[tokio::test]
async fn a_schedule_that_is_enabled_while_a_run_by_hand_waits_starts_it_once() {
    let (crawl, schedule, first) = disabled_with_a_run_that_waits().await;
    assert!(enable(&crawl, schedule, true).await.waiting_since.is_some());
    assert_eq!(tick(&crawl, schedule).await, Some(Fired::Queued), "its own time comes meanwhile");
    crawl.store.cancel_execution(first, CancelMode::Graceful, None).await.unwrap();
    assert!(matches!(run_due(&crawl).await[..], [Some(Fired::Started(_))]));
    crawl.change("UPDATE workflow_executions SET status = 'cancelled', completed_at = now()").await;
    assert!(run_due(&crawl).await.is_empty());
    assert_eq!(crawl.number(RUNS).await, 2);
}

#[tokio::test]
async fn a_run_of_its_own_that_waits_is_forgotten_when_the_schedule_is_disabled() {
    let (crawl, schedule) = scheduled(OverlapPolicy::Queue).await;
    let first = tick(&crawl, schedule).await.unwrap().execution().unwrap();
    assert_eq!(tick(&crawl, schedule).await, Some(Fired::Queued));
    assert_eq!(enable(&crawl, schedule, false).await.waiting_since, None);
    crawl.store.cancel_execution(first, CancelMode::Graceful, None).await.unwrap();
    assert!(run_due(&crawl).await.is_empty());
    enable(&crawl, schedule, true).await;
    assert!(run_due(&crawl).await.is_empty());
    assert_eq!(crawl.number(RUNS).await, 1);
}

#[tokio::test]
async fn a_run_by_hand_that_waits_starts_once_although_the_schedule_is_disabled_meanwhile() {
    // Alone, and as one with a run of the schedule's own that comes before or after it.
    for (its_own_before, its_own_after) in [(false, false), (true, false), (false, true)] {
        let (crawl, schedule) = scheduled(OverlapPolicy::Queue).await;
        let first = tick(&crawl, schedule).await.unwrap().execution().unwrap();
        if its_own_before {
            assert_eq!(tick(&crawl, schedule).await, Some(Fired::Queued));
        }
        let version = row(&crawl, schedule).await.version;
        assert_eq!(fire(&crawl.store, schedule, version, Occasion::Asked).await, Some(Fired::Queued));
        if its_own_after {
            assert_eq!(tick(&crawl, schedule).await, Some(Fired::Queued));
        }
        assert!(enable(&crawl, schedule, false).await.waiting_since.is_some());
        assert!(run_due(&crawl).await.is_empty(), "the earlier one runs");
        crawl.store.cancel_execution(first, CancelMode::Graceful, None).await.unwrap();
        assert!(matches!(run_due(&crawl).await[..], [Some(Fired::Started(_))]));
        let after = row(&crawl, schedule).await;
        assert_eq!((after.waiting_since, after.next_run_at), (None, None), "it has no time of its own");

        // Of a run that was asked for once nothing is left: one of the schedule's own is forgotten as ever.
        enable(&crawl, schedule, true).await;
        assert_eq!(tick(&crawl, schedule).await, Some(Fired::Queued));
        assert_eq!(enable(&crawl, schedule, false).await.waiting_since, None);
        crawl.change("UPDATE workflow_executions SET status = 'cancelled', completed_at = now()").await;
        assert!(run_due(&crawl).await.is_empty());
        assert_eq!(crawl.number(RUNS).await, 2);
    }
}

#[tokio::test]
async fn a_run_by_hand_that_waits_is_forgotten_where_nothing_is_to_wait_any_more() {
    let (crawl, schedule, first) = disabled_with_a_run_that_waits().await;
    let skip = ScheduleText {
        cron: "0 4 * * *",
        time_zone: "UTC",
        enabled: false,
        overlap: OverlapPolicy::Skip,
        next_run_at: None,
    };
    let version = row(&crawl, schedule).await.version;
    let changed = crawl.store.update_schedule(schedule, version, skip).await.unwrap().unwrap();
    assert_eq!(changed.waiting_since, None);
    assert_eq!(crawl.number("SELECT count(*) FROM schedules WHERE waiting_asked").await, 0);
    crawl.store.cancel_execution(first, CancelMode::Graceful, None).await.unwrap();
    assert!(run_due(&crawl).await.is_empty());
}

#[tokio::test]
async fn a_run_has_the_budgets_and_the_share_of_its_workflow() {
    let (crawl, schedule) = scheduled(OverlapPolicy::Skip).await;
    let fired = fire(&crawl.store, schedule, 0, Occasion::Asked).await;
    let execution = fired.and_then(Fired::execution).unwrap();
    let budgets = crawl.texts("SELECT concat_ws(' ', execution_id, kind, max) FROM execution_budgets").await;
    assert_eq!(budgets, [format!("{execution} time 60")]);
    let share =
        "SELECT concat_ws(' ', weight, priority) FROM workflow_executions WHERE schedule_id IS NOT NULL";
    assert_eq!(crawl.texts(share).await, ["3 -1"]);
}
