//! What the machine lacks, and what is taken or out of reach.

use std::net::TcpListener;
use std::time::Duration;

use harness::held_port::HeldPort;
use harness::postgres::TestDatabase;
use harness::processes::wait_until_gone;
use harness::program::{Program, crawlify};
use harness::rabbitmq::TestVhost;
use harness::scratch::Scratch;
use rustix::process::Signal;

use super::{AT_ONCE, SHORT, ended};
use crate::CRAWLIFY;
use crate::crawl::chain_workflow;
use crate::recorded::Recorded;

/// On a busy machine.
const A_MOMENT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn without_chrome_the_command_that_installs_it_is_told_within_a_moment() {
    let scratch = Scratch::create();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("demo").env("CRAWLIFY_CHROME", "/nonexistent");
    let ended = Program::start(command).end(AT_ONCE).await.with_code(78);
    let ended = ended.saying(&["/nonexistent", "apt-get install chromium-headless-shell"]);
    assert!(ended.took < A_MOMENT, "{:?}", ended.took);
    assert_eq!(scratch.leftovers(), [""; 0]);
}

#[tokio::test]
async fn without_postgres_three_ways_out_are_told() {
    let scratch = Scratch::create();
    let empty = scratch.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("demo").env("CRAWLIFY_PG_BIN", &empty);
    let ended = Program::start(command).end(AT_ONCE).await.with_code(78);
    let ended = ended.saying(&["apt-get install postgresql", "CRAWLIFY_PG_BIN", "--database-url"]);
    assert!(ended.took < A_MOMENT, "{:?}", ended.took);
    assert_eq!(scratch.leftovers(), [""; 0]);
}

#[tokio::test]
async fn without_both_both_are_told_at_once() {
    let scratch = Scratch::create();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("demo").env("CRAWLIFY_PG_BIN", "/nonexistent").env("CRAWLIFY_CHROME", "/nonexistent");
    let ended = Program::start(command).end(AT_ONCE).await.with_code(78);
    let _ = ended.saying(&["apt-get install postgresql", "apt-get install chromium-headless-shell"]);
}

#[tokio::test]
async fn a_start_url_where_nobody_listens_fails_the_execution() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let closed = HeldPort::take().unwrap();
    let start = format!("http://127.0.0.1:{}/", closed.number());
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("run").arg(chain_workflow(&scratch)).args(["--start-url", &start]);
    command.arg("--database-url").arg(database.url().expose());
    let ended = Program::start(command).end(SHORT).await.with_code(1);
    let _ = ended.saying(&["failed in", "1 failed", "ERR_CONNECTION_REFUSED", &start]);
    Recorded::open(database.url()).await.assert_is_sound().await;
}

#[tokio::test]
async fn the_demo_site_says_that_its_port_is_taken() {
    let scratch = Scratch::create();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ended = ended(&scratch, &["demo-site", "--port", &port.to_string()]).await.with_code(78);
    let _ = ended.saying(&[&format!("port {port} on 127.0.0.1 is already taken")]);
}

#[tokio::test]
async fn the_demo_site_prints_where_it_is_and_ends_with_a_signal() {
    let scratch = Scratch::create();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.args(["demo-site", "--port", "0"]);
    let site = Program::start(command);
    let url = harness::wait::wait_for_value("the address is printed", AT_ONCE, async || {
        site.stdout().lines().next().map(str::to_owned)
    })
    .await;
    let home = reqwest::get(&url).await.unwrap().text().await.unwrap();
    assert!(home.contains("<title>"), "{home}");
    site.signal(Signal::INT);
    let ended = site.end(AT_ONCE).await.with_code(0);
    assert_eq!(ended.stdout, format!("{url}\n"));
}

#[tokio::test]
async fn a_coordinator_says_that_its_port_is_taken() {
    let (scratch, database, vhost) =
        (Scratch::create(), TestDatabase::create().await, TestVhost::create().await);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.args(["coordinator", "--port", &address.port().to_string()]);
    command.arg("--database-url").arg(database.url().expose()).arg("--amqp-url").arg(vhost.url().expose());
    let ended = Program::start(command).end(AT_ONCE).await.with_code(78);
    let said = format!("cannot listen on {address}: Address already in use (os error 98)\n");
    let _ = ended.saying(&["choose another with --port", &said]);
}

#[tokio::test]
async fn up_takes_the_next_free_port_and_says_so() {
    let scratch = Scratch::create();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.args(["up", "--ephemeral", "--port", &port.to_string()]);
    let mut up = Program::start(command);
    let line = up.says(&format!("port {port} is taken; using "), SHORT).await;
    let other: u16 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(other > port);
    up.says("Ctrl-C to stop", AT_ONCE).await;
    let health = reqwest::get(format!("http://127.0.0.1:{other}/health")).await.unwrap();
    assert!(health.status().is_success(), "{health:?}");
    let children = up.children();
    up.signal(Signal::INT);
    let _ = up.end(Duration::from_secs(15)).await.with_code(0).saying(&["stopping: "]);
    wait_until_gone(&children, Duration::from_secs(5)).await;
    assert_eq!(scratch.leftovers(), [""; 0]);
}

#[tokio::test]
async fn migrate_brings_a_database_up_to_date_and_names_one_that_cannot_be_reached() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let url = database.url();
    let _ = ended(&scratch, &["migrate", "--database-url", url.expose()])
        .await
        .with_code(0)
        .saying(&["up to date"]);
    let closed = HeldPort::take().unwrap();
    let nobody = format!("postgres://me:hunter2@127.0.0.1:{}/crawlify", closed.number());
    let refused = ended(&scratch, &["migrate", "--database-url", &nobody]).await.with_code(69);
    let refused = refused.saying(&["cannot use the database at postgres://me:***@127.0.0.1", "refused"]);
    assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
}

#[tokio::test]
async fn the_doctor_has_a_line_for_everything() {
    let scratch = Scratch::create();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("doctor").env("CRAWLIFY_CHROME", "/nonexistent");
    let ended = Program::start(command).end(AT_ONCE).await.with_code(78);
    for line in ["FAIL  Chrome", "ok    Postgres", "port", "open files", "temporary files", "clock"] {
        assert!(ended.stdout.contains(line), "{line}: {}", ended.stdout);
    }
}
