//! A worker that is killed with pages in its hands.

use std::time::Duration;

use crawlify_shared::crash::CrashPoint;
use harness::fault_proxy::FaultProxy;
use harness::fleet::{died, stop};
use harness::wait::wait_for;
use rustix::process::Signal;

use super::{Left, assert_untouched, completed, fleet, kill};

/// The worker dies when it comes to a point for the `time`th time, in the middle of a crawl; another one ends the crawl.
/// The pages that were in hand are charged for it, and no others. Answers what the dead one left.
async fn dies_at(crash: String) -> Left {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let victim = fleet.start("worker", Some(&crash));
    let execution = fleet.execute(&[1], None).await;
    died(victim).await;
    let left = Left::behind(&fleet).await;
    let before = completed(&fleet).await;
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    assert_untouched(&fleet, &before).await;
    left.assert_charged(&fleet, execution).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
    left
}

/// The same at a point to which a page comes that is claimed.
async fn costs_an_attempt(point: CrashPoint, time: u32) {
    let left = dies_at(kill(point, time)).await;
    assert!(!left.in_hand.is_empty(), "the page that came there was in hand, if no other");
}

#[tokio::test]
async fn a_worker_killed_before_it_claims_a_page_loses_none() {
    let left = dies_at(kill(CrashPoint::AfterDeliveryBeforeClaim, 30)).await;
    assert!(!left.sent.is_empty(), "one at least was in hand as a message");
}

/// Which page that is, is known: there is no other.
#[tokio::test]
async fn a_worker_killed_with_its_first_message_in_hand_is_charged_nothing_for_it() {
    let left = dies_at(kill(CrashPoint::AfterDeliveryBeforeClaim, 1)).await;
    assert_eq!((left.sent.len(), left.in_hand.len()), (1, 0));
}

#[tokio::test]
async fn a_worker_killed_after_it_claimed_a_page_costs_an_attempt() {
    costs_an_attempt(CrashPoint::AfterClaimBeforeNavigate, 30).await;
}

#[tokio::test]
async fn a_worker_killed_with_a_page_loaded_costs_an_attempt() {
    costs_an_attempt(CrashPoint::AfterNavigateBeforeNodes, 30).await;
}

#[tokio::test]
async fn a_worker_killed_with_a_page_executed_costs_an_attempt() {
    costs_an_attempt(CrashPoint::AfterNodesBeforeRecord, 30).await;
}

#[tokio::test]
async fn a_worker_killed_between_the_definitions_of_nodes_and_their_records_costs_an_attempt() {
    let left = dies_at(kill(CrashPoint::AfterDefinitionsBeforeRecord, 1)).await;
    assert_eq!(left.in_hand.len(), 1, "the first page leads to the others, and is recorded alone");
}

#[tokio::test]
async fn a_worker_killed_between_commit_and_acknowledgement_repeats_no_page() {
    dies_at(kill(CrashPoint::AfterCommitBeforeAck, 30)).await;
}

#[tokio::test]
async fn a_worker_killed_before_it_says_goodbye_keeps_nothing_from_the_others() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let mut victim = fleet.start("worker", Some(&kill(CrashPoint::AfterDrainBeforeRetire, 1)));
    victim.says("the worker is ready", Duration::from_secs(60)).await;
    let execution = fleet.execute(&[1], None).await;
    fleet.wait("some pages are completed", "SELECT (count(*) > 200)::int::int8 FROM url_queue").await;
    victim.signal(Signal::TERM);
    died(victim).await;
    let before = completed(&fleet).await;
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    assert_untouched(&fleet, &before).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_worker_killed_while_its_record_is_being_written_neither_loses_nor_doubles_it() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let slow = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(2); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON extracted_items
            FOR EACH ROW WHEN (NEW.url LIKE '%/book/40/') EXECUTE FUNCTION wait();";
    sqlx::raw_sql(slow).execute(&fleet.pool).await.unwrap();
    let coordinator = fleet.start("coordinator", None);
    let victim = fleet.start("worker", None);
    let execution = fleet.execute(&[1], None).await;
    let writing = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event = 'PgSleep'";
    fleet.wait("a record is being written", writing).await;
    victim.signal(Signal::KILL);
    died(victim).await;
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

/// What it has asked stays unanswered, and its other connections hang as well; a new one is answered.
#[tokio::test]
async fn a_worker_whose_database_falls_silent_without_a_word_goes_on_with_other_connections() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let (proxy, database) = FaultProxy::before_postgres(&fleet.database_url()).await;
    let coordinator = fleet.start("coordinator", None);
    let worker = fleet.start_slow(250, &database, &fleet.vhost.url());
    let execution = fleet.execute(&[1], None).await;
    fleet.completed(20).await;
    proxy.abandon();
    // Its heart asks elsewhere within seconds, so that nothing is taken from it; the rest is given up after 35 s.
    let ended = "SELECT (count(*) = 2)::int::int8 FROM workflow_executions WHERE status = 'completed'";
    wait_for("its claims and records ask elsewhere", Duration::from_secs(60), async || {
        fleet.number(ended).await == 1
    })
    .await;
    assert_eq!(fleet.number("SELECT sum(worker_faults)::int8 FROM url_queue").await, 0);
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_worker_that_is_killed_again_and_again_ends_the_crawl_all_the_same() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let execution = fleet.execute(&[1], None).await;
    // Each of them gets on a little: no page is in more than a few hands.
    for round in 1..=3 {
        died(fleet.start("worker", Some(&kill(CrashPoint::AfterCommitBeforeAck, 15 * round)))).await;
    }
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    stop([worker]).await;
    fleet.close([coordinator], execution, Some(calm)).await;
}
