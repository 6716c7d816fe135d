//! A loop panics that a process lives by: the process does not go on without it, but ends as if it had crashed.

use std::time::Duration;

use crawlify_shared::crash::CrashPoint;

use super::{assert_untouched, completed, fleet, panics};

/// Of a process that nobody told to end: its last writes, and the closing of its connections, on a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// It would have executed page after page, and recorded none, while its heartbeat said that it was well.
#[tokio::test]
async fn a_worker_whose_recorder_panics_ends_with_an_error_and_another_one_completes_its_pages() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let victim = fleet.start("worker", Some(&panics(CrashPoint::AfterDefinitionsBeforeRecord, 2)));
    let execution = fleet.execute(&[1], None).await;
    let ended = victim.end(ENDS_WITHIN).await.with_code(1);
    let _ = ended.saying(&["the loop `record` panicked (a test wants a panic here)"]);
    let before = completed(&fleet).await;
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    assert_untouched(&fleet, &before).await;
    let charged = "SELECT sum(charged + worker_faults)::int8 FROM url_queue";
    assert_eq!(fleet.number(charged).await, 0, "it said goodbye: nothing is the pages' doing");
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

/// It would have answered its API, while nothing was dispatched.
#[tokio::test]
async fn a_coordinator_whose_dispatcher_panics_ends_with_an_error_and_another_one_goes_on() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let worker = fleet.start("worker", None);
    let victim = fleet.start("coordinator", Some(&panics(CrashPoint::AfterReserveBeforePublish, 4)));
    let execution = fleet.execute(&[1], None).await;
    let ended = victim.end(ENDS_WITHIN).await.with_code(1);
    let _ = ended.saying(&["the loop `dispatch` panicked (a test wants a panic here)"]);
    let before = completed(&fleet).await;
    let coordinator = fleet.start("coordinator", None);
    fleet.ended(execution).await;
    assert_untouched(&fleet, &before).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}
