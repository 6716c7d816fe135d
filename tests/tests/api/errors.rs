//! What is refused, where a database has the last word; and that every described operation is served.

use std::time::Duration;

use crawlify_coordinator::keys::ApiKeys;
use harness::fault_proxy::{FaultProxy, Mode};
use harness::postgres::TestDatabase;
use harness::wait::wait_for;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Api, assert_keys, shop};

const PROBLEM_KEYS: [&str; 9] =
    ["type", "title", "status", "detail", "instance", "code", "errors", "request_id", "error"];

#[tokio::test]
async fn what_does_not_exist_is_not_found_by_any_method() {
    let api = Api::start().await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let workflow = format!("/api/v1/workflows/{id}");
    let execution = format!("/api/v1/executions/{id}");
    let schedule = format!("/api/v1/schedules/{id}");
    let active = json!({"status": "active"});
    for (method, path, body, code) in [
        (Method::GET, workflow.clone(), None, "workflow_not_found"),
        (Method::PUT, workflow.clone(), Some(shop()), "workflow_not_found"),
        (Method::DELETE, workflow.clone(), None, "workflow_not_found"),
        (Method::PATCH, format!("{workflow}/status"), Some(active), "workflow_not_found"),
        (Method::POST, format!("{workflow}/execute"), None, "workflow_not_found"),
        (Method::GET, execution.clone(), None, "execution_not_found"),
        (Method::DELETE, execution.clone(), None, "execution_not_found"),
        (Method::PATCH, execution.clone(), Some(json!({"weight": 2})), "execution_not_found"),
        (Method::POST, format!("{execution}/pause"), None, "execution_not_found"),
        (Method::POST, format!("{execution}/resume"), None, "execution_not_found"),
        (Method::POST, format!("{execution}/cancel"), None, "execution_not_found"),
        (Method::POST, format!("{execution}/retry"), None, "execution_not_found"),
        (Method::GET, schedule.clone(), None, "schedule_not_found"),
        (Method::PATCH, schedule.clone(), Some(json!({"enabled": false})), "schedule_not_found"),
        (Method::DELETE, schedule.clone(), None, "schedule_not_found"),
        (Method::POST, format!("{schedule}/run"), None, "schedule_not_found"),
        (Method::GET, format!("{execution}/stats"), None, "execution_not_found"),
        (Method::GET, format!("{execution}/data"), None, "execution_not_found"),
    ] {
        let problem = api.expect(StatusCode::NOT_FOUND, method, &path, body.as_ref()).await;
        assert_keys(&problem, &PROBLEM_KEYS);
        assert_eq!(problem["code"], code, "{path}");
        assert_eq!(problem["instance"], path);
    }
}

#[tokio::test]
async fn an_invalid_workflow_is_refused_with_a_pointer_to_each_problem() {
    let api = Api::start().await;
    let path = api.workflow("draft").await;
    let bad = json!({"name": "Bad", "config": {"start_urls": []}});
    for (method, path) in [(Method::POST, "/api/v1/workflows"), (Method::PUT, path.as_str())] {
        let problem = api.expect(StatusCode::UNPROCESSABLE_ENTITY, method, path, Some(&bad)).await;
        assert_eq!(problem["code"], "invalid_workflow");
        let mistakes = problem["errors"].as_array().unwrap();
        assert!(!mistakes.is_empty());
        for mistake in mistakes {
            assert_keys(mistake, &["pointer", "code", "message"]);
        }
    }
    assert_eq!(api.get("/api/v1/workflows").await["count"], 1);
    assert_eq!(api.get(&path).await["name"], "Shop");
}

#[tokio::test]
async fn a_status_that_does_not_exist_is_refused_on_creation() {
    let api = Api::start().await;
    let mut document = shop();
    document["status"] = json!("running");
    let problem = api
        .expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, "/api/v1/workflows", Some(&document))
        .await;
    assert_eq!(problem["errors"][0]["pointer"], "/status");
}

#[tokio::test]
async fn text_that_the_database_cannot_store_is_the_clients_problem() {
    let api = Api::start().await;
    let mut document = shop();
    document["description"] = json!("a NUL: \u{0}");
    let problem = api
        .expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, "/api/v1/workflows", Some(&document))
        .await;
    assert_keys(&problem, &PROBLEM_KEYS);
}

#[tokio::test]
async fn every_mistake_of_a_query_is_reported_at_once() {
    let api = Api::start().await;
    let path = "/api/v1/executions?status=done&limit=0&workflow=7";
    let problem = api.expect(StatusCode::BAD_REQUEST, Method::GET, path, None).await;
    assert_eq!(problem["code"], "invalid_parameters");
    let mistakes = problem["errors"].as_array().unwrap();
    let mut parameters: Vec<_> =
        mistakes.iter().map(|mistake| mistake["parameter"].as_str().unwrap()).collect();
    parameters.sort_unstable();
    assert_eq!(parameters, ["limit", "status", "workflow"]);
    let unknown = mistakes.iter().find(|mistake| mistake["parameter"] == "workflow").unwrap();
    assert!(unknown["message"].as_str().unwrap().contains("did you mean `workflow_id`?"), "{unknown}");
}

#[tokio::test]
async fn a_problem_travels_as_problem_json_and_names_its_request() {
    let api = Api::start().await;
    let url = format!("{}/api/v1/workflows/7", api.base);
    let response = api.client.get(url).header("x-request-id", "test-7").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.headers()["x-request-id"], "test-7");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["request_id"], "test-7");
}

#[tokio::test]
async fn a_healthy_system_says_so_with_the_old_keys() {
    let api = Api::start().await;
    let health = api.get("/health").await;
    assert_keys(&health, &["status", "version", "time"]);
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["broker"], "connected");
    api.expect(StatusCode::OK, Method::GET, "/readyz", None).await;
    api.expect(StatusCode::OK, Method::GET, "/livez", None).await;
}

#[tokio::test]
async fn without_its_database_it_lives_is_not_ready_and_is_again_when_that_is_back() {
    let database = TestDatabase::create().await;
    let (proxy, url) = FaultProxy::before_postgres(&database.url()).await;
    let api = Api::behind(database, &url, ApiKeys::default()).await;
    let ready = || api.send(Method::GET, "/readyz", None);
    assert_eq!(ready().await.status(), StatusCode::OK);
    proxy.set(Mode::Refuse);
    proxy.cut();
    let refused = ready().await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "database_unavailable");
    assert_eq!(problem["detail"], "the database does not answer");
    api.expect(StatusCode::OK, Method::GET, "/livez", None).await;
    proxy.set(Mode::Pass);
    wait_for("it is ready again", Duration::from_secs(30), async || ready().await.status() == StatusCode::OK)
        .await;
}

#[tokio::test]
async fn every_described_operation_is_served() {
    let api = Api::start().await;
    let description = api.get("/api/v1/openapi.json").await;
    let mut operations = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let path = path.replace("{id}", "01890a5d-ac96-774b-bcce-b302099a8057");
            let response = api.send(method.clone(), &path, Some(&json!({}))).await;
            assert_ne!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert!(response.status().as_u16() < 500, "{method} {path}: {}", response.status());
            if response.status() == StatusCode::NOT_FOUND {
                let problem: Value = response.json().await.unwrap();
                assert_ne!(problem["code"], "not_found", "{method} {path}");
            }
            operations += 1;
        }
    }
    assert_eq!(operations, 32);
}
