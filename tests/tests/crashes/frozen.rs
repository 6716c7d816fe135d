//! Processes that freeze in the middle and go on when nobody reckons with them any more.

use std::time::Duration;

use crawlify_shared::config::CRASH_POINT;
use crawlify_shared::crash::CrashPoint;
use harness::fleet::{Fleet, stop};
use harness::invariants;
use harness::wait::wait_for;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use rustix::process::Signal;
use tokio::time::Instant;

use super::fleet;

/// On a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// How often the frozen one promises to be heard, in seconds. The broker waits twice as long for a connection.
const BEATS_AT: &str = "60";
/// After a minute the frozen one itself gives up what it was about to do.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(50);

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

/// Its pages are made to look old, and that is not waited for: the broker would give up its connection, and on another one nothing
/// would come late.
#[tokio::test]
async fn a_coordinator_that_thaws_publishes_what_is_long_done_and_changes_nothing() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let worker = fleet.start("worker", None);
    let crash = freeze(CrashPoint::AfterReserveBeforePublish, 4);
    let options = ["--heartbeat", BEATS_AT];
    let mut frozen = fleet.start_among("coordinator", &options, &[(CRASH_POINT, crash.as_str())]);
    let execution = fleet.execute(&[1], None).await;
    frozen.says("the crash point is reached", SOON).await;
    let frozen_at = Instant::now();
    let stuck = "SELECT (count(*) > 0 AND bool_and(queued_at < now() - interval '2 s'))::int::int8
        FROM url_queue WHERE status = 'queued'";
    fleet.wait("pages are reserved and not published", stuck).await;
    let seems_lost = "UPDATE url_queue SET queued_at = now() - interval '1 hour' WHERE status = 'queued'";
    sqlx::query(seems_lost).execute(&fleet.pool).await.unwrap();
    let coordinator = fleet.start("coordinator", None);
    fleet.ended(execution).await;
    // What comes late now is all that is there, and stays there.
    stop([worker]).await;
    invariants::assert_none(&invariants::broker::leftovers(&fleet.vhost.url()).await.unwrap());
    assert!(
        frozen_at.elapsed() < GIVEN_UP_AFTER,
        "the machine is too busy for this: nothing would come any more"
    );
    frozen.signal(Signal::CONT);
    messages_wait(&fleet).await;
    let mut worker = fleet.start("worker", None);
    worker.says("the worker is ready", SOON).await;
    // Its page comes behind all of them.
    let next = fleet.execute(&[1], Some(1)).await;
    fleet.ended(next).await;
    fleet.close([frozen, worker, coordinator], execution, Some(calm)).await;
}

/// Waits until there are messages in the queue, of which nobody takes any.
async fn messages_wait(fleet: &Fleet) {
    let url = fleet.vhost.url();
    let connection = Connection::connect(url.expose(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    wait_for("pages are published late", SOON, async || {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("crawlify.pages".into(), passive, FieldTable::default()).await;
        queue.unwrap().message_count() > 0
    })
    .await;
    connection.close(200, "OK".into()).await.unwrap();
}
