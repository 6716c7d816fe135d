//! Disks that are really full: nothing is lost, nobody is charged, and it goes on by itself when there is room.

use std::time::{Duration, Instant};

use crawlify_cli::demo_site::{Content, DemoSite, WORKFLOW};
use crawlify_cli::private_postgres::{Options, PrivatePostgres, StartError};
use crawlify_shared::child::{Account, is_root};
use crawlify_shared::domain::workflow::{Limits, parse_document};
use crawlify_shared::store::Store;
use harness::bench::shop_crawl::start_execution;
use harness::crawl::NO_LIMITS;
use harness::fleet::{Fleet, stop};
use harness::hostile::LuredSite;
use harness::invariants;
use harness::postgres::TestDatabase;
use harness::processes;
use harness::program::{Program, crawlify};
use harness::rabbitmq::TestVhost;
use harness::scratch::Scratch;
use harness::small_disk::SmallDisk;
use harness::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::{PAGES, WITHIN};
use crate::CRAWLIFY;
use crate::recorded::Recorded;

/// What a browser is given to do in the test of its disk.
const SHOP_PAGES: u64 = 80;

/// Longer than a worker whose heartbeats fail may keep its pages.
const FULL_FOR: Duration = Duration::from_secs(8);

const RUNNING: &str = "SELECT count(*) FROM workflow_executions WHERE status = 'running'";
const COMPLETED: &str = "SELECT count(*) FROM url_queue WHERE execution_id = $1 AND status = 'completed'";
const IN_HAND: &str = "SELECT count(*) FROM url_queue WHERE execution_id = $1 AND status = 'processing'";
const CHARGED: &str =
    "SELECT sum(charged + site_faults + proxy_faults + worker_faults) FROM url_queue WHERE execution_id = $1";

/// The tables of the crawl are on the disk that is full, with their indexes. The server's log is elsewhere.
#[tokio::test]
async fn a_crawl_whose_database_has_no_room_waits_and_goes_on_when_it_has() {
    let scratch = Scratch::create();
    std::fs::create_dir(scratch.path("disk")).unwrap();
    let disk = SmallDisk::mount(&scratch.path("disk"), 64);
    let account = is_root().then(|| Account::first_of(&["postgres", "nobody"])).flatten();
    let folder = disk.folder("tables", account.map(|account| (account.uid, account.gid)));
    let postgres = PrivatePostgres::start(&Options::default()).await.unwrap();
    let database = TestDatabase::in_folder(&postgres.url(), &folder).await;
    let fleet = Fleet::on(database, env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await;
    let calm = fleet.calm_crawl().await;

    let coordinator = fleet.start("coordinator", None);
    let worker = fleet.start_with("worker", &["--takes", "100"]);
    let execution = fleet.execute(&[1], None).await;
    fleet.completed(20).await;
    disk.fill();
    let is_refused = |process: &Program| process.stderr().contains("No space left on device");
    wait_for("somebody met the end of the disk", WITHIN, async || {
        is_refused(&worker) || is_refused(&coordinator)
    })
    .await;
    let full = Instant::now();
    wait_for("it was full for some time", WITHIN, async || {
        // What is freed within, by whomever, is gone at once.
        disk.fill();
        full.elapsed() > FULL_FOR
    })
    .await;
    assert_eq!(fleet.number(RUNNING).await, 1, "the crawl was over before the disk was full");
    disk.make_room();
    fleet.ended(execution).await;
    assert_no_page_was_charged(&fleet).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
    postgres.stop().await;
}

/// Everything of the server is on the disk that is full. What is written into tables fails; for want of a new file of its log
/// Postgres stops, and does not start again before there is room.
#[tokio::test]
async fn a_database_that_stops_for_want_of_room_for_its_log_is_waited_for_until_it_is_started_again() {
    let scratch = Scratch::create();
    std::fs::create_dir(scratch.path("disk")).unwrap();
    let disk = SmallDisk::mount(&scratch.path("disk"), 256);
    let options = Options { data_dir: Some(scratch.path("disk/postgres")), ..Options::default() };
    let postgres = PrivatePostgres::start(&options).await.unwrap();
    let children = processes::children(i32::try_from(std::process::id()).unwrap());
    let server = children.into_iter().find(|child| child.name == "postgres").unwrap();
    let database = TestDatabase::on(&postgres.url()).await;
    let fleet = Fleet::on(database, env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await;
    let calm = fleet.calm_crawl().await;

    let coordinator = fleet.start("coordinator", None);
    let worker = fleet.start_with("worker", &["--takes", "100"]);
    let execution = fleet.execute(&[1], None).await;
    fleet.completed(20).await;
    let url = fleet.database_url();
    wait_for("Postgres has stopped", WITHIN, async || {
        disk.fill();
        // Files that are there already are used up.
        if let Ok(mut connection) = PgConnection::connect(url.expose()).await {
            let _ = sqlx::query("SELECT pg_switch_wal()").execute(&mut connection).await;
        }
        !server.is_alive()
    })
    .await;
    drop(postgres);
    let error = PrivatePostgres::start(&options).await.expect_err("there is no room");
    assert!(matches!(error, StartError::Failed { .. }), "{error}");
    disk.make_room();
    let postgres = PrivatePostgres::start(&options).await.unwrap();
    assert_eq!(fleet.number(RUNNING).await, 1, "the crawl was over before Postgres stopped");
    fleet.ended(execution).await;
    assert_no_page_was_charged(&fleet).await;
    fleet.close([worker, coordinator], execution, Some(calm)).await;
    postgres.stop().await;
}

async fn assert_no_page_was_charged(fleet: &Fleet) {
    assert_eq!(fleet.number("SELECT count(*) FROM url_queue WHERE attempt <> 1").await, 0);
    let charged =
        "SELECT sum(charged + site_faults + proxy_faults + browser_faults + worker_faults) FROM url_queue";
    assert_eq!(fleet.number(charged).await, 0);
}

/// A real worker, whose folder for temporary files is a small disk. A browser that cannot write a byte works all the same; one for
/// whose profile not even a folder can be made is none.
#[tokio::test]
async fn a_worker_whose_browser_finds_no_room_takes_nothing_until_there_is_some() {
    let (scratch, database, vhost) =
        (Scratch::create(), TestDatabase::create().await, TestVhost::create().await);
    let disk = SmallDisk::mount(scratch.temporary(), 64);
    let site = DemoSite::start(0, Content::Shop).await.unwrap();
    let lured = LuredSite::before(&site.url()).await;
    let start = |arguments: &[&str]| {
        let mut command = crawlify(CRAWLIFY, &scratch);
        command.args(arguments).args(["--database-url", database.url().expose()]);
        command.args(["--amqp-url", vhost.url().expose()]);
        Program::start(command)
    };
    let coordinator = start(&["coordinator", "--port", "0"]);
    let mut worker = start(&["worker", "--slots", "1", "--admin-port", "0"]);
    let line = worker.says("the worker is ready", WITHIN).await;
    let admin = line.split_once("admin=").unwrap().1.split_whitespace().next().unwrap().to_owned();
    let readiness =
        async || reqwest::get(format!("http://{admin}/readyz")).await.unwrap().text().await.unwrap();
    execute(&database, &lured.url()).await;
    let recorded = Recorded::open(database.url()).await;
    let completed = async || recorded.number(COMPLETED).await;
    wait_for("some pages are completed", WITHIN, async || completed().await >= 10).await;

    disk.fill();
    assert!(kill_browser(&worker));
    wait_for("another one works without a byte", WITHIN, async || {
        disk.fill();
        completed().await >= 20
    })
    .await;

    disk.fill_names();
    assert!(kill_browser(&worker));
    let stays_full = async {
        wait_for("no other finds room", WITHIN, async || {
            worker.stderr().contains("no browser started") && readiness().await == "not ready: no browser\n"
        })
        .await;
        let before = completed().await;
        tokio::time::sleep(FULL_FOR).await;
        assert!(worker.stderr().contains("No space left on device"), "{}", worker.stderr());
        assert_eq!(readiness().await, "not ready: no browser\n", "{}", worker.stderr());
        assert_eq!((completed().await, recorded.number(IN_HAND).await), (before, 0));
    };
    tokio::select! {
        () = stays_full => {}
        () = disk.stay_full() => {}
    }

    disk.make_room();
    wait_for("the execution ended", WITHIN, async || recorded.statuses().await.0 != "running").await;
    assert_eq!(readiness().await, "ready\n");
    let (status, pages) = recorded.statuses().await;
    assert_eq!((status.as_str(), pages["completed"]), ("completed", SHOP_PAGES as i64));
    assert_eq!(recorded.number(CHARGED).await, 0, "only browsers were lost");
    recorded.assert_twenty_rows_a_page().await;
    recorded.assert_is_sound().await;
    stop([worker, coordinator]).await;
    invariants::assert_none(&invariants::broker::leftovers(&vhost.url()).await.unwrap());
    assert_eq!(scratch.leftovers(), ["ballast"]);
    lured.assert_in_vain();
    site.stop().await;
}

/// Starts an execution of the demo shop's workflow at this address.
async fn execute(database: &TestDatabase, start_url: &str) {
    let mut document: Value = serde_json::from_str(WORKFLOW).unwrap();
    document["config"]["start_urls"] = json!([start_url]);
    let definition = parse_document(&document).unwrap();
    let store = Store::connect(&database.url(), 2).unwrap();
    let limits = Limits { max_pages: Some(SHOP_PAGES), ..NO_LIMITS };
    start_execution(&store, &definition, limits).await.unwrap();
    store.close().await;
}

/// Kills the browser of a worker; answers whether it had one.
fn kill_browser(worker: &Program) -> bool {
    let mut children = processes::children(worker.pid()).into_iter();
    let browser = children.find(|child| ["chrom", "headless"].iter().any(|part| child.name.contains(part)));
    browser.is_some_and(|browser| kill_process(Pid::from_raw(browser.pid).unwrap(), Signal::KILL).is_ok())
}
