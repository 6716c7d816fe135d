//! Machines whose clocks are an hour fast or slow: only the database's counts.

use harness::fleet::Fleet;

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
