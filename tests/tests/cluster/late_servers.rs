//! Servers that come after those who need them, that go away later, or that refuse them: real coordinators and workers, which wait
//! however long, say what they wait for, and begin by themselves; or end at once where waiting does not help.

use std::time::{Duration, Instant};

use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_shared::config::SecretUrl;
use harness::fault_proxy::{FaultProxy, Mode};
use harness::postgres::{TestDatabase, ask_for_password};
use harness::program::{Program, crawlify};
use harness::rabbitmq::TestVhost;
use harness::scratch::Scratch;
use harness::wait::wait_for;
use rustix::process::Signal;
use serde_json::{Value, json};

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
    /// Both networks are like this.
    async fn behind(mode: Mode) -> Self {
        Self::with(TestDatabase::create().await, mode).await
    }

    async fn with(database: TestDatabase, mode: Mode) -> Self {
        let vhost = TestVhost::create().await;
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

/// Waits until a coordinator says in every place whether its broker is there; it serves all the time.
async fn tells_of_its_broker(base: &str, is_there: bool) {
    let (ready, broker, gauge) = match is_there {
        true => ("ok", "connected", "crawlify_broker_connected 1\n"),
        false => (
            "ok, but the broker is away: pages wait until it is back",
            "away",
            "crawlify_broker_connected 0\n",
        ),
    };
    wait_for(&format!("/readyz says {ready:?}"), WITHIN, async || {
        let answer = reqwest::get(format!("{base}/readyz")).await.unwrap();
        assert_eq!(answer.status(), 200, "it is not taken out of service");
        answer.text().await.unwrap() == ready
    })
    .await;
    answers(base, "/health", 200, &format!(r#""broker":"{broker}""#)).await;
    answers(base, "/health", 200, r#""status":"healthy""#).await;
    answers(base, "/metrics", 200, gauge).await;
}

/// Sends this to a coordinator and gives the answer, which must have this status.
async fn post(url: String, status: u16, body: Option<Value>) -> Value {
    let request = reqwest::Client::new().post(url);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), status);
    answer.json().await.unwrap()
}

/// How many lines of a log have this in them.
fn count(program: &Program, text: &str) -> usize {
    program.stderr().lines().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn a_coordinator_waits_for_servers_that_come_late_says_for_which_and_begins_by_itself() {
    let servers = Servers::behind(Mode::Refuse).await;
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
    answers(&base, "/health", 503, r#""error":"this coordinator still waits for the broker""#).await;
    assert_eq!(count(&coordinator, "the coordinator is ready"), 0);
    servers.rabbit.set(Mode::Pass);
    coordinator.says("the coordinator is ready", WITHIN).await;
    tells_of_its_broker(&base, true).await;
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
async fn a_coordinator_whose_broker_goes_away_says_so_serves_on_and_sends_the_pages_when_it_is_back() {
    let servers = Servers::behind(Mode::Pass).await;
    let mut coordinator = servers.start(&COORDINATOR);
    let base = listens(&mut coordinator, "the REST API listens", "address=").await;
    coordinator.says("the coordinator is ready", WITHIN).await;
    tells_of_its_broker(&base, true).await;
    servers.rabbit.set(Mode::Refuse);
    servers.rabbit.cut();
    tells_of_its_broker(&base, false).await;
    answers(&base, "/livez", 200, "ok").await;
    // Nobody needs the broker to begin a crawl and to look at it.
    let params = json!({"selector": "h1", "type": "text"});
    let title = json!({"id": "title", "type": "extract", "params": params, "output_key": "title"});
    let config = json!({"start_urls": ["http://shop.test/"], "data_extraction": [title]});
    let workflow = json!({"name": "Shop", "status": "active", "config": config});
    let made = post(format!("{base}/api/v1/workflows"), 201, Some(workflow)).await;
    let workflow = made["id"].as_str().unwrap();
    let started = post(format!("{base}/api/v1/workflows/{workflow}/execute"), 202, None).await;
    let execution = format!("/api/v1/executions/{}", started["execution_id"].as_str().unwrap());
    answers(&base, &execution, 200, r#""status":"running""#).await;
    coordinator.says("pages cannot be published", WITHIN).await;
    let none_sent = "crawlify_pages_dispatched_total 0\n";
    answers(&base, "/metrics", 200, none_sent).await;
    servers.rabbit.set(Mode::Pass);
    tells_of_its_broker(&base, true).await;
    wait_for("the page is sent", WITHIN, async || {
        let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
        !metrics.contains(none_sent)
    })
    .await;
    coordinator.signal(Signal::TERM);
    let _ = coordinator.end(WITHIN).await.with_code(0);
}

#[tokio::test]
async fn a_worker_waits_for_servers_that_come_late_says_for_which_and_begins_by_itself() {
    let servers = Servers::behind(Mode::Refuse).await;
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
        let servers = Servers::behind(mode).await;
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
    let servers = Servers::behind(Mode::Refuse).await;
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

#[tokio::test]
async fn a_wrong_password_of_the_database_ends_who_has_it_at_once_and_the_right_one_is_let_in() {
    let postgres = PrivatePostgres::start(&Options::default()).await.unwrap();
    ask_for_password(&postgres.url(), "guarded", "sesame").await.unwrap();
    let servers = Servers::with(TestDatabase::on(&postgres.url()).await, Mode::Pass).await;
    let (_, place) = servers.database_url.expose().split_once('@').unwrap();
    let with_password = |password| SecretUrl::new(format!("postgres://guarded:{password}@{place}"));
    let (right, wrong) = (with_password("sesame"), with_password("hunter2"));
    for (arguments, ready) in
        [(&COORDINATOR[..], "the coordinator is ready"), (&WORKER[..], "the worker is ready")]
    {
        let ended = servers.start_with(arguments, &wrong, &servers.broker_url).end(SOON).await;
        let ended = ended.with_code(78).saying(&[
            "cannot use the database at postgres://guarded:***@",
            "(--database-url, CRAWLIFY_DATABASE_URL)",
            "password authentication failed for user \"guarded\"",
        ]);
        assert!(!ended.stderr.contains(ready) && !ended.stderr.contains("hunter2"), "{}", ended.stderr);
        let mut program = servers.start_with(arguments, &right, &servers.broker_url);
        program.says(ready, WITHIN).await;
        program.signal(Signal::TERM);
        let ended = program.end(WITHIN).await.with_code(0);
        assert!(!ended.stderr.contains("sesame"), "{}", ended.stderr);
    }
    assert_eq!(servers.scratch.leftovers(), [""; 0]);
    postgres.stop().await;
}
