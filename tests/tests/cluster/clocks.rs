//! Machines whose clocks are an hour fast or slow: only the database's counts. And a database whose clock leaps.

use harness::fleet::{Fleet, died, stop};
use harness::postgres::TestDatabase;

use rustix::process::Signal;
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

const ALL_IN_HAND: &str = "SELECT count(*) / 8 FROM url_queue WHERE status = 'processing'";

/// A fleet whose statements are shown that clock.
async fn with_a_clock() -> Fleet {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(database.url().expose()).await.unwrap();
    sqlx::raw_sql(CLOCK).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    Fleet::on(database, env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await
}

async fn leap(fleet: &Fleet, by: &str) {
    let leap = format!("UPDATE clock SET ahead = ahead + interval '{by}'");
    sqlx::query(AssertSqlSafe(leap)).execute(&fleet.pool).await.unwrap();
}

/// A worker comes that was not heard for long, and is given up: the rescuer has looked, and is lenient no longer.
async fn a_silent_one_comes_and_is_given_up(fleet: &Fleet) {
    let comes = "INSERT INTO workers (id, name, slots, heartbeat_at)
        VALUES (gen_random_uuid(), 'silent', 1, now() - interval '1 hour')";
    sqlx::query(comes).execute(&fleet.pool).await.unwrap();
    is_given_up(fleet).await;
}

async fn is_given_up(fleet: &Fleet) {
    let given_up = "SELECT (bool_and(status = 'lost'))::int::int8 FROM workers WHERE name = 'silent'";
    fleet.wait("a silent worker is given up", given_up).await;
}

async fn assert_nothing_was_taken(fleet: &Fleet) {
    assert_eq!(fleet.number("SELECT count(*) FROM lost_attempts").await, 0);
    let lost = "SELECT count(*) FROM workers WHERE status = 'lost' AND name <> 'silent'";
    assert_eq!(fleet.number(lost).await, 0);
    assert_eq!(fleet.number("SELECT count(*) FROM url_queue WHERE attempt > 1").await, 0);
}

#[tokio::test]
async fn a_clock_that_leaps_takes_no_pages_from_workers_that_are_alive() {
    let fleet = with_a_clock().await;
    // Longer than nobody is lost after a leap.
    let takes = ["--takes", "9000"];
    let (mut coordinator, worker) = (fleet.start("coordinator", None), fleet.start_with("worker", &takes));
    let execution = fleet.execute(&[1, 2, 3, 4, 5, 6, 7, 8], Some(16)).await;
    // The machine sleeps for longer than it is heard of workers, then for longer than a lease. A day is 86,400 seconds, or
    // fewer, as some might be a slow answer.
    for (completed, asleep, seconds) in [(0, "1 minute", "\"seconds\":"), (8, "1 day", "\"seconds\":86")] {
        fleet.completed(completed).await;
        fleet.wait("all slots have a page", ALL_IN_HAND).await;
        leap(&fleet, asleep).await;
        let said = coordinator.says(seconds, WITHIN).await;
        assert!(said.contains("the database's clock has leapt: leases of pages begin anew"), "{said}");
    }
    fleet.ended(execution).await;
    assert_nothing_was_taken(&fleet).await;
    fleet.close([worker, coordinator], execution, None).await;
}

#[tokio::test]
async fn a_coordinator_that_starts_after_a_leap_takes_no_pages_from_workers_that_are_alive() {
    let fleet = with_a_clock().await;
    // Longer than it takes to look past the time in which nobody is lost.
    let takes = ["--takes", "30000"];
    let (coordinator, worker) = (fleet.start("coordinator", None), fleet.start_with("worker", &takes));
    let execution = fleet.execute(&[1, 2, 3, 4, 5, 6, 7, 8], Some(8)).await;
    fleet.wait("all slots have a page", ALL_IN_HAND).await;
    coordinator.signal(Signal::KILL);
    died(coordinator).await;
    leap(&fleet, "1 day").await;
    assert_eq!(fleet.number(ALL_IN_HAND).await, 1, "the pages are in hand");
    let coordinator = fleet.start("coordinator", None);
    // What the look does that gives up the first one is done when a later one gives up the second.
    for _ in 0..2 {
        a_silent_one_comes_and_is_given_up(&fleet).await;
    }
    assert_nothing_was_taken(&fleet).await;
    fleet.ended(execution).await;
    assert_nothing_was_taken(&fleet).await;
    fleet.close([worker, coordinator], execution, None).await;
}

#[tokio::test]
async fn a_clock_that_leaps_back_is_told_of_and_a_worker_that_has_died_is_given_up_all_the_same() {
    let fleet = with_a_clock().await;
    // It leaps to a time after the server's start, which is not shown by that clock.
    leap(&fleet, "1 day").await;
    let mut coordinator = fleet.start("coordinator", None);
    a_silent_one_comes_and_is_given_up(&fleet).await;
    // Heard for the last time right before the leap.
    let heard = "UPDATE workers SET status = 'ready', heartbeat_at = now()";
    sqlx::query(heard).execute(&fleet.pool).await.unwrap();
    leap(&fleet, "-1 hour").await;
    let said = coordinator.says("the database's clock has leapt back", WITHIN).await;
    assert!(said.contains("\"seconds\":3") && said.contains("\"workers\":1"), "{said}");
    is_given_up(&fleet).await;
    stop([coordinator]).await;
}
