//! A coordinator that is killed between what it writes and what it publishes.

use std::time::{Duration, Instant};

use crawlify_shared::crash::CrashPoint;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::store::control::{Controlled, LimitChanges};
use harness::fault_proxy::FaultProxy;
use harness::fleet::{Fleet, LOST_AFTER, died, stop};

use super::{PAGES, assert_untouched, completed, fleet, kill};

/// The coordinator dies when it comes to a point, in the middle of a crawl; another one ends the crawl.
async fn dies_at(crash: String) {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let worker = fleet.start("worker", None);
    let victim = fleet.start("coordinator", Some(&crash));
    let execution = fleet.execute(&[1], None).await;
    died(victim).await;
    let before = completed(&fleet).await;
    let coordinator = fleet.start("coordinator", None);
    fleet.ended(execution).await;
    assert_untouched(&fleet, &before).await;
    assert_eq!(fleet.number("SELECT max(attempt)::int8 FROM url_queue").await, 1, "no worker died");
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_coordinator_killed_between_database_and_broker_loses_no_page() {
    dies_at(kill(CrashPoint::AfterReserveBeforePublish, 4)).await;
}

#[tokio::test]
async fn a_coordinator_killed_before_the_broker_confirms_loses_and_repeats_no_page() {
    dies_at(kill(CrashPoint::AfterPublishBeforeConfirm, 20)).await;
}

#[tokio::test]
async fn a_coordinator_killed_after_the_broker_confirmed_loses_and_repeats_no_page() {
    dies_at(kill(CrashPoint::AfterConfirmBeforeReturn, 4)).await;
}

#[tokio::test]
async fn a_coordinator_killed_after_the_broker_took_nothing_loses_no_page() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let (proxy, broker) = FaultProxy::before_rabbitmq(&fleet.vhost.url()).await;
    proxy.drop_reply_to("site.test/book/");
    let worker = fleet.start("worker", None);
    let crash = kill(CrashPoint::AfterRefusalBeforeReturn, 1);
    let victim = fleet.start_at("coordinator", Some(&crash), &fleet.database_url(), &broker);
    let execution = fleet.execute(&[1], None).await;
    died(victim).await;
    assert!(proxy.has_sprung());
    let coordinator = fleet.start("coordinator", None);
    fleet.ended(execution).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_coordinator_whose_database_falls_silent_without_a_word_goes_on_with_other_connections() {
    let fleet = fleet().await;
    let (proxy, database) = FaultProxy::before_postgres(&fleet.database_url()).await;
    let worker = fleet.start_with("worker", &["--takes", "250"]);
    let coordinator = fleet.start_at("coordinator", None, &database, &fleet.vhost.url());
    let execution = fleet.execute(&[1], None).await;
    fleet.completed(20).await;
    proxy.abandon();
    // All its connections hang, those in the pool too; a step is given up after a minute.
    let ended = "SELECT (status = 'completed')::int::int8 FROM workflow_executions";
    let deadline = tokio::time::Instant::now() + Duration::from_secs(150);
    while fleet.number(ended).await == 0 {
        assert!(tokio::time::Instant::now() < deadline, "it waits for what never comes");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    fleet.close([worker, coordinator], execution, None).await;
}

/// An execution that has three of its ten start pages admitted, and the others skipped; then the limit is raised while no
/// coordinator runs.
async fn with_pages_to_put_back(fleet: &Fleet) -> ExecutionId {
    let first: Vec<u64> = (1..=10).collect();
    let execution = fleet.execute(&first, Some(3)).await;
    let coordinator = fleet.start("coordinator", None);
    let skipped = "SELECT (count(*) = 7)::int::int8 FROM url_queue WHERE status = 'skipped'";
    fleet.wait("the others were skipped", skipped).await;
    stop([coordinator]).await;
    let changes = LimitChanges { max_pages: Some(None), ..LimitChanges::default() };
    let raised = fleet.store.change_limits(execution, changes, None).await.unwrap();
    assert!(matches!(raised, Controlled::Done(_)));
    execution
}

async fn dies_while_it_puts_back(crash: String) {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let execution = with_pages_to_put_back(&fleet).await;
    died(fleet.start("coordinator", Some(&crash))).await;
    assert_eq!(fleet.number("SELECT count(*) FROM url_queue WHERE status = 'skipped'").await, 0);
    let (coordinator, worker) = (fleet.start("coordinator", None), fleet.start("worker", None));
    fleet.ended(execution).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_coordinator_killed_between_putting_back_and_sweeping_loses_no_page() {
    dies_while_it_puts_back(kill(CrashPoint::AfterPutBackBeforeSweep, 1)).await;
}

#[tokio::test]
async fn a_coordinator_killed_between_sweeping_and_finishing_ends_no_execution_wrongly() {
    let fleet = fleet().await;
    let worker = fleet.start("worker", None);
    let victim = fleet.start("coordinator", Some(&kill(CrashPoint::AfterSweepBeforeFinish, 6)));
    let execution = fleet.execute(&[1], Some(60)).await;
    died(victim).await;
    let coordinator = fleet.start("coordinator", None);
    fleet.ended(execution).await;
    let completed = "SELECT count(*) FROM url_queue WHERE status = 'completed'";
    assert_eq!(fleet.number(completed).await, 60, "the limit is exact");
    fleet.close([worker, coordinator], execution, None).await;
}

/// A worker has died with pages in its hands, and so has the coordinator that should have returned them; another one does.
async fn dies_while_it_rescues(crash: String, expected: &'static str) {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let victim = fleet.start("worker", Some(&kill(CrashPoint::AfterClaimBeforeNavigate, 30)));
    let execution = fleet.execute(&[1], None).await;
    died(victim).await;
    stop([coordinator]).await;
    assert!(fleet.number("SELECT count(*) FROM url_queue WHERE status = 'processing'").await > 0);
    let silent =
        "SELECT count(*) FROM workers WHERE status = 'ready' AND heartbeat_at < now() - interval '5 s'";
    fleet.wait("the worker is unheard of for long", silent).await;
    died(fleet.start("coordinator", Some(&crash))).await;
    assert_ne!(fleet.number(expected).await, 0, "{expected}");
    let (coordinator, worker) = (fleet.start("coordinator", None), fleet.start("worker", None));
    fleet.ended(execution).await;
    let pages = i64::try_from(PAGES).unwrap();
    assert_eq!(fleet.number("SELECT count(*) / 2 FROM extracted_items").await, pages);
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_coordinator_killed_after_it_gave_a_worker_up_leaves_its_pages_to_the_next_one() {
    let lost = "SELECT count(*) FROM url_queue q JOIN workers w ON w.id = q.locked_by AND w.status = 'lost'";
    dies_while_it_rescues(kill(CrashPoint::AfterLossBeforeReturn, 1), lost).await;
}

#[tokio::test]
async fn a_coordinator_killed_after_it_returned_pages_returned_them_once() {
    let returned = "SELECT (max(epoch) = 1)::int::int8 FROM url_queue WHERE status IN ('pending', 'queued')";
    dies_while_it_rescues(kill(CrashPoint::AfterReturnBeforeRequeue, 1), returned).await;
}

#[tokio::test]
async fn a_coordinator_that_has_just_begun_gives_nobody_up_before_it_could_have_heard_of_him() {
    let fleet = fleet().await;
    // The tests' server is no reason to wait any more.
    let is_old = "SELECT (pg_postmaster_start_time() < now() - interval '5 s')::int::int8";
    fleet.wait("Postgres has been up for some time", is_old).await;
    // As a standby knows him that has just taken over: no heartbeat came since it was cut off.
    let silent = "INSERT INTO workers (id, name, slots, heartbeat_at)
        VALUES (gen_random_uuid(), 'silent', 1, now() - interval '1 hour')";
    sqlx::query(silent).execute(&fleet.pool).await.unwrap();
    let begun = Instant::now();
    let coordinator = fleet.start("coordinator", None);
    fleet.wait("he is given up", "SELECT count(*) FROM workers WHERE status = 'lost'").await;
    assert!(begun.elapsed() >= LOST_AFTER, "he was given up after {:?}", begun.elapsed());
    stop([coordinator]).await;
}
