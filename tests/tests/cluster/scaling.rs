//! Workers that are taken away while they have pages in hand, as an autoscaler does it: with a signal, or without a word.

use std::time::Duration;

use harness::fleet::{Fleet, SLOTS, stop};
use rustix::process::Signal;

use super::{PAGES, WITHIN};

/// A worker of these has pages in hand at any time.
const TAKES: [&str; 2] = ["--takes", "800"];
/// So many that most are left when the last workers are taken away, however long they took to come.
const MANY_PAGES: u64 = 2 * PAGES;

#[tokio::test]
async fn workers_that_are_scaled_in_gently_waste_no_attempt() {
    let fleet = Fleet::create(env!("CARGO_BIN_EXE_bench-fleet"), MANY_PAGES).await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let execution = fleet.execute(&[1], None).await;
    let stays = fleet.start_with("worker", &TAKES);
    for pages in [30, 70, 110, 150] {
        let mut come = [fleet.start_with("worker", &TAKES), fleet.start_with("worker", &TAKES)];
        for worker in &mut come {
            worker.says("the worker is ready", WITHIN).await;
        }
        fleet.completed(pages).await;
        stop(come).await;
    }
    let quick = fleet.start("worker", None);
    fleet.ended(execution).await;
    assert_eq!(fleet.number("SELECT count(*) FROM url_queue WHERE attempt <> 1").await, 0);
    fleet.close([stays, quick, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn workers_that_are_taken_away_without_a_word_cost_the_pages_in_hand_an_attempt() {
    let fleet = Fleet::create(env!("CARGO_BIN_EXE_bench-fleet"), MANY_PAGES).await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let execution = fleet.execute(&[1], None).await;
    let stays = fleet.start_with("worker", &TAKES);
    let mut taken = 0;
    for pages in [30, 120, 210] {
        let mut away = [fleet.start_with("worker", &TAKES), fleet.start_with("worker", &TAKES)];
        for worker in &mut away {
            worker.says("the worker is ready", WITHIN).await;
        }
        fleet.completed(pages).await;
        for worker in away {
            worker.signal(Signal::KILL);
            let _ = worker.end(WITHIN).await;
            taken += 1;
        }
    }
    let quick = fleet.start("worker", None);
    fleet.ended(execution).await;
    let wasted = fleet.number("SELECT sum(greatest(attempt - 1, 0)) FROM url_queue").await;
    assert!((1..=3 * taken * SLOTS as i64).contains(&wasted), "{wasted} attempts were wasted");
    assert_eq!(fleet.number("SELECT count(*) FROM url_queue WHERE status = 'failed'").await, 0);
    fleet.close([stays, quick, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_worker_that_is_told_twice_to_stop_gives_back_at_once_what_it_has() {
    let fleet = Fleet::create(env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await;
    let coordinator = fleet.start("coordinator", None);
    let execution = fleet.execute(&[1], None).await;
    let slow = fleet.start_with("worker", &["--takes", "100000", "--drain", "100000"]);
    let in_hand = "SELECT count(*) FROM url_queue WHERE status = 'processing'";
    fleet.wait("a page is in hand", in_hand).await;
    slow.signal(Signal::TERM);
    fleet.wait("it drains", "SELECT count(*) FROM workers WHERE status = 'draining'").await;
    slow.signal(Signal::TERM);
    // Its pages would have had much longer.
    let _ = slow.end(Duration::from_secs(20)).await.with_code(0);
    assert_eq!(fleet.number(in_hand).await, 0);
    assert_eq!(fleet.number("SELECT sum(attempt + worker_faults)::int8 FROM url_queue").await, 0);
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    fleet.close([worker, coordinator], execution, None).await;
}
