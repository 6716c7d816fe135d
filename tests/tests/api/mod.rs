//! The REST API against a real database: one server on a port of its own, and one database, for each test.

mod control;
mod errors;
mod executions;
mod figures;
mod hosts;
mod keys;
mod limits;
mod quarantine;
mod schedules;
mod secrets;
mod skipped;
mod workflows;

use std::sync::Arc;
use std::time::Duration;

use crawlify_coordinator::api::{ApiState, Bodies, HEAD_WITHIN, router, serve};
use crawlify_coordinator::broker_link::BrokerLink;
use crawlify_coordinator::keys::ApiKeys;
use crawlify_coordinator::missing::Missing;
use crawlify_shared::config::SecretUrl;
use crawlify_shared::store::Store;
use crawlify_shared::telemetry;
use harness::postgres::TestDatabase;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// An API that serves until it is dropped.
struct Api {
    base: String,
    client: reqwest::Client,
    frontier_changed: Arc<Notify>,
    store: Store,
    /// For what the API has no way to do: rows as workers write them.
    pool: PgPool,
    _server: JoinSet<()>,
    _database: TestDatabase,
}

impl Api {
    /// One that is open, as on a loopback address without keys.
    async fn start() -> Self {
        Self::with_keys(ApiKeys::default()).await
    }

    async fn with_keys(keys: ApiKeys) -> Self {
        let database = TestDatabase::create().await;
        let url = database.url();
        Self::behind(database, &url, keys).await
    }

    /// One that reaches its database at this address.
    async fn behind(database: TestDatabase, url: &SecretUrl, keys: ApiKeys) -> Self {
        let store = Store::connect(url, 4).unwrap();
        let frontier_changed = Arc::new(Notify::new());
        let router = router(ApiState {
            store: store.clone(),
            frontier_changed: frontier_changed.clone(),
            version: "0.0.0-test",
            metrics: telemetry::registry(),
            keys,
            missing: Missing::nothing(),
            broker_link: BrokerLink::asked_by(|| std::future::ready(true)),
            bodies: Bodies::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(serve(listener, router, HEAD_WITHIN, CancellationToken::new()));
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
        let pool = PgPool::connect(database.url().expose()).await.unwrap();
        Self { base, client, frontier_changed, store, pool, _server: server, _database: database }
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.unwrap()
    }

    /// Sends a request that must end with this status, and gives the body.
    async fn expect(&self, status: StatusCode, method: Method, path: &str, body: Option<&Value>) -> Value {
        let response = self.send(method.clone(), path, body).await;
        let got = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(got, status, "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    async fn get(&self, path: &str) -> Value {
        self.expect(StatusCode::OK, Method::GET, path, None).await
    }

    /// Makes a workflow and gives its path.
    async fn workflow(&self, status: &str) -> String {
        let mut document = shop();
        document["status"] = json!(status);
        let made = self.expect(StatusCode::CREATED, Method::POST, "/api/v1/workflows", Some(&document)).await;
        format!("/api/v1/workflows/{}", made["id"].as_str().unwrap())
    }

    /// Starts an execution of a workflow and gives its path and id.
    async fn execution(&self, workflow: &str) -> (String, Uuid) {
        let started =
            self.expect(StatusCode::ACCEPTED, Method::POST, &format!("{workflow}/execute"), None).await;
        let id: Uuid = started["execution_id"].as_str().unwrap().parse().unwrap();
        (format!("/api/v1/executions/{id}"), id)
    }

    async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    /// Runs a statement with an execution's id as its parameter.
    async fn change(&self, statement: &'static str, execution: Uuid) {
        sqlx::query(statement).bind(execution).execute(&self.pool).await.unwrap();
    }
}

/// A small workflow in the old format; two of its three start URLs are the same page.
fn shop() -> Value {
    json!({
        "name": "Shop",
        "description": "A small shop",
        "config": {
            "start_urls": ["http://shop.test/", "http://shop.test/sale", "http://shop.test/#top"],
            "max_depth": 3,
            "max_pages": 40,
            "rate_limit_delay": 250,
            "url_discovery": [
                {"id": "links", "type": "extract_links", "params": {"selector": "a"}, "output_key": "links"}
            ],
            "data_extraction": [
                {"id": "title", "type": "extract", "params": {"selector": "h1", "type": "text"}, "output_key": "title"}
            ]
        }
    })
}

#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    let object = value.as_object().expect("an object");
    for key in keys {
        assert!(object.contains_key(*key), "`{key}` is missing in {value}");
    }
}
