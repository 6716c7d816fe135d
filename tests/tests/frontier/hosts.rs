//! For how long hosts are remembered, and that nobody finds one forgotten who comes back to it; and what a look costs that is taken
//! at each scrape.

use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::broker::InProcessBroker;
use crawlify_shared::config::LeaseTimes;
use crawlify_shared::store::Store;
use crawlify_shared::store::control::CancelMode;
use crawlify_shared::telemetry;
use futures_util::future::join;
use harness::crawl::{Crawl, NO_LIMITS, finished, small_table};
use harness::wait::wait_for;
use tokio_util::sync::CancellationToken;

use super::WAITING;

/// How long anything may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);
const HOSTS: &str = "SELECT host FROM hosts ORDER BY host";
/// It is time to look at every host.
const LONG_AFTER: &str = "UPDATE hosts SET forget_at = now() - interval '1 minute'";

/// A crawl of `shop.test`, and beside it a host that nobody has visited for long.
async fn beside_an_old_host() -> Crawl {
    let crawl = Crawl::start(NO_LIMITS, &["http://shop.test/1"]).await;
    crawl.change("INSERT INTO hosts (host) VALUES ('old.test')").await;
    crawl.change(LONG_AFTER).await;
    crawl
}

/// Comes to `old.test` while that is being forgotten, in a transaction that has not ended: it waits for the end.
async fn while_it_is_forgotten<T>(crawl: &Crawl, act: impl Future<Output = T>) -> T {
    let mut forgetting = crawl.pool.begin().await.unwrap();
    sqlx::query("DELETE FROM hosts WHERE host = 'old.test'").execute(&mut *forgetting).await.unwrap();
    let end = async {
        let is_waited_for = async || crawl.number(WAITING).await == 1;
        wait_for("whoever comes to the host waits", WITHIN, is_waited_for).await;
        forgetting.commit().await.unwrap();
    };
    join(act, end).await.0
}

#[tokio::test]
async fn a_host_is_forgotten_that_nobody_visits_and_of_which_nothing_holds_or_was_heard_for_two_months() {
    let crawl = Crawl::start(NO_LIMITS, &["http://visited.test/1"]).await;
    crawl
        .change(
            "INSERT INTO hosts (host) VALUES ('asked.test'), ('away.test'), ('dispatched.test'), ('old.test'), ('paced.test'),
                ('rests.test'), ('started.test');
            UPDATE hosts SET forget_at = now() - interval '1 minute', backoff_until = now() - interval '61 days',
                unreachable_until = now() - interval '61 days', next_start_at = now() - interval '61 days',
                next_dispatch_at = now() - interval '61 days', delay_seen_at = now() - interval '61 days',
                asked_at = now() - interval '61 days', refused_since = now() - interval '61 days',
                recent_starts = ARRAY[now() - interval '61 days'], recent_delays_ms = ARRAY[500];
            UPDATE hosts SET asked_at = now() - interval '59 days' WHERE host = 'asked.test';
            UPDATE hosts SET unreachable_until = now() + interval '1 minute' WHERE host = 'away.test';
            UPDATE hosts SET next_dispatch_at = now() - interval '59 days' WHERE host = 'dispatched.test';
            UPDATE hosts SET next_start_at = now() + interval '1 day' WHERE host = 'paced.test';
            UPDATE hosts SET backoff_until = now() + interval '1 minute' WHERE host = 'rests.test';
            UPDATE hosts SET recent_starts = ARRAY[now() - interval '59 days'] || recent_starts,
                recent_delays_ms = ARRAY[500, 500] WHERE host = 'started.test';
            INSERT INTO hosts (host) VALUES ('new.test')",
        )
        .await;
    // In portions, and each is looked at once.
    for looked_at in [3, 3, 2, 0] {
        assert_eq!(crawl.store.forget_hosts(3).await.unwrap(), looked_at);
    }
    let all_but_the_old_one = [
        "asked.test",
        "away.test",
        "dispatched.test",
        "new.test",
        "paced.test",
        "rests.test",
        "started.test",
        "visited.test",
    ];
    assert_eq!(crawl.texts(HOSTS).await, all_but_the_old_one);
    // Nobody visits it any more.
    crawl.store.cancel_execution(crawl.execution, CancelMode::Graceful, None).await.unwrap();
    crawl.store.sweep_leftover_pages().await.unwrap();
    crawl.change(LONG_AFTER).await;
    assert_eq!(crawl.store.forget_hosts(100).await.unwrap(), 8);
    // Nor was anything ever written down of the one that is new.
    let in_use = ["asked.test", "away.test", "dispatched.test", "paced.test", "rests.test", "started.test"];
    assert_eq!(crawl.texts(HOSTS).await, in_use);
}

#[tokio::test]
async fn a_host_is_not_forgotten_while_somebody_comes_to_it_whose_lane_nobody_sees_yet() {
    let crawl = beside_an_old_host().await;
    let mut coming = crawl.pool.begin().await.unwrap();
    let opens_lane = "INSERT INTO lanes (execution_id, host) VALUES ($1, 'old.test')";
    sqlx::query(opens_lane).bind(crawl.execution.0).execute(&mut *coming).await.unwrap();
    assert_eq!(crawl.store.forget_hosts(10).await.unwrap(), 1, "the one that nobody holds");
    coming.commit().await.unwrap();
    assert_eq!(crawl.texts(HOSTS).await, ["old.test", "shop.test"]);
    assert_eq!(crawl.store.forget_hosts(10).await.unwrap(), 1);
    assert_eq!(crawl.texts(HOSTS).await, ["old.test", "shop.test"], "it has a lane");
}

#[tokio::test]
async fn a_link_to_a_host_that_is_just_being_forgotten_is_dispatched() {
    let crawl = beside_an_old_host().await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    let found = [finished(&page, &small_table(), &["http://old.test/1".to_owned()])];
    assert_eq!(while_it_is_forgotten(&crawl, worker.record(&found)).await.unwrap().len(), 1);
    assert_eq!(crawl.queue().await.len(), 1);
}

#[tokio::test]
async fn an_execution_of_a_host_that_is_just_being_forgotten_begins() {
    let crawl = beside_an_old_host().await;
    let begins = crawl.another(NO_LIMITS, &["http://old.test/1"]);
    let execution = while_it_is_forgotten(&crawl, begins).await;
    assert_eq!(crawl.store.reserve_pages(execution, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_retry_whose_host_was_forgotten_meanwhile_is_dispatched() {
    let crawl = Crawl::start(NO_LIMITS, &["http://old.test/1"]).await;
    crawl
        .change(
            "UPDATE url_queue SET status = 'failed', error_class = 'internal', processed_at = now() - interval '61 days';
            INSERT INTO page_counters (execution_id, worker_id, failed)
            SELECT id, '00000000-0000-0000-0000-000000000000', 1 FROM workflow_executions",
        )
        .await;
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    crawl.change(LONG_AFTER).await;
    assert_eq!(crawl.store.forget_hosts(10).await.unwrap(), 1);
    assert_eq!(crawl.texts(HOSTS).await, [""; 0]);
    crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1);
    assert_eq!(crawl.queue().await.len(), 1);
}

#[tokio::test]
async fn a_coordinator_forgets_hosts() {
    let crawl = beside_an_old_host().await;
    let lease = LeaseTimes::default();
    let config = crawlify_coordinator::Config { listen: None, lease, only: None, broker_forgets: true };
    let (broker, stop) = (Arc::new(InProcessBroker::new()), CancellationToken::new());
    let store = Store::connect(&crawl.database.url(), 8).unwrap();
    let coordinator = crawlify_coordinator::start(config, store, broker, telemetry::registry(), stop.clone())
        .await
        .unwrap();
    wait_for("the host is forgotten", WITHIN, async || crawl.texts(HOSTS).await == ["shop.test"]).await;
    stop.cancel();
    coordinator.stopped().await;
}

#[tokio::test]
async fn a_look_for_hosts_that_are_left_alone_reads_no_others() {
    const READ: &str = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'hosts_held_back_idx'";
    let crawl = Crawl::start(NO_LIMITS, &["http://shop.test/1"]).await;
    crawl
        .change(
            "INSERT INTO hosts (host) SELECT 'h' || number || '.test' FROM generate_series(1, 5000) AS number;
            UPDATE hosts SET backoff_until = now() + interval '1 hour' WHERE host = 'h1.test';
            UPDATE hosts SET unreachable_until = now() + interval '1 hour' WHERE host = 'h2.test';
            UPDATE hosts SET backoff_until = now() - interval '1 hour' WHERE host = 'h3.test'",
        )
        .await;
    // What was read is told some time later.
    wait_for("the index is read", WITHIN, async || {
        assert_eq!(crawl.store.held_back_hosts().await.unwrap(), 2);
        crawl.number(READ).await > 0
    })
    .await;
}
