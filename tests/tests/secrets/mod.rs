//! The canary: a secret is planted wherever a workflow can hold one, pages are crawled with it and fail with it, and
//! then everything that was written anywhere is searched for it.
//!
//! That the search would find it is shown by a second word, which is no secret and must turn up in the same places.

mod places;
mod proxy;

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crawlify_coordinator::keys::{NewKey, Scope};
use harness::fault_proxy::FaultProxy;
use harness::invariants;
use harness::postgres::TestDatabase;
use harness::program::{Program, crawlify};
use harness::rabbitmq::TestVhost;
use harness::scratch::Scratch;
use harness::wait::wait_for;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::CRAWLIFY;
use places::Found;
use proxy::AskingProxy;

const READY: Duration = Duration::from_secs(90);
const LONG: Duration = Duration::from_secs(150);
const USER: &str = "crawler";

/// A site whose pages are good, broken, or lack what is looked for. It notes the headers that it is asked with.
struct Site {
    url: String,
    /// Written by requests, read by the test.
    asked: Arc<Mutex<Vec<HeaderMap>>>,
    _server: JoinSet<()>,
}

impl Site {
    async fn start(control: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, control) = (Arc::<Mutex<Vec<HeaderMap>>>::default(), control.to_owned());
        let noted = Arc::clone(&asked);
        let answer = move |request: Request| {
            noted.lock().unwrap().push(request.headers().clone());
            std::future::ready(page(request.uri().path(), &control))
        };
        let mut server = JoinSet::new();
        server
            .spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await.unwrap() });
        Self { url, asked, _server: server }
    }

    /// How many requests brought `text` in some header.
    fn saw(&self, text: &str) -> usize {
        let brought = |headers: &&HeaderMap| {
            headers.values().any(|value| String::from_utf8_lossy(value.as_bytes()).contains(text))
        };
        self.asked.lock().unwrap().iter().filter(brought).count()
    }
}

fn page(path: &str, control: &str) -> Response {
    let links = "<a href=/fails>1</a><a href=/without>2</a><a href=/gone>3</a>";
    match path {
        "/" => Html(format!("<!doctype html><title>shop</title><h1>{control}</h1>{links}")).into_response(),
        "/without" => Html("<!doctype html><title>no heading</title>").into_response(),
        "/fails" => (StatusCode::INTERNAL_SERVER_ERROR, "it broke").into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The secrets. All begin alike, so that one word finds every one of them.
struct Canary(String);

impl Canary {
    fn at(&self, place: &str) -> String {
        format!("{}-{place}", self.0)
    }

    fn password(&self) -> String {
        self.at("proxy")
    }

    /// The word itself, and the shapes in which it travels or is stored.
    fn shapes(&self) -> Vec<String> {
        let hexadecimal: String = self.0.bytes().map(|byte| format!("{byte:02x}")).collect();
        let wrong = self.at("wrong");
        let credentials = |password: &str| STANDARD.encode(format!("{USER}:{password}"));
        vec![self.0.clone(), hexadecimal, credentials(&self.password()), credentials(&wrong)]
    }

    fn workflow(
        &self,
        site: &Site,
        control: &str,
        proxy: &AskingProxy,
        password: &str,
        render: &str,
    ) -> Value {
        json!({
            "name": "Canary", "status": "active",
            "config": {
                "start_urls": [format!("{}/?{control}", site.url)],
                "max_depth": 2, "render": render,
                "headers": {
                    "Authorization": format!("Bearer {}", self.at("authorization")),
                    "Cookie": format!("session={}", self.at("cookie")),
                    "X-Api-Key": self.at("key"),
                },
                "cookies": [{"name": "session", "value": self.at("cookies")}],
                "authentication": {"type": "bearer", "token": self.at("token")},
                "proxy_config": {"server": proxy.url(), "username": USER, "password": password},
                "storage": {"type": "webhook", "webhook_url": format!("https://hook.test/{}", self.at("hook"))},
                "url_discovery": [{"id": "links", "type": "extract_links", "params": {"selector": "a"}}],
                "data_extraction": [
                    {"id": "title", "type": "extract", "params": {"selector": "h1"}, "output_key": "title"}
                ],
            }
        })
    }
}

/// The API of the coordinator under test, with an admin's key.
struct Admin {
    base: String,
    key: String,
    client: reqwest::Client,
}

impl Admin {
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let request =
            self.client.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(&self.key);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    /// Sends the key with something that is no request; the coordinator says so at trace level.
    async fn send_what_is_no_request(&self) {
        let mut stream = TcpStream::connect(self.base.trim_start_matches("http://")).await.unwrap();
        let request = format!("GET / HTTP/9.9\r\nAuthorization: Bearer {}\r\n\r\n", self.key);
        stream.write_all(request.as_bytes()).await.unwrap();
        // Whether it is answered is not what is asked here.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }

    /// Makes a workflow and starts it. Answers both ids.
    async fn execute(&self, document: &Value) -> (Uuid, Uuid) {
        let id = |body: &Value, key: &str| body[key].as_str().unwrap().parse().unwrap();
        let made = self.send(Method::POST, "/api/v1/workflows", Some(document)).await;
        let workflow: Uuid = id(&made, "id");
        let started = self.send(Method::POST, &format!("/api/v1/workflows/{workflow}/execute"), None).await;
        (workflow, id(&started, "execution_id"))
    }
}

#[tokio::test]
async fn a_secret_of_a_workflow_reaches_its_site_and_its_proxy_and_is_written_nowhere_else() {
    let (canary, control) =
        (Canary(format!("CANARY-{}", Uuid::new_v4())), format!("CONTROL-{}", Uuid::new_v4()));
    let (scratch, database, vhost) =
        (Scratch::create(), TestDatabase::create().await, TestVhost::create().await);
    let site = Site::start(&control).await;
    let proxy = AskingProxy::start(USER, &canary.password()).await;
    let key = NewKey::generate(Scope::Admin).unwrap();
    // It keeps all that goes to the broker and comes from it, from the start to the end.
    let (broker, amqp_url) = FaultProxy::before_rabbitmq(&vhost.url()).await;
    broker.record();
    let start = |arguments: &[&str]| {
        let mut command = crawlify(CRAWLIFY, &scratch);
        command.args(arguments).arg("-vvv");
        command.arg("--database-url").arg(database.url().expose());
        Program::start({
            command.arg("--amqp-url").arg(amqp_url.expose());
            command
        })
    };
    let mut coordinator = start(&["coordinator", "--port", "0", "--api-key-hash", &key.hash.to_string()]);
    let ready = coordinator.says("the coordinator is ready", READY).await;
    let admin = Admin {
        base: format!("http://{}", field(&ready, "address")),
        key: key.text,
        client: reqwest::Client::new(),
    };

    // With nobody there to take them, the messages can be looked at.
    let good = canary.password();
    let mut ids = Vec::new();
    for (password, render) in
        [(good.as_str(), "full"), (good.as_str(), "static"), (&canary.at("wrong"), "full")]
    {
        ids.push(admin.execute(&canary.workflow(&site, &control, &proxy, password, render)).await);
    }
    let mut found = Found::default();
    places::messages(&mut found, &vhost.url(), ids.len()).await;

    let mut worker = start(&["worker", "--slots", "1", "--admin-port", "0"]);
    let ready = worker.says("the worker is ready", READY).await;
    let metrics = format!("http://{}/metrics", field(&ready, "admin"));
    let pool = PgPool::connect(database.url().expose()).await.unwrap();
    // A proxy that refuses is waited for; the next time is to be the last.
    let last = "UPDATE url_queue SET proxy_faults = 14, not_before = now()
        WHERE id IN (SELECT id FROM url_queue WHERE proxy_faults BETWEEN 1 AND 13 AND status = 'pending' FOR UPDATE SKIP LOCKED)";
    for (_, execution) in &ids {
        wait_for("the execution ends", LONG, async || {
            places::command_lines(&mut found, &worker);
            sqlx::query(last).execute(&pool).await.unwrap();
            let execution = admin.send(Method::GET, &format!("/api/v1/executions/{execution}"), None).await;
            !["pending", "running"].contains(&execution["status"].as_str().unwrap())
        })
        .await;
    }
    // It was really used: by the site's requests, and by the proxy that asks.
    for place in ["authorization", "cookie", "key"] {
        assert!(site.saw(&canary.at(place)) >= 4, "the site was not asked with the {place}");
    }
    // Pages of one execution may share a connection.
    assert!(proxy.admitted() >= 2 && proxy.refused() >= 1, "{} {}", proxy.admitted(), proxy.refused());

    // Where a key does not belong.
    let misplaced = format!("{}/api/v1/workflows?api_key={}", admin.base, admin.key);
    assert_eq!(admin.client.get(misplaced).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    admin.send_what_is_no_request().await;

    assert_ends(&pool).await;
    // The tries of the proxy that were only counted break none: there are no more of them than a page may have.
    invariants::assert_ended_are_sound(&pool).await;
    places::tables(&mut found, &pool).await;
    places::answers(&mut found, &admin, &ids).await;
    found.add("metrics of the worker", reqwest::get(&metrics).await.unwrap().text().await.unwrap());
    places::dead_messages(&mut found, &vhost.url()).await;
    for (name, program) in [("coordinator", coordinator), ("worker", worker)] {
        program.signal(Signal::TERM);
        let ended = program.end(Duration::from_secs(30)).await.with_code(0);
        found.add(&format!("log of the {name}"), ended.stderr + &ended.stdout);
    }
    places::wire(&mut found, &broker);

    assert_was_looked_at(&found, &site, &control, &ids);
    // The definition as its author gave it is where a worker takes it from, and nowhere else.
    let definitions = ["definitions in workflow_versions".to_owned(), "definitions in workflows".to_owned()];
    for shape in canary.shapes() {
        let places = found.places_of(&shape);
        let expected: &[String] = if shape == canary.0 { &definitions } else { &[] };
        assert_eq!(places, expected, "{shape}");
    }
    assert_eq!(found.places_of(&admin.key), [""; 0], "the API's key");
}

/// What is no secret is found where secrets are looked for: otherwise nothing was there to be searched.
fn assert_was_looked_at(found: &Found, site: &Site, control: &str, ids: &[(Uuid, Uuid)]) {
    let assert_found = |word: &str, places: &[&str]| {
        let found_in = found.places_of(word);
        for place in places {
            assert!(found_in.iter().any(|other| other == place), "`{word}` is not in {place}: {found_in:?}");
        }
    };
    let data = ["table url_queue", "table extracted_items", "GET /api/v1/executions/{id}/data"];
    assert_found(control, &data);
    assert_found(control, &["messages", "dead messages", "wire"]);
    // Messages of pages that were discovered, and of later tries.
    for path in ["/fails", "/without", "/gone"] {
        assert_found(&format!("\"url\":\"{}{path}\"", site.url), &["wire"]);
    }
    assert_found("\"epoch\":1,", &["wire"]);
    for (_, execution) in ids {
        assert_found(&execution.to_string(), &["wire", "log of the coordinator", "log of the worker"]);
    }
    // The guard, of a browser that runs.
    assert_found("--proxy-server=", &["command lines"]);
    assert_found("crawlify_pages_total{outcome=\"completed\"", &["metrics of the worker"]);
    assert_found("crawlify_http_request_duration_seconds_count", &["GET /metrics"]);
    // The logs were as full as can be: of the two lines that each of these crates may trace, the test has brought one about, a request
    // that is none and a connection that breaks off.
    for (told, of) in
        [("log of the coordinator", " crawlify_coordinator::"), ("log of the worker", " crawlify_worker::")]
    {
        let is_traced = |line: &str| line.contains(" TRACE ") && line.contains(of);
        assert!(found.text(told).lines().any(is_traced), "{told} says nothing at trace level");
    }
}

/// The pages ended in all the ways that they should have: otherwise no failure was written down.
async fn assert_ends(pool: &PgPool) {
    let ends: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT concat_ws(' ', status, error_class) FROM url_queue ORDER BY 1")
            .fetch_all(pool)
            .await
            .unwrap();
    assert!(ends.iter().any(|end| end == "completed"), "{ends:?}");
    assert!(ends.iter().filter(|end| end.starts_with("failed ")).count() >= 3, "{ends:?}");
    let failed: i64 = sqlx::query_scalar("SELECT count(*) FROM node_executions WHERE status = 'failed'")
        .fetch_one(pool)
        .await
        .unwrap();
    assert!(failed >= 2);
}

/// The value of a field of a log line.
fn field(line: &str, name: &str) -> String {
    let (_, rest) = line.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("no {name} in {line}"));
    rest.split_whitespace().next().unwrap_or_default().to_owned()
}
