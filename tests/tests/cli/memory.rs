//! A coordinator that is sent documents which stand for much more than they are: its memory does not follow.

use harness::postgres::TestDatabase;
use harness::program::{Program, crawlify};
use harness::rabbitmq::TestVhost;
use harness::scratch::Scratch;
use reqwest::StatusCode;
use serde_json::json;

use super::SHORT;
use crate::CRAWLIFY;

const MIB: u64 = 1 << 20;
/// Each document is sent so often.
const TIMES: usize = 10;
/// One request takes its body, at most 10 MiB, and the values that were read before they were too many; what is freed
/// stays with the threads that serve requests. The five million values alone would take 360 MiB.
const MORE_MIB: u64 = 160;

/// The most memory that a process ever had, in MiB.
fn peak_mib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024 / MIB
}

#[tokio::test]
async fn documents_that_stand_for_much_more_than_they_are_leave_memory_as_it_is() {
    let (scratch, database, vhost) =
        (Scratch::create(), TestDatabase::create().await, TestVhost::create().await);
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.args(["coordinator", "--port", "0"]);
    command.arg("--database-url").arg(database.url().expose()).arg("--amqp-url").arg(vhost.url().expose());
    let mut coordinator = Program::start(command);
    let ready = coordinator.says("the coordinator is ready", SHORT).await;
    let address = ready.rsplit("address=").next().unwrap().trim().to_owned();
    let url = format!("http://{address}/api/v1/workflows/validate");
    let client = reqwest::Client::new();
    let zeros = vec!["0"; 1000].join(",");
    let yaml = format!("a: &a [{zeros}]\nb: [{}]\n", vec!["*a"; 100_000].join(","));
    let documents = [
        ("a million levels", "[".repeat(1_000_000), StatusCode::BAD_REQUEST),
        ("a million objects", "{\"a\":".repeat(1_000_000), StatusCode::BAD_REQUEST),
        ("five million values", format!("[{}0]", "0,".repeat(5_000_000)), StatusCode::BAD_REQUEST),
        ("three million objects", format!("[{}0]", "{},".repeat(3_000_000)), StatusCode::BAD_REQUEST),
        ("more than may come", "x".repeat(11 << 20), StatusCode::PAYLOAD_TOO_LARGE),
        // A text within the document, whose aliases stand for a hundred million values.
        ("aliases", json!({"name": "x", "config": yaml}).to_string(), StatusCode::OK),
    ];
    let before = peak_mib(coordinator.pid());
    for _ in 0..TIMES {
        for (what, document, expected) in &documents {
            let sent = client.post(&url).header("content-type", "application/json").body(document.clone());
            // A server may hang up on a body that it does not want.
            let Ok(response) = sent.send().await else { continue };
            assert_eq!(response.status(), *expected, "{what}");
        }
    }
    let peak = peak_mib(coordinator.pid());
    eprintln!("peak memory: {before} MiB before, {peak} MiB after {TIMES} rounds");
    assert!(peak <= before + MORE_MIB, "{before} MiB before, {peak} MiB after {TIMES} rounds");
}
