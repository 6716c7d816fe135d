//! Servers that come after those who need them, or that refuse them: real coordinators and workers, which wait however long,
//! say what they wait for, and begin by themselves; or end at once where waiting does not help.

use std::time::{Duration, Instant};

use crawlify_shared::config::SecretUrl;
use harness::fault_proxy::{FaultProxy, Mode};
use harness::postgres::TestDatabase;
use harness::program::{Program, crawlify};
use harness::rabbitmq::TestVhost;
use harness::scratch::Scratch;
use harness::wait::wait_for;
use rustix::process::Signal;

use super::WITHIN;
use crate::CRAWLIFY;

/// How long an end may take on a busy machine that is to come at once; a browser may have to be started before.
const SOON: Duration = Duration::from_secs(30);

const COORDINATOR: [&str; 3] = ["coordinator", "--port", "0"];
const WORKER: [&str; 5] = ["worker", "--slots", "1", "--admin-port", "0"];
/// What they say when their ports listen.
const LISTENS: [(&[&str], &str, &str); 2] =
    [(&COORDINATOR, "the REST API listens", "address="), (&WORKER, "waiting for its servers", "admin=")];

/// The two servers, and a network before each.
struct Servers {
    scratch: Scratch,
    postgres: FaultProxy,
    database_url: SecretUrl,
    rabbit: FaultProxy,
    broker_url: SecretUrl,
    _database: TestDatabase,
    _vhost: TestVhost,
}

impl Servers {
    /// Neither can be reached as long as its network is like this.
    async fn away(mode: Mode) -> Self {
        let (database, vhost) = (TestDatabase::create().await, TestVhost::create().await);
        let (postgres, database_url) = FaultProxy::before_postgres(&database.url()).await;
        let (rabbit, broker_url) = FaultProxy::before_rabbitmq(&vhost.url()).await;
        postgres.set(mode);
        rabbit.set(mode);
        let scratch = Scratch::create();
        Self { scratch, postgres, database_url, rabbit, broker_url, _database: database, _vhost: vhost }
    }

    fn start(&self, arguments: &[&str]) -> Program {
        self.start_with(arguments, &self.database_url, &self.broker_url)
    }

    fn start_with(&self, arguments: &[&str], database: &SecretUrl, broker: &SecretUrl) -> Program {
        let mut command = crawlify(CRAWLIFY, &self.scratch);
        command.args(arguments);
        command.args(["--database-url", database.expose(), "--amqp-url", broker.expose()]);
        Program::start(command)
    }
}

/// Where a program listens that says so with these words and this field.
async fn listens(program: &mut Program, words: &str, field: &str) -> String {
    let line = program.says(words, WITHIN).await;
    let (_, address) = line.split_once(field).unwrap();
    format!("http://{}", address.split_whitespace().next().unwrap())
}

/// Waits until a path is answered with this status, and something that contains this.
async fn answers(base: &str, path: &str, status: u16, text: &str) {
    wait_for(&format!("{path} answers {status}, {text:?}"), WITHIN, async || {
        let answer = reqwest::get(format!("{base}{path}")).await.expect("the port listens all the time");
        answer.status().as_u16() == status && answer.text().await.unwrap().contains(text)
    })
    .await;
}

/// How many lines of a log have this in them.
fn count(program: &Program, text: &str) -> usize {
    program.stderr().lines().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn a_coordinator_waits_for_servers_that_come_late_says_for_which_and_begins_by_itself() {
    let servers = Servers::away(Mode::Refuse).await;
    let begun = Instant::now();
    let mut coordinator = servers.start(&[&COORDINATOR[..], &["-vv"]].concat());
    let base = listens(&mut coordinator, "the REST API listens", "address=").await;
    answers(&base, "/livez", 200, "ok").await;
    for path in ["/readyz", "/api/v1/workflows"] {
        answers(&base, path, 503, "still waits for the database and the broker").await;
    }
    answers(&base, "/health", 503, "the database does not answer").await;
    // Told once, and not with each try.
    coordinator.says("the database is still not there", WITHIN).await;
    coordinator.says("still no connection to the broker", WITHIN).await;
    servers.postgres.set(Mode::Pass);
    answers(&base, "/readyz", 503, "still waits for the broker;").await;
    answers(&base, "/api/v1/workflows", 503, "still waits for the broker;").await;
    assert_eq!(count(&coordinator, "the coordinator is ready"), 0);
    servers.rabbit.set(Mode::Pass);
    coordinator.says("the coordinator is ready", WITHIN).await;
    answers(&base, "/readyz", 200, "ok").await;
    answers(&base, "/api/v1/workflows", 200, "workflows").await;
    // What goes on is told again after half a minute.
    if begun.elapsed() < Duration::from_secs(30) {
        assert_eq!(count(&coordinator, "the database is not there; waiting for it"), 1);
        assert_eq!(count(&coordinator, "no connection to the broker, will retry"), 1);
    }
    coordinator.signal(Signal::TERM);
    let _ = coordinator.end(WITHIN).await.with_code(0);
}

#[tokio::test]
async fn a_worker_waits_for_servers_that_come_late_says_for_which_and_begins_by_itself() {
    let servers = Servers::away(Mode::Refuse).await;
    let begun = Instant::now();
    let mut worker = servers.start(&[&WORKER[..], &["-vv"]].concat());
    let base = listens(&mut worker, "waiting for its servers", "admin=").await;
    answers(&base, "/livez", 200, "alive").await;
    answers(&base, "/readyz", 503, "not ready: no database, no broker\n").await;
    answers(&base, "/metrics", 200, "process_").await;
    worker.says("the heartbeat failed again", WITHIN).await;
    servers.postgres.set(Mode::Pass);
    answers(&base, "/readyz", 503, "not ready: no broker\n").await;
    assert_eq!(count(&worker, "the worker is ready"), 0);
    servers.rabbit.set(Mode::Pass);
    worker.says("the worker is ready", WITHIN).await;
    answers(&base, "/readyz", 200, "ready\n").await;
    // What goes on is told again after half a minute.
    if begun.elapsed() < Duration::from_secs(30) {
        assert_eq!(count(&worker, "the heartbeat failed error="), 1, "told once, and not with each try");
    }
    worker.signal(Signal::TERM);
    let _ = worker.end(WITHIN).await.with_code(0);
}

#[tokio::test]
async fn who_waits_for_its_servers_ends_soon_when_it_is_asked_to() {
    for mode in [Mode::Refuse, Mode::BlackHole] {
        let servers = Servers::away(mode).await;
        for (arguments, words, field) in LISTENS {
            let mut program = servers.start(arguments);
            let base = listens(&mut program, words, field).await;
            answers(&base, "/readyz", 503, "").await;
            let asked = Instant::now();
            program.signal(Signal::TERM);
            let _ = program.end(WITHIN).await.with_code(0);
            assert!(asked.elapsed() < SOON, "{arguments:?}, {mode:?}: {:?}", asked.elapsed());
        }
        assert_eq!(servers.scratch.leftovers(), [""; 0]);
    }
}

#[tokio::test]
async fn who_is_refused_by_one_server_does_not_wait_for_the_other_but_ends_and_says_why() {
    let servers = Servers::away(Mode::Refuse).await;
    let (_, place) = servers.database_url.expose().split_once('@').unwrap();
    let stranger = SecretUrl::new(format!("postgres://stranger@{place}"));
    let wrong = SecretUrl::new(servers.broker_url.expose().replace(":harness@", ":hunter2@"));
    for arguments in [&COORDINATOR[..], &WORKER[..]] {
        servers.postgres.set(Mode::Pass);
        let ended = servers.start_with(arguments, &stranger, &servers.broker_url).end(SOON).await;
        let _ = ended
            .with_code(78)
            .saying(&["cannot use the database at postgres://stranger@", "role \"stranger\" does not exist"]);
        servers.postgres.set(Mode::Refuse);
        servers.rabbit.set(Mode::Pass);
        let ended = servers.start_with(arguments, &servers.database_url, &wrong).end(SOON).await;
        let ended = ended.with_code(78).saying(&["cannot use the broker at amqp://", "the broker refuses"]);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
        servers.rabbit.set(Mode::Refuse);
    }
    assert_eq!(servers.scratch.leftovers(), [""; 0]);
}
