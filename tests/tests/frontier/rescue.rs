//! Pages of lost workers and lost messages come back; nobody else's do. And the partitions of what was executed.

use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::broker::InProcessBroker;
use crawlify_shared::config::LeaseTimes;
use crawlify_shared::domain::fault::{Faults, POISON_AFTER};
use crawlify_shared::store::Store;
use crawlify_shared::store::hot::{Standing, Vitals};
use crawlify_shared::store::rescue::{Patience, Rescued};
use crawlify_shared::telemetry;
use futures_util::future::{join, join_all};
use harness::crawl::{Crawl, LEASE, NO_LIMITS, VITALS, finished, small_table};
use harness::wait::wait_for;
use tokio_util::sync::CancellationToken;

const PAGES: [&str; 2] = ["http://shop.test/", "http://shop.test/2"];
const LOST_AFTER: Duration = Duration::from_secs(15);
// The tests' server may have been started just now.
const PATIENCE: Patience =
    Patience { worker_lost_after: LOST_AFTER, after_start: Duration::ZERO, server: None };
const MESSAGE_LOST_AFTER: Duration = Duration::from_secs(30);
const ROWS: &str =
    "SELECT concat_ws(' ', status, attempt, epoch, locked_by, error_class) FROM url_queue ORDER BY 1";
const SILENCE: &str = "UPDATE workers SET heartbeat_at = now() - interval '16 seconds'";

async fn rescue(crawl: &Crawl) -> Rescued {
    crawl.store.rescue(Some(PATIENCE), MESSAGE_LOST_AFTER).await.unwrap()
}

#[tokio::test]
async fn the_pages_of_a_lost_worker_come_back_and_are_quarantined_after_the_third_with_the_evidence() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    for attempt in 1..=i32::from(POISON_AFTER) {
        let worker = crawl.worker().await;
        let page = crawl.claim(&worker).await.remove(0);
        assert_eq!(
            (page.attempt, i32::from(page.faults.worker), page.faults.charged),
            (attempt, attempt - 1, 0)
        );
        assert_eq!(rescue(&crawl).await, Rescued::default(), "it is healthy");
        if page.faults.is_suspect() {
            worker.begin_alone(&page).await.unwrap();
        }
        crawl.change(SILENCE).await;
        let last = attempt == i32::from(POISON_AFTER);
        let expected = Rescued {
            workers_lost: 1,
            pages_returned: u64::from(!last),
            pages_quarantined: u64::from(last),
            pages_requeued: 0,
        };
        assert_eq!(rescue(&crawl).await, expected);
        assert_eq!(rescue(&crawl).await, Rescued::default(), "once");
        let status = if last { "failed" } else { "pending" };
        let class = if last { "poison" } else { "worker_lost" };
        assert_eq!(crawl.texts(ROWS).await, [format!("{status} {attempt} {attempt} {class}")]);
        assert!(worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap().is_empty());
        assert_eq!(worker.heartbeat(VITALS).await.unwrap().standing, Standing::WasLost);
        assert_eq!(worker.heartbeat(VITALS).await.unwrap().standing, Standing::Alive);
        crawl.change("DELETE FROM workers").await;
    }
    assert_eq!(
        crawl.texts("SELECT error FROM url_queue").await,
        ["quarantined: 3 times its worker was lost, or held it longer than its lease"]
    );
    assert_eq!(
        crawl.texts("SELECT concat_ws(' ', attempt, fault, worker_id IS NOT NULL, error) FROM lost_attempts ORDER BY 1").await,
        [1, 2, 3].map(|attempt| format!(
            "{attempt} worker t the worker test was not heard of any more, with 0 other pages in its hands; it had this one for 0 s"
        ))
    );
    assert_eq!(crawl.store.finish_executions().await.unwrap(), [(crawl.execution, "failed".to_owned())]);
    assert_eq!(
        crawl.number("SELECT sum(retried)::int8 FROM page_counters").await,
        i64::from(POISON_AFTER) - 1
    );
    crawl.assert_counters_are_a_recount().await;

    // A retry begins anew.
    crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    crawl.store.put_pages_back(None).await.unwrap();
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    assert_eq!((page.attempt, page.faults), (i32::from(POISON_AFTER) + 1, Faults::default()));
    crawl.change(SILENCE).await;
    assert_eq!(rescue(&crawl).await.pages_returned, 1);
    assert_eq!(crawl.number("SELECT count(*) FROM lost_attempts").await, 4);
}

#[tokio::test]
async fn a_suspect_that_waits_to_be_alone_is_not_charged_for_the_loss_of_its_worker() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    crawl.change("UPDATE url_queue SET worker_faults = 2, attempt = 2").await;
    let faults = "SELECT worker_faults::int8 FROM url_queue";
    for lost in 0..3 {
        let worker = crawl.worker().await;
        let page = crawl.claim(&worker).await.remove(0);
        assert_eq!((page.attempt, page.faults.worker), (3, 2), "what did not begin was no attempt");
        if lost == 1 {
            // What its worker was alone with before is not this page.
            crawl.change("UPDATE workers SET alone_with = (SELECT id FROM url_queue), alone_epoch = 0").await;
        }
        crawl.change(SILENCE).await;
        assert_eq!(rescue(&crawl).await.pages_returned, 1);
        assert_eq!(crawl.number(faults).await, 2);
    }
    assert_eq!(crawl.number("SELECT count(*) FROM lost_attempts").await, 0);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn the_lease_of_a_suspect_begins_when_it_is_alone_and_that_of_no_other_page() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    crawl.change("UPDATE url_queue SET worker_faults = 2, attempt = 2 WHERE url = 'http://shop.test/'").await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    let suspect = pages.iter().find(|page| page.faults.is_suspect()).unwrap();
    let left =
        "SELECT round(EXTRACT(EPOCH FROM locked_until - now()))::int8::text FROM url_queue ORDER BY url";
    // It has waited for the slowest page, until right before the end of its lease.
    crawl
        .change(
            "UPDATE url_queue SET locked_at = locked_at - interval '55 seconds',
                locked_until = locked_until - interval '55 seconds'",
        )
        .await;
    worker.begin_alone(suspect).await.unwrap();
    let left = crawl.texts(left).await;
    let left: Vec<i64> = left.iter().map(|seconds| seconds.parse().unwrap()).collect();
    let whole = i64::try_from(LEASE.as_secs()).unwrap();
    assert!((whole - 3..=whole).contains(&left[0]), "{left:?}");
    assert!(left[1] <= 5, "{left:?}");
    // What another worker was given meanwhile is not the first one's to keep.
    crawl.change("UPDATE url_queue SET epoch = epoch + 1, locked_until = now() - interval '1 second'").await;
    worker.begin_alone(suspect).await.unwrap();
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE locked_until > now()").await, 0);
}

#[tokio::test]
async fn nobody_is_lost_while_a_database_that_has_just_started_may_not_have_heard_of_them() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    crawl.claim(&worker).await;
    crawl.change(SILENCE).await;
    crawl.change("UPDATE url_queue SET locked_until = now() - interval '1 second'").await;
    let day = Duration::from_secs(24 * 3600);
    let lenient = Patience { after_start: day, ..PATIENCE };
    let rescued = crawl.store.rescue(Some(lenient), MESSAGE_LOST_AFTER).await.unwrap();
    assert_eq!(rescued, Rescued::default());
    assert_eq!(rescue(&crawl).await.pages_returned, 2);
}

#[tokio::test]
async fn a_worker_that_died_before_the_clock_leapt_back_is_lost_as_soon_as_another_one() {
    const LATER: &str = "UPDATE workers SET heartbeat_at = heartbeat_at - interval '16 seconds'";
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    crawl.claim(&worker).await;
    crawl.change("UPDATE workers SET heartbeat_at = now() + interval '1 hour'").await;
    crawl.change(LATER).await;
    assert_eq!(rescue(&crawl).await, Rescued::default());
    assert_eq!(crawl.store.bring_heartbeats_back().await.unwrap(), 1);
    assert_eq!(rescue(&crawl).await, Rescued::default(), "it may be alive");
    crawl.change(LATER).await;
    assert_eq!(crawl.store.bring_heartbeats_back().await.unwrap(), 0);
    assert_eq!(rescue(&crawl).await, Rescued { workers_lost: 1, pages_returned: 2, ..Rescued::default() });
}

#[tokio::test]
async fn the_pages_of_healthy_and_draining_workers_are_left_alone() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let (healthy, lost) = (crawl.worker().await, crawl.worker().await);
    let requests = crawl.queue().await;
    let kept = healthy.claim(&requests[..1], LEASE, false).await.unwrap().remove(0);
    lost.claim(&requests[1..], LEASE, false).await.unwrap();
    crawl.change(SILENCE).await;
    healthy.heartbeat(Vitals { slots: 1, wants: 4, is_draining: true, ..Vitals::default() }).await.unwrap();
    assert_eq!((rescue(&crawl).await.pages_returned, rescue(&crawl).await.pages_returned), (1, 0));
    assert_eq!(healthy.record(&[finished(&kept, &small_table(), &[])]).await.unwrap(), [kept.page_id]);
}

#[tokio::test]
async fn a_page_held_longer_than_its_lease_comes_back_though_its_worker_lives() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    crawl.change("UPDATE url_queue SET locked_until = now() - interval '1 second'").await;
    assert_eq!(rescue(&crawl).await, Rescued { pages_returned: 1, ..Rescued::default() });
    assert!(worker.record(&[finished(&page, &small_table(), &[])]).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_pages_of_a_worker_that_said_goodbye_are_free_at_once() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    crawl.claim(&worker).await;
    worker.retire().await.unwrap();
    assert_eq!(rescue(&crawl).await, Rescued { pages_returned: 1, ..Rescued::default() });
    assert_eq!(crawl.number("SELECT worker_faults::int8 FROM url_queue").await, 0, "it was not lost");
    assert_eq!(crawl.store.wanted_pages(LOST_AFTER).await.unwrap(), 0);
}

#[tokio::test]
async fn a_page_whose_message_was_lost_is_published_again() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let (worker, requests) = (crawl.worker().await, crawl.queue().await);
    assert_eq!(rescue(&crawl).await, Rescued::default(), "they were published just now");
    crawl.change("UPDATE url_queue SET queued_at = now() - interval '31 seconds' WHERE url LIKE '%/2'").await;
    assert_eq!(rescue(&crawl).await, Rescued { pages_requeued: 1, ..Rescued::default() });
    let again = crawl.queue().await;
    assert_eq!(again.len(), 1);
    assert!(requests.contains(&again[0]), "whichever message comes first claims it");
    assert_eq!(worker.claim(&again, LEASE, false).await.unwrap()[0].attempt, 1);
    assert!(worker.claim(&again, LEASE, false).await.unwrap().is_empty());
    let all = crawl.store.rescue(Some(PATIENCE), Duration::ZERO).await.unwrap();
    assert_eq!(all.pages_requeued, 1, "what a broker that forgets had");
}

#[tokio::test]
async fn a_page_that_waits_long_in_a_slow_fleet_is_published_again_more_seldom_but_not_ever_more() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let mut published = 0;
    // An hour, in steps of half a minute: without a growing pause it would be 120 times.
    crawl.queue().await;
    for _ in 0..120 {
        crawl.change("UPDATE url_queue SET queued_at = queued_at - interval '30 seconds'").await;
        published += rescue(&crawl).await.pages_requeued;
        crawl.change("UPDATE url_queue SET status = 'queued', queued_at = COALESCE(queued_at, now())").await;
    }
    // After 30, 60 and 120 seconds, then every four minutes: a broker that loses it in the end is not waited for longer.
    assert!((15..=18).contains(&published), "{published}");
}

#[tokio::test]
async fn two_rescuers_at_once_return_each_page_once() {
    let urls: Vec<_> = (0..50).map(|number| format!("http://shop.test/{number}")).collect();
    let crawl = Crawl::start(NO_LIMITS, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = crawl.worker().await;
    crawl.claim(&worker).await;
    crawl.change(SILENCE).await;
    let steps = (0..6).map(|_| rescue(&crawl));
    let returned: u64 = join_all(steps).await.iter().map(|rescued| rescued.pages_returned).sum();
    assert_eq!(returned + rescue(&crawl).await.pages_returned, 50);
    assert_eq!(crawl.number("SELECT max(epoch)::int8 FROM url_queue").await, 1);
}

#[tokio::test]
async fn a_page_that_another_rescuer_returned_stays_with_the_healthy_worker_that_has_it_by_then() {
    // The first one that returns a page stops there, before it comes to the next one, for as long as 2 is held.
    const SLOW: &str = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF pg_try_advisory_xact_lock(1) THEN PERFORM pg_advisory_xact_lock(2); END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER slow BEFORE UPDATE ON url_queue FOR EACH ROW
            WHEN (OLD.status = 'processing' AND NEW.status = 'pending') EXECUTE FUNCTION wait();";
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'";
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let lost = crawl.worker().await;
    assert_eq!(crawl.claim(&lost).await.len(), 2);
    crawl.change(SILENCE).await;
    crawl.change(SLOW).await;
    let healthy = crawl.worker().await;
    let mut holding = crawl.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(2)").execute(&mut *holding).await.unwrap();
    let meanwhile = async {
        let is_between = async || crawl.number(WAITING).await == 1;
        wait_for("it has seen both pages, and one is locked", Duration::from_secs(10), is_between).await;
        let the_other_page = Rescued { pages_returned: 1, ..Rescued::default() };
        assert_eq!(rescue(&crawl).await, the_other_page, "it was not locked yet");
        let page = crawl.claim(&healthy).await.remove(0);
        holding.commit().await.unwrap();
        page
    };
    let (rescued, page) = join(rescue(&crawl), meanwhile).await;
    assert_eq!(rescued, Rescued { workers_lost: 1, pages_returned: 1, ..Rescued::default() });
    assert_eq!(healthy.record(&[finished(&page, &small_table(), &[])]).await.unwrap(), [page.page_id]);
    let charged = "SELECT concat_ws(' ', status, attempt, worker_faults) FROM url_queue ORDER BY status";
    assert_eq!(crawl.texts(charged).await, ["completed 2 1", "pending 1 1"]);
    let of_nobody = "SELECT count(*) FROM lost_attempts WHERE error LIKE '%that nobody knows%'";
    assert_eq!(crawl.number(of_nobody).await, 0);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn rows_lie_in_their_days_partition_and_in_the_default_one_otherwise() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let coordinators: Vec<_> = (0..6).map(|_| Store::connect(&crawl.database.url(), 1).unwrap()).collect();
    for made in join_all(coordinators.iter().map(|store| store.create_partitions(3))).await {
        made.unwrap();
    }
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    let mut group: Vec<_> = pages.iter().map(|page| finished(page, &small_table(), &[])).collect();
    for node in &mut group[1].outcome.nodes {
        node.started_at -= Duration::from_secs(90 * 86_400);
    }
    worker.record(&group).await.unwrap();
    let partitions = "SELECT DISTINCT CASE tableoid::regclass::text
            WHEN 'node_records_' || to_char(started_at AT TIME ZONE 'UTC', 'YYYYMMDD') THEN 'of the day'
            ELSE tableoid::regclass::text END
        FROM node_records ORDER BY 1";
    assert_eq!(crawl.texts(partitions).await, ["node_records_default", "of the day"]);
    let made = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'node_records'::regclass";
    assert_eq!(crawl.number(made).await, 1 + 4, "the default, today, three days to come");
}

#[tokio::test]
async fn a_long_read_keeps_partitions_from_being_made_but_nobody_from_recording() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    let mut export = crawl.pool.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM node_executions").execute(&mut *export).await.unwrap();
    let within = Duration::from_secs(8);
    let made =
        tokio::time::timeout(within, crawl.store.create_partitions(1)).await.expect("it gives up soon");
    assert!(made.unwrap_err().is_transient(), "it is tried again later");
    let done = [finished(&page, &small_table(), &[])];
    assert_eq!(tokio::time::timeout(within, worker.record(&done)).await.unwrap().unwrap().len(), 1);
    export.rollback().await.unwrap();
    crawl.store.create_partitions(1).await.unwrap();
}

#[tokio::test]
async fn a_long_read_keeps_no_coordinator_from_giving_up_one_lost_worker_after_the_other() {
    // Each takes a look of its own. There is one a second; a try to make partitions waits for two, and fails.
    const LOST: usize = 6;
    const WITHIN: Duration = Duration::from_secs(13);
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'node_records'::regclass";
    let before = crawl.number(partitions).await;
    let mut export = crawl.pool.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM node_executions").execute(&mut *export).await.unwrap();
    let lease = LeaseTimes { worker_lost_after: Duration::from_secs(8), ..LeaseTimes::default() };
    let config = crawlify_coordinator::Config { listen: None, lease, only: None, broker_forgets: true };
    let (broker, stop) = (Arc::new(InProcessBroker::new()), CancellationToken::new());
    let store = Store::connect(&crawl.database.url(), 8).unwrap();
    let coordinator = crawlify_coordinator::start(config, store, broker, telemetry::registry(), stop.clone())
        .await
        .unwrap();
    let alive = "SELECT count(*) FROM workers WHERE status <> 'lost'";
    let lose_one = async || {
        crawl.worker().await;
        crawl.change(SILENCE).await;
        wait_for("the worker is given up", Duration::from_secs(60), async || crawl.number(alive).await == 0)
            .await;
    };
    // A coordinator that has just begun is patient.
    lose_one().await;
    let all = async {
        for _ in 0..LOST {
            lose_one().await;
        }
    };
    tokio::time::timeout(WITHIN, all).await.expect("nothing else holds up the looks for lost workers");
    assert_eq!(crawl.number(partitions).await, before, "the read kept them from being made all the time");
    export.rollback().await.unwrap();
    wait_for("the partitions are made", Duration::from_secs(60), async || {
        crawl.number(partitions).await == 1 + 4
    })
    .await;
    stop.cancel();
    coordinator.stopped().await;
}

#[tokio::test]
async fn one_that_was_given_up_claims_nothing_before_it_is_heard_again() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let requests = crawl.queue().await;
    crawl.change("UPDATE workers SET status = 'lost'").await;
    assert!(worker.claim(&requests, LEASE, false).await.unwrap().is_empty());
    assert_eq!(rescue(&crawl).await, Rescued::default(), "no page is charged for what nobody executed");
    worker.heartbeat(VITALS).await.unwrap();
    assert_eq!(worker.claim(&requests, LEASE, false).await.unwrap().len(), 2);
}
