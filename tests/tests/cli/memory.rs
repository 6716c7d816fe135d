//! A coordinator that is sent documents which stand for much more than they are, and more of them at once than it may
//! hold, large ones and small ones: its memory does not follow.

use std::sync::Arc;

use crawlify_coordinator::api::MAX_WORKFLOW_BYTES;
use futures_util::future::join_all;
use harness::postgres::TestDatabase;
use harness::program::{Program, crawlify};
use harness::rabbitmq::TestVhost;
use harness::scratch::Scratch;
use reqwest::{Client, StatusCode};
use serde_json::json;
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::SHORT;
use crate::CRAWLIFY;

const MIB: u64 = 1 << 20;
/// Each document is sent so often.
const TIMES: usize = 10;
/// One request takes its body, at most 10 MiB, and the values that were read before they were too many; what is freed
/// stays with the threads that serve requests. The five million values alone would take 360 MiB. For many bodies at
/// once: the 64 MiB that are held together, and what their growth leaves behind.
const MORE_MIB: u64 = 160;
/// Two of the documents have too many values, and may be read at the same time.
const MORE_TOGETHER_MIB: u64 = 2 * MORE_MIB;
/// So many bodies of nearly 10 MiB are 320 MiB.
const STOPPED: usize = 32;
/// At most so many of them are held; the others are refused.
const HELD: usize = 6;
/// So many bodies of less than 64 KiB are sent at once, of values that would take some 600 MiB together.
const DENSE: usize = 300;
/// Each object of them is eight bytes long, and takes some hundred.
const DENSE_OBJECTS: usize = 8_000;
/// More than the coordinator has connections to the database: so many may go on waiting for it.
const WAITING: usize = 20;
/// Beside those bodies and what is read from them: what each connection has read, and what their growth leaves behind.
const MORE_DENSE_MIB: u64 = 2 * MORE_MIB;
/// The largest bodies are those of this path.
const PATH: &str = "/api/v1/workflows/validate";

/// The most memory that a process ever had, in MiB.
fn peak_mib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024 / MIB
}

/// Starts a coordinator, and gives its address too.
async fn start(scratch: &Scratch, database: &TestDatabase, vhost: &TestVhost) -> (Program, String) {
    let mut command = crawlify(CRAWLIFY, scratch);
    command.args(["coordinator", "--port", "0"]);
    command.arg("--database-url").arg(database.url().expose()).arg("--amqp-url").arg(vhost.url().expose());
    let mut coordinator = Program::start(command);
    let ready = coordinator.says("the coordinator is ready", SHORT).await;
    let address = ready.rsplit("address=").next().unwrap().trim().to_owned();
    (coordinator, address)
}

/// One that takes a new connection for each request: a server may have hung up on the last one.
fn client() -> Client {
    Client::builder().pool_max_idle_per_host(0).build().unwrap()
}

/// A document that is sent, by name, and how it is answered.
type Sent = (&'static str, String, StatusCode);

/// Sends a document. Whether it was answered: a server may hang up on a body that is larger than it may be, and on no
/// other.
async fn is_answered(client: &Client, url: &str, (what, document, expected): &Sent) -> bool {
    let sent = client.post(url).header("content-type", "application/json").body(document.clone());
    match sent.send().await {
        Ok(response) => assert_eq!(response.status(), *expected, "{what}"),
        Err(error) => {
            assert_eq!(*expected, StatusCode::PAYLOAD_TOO_LARGE, "{what}: {error}");
            return false;
        }
    }
    true
}

#[tokio::test]
async fn documents_that_stand_for_much_more_than_they_are_leave_memory_as_it_is() {
    let (scratch, database, vhost) =
        (Scratch::create(), TestDatabase::create().await, TestVhost::create().await);
    let (coordinator, address) = start(&scratch, &database, &vhost).await;
    let (client, url) = (client(), format!("http://{address}{PATH}"));
    let zeros = vec!["0"; 1000].join(",");
    let yaml = format!("a: &a [{zeros}]\nb: [{}]\n", vec!["*a"; 100_000].join(","));
    let long_key = format!("{{\"{}\":[{}0]}}", "k".repeat(4 << 20), "0,".repeat(10_000));
    let documents: [Sent; 7] = [
        ("a million levels", "[".repeat(1_000_000), StatusCode::BAD_REQUEST),
        ("a million objects", "{\"a\":".repeat(1_000_000), StatusCode::BAD_REQUEST),
        ("five million values", format!("[{}0]", "0,".repeat(5_000_000)), StatusCode::BAD_REQUEST),
        ("three million objects", format!("[{}0]", "{},".repeat(3_000_000)), StatusCode::BAD_REQUEST),
        ("more than may come", "x".repeat(11 << 20), StatusCode::PAYLOAD_TOO_LARGE),
        // Where each of them is, is as long as the key.
        ("a long key above many values", long_key, StatusCode::OK),
        // A text within the document, whose aliases stand for a hundred million values.
        ("aliases", json!({"name": "x", "config": yaml}).to_string(), StatusCode::OK),
    ];
    let before = peak_mib(coordinator.pid());
    let mut answered = 0;
    for _ in 0..TIMES {
        for document in &documents {
            answered += usize::from(is_answered(&client, &url, document).await);
        }
    }
    let peak = peak_mib(coordinator.pid());
    eprintln!("peak memory: {before} MiB before, {peak} MiB after {TIMES} rounds");
    assert!(peak <= before + MORE_MIB, "{before} MiB before, {peak} MiB after {TIMES} rounds");

    let all_at_once = documents.iter().map(|document| is_answered(&client, &url, document));
    answered += join_all(all_at_once).await.into_iter().filter(|is_answered| *is_answered).count();
    let peak = peak_mib(coordinator.pid());
    eprintln!("peak memory: {peak} MiB after all at once");
    assert!(peak <= before + MORE_TOGETHER_MIB, "{before} MiB before, {peak} MiB after all at once");
    // All but the one that is too large, each time.
    assert!(answered >= (TIMES + 1) * (documents.len() - 1), "{answered} were answered");
}

/// Sends a body of the greatest length but for its last byte, and gives what is answered as long as that does not come.
async fn stop_before_the_end(address: String, body: Arc<Vec<u8>>) -> String {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let (mut from, mut to) = stream.split();
    let length = body.len() + 1;
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n");
    let send = async {
        to.write_all(head.as_bytes()).await?;
        to.write_all(&body).await
    };
    let mut answer = Vec::new();
    // Who is refused is hung up on, in the middle of the body.
    let _ = tokio::join!(send, from.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn large_bodies_that_stop_before_their_end_take_a_bounded_memory_and_small_ones_are_answered() {
    let (scratch, database, vhost) =
        (Scratch::create(), TestDatabase::create().await, TestVhost::create().await);
    let (coordinator, address) = start(&scratch, &database, &vhost).await;
    let before = peak_mib(coordinator.pid());
    let body = Arc::new(vec![b' '; MAX_WORKFLOW_BYTES - 1]);
    let mut sent = JoinSet::new();
    for _ in 0..STOPPED {
        sent.spawn(stop_before_the_end(address.clone(), Arc::clone(&body)));
    }
    let mut refused = 0;
    for _ in HELD..STOPPED {
        let answer = tokio::time::timeout(SHORT, sent.join_next()).await.expect("it is refused");
        let answer = answer.unwrap().unwrap();
        refused += usize::from(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too_many_bodies"));
    }
    // Some may have been hung up on before they read their answer.
    assert!(refused >= (STOPPED - HELD) / 2, "{refused} of {STOPPED} were refused");
    let small = ("a small one", "{}".to_owned(), StatusCode::OK);
    assert!(is_answered(&client(), &format!("http://{address}{PATH}"), &small).await);
    let peak = peak_mib(coordinator.pid());
    eprintln!("peak memory: {before} MiB before, {peak} MiB with {STOPPED} bodies at once");
    assert!(peak <= before + MORE_MIB, "{before} MiB before, {peak} MiB with {STOPPED} bodies at once");
}

#[tokio::test]
async fn many_small_bodies_of_very_many_values_wait_for_each_other_and_take_a_bounded_memory() {
    let (scratch, database, vhost) =
        (Scratch::create(), TestDatabase::create().await, TestVhost::create().await);
    let (coordinator, address) = start(&scratch, &database, &vhost).await;
    // Who has read a body waits here, with all its values.
    let pool = PgPool::connect(database.url().expose()).await.unwrap();
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE workflows IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();

    let before = peak_mib(coordinator.pid());
    let url = format!("http://{address}/api/v1/workflows/01890a5d-ac96-774b-bcce-b302099a8057/status");
    let body = format!("{{\"status\":\"active\",\"more\":[{}1]}}", "{\"a\":1},".repeat(DENSE_OBJECTS));
    let (client, mut sent) = (client(), JoinSet::new());
    for _ in 0..DENSE {
        let request = client.patch(&url).header("content-type", "application/json").body(body.clone());
        sent.spawn(async move {
            let answer = request.send().await.unwrap();
            (answer.status(), answer.text().await.unwrap())
        });
    }
    let mut refused = 0;
    for _ in WAITING..DENSE {
        let answer = tokio::time::timeout(SHORT, sent.join_next()).await.expect("it is answered");
        let (status, text) = answer.unwrap().unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
        refused += usize::from(text.contains("too_many_bodies"));
    }
    let peak = peak_mib(coordinator.pid());
    eprintln!("peak memory: {before} MiB before, {peak} MiB with {DENSE} bodies at once, {refused} refused");
    assert!(peak <= before + MORE_DENSE_MIB, "{before} MiB before, {peak} MiB with {DENSE} bodies at once");
    // The others had room, some of them that of others who had given up, and the database did not answer them.
    assert!(refused >= DENSE / 2, "{refused} of {DENSE} were refused");

    lock.rollback().await.unwrap();
    sent.shutdown().await;
    let many = ("one of many values", body, StatusCode::OK);
    assert!(is_answered(&client, &format!("http://{address}{PATH}"), &many).await, "there is room again");
}
