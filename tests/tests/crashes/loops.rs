//! A loop panics that a process lives by: the process does not go on without it, but ends as if it had crashed.

use std::time::Duration;

use crawlify_shared::config::CRASH_POINT;
use crawlify_shared::crash::CrashPoint;
use crawlify_shared::loops::BrokenLoop;
use harness::fleet::{Fleet, stop};
use harness::processes;
use harness::program::{Program, crawlify};
use harness::scratch::Scratch;
use rustix::process::{Pid, Signal, kill_process};

use super::{assert_untouched, completed, fleet, panics};
use crate::CRAWLIFY;

/// Of a process that nobody told to end: what it does until the loop breaks, its last writes, and the closing of its
/// connections and its browser, on a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// What pages are charged with.
const CHARGED: &str = "SELECT sum(charged + worker_faults)::int8 FROM url_queue";

/// Waits until a process has ended because this loop of it panicked.
async fn broke(victim: Program, name: &str) {
    let ended = victim.end(ENDS_WITHIN).await.with_code(BrokenLoop::EXIT_CODE.into());
    let _ = ended.saying(&[&format!("the loop `{name}` panicked (a test wants a panic here)")]);
}

/// Starts the program itself, which panics there.
fn start_program(fleet: &Fleet, scratch: &Scratch, role: &[&str], crash: &str) -> Program {
    let mut command = crawlify(CRAWLIFY, scratch);
    command.args(role).env(CRASH_POINT, crash);
    command.args(["--database-url", fleet.database_url().expose()]);
    command.args(["--amqp-url", fleet.vhost.url().expose()]);
    Program::start(command)
}

/// It would have executed page after page, and recorded none, while its heartbeat said that it was well.
#[tokio::test]
async fn a_worker_whose_recorder_panics_ends_with_an_error_and_another_one_completes_its_pages() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let victim = fleet.start("worker", Some(&panics(CrashPoint::AfterDefinitionsBeforeRecord, 2)));
    let execution = fleet.execute(&[1], None).await;
    broke(victim, "record").await;
    let before = completed(&fleet).await;
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    assert_untouched(&fleet, &before).await;
    assert_eq!(fleet.number(CHARGED).await, 0, "it said goodbye: nothing is the pages' doing");
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

/// It would never have had a page again.
#[tokio::test]
async fn a_worker_whose_consumer_panics_ends_with_an_error_and_another_one_completes_its_pages() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let victim = fleet.start("worker", Some(&panics(CrashPoint::AfterReceiptBeforeDelivery, 20)));
    let execution = fleet.execute(&[1], None).await;
    broke(victim, "broker consumer").await;
    let before = completed(&fleet).await;
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    assert_untouched(&fleet, &before).await;
    assert_eq!(fleet.number(CHARGED).await, 0, "it said goodbye: nothing is the pages' doing");
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

/// It would have ended with code 0, and pages would have gone on in it.
#[tokio::test]
async fn a_worker_whose_drain_panics_ends_with_an_error_and_another_one_completes_its_pages() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let crash = panics(CrashPoint::AfterStopBeforeDrain, 1);
    let victim = fleet.start_among("worker", &["--takes", "250"], &[(CRASH_POINT, crash.as_str())]);
    let execution = fleet.execute(&[1], None).await;
    fleet.completed(20).await;
    victim.signal(Signal::TERM);
    broke(victim, "drain").await;
    let before = completed(&fleet).await;
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    assert_untouched(&fleet, &before).await;
    assert_eq!(fleet.number(CHARGED).await, 0, "it said goodbye: nothing is the pages' doing");
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

/// Each would have answered its API, while nothing was dispatched, ended or rescued.
#[tokio::test]
async fn a_coordinator_of_which_a_loop_panics_ends_with_an_error_and_another_one_goes_on() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let worker = fleet.start("worker", None);
    let mut last = calm;
    for (name, crash) in [
        ("dispatch", panics(CrashPoint::AfterReserveBeforePublish, 4)),
        ("broker publisher", panics(CrashPoint::AfterPublishBeforeConfirm, 20)),
        ("finish", panics(CrashPoint::AfterPutBackBeforeSweep, 2)),
        ("finish", panics(CrashPoint::AfterSweepBeforeFinish, 2)),
        ("rescue", panics(CrashPoint::AfterLossBeforeReturn, 1)),
    ] {
        let victim = fleet.start("coordinator", Some(&crash));
        let execution = fleet.execute(&[1], None).await;
        broke(victim, name).await;
        let before = completed(&fleet).await;
        let coordinator = fleet.start("coordinator", None);
        fleet.ended(execution).await;
        assert_untouched(&fleet, &before).await;
        // The first may have been over when the loop broke.
        last = fleet.execute(&[1], None).await;
        fleet.ended(last).await;
        stop([coordinator]).await;
    }
    fleet.close([worker], last, Some(calm)).await;
}

/// The program itself ends, and others complete the crawl.
async fn the_program_breaks(role: &[&str], other: &str, crash: &str, name: &str) {
    let (fleet, scratch) = (fleet().await, Scratch::create());
    let beside = fleet.start(other, None);
    let victim = start_program(&fleet, &scratch, role, crash);
    let execution = fleet.execute(&[1], None).await;
    broke(victim, name).await;
    let next = fleet.start(role[0], None);
    fleet.ended(execution).await;
    fleet.close([beside, next], execution, None).await;
}

#[tokio::test]
async fn the_program_of_a_coordinator_whose_dispatcher_panics_ends_with_the_code_of_a_fault() {
    let role = ["coordinator", "--port", "0"];
    the_program_breaks(&role, "worker", &panics(CrashPoint::AfterReserveBeforePublish, 4), "dispatch").await;
}

/// Without its guard's gates every page would have failed.
#[tokio::test]
async fn the_program_of_a_worker_whose_egress_guard_panics_ends_with_the_code_of_a_fault() {
    let role = ["worker", "--admin-port", "0"];
    the_program_breaks(&role, "coordinator", &panics(CrashPoint::AfterAcceptBeforeServe, 1), "egress").await;
}

/// It would never have had a browser again.
#[tokio::test]
async fn the_program_of_a_worker_whose_browsers_supervisor_panics_ends_with_the_code_of_a_fault() {
    let (fleet, scratch) = (fleet().await, Scratch::create());
    let crash = panics(CrashPoint::AfterBrowserLossBeforeLaunch, 1);
    let mut victim = start_program(&fleet, &scratch, &["worker", "--admin-port", "0"], &crash);
    victim.says("the worker is ready", ENDS_WITHIN).await;
    let browser = processes::children(victim.pid());
    assert!(!browser.is_empty(), "it has a browser");
    for process in browser {
        let _ = kill_process(Pid::from_raw(process.pid).unwrap(), Signal::KILL);
    }
    broke(victim, "browser").await;
    let (coordinator, worker) = (fleet.start("coordinator", None), fleet.start("worker", None));
    let execution = fleet.execute(&[1], None).await;
    fleet.ended(execution).await;
    fleet.close([worker, coordinator], execution, None).await;
}
