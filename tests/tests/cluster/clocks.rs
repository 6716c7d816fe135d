//! Machines whose clocks are an hour fast or slow: only the database's counts. And a database whose clock leaps.

use harness::fleet::Fleet;
use harness::postgres::TestDatabase;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{PAGES, WITHIN};

/// Makes the clock that a program is shown another one (package `faketime`).
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
];

#[tokio::test]
async fn workers_and_coordinators_whose_clocks_are_an_hour_apart_waste_nothing_and_agree_on_the_time() {
    let library = LIBRARIES.into_iter().find(|library| std::path::Path::new(library).exists());
    let library = library.expect("libfaketime is needed: apt-get install faketime");
    let fleet = Fleet::create(env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await;
    let calm = fleet.calm_crawl().await;
    let start = |kind, clock| {
        // What is waited for goes by the monotonic clock, which is nobody's to set.
        let variables = [("LD_PRELOAD", library), ("FAKETIME", clock), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        fleet.start_among(kind, &["--takes", "20"], &variables)
    };
    let mut fast = start("worker", "+3600");
    let processes = [start("coordinator", "-3600"), start("coordinator", "+3600")];
    let mut slow = start("worker", "-3600");
    slow.says("the worker is ready", WITHIN).await;
    let said = fast.says("the worker is ready", WITHIN).await;
    let execution = fleet.execute(&[1], None).await;
    fleet.ended(execution).await;

    let logged: chrono::DateTime<chrono::Utc> = said
        .split_once("\"timestamp\":\"")
        .and_then(|(_, rest)| rest.split('"').next()?.parse().ok())
        .unwrap();
    assert!(logged - chrono::Utc::now() > chrono::Duration::minutes(50), "its clock is fast: {said}");
    assert_eq!(fleet.number("SELECT count(*) FROM url_queue WHERE attempt <> 1").await, 0);
    assert_eq!(fleet.number("SELECT count(DISTINCT worker) FROM node_records WHERE worker > 1").await, 2);
    let apart = "SELECT count(*) FROM node_executions n JOIN workflow_executions e ON e.id = n.execution_id
        WHERE n.started_at < e.started_at - interval '1 second' OR n.completed_at > e.completed_at + interval '1 second'";
    assert_eq!(fleet.number(apart).await, 0, "nodes ran while their execution ran");
    let [one, another] = processes;
    fleet.close([fast, slow, one, another], execution, Some(calm)).await;
}

/// Shows statements a clock that can be set: functions of their own schema come before the system's.
const CLOCK: &str = "CREATE TABLE clock AS SELECT interval '0' AS ahead;
    CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT pg_catalog.now() + ahead FROM public.clock';
    CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM public.clock';
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$";

#[tokio::test]
async fn a_clock_that_leaps_takes_no_pages_from_workers_that_are_alive() {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(database.url().expose()).await.unwrap();
    sqlx::raw_sql(CLOCK).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let fleet = Fleet::on(database, env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await;
    // Longer than nobody is lost after a leap.
    let takes = ["--takes", "9000"];
    let (mut coordinator, worker) = (fleet.start("coordinator", None), fleet.start_with("worker", &takes));
    let execution = fleet.execute(&[1, 2, 3, 4, 5, 6, 7, 8], Some(16)).await;
    // The machine sleeps for longer than it is heard of workers, then for longer than a lease.
    for (completed, asleep) in [(0, "1 minute"), (8, "1 day")] {
        fleet.completed(completed).await;
        let all = "SELECT count(*) / 8 FROM url_queue WHERE status = 'processing'";
        fleet.wait("all slots have a page", all).await;
        let leap = format!("UPDATE clock SET ahead = ahead + interval '{asleep}'");
        sqlx::query(AssertSqlSafe(leap)).execute(&fleet.pool).await.unwrap();
        coordinator.says("the database's clock has leapt", WITHIN).await;
    }
    fleet.ended(execution).await;

    assert_eq!(fleet.number("SELECT count(*) FROM lost_attempts").await, 0);
    assert_eq!(fleet.number("SELECT count(*) FROM workers WHERE status = 'lost'").await, 0);
    assert_eq!(fleet.number("SELECT count(*) FROM url_queue WHERE attempt > 1").await, 0);
    fleet.close([worker, coordinator], execution, None).await;
}
