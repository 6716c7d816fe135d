//! A database that dies, and whose standby takes over without what was written last.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_shared::broker::InProcessBroker;
use crawlify_shared::config::{LeaseTimes, SecretUrl};
use crawlify_shared::domain::id::WorkerId;
use crawlify_shared::store::Store;
use crawlify_shared::store::hot::{HotStore, Standing};
use crawlify_shared::telemetry;
use harness::crawl::{Crawl, NO_LIMITS, VITALS, finished, small_table, small_workflow};
use harness::fault_proxy::FaultProxy;
use harness::fleet::Fleet;
use harness::postgres::TestDatabase;
use harness::standby::Standby;
use harness::wait::{wait_for, wait_for_value};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio_util::sync::CancellationToken;

use super::{PAGES, WITHIN};

const CHARGED: &str = "SELECT sum(worker_faults)::int8 FROM url_queue";
/// A worker that comes and is not heard, which a rescuer gives up unless it is lenient.
const SILENT_ONE: &str = "INSERT INTO workers (id, name, slots, heartbeat_at)
    VALUES (gen_random_uuid(), 'silent', 1, now() - interval '1 hour')";
const SILENT_ONE_IS_LOST: &str =
    "SELECT (bool_and(status = 'lost'))::int::int8 FROM workers WHERE name = 'silent'";
/// The others are heard all the time.
const HEARD: &str = "UPDATE workers SET heartbeat_at = now() + interval '1 hour' WHERE name <> 'silent'";
/// Its heartbeats did not come; a message that is lost since shows when the rescuer has looked.
const LAGS: &str = "UPDATE workers SET heartbeat_at = now() - interval '1 hour';
    UPDATE url_queue SET status = 'queued', queued_at = now() - interval '1 hour', requeues = 0
    WHERE status <> 'processing'";
const IN_HAND: &str = "SELECT count(*) FROM url_queue WHERE status = 'processing'";
const HAS_BEEN_LOOKED_AT: &str = "SELECT count(*) FROM url_queue WHERE requeues > 0";

#[tokio::test]
async fn a_standby_that_missed_the_whole_crawl_so_far_takes_over_and_the_crawl_ends_all_the_same() {
    let primary = PrivatePostgres::start(&Options::default()).await.unwrap();
    let (proxy, server) = FaultProxy::before_postgres(&primary.url()).await;
    let database = TestDatabase::on(&server).await;
    let fleet = Fleet::on(database, env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await;
    let calm = fleet.calm_crawl().await;
    let standby = Standby::of(&primary).await.unwrap();
    let coordinator = fleet.start("coordinator", None);
    let execution = fleet.execute(&[1], None).await;
    // It knows the execution, and nothing later.
    standby.catch_up(&primary).await.unwrap();
    standby.cut_off().await.unwrap();
    let of_the_standby = Store::connect(&standby.url(), 1).unwrap();
    let error = of_the_standby.ping().await.expect_err("who would keep to it could do nothing");
    assert!(error.is_transient(), "{error:?}");
    // These announce themselves, and write definitions and links, of which the next database knows nothing.
    let workers = [(); 2].map(|()| fleet.start_with("worker", &["--takes", "200"]));
    fleet.completed(60).await;

    let died_at = Utc::now();
    drop(primary);
    standby.take_over().await.unwrap();
    of_the_standby.ping().await.unwrap();
    of_the_standby.close().await;
    proxy.lead_to_postgres(&standby.url());
    wait_for("the standby answers", WITHIN, async || fleet.store.execution(execution).await.is_ok()).await;
    fleet.ended(execution).await;
    let all = fleet.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await;
    assert_eq!(all, 2 * PAGES as i64, "those of the calm crawl and these");
    let before: i64 =
        sqlx::query_scalar("SELECT count(*) FROM url_queue WHERE execution_id = $1 AND processed_at < $2")
            .bind(execution.0)
            .bind(died_at)
            .fetch_one(&fleet.pool)
            .await
            .unwrap();
    assert_eq!(before, 0, "what was completed before is not known any more, and was executed again");
    assert_eq!(fleet.number(CHARGED).await, 0, "nobody was given up");
    let [one, other] = workers;
    fleet.close([one, other, coordinator], execution, Some(calm)).await;
}

/// It has pages as in hand that have long been recorded: no message speaks of them any more, and no worker holds them.
#[tokio::test]
async fn a_standby_that_missed_the_end_of_pages_in_hand_is_told_and_they_are_executed_again_at_once() {
    let primary = PrivatePostgres::start(&Options::default()).await.unwrap();
    let (proxy, server) = FaultProxy::before_postgres(&primary.url()).await;
    let database = TestDatabase::on(&server).await;
    let fleet = Fleet::on(database, env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await;
    let calm = fleet.calm_crawl().await;
    let standby = Standby::of(&primary).await.unwrap();
    let coordinator = fleet.start("coordinator", None);
    // So slow that there are enough pages left when the standby has been cut off.
    let workers = [(); 2].map(|()| fleet.start_with("worker", &["--takes", "500"]));
    let execution = fleet.execute(&[1], None).await;
    fleet.completed(50).await;
    standby.catch_up(&primary).await.unwrap();
    standby.cut_off().await.unwrap();
    let options = PgConnectOptions::from_str(fleet.database_url().expose()).unwrap();
    let there = PgConnectOptions::from_str(standby.url().expose()).unwrap();
    let mut there = there.database(options.get_database().unwrap()).connect().await.unwrap();
    assert!(number(&mut there, IN_HAND).await > 0, "it has none in hand");
    // Those in hand are among these.
    fleet.completed(150).await;

    drop(primary);
    standby.take_over().await.unwrap();
    proxy.lead_to_postgres(&standby.url());
    wait_for("the standby answers", WITHIN, async || fleet.store.execution(execution).await.is_ok()).await;
    // Their leases are five minutes long.
    fleet.ended(execution).await;
    assert_eq!(fleet.number(CHARGED).await, 0, "nobody was given up, and nothing was held for too long");
    let [one, other] = workers;
    fleet.close([one, other, coordinator], execution, Some(calm)).await;
}

/// A connection to the crawl's database on another server.
async fn connect(server: &SecretUrl, crawl: &Crawl) -> PgConnection {
    let here = PgConnectOptions::from_str(crawl.database.url().expose()).unwrap();
    let there = PgConnectOptions::from_str(server.expose()).unwrap();
    there.database(here.get_database().unwrap()).connect().await.unwrap()
}

async fn change(connection: &mut PgConnection, statements: &'static str) {
    sqlx::raw_sql(statements).execute(connection).await.unwrap();
}

async fn number(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(connection).await.unwrap()
}

/// That it has not heard of anybody lately is all that tells of it: it was started long ago, and is reached at once.
#[tokio::test]
async fn a_standby_that_lags_takes_over_and_nobody_is_given_up_whom_it_has_not_heard() {
    let primary = PrivatePostgres::start(&Options::default()).await.unwrap();
    let database = TestDatabase::on(&primary.url()).await;
    let urls = ["http://shop.test/1", "http://shop.test/2"];
    let crawl = Crawl::on(database, &small_workflow(), NO_LIMITS, &urls).await;
    let (proxy, url) = FaultProxy::before_postgres(&crawl.database.url()).await;
    let worker = HotStore::connect(&url, WorkerId::generate()).unwrap();
    worker.announce("test", 4).await.unwrap();
    let (requests, hours) = (crawl.queue().await, Duration::from_secs(3 * 3_600));
    let page = worker.claim(&requests[..1], hours, false).await.unwrap().remove(0);
    let standby = Standby::of(&primary).await.unwrap();
    standby.catch_up(&primary).await.unwrap();
    standby.cut_off().await.unwrap();

    crawl.change(HEARD).await;
    let lease = LeaseTimes { worker_lost_after: Duration::from_secs(8), ..LeaseTimes::default() };
    let config = crawlify_coordinator::Config { listen: None, lease, only: None, broker_forgets: false };
    let (broker, stop) = (Arc::new(InProcessBroker::new()), CancellationToken::new());
    let store = Store::connect(&url, 8).unwrap();
    let coordinator = crawlify_coordinator::start(config, store, broker, telemetry::registry(), stop.clone())
        .await
        .unwrap();
    crawl.change(SILENT_ONE).await;
    let is_lost = async || crawl.number(SILENT_ONE_IS_LOST).await == 1;
    wait_for("the rescuer has been patient long enough", WITHIN, is_lost).await;

    standby.take_over().await.unwrap();
    let mut there = connect(&standby.url(), &crawl).await;
    change(&mut there, LAGS).await;
    proxy.lead_to_postgres(&standby.url());
    let has_looked = async || number(&mut there, HAS_BEEN_LOOKED_AT).await == 1;
    wait_for("the rescuer has looked there", WITHIN, has_looked).await;
    assert_eq!(number(&mut there, CHARGED).await, 0);
    let beat = async || worker.heartbeat(VITALS).await.ok();
    let beat = wait_for_value("the worker is heard there", WITHIN, beat).await;
    assert_eq!(beat.standing, Standing::Alive);

    change(&mut there, HEARD).await;
    change(&mut there, SILENT_ONE).await;
    let is_lost = async || number(&mut there, SILENT_ONE_IS_LOST).await == 1;
    wait_for("the rescuer is patient no longer", WITHIN, is_lost).await;
    let done = [finished(&page, &small_table(), &[])];
    let recorded = async || worker.record(&done).await.ok();
    let recorded = wait_for_value("the page is recorded", WITHIN, recorded).await;
    assert_eq!(recorded, [page.page_id], "it has been the worker's own all the time");
    assert_eq!(number(&mut there, CHARGED).await, 0);
    stop.cancel();
    coordinator.stopped().await;
}
