//! A fleet of real processes whose broker is cut off, loses its queue or the messages in it, or answers in vain: the crawl
//! ends as if nothing had happened. Its pages cost nothing (`harness::synthetic`).

use std::time::Duration;

use harness::fault_proxy::{FaultProxy, Mode};
use harness::fleet::{Fleet, stop};
use harness::invariants;
use harness::rabbitmq::PrivateRabbitMq;
use lapin::options::{QueueDeleteOptions, QueuePurgeOptions};

use super::faults::{QUEUE, depth, operator};
use super::{SOON, wait_for};

const PAGES: u64 = 400;
const COMPLETED: &str = "SELECT count(*) FROM url_queue WHERE status = 'completed'";
const RUNNING: &str = "SELECT count(*) FROM workflow_executions WHERE status = 'running'";

async fn fleet() -> Fleet {
    Fleet::create(env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await
}

/// No page was tried twice: a broker's trouble is not the page's.
async fn assert_no_attempt_was_wasted(fleet: &Fleet) {
    assert_eq!(fleet.number("SELECT count(*) FROM url_queue WHERE attempt <> 1").await, 0);
}

#[tokio::test]
async fn connections_to_the_broker_that_are_cut_again_and_again_cost_nothing() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let (proxy, broker) = FaultProxy::before_rabbitmq(&fleet.vhost.url()).await;
    let coordinator = fleet.start_at("coordinator", None, &fleet.database_url(), &broker);
    // Half of the pages are left when it is cut off last, for five seconds.
    let worker = fleet.start_slow(200, &fleet.database_url(), &broker);
    let execution = fleet.execute(&[1], None).await;
    for pages in [20, 60, 100, 150, 200] {
        fleet.completed(pages).await;
        proxy.cut();
    }
    fleet.ended(execution).await;
    assert_no_attempt_was_wasted(&fleet).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_broker_that_was_away_for_long_is_used_again_within_seconds() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let (proxy, broker) = FaultProxy::before_rabbitmq(&fleet.vhost.url()).await;
    let mut coordinator = fleet.start_at("coordinator", None, &fleet.database_url(), &broker);
    let worker = fleet.start_slow(100, &fleet.database_url(), &broker);
    let execution = fleet.execute(&[1], None).await;
    fleet.completed(20).await;
    proxy.set(Mode::Refuse);
    proxy.cut();
    // By then every pause between two tries is as long as it gets.
    coordinator.says("\"failures\":8", SOON).await;
    let before = fleet.number(COMPLETED).await;
    proxy.set(Mode::Pass);
    let back = std::time::Instant::now();
    wait_for("the crawl goes on", SOON, async || fleet.number(COMPLETED).await > before).await;
    assert!(back.elapsed() < Duration::from_secs(12), "it went on after {:?}", back.elapsed());
    fleet.ended(execution).await;
    assert_no_attempt_was_wasted(&fleet).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_confirm_that_is_lost_has_the_page_published_twice_and_executed_once() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let (proxy, broker) = FaultProxy::before_rabbitmq(&fleet.vhost.url()).await;
    let coordinator = fleet.start_at("coordinator", None, &fleet.database_url(), &broker);
    let worker = fleet.start("worker", None);
    proxy.drop_reply_to("site.test/book/77/");
    let execution = fleet.execute(&[1], None).await;
    fleet.ended(execution).await;
    assert!(proxy.has_sprung());
    assert_no_attempt_was_wasted(&fleet).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn pages_whose_messages_all_come_twice_are_executed_once() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start_with("coordinator", &["--double"]);
    let execution = fleet.execute(&[1], None).await;
    let (_connection, channel) = operator(&fleet.vhost.url()).await;
    wait_for("the first page is in the queue twice", SOON, async || depth(&channel, QUEUE).await == 2).await;
    let workers = (fleet.start("worker", None), fleet.start("worker", None));
    fleet.ended(execution).await;
    assert_no_attempt_was_wasted(&fleet).await;
    let totals = "SELECT count(DISTINCT stats) FROM workflow_executions WHERE status = 'completed'";
    assert_eq!(fleet.number(totals).await, 1, "both crawls have the same totals");
    fleet.close([workers.0, workers.1, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_worker_that_only_the_broker_cannot_hear_loses_no_page_to_that() {
    // More than are done while the connection is being cut.
    let fleet = Fleet::create(env!("CARGO_BIN_EXE_bench-fleet"), 4 * PAGES).await;
    let calm = fleet.calm_crawl().await;
    let (proxy, broker) = FaultProxy::before_rabbitmq(&fleet.vhost.url()).await;
    let coordinator = fleet.start("coordinator", None);
    let deaf = fleet.start_at("worker", None, &fleet.database_url(), &broker);
    let execution = fleet.execute(&[1], None).await;
    fleet.completed(20).await;
    proxy.set(Mode::BlackHole);
    assert_eq!(fleet.number(RUNNING).await, 1, "the crawl was over before the worker was cut off");
    // The broker gives its deliveries to others when it has missed two heartbeats.
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    proxy.set(Mode::Pass);
    assert_no_attempt_was_wasted(&fleet).await;
    // What it still has goes back to the broker, and somebody must be there to find that it has been done.
    stop([deaf]).await;
    wait_for("the other one has taken what is left", SOON, async || {
        invariants::broker::leftovers(&fleet.vhost.url()).await.unwrap().is_empty()
    })
    .await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn deliveries_that_the_broker_takes_back_before_their_pages_end_are_executed_once() {
    const PAGES: u64 = 12;
    let rabbit = PrivateRabbitMq::start().await.unwrap();
    // By default 30 minutes, looked at once a minute. Channels that are opened from now on have it.
    for (name, milliseconds) in [("consumer_timeout", 1500), ("channel_tick_interval", 300)] {
        let set = format!("application:set_env(rabbit, {name}, {milliseconds}).");
        rabbit.control(&["eval", &set]).await.unwrap();
    }
    let fleet = Fleet::create(env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start_at("coordinator", None, &fleet.database_url(), &rabbit.url());
    // Every page outlasts it.
    let mut worker = fleet.start_slow(4000, &fleet.database_url(), &rabbit.url());
    let execution = fleet.execute(&[1], None).await;
    worker.says("Timeout value used: 1500 ms", SOON).await;
    fleet.ended(execution).await;
    assert_no_attempt_was_wasted(&fleet).await;
    let times = worker.stderr().matches("Timeout value used: 1500 ms").count();
    assert!(times >= 4, "it happened to each generation of pages: {times} times\n{}", worker.stderr());
    stop([worker, coordinator]).await;
    invariants::assert_none(&invariants::broker::leftovers(&rabbit.url()).await.unwrap());
    fleet.close([], execution, Some(calm)).await;
}

#[tokio::test]
async fn messages_that_a_broker_lost_are_published_again() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let execution = fleet.execute(&(1..=12).collect::<Vec<_>>(), None).await;
    fleet
        .wait(
            "pages are published",
            "SELECT (count(*) = 12)::int::int8 FROM url_queue WHERE status = 'queued'",
        )
        .await;
    let (_connection, channel) = operator(&fleet.vhost.url()).await;
    wait_for("their messages are in the queue", SOON, async || depth(&channel, QUEUE).await == 12).await;
    channel.queue_purge(QUEUE.into(), QueuePurgeOptions::default()).await.unwrap();
    let worker = fleet.start("worker", None);
    fleet.ended(execution).await;
    assert_no_attempt_was_wasted(&fleet).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_queue_that_is_deleted_in_the_middle_is_made_again() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start("coordinator", None);
    let worker = fleet.start_with("worker", &["--takes", "100"]);
    let execution = fleet.execute(&[1], None).await;
    fleet.completed(40).await;
    let (_connection, channel) = operator(&fleet.vhost.url()).await;
    channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await.unwrap();
    assert_eq!(fleet.number(RUNNING).await, 1, "the crawl was over before the queue was deleted");
    fleet.ended(execution).await;
    assert_no_attempt_was_wasted(&fleet).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
}

#[tokio::test]
async fn a_broker_that_is_wiped_clean_in_the_middle_is_filled_again() {
    let mut rabbit = PrivateRabbitMq::start().await.unwrap();
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinator = fleet.start_at("coordinator", None, &fleet.database_url(), &rabbit.url());
    // Slow enough to be in the middle when the broker has stopped, which takes it some seconds.
    let worker = fleet.start_slow(250, &fleet.database_url(), &rabbit.url());
    let execution = fleet.execute(&[1], None).await;
    fleet.completed(40).await;
    rabbit.wipe().await.unwrap();
    let left = "SELECT count(*) FROM url_queue WHERE status IN ('pending', 'queued')";
    assert!(fleet.number(left).await > 0, "the crawl was over before the broker was wiped");
    fleet.ended(execution).await;
    assert_no_attempt_was_wasted(&fleet).await;
    stop([worker, coordinator]).await;
    invariants::assert_none(&invariants::broker::leftovers(&rabbit.url()).await.unwrap());
    fleet.close([], execution, Some(calm)).await;
}

#[tokio::test]
async fn three_coordinators_at_once_repeat_nothing() {
    let fleet = fleet().await;
    let calm = fleet.calm_crawl().await;
    let coordinators = [(); 3].map(|()| fleet.start("coordinator", None));
    let workers = [(); 2].map(|()| fleet.start("worker", None));
    let execution = fleet.execute(&[1], None).await;
    fleet.ended(execution).await;
    assert_no_attempt_was_wasted(&fleet).await;
    stop(workers).await;
    fleet.close(coordinators, execution, Some(calm)).await;
}
