//! Processes that freeze in the middle and go on when nobody reckons with them any more.

use crawlify_shared::crash::CrashPoint;
use rustix::process::Signal;

use super::fleet;

/// What happens where, the `time`th time.
fn freeze(point: CrashPoint, time: u32) -> String {
    format!("{}:freeze@{time}", point.as_str())
}

#[tokio::test]
async fn a_worker_that_thaws_after_others_took_its_pages_writes_nothing() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let frozen = fleet.start("worker", Some(&freeze(CrashPoint::AfterNodesBeforeRecord, 30)));
    let execution = fleet.execute(&[1], None).await;
    fleet.wait("the worker was given up", "SELECT count(*) FROM workers WHERE status = 'lost'").await;
    let held = "SELECT count(*) FROM url_queue WHERE error_class = 'worker_lost'";
    fleet.wait("it held pages", held).await;
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    assert!(fleet.number("SELECT count(*) FROM url_queue WHERE attempt = 2").await > 0);
    frozen.signal(Signal::CONT);
    let back = "SELECT count(*) FROM workers w JOIN workflow_executions e ON w.heartbeat_at > e.completed_at
        WHERE w.status = 'ready' AND w.number < (SELECT max(number) FROM workers)
            AND e.started_at = (SELECT max(started_at) FROM workflow_executions)";
    fleet.wait("it is back", back).await;
    fleet.close([frozen, worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_coordinator_that_thaws_publishes_what_is_long_done_and_changes_nothing() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let worker = fleet.start("worker", None);
    let frozen = fleet.start("coordinator", Some(&freeze(CrashPoint::AfterReserveBeforePublish, 4)));
    let execution = fleet.execute(&[1], None).await;
    let stuck =
        "SELECT count(*) FROM url_queue WHERE status = 'queued' AND queued_at < now() - interval '5 s'";
    fleet.wait("pages are reserved and not published", stuck).await;
    let coordinator = fleet.start("coordinator", None);
    fleet.ended(execution).await;
    frozen.signal(Signal::CONT);
    // It gets the signal to stop when it works again, and then ends its steps first.
    fleet.close([frozen, worker, coordinator], execution, Some(calm)).await;
}
