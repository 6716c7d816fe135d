//! The router without a database: everything that is decided before one is asked, and what happens without one.

mod limits;
mod waiting;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode, header};
use axum::routing::get;
use crawlify_shared::config::SecretUrl;
use crawlify_shared::store::Store;
use crawlify_shared::telemetry;
use serde_json::Value;
use tokio::sync::Notify;
use tower::ServiceExt;

use super::*;

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn state() -> ApiState {
    // The discard port: nobody listens there, and the connection is refused at once.
    let url = SecretUrl::new("postgres://nobody:sesame@127.0.0.1:9/none");
    ApiState {
        store: Store::connect(&url, 1).unwrap(),
        frontier_changed: Arc::new(Notify::new()),
        version: "1.2.3",
        metrics: telemetry::registry(),
        keys: ApiKeys::default(),
        missing: Missing::nothing(),
        broker_link: BrokerLink::asked_by(|| std::future::ready(true)),
        bodies: Bodies::default(),
    }
}

fn request(method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path)
}

async fn send(router: Router, request: Request<Body>) -> (Response<()>, Vec<u8>) {
    let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    (Response::from_parts(parts, ()), body.to_vec())
}

/// Sends a request that must end in a problem, and checks all that problems have in common.
async fn problem(request: Request<Body>) -> (Response<()>, Value) {
    let path = request.uri().path().to_owned();
    let (response, body) = send(router(state()), request).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["status"], response.status().as_u16());
    assert_eq!(body["instance"], path);
    assert_eq!(body["error"], body["detail"]);
    assert_eq!(body["type"], format!("urn:crawlify:problem:{}", body["code"].as_str().unwrap()));
    assert!(body["title"].is_string() && body["errors"].is_array());
    assert_eq!(body["request_id"], response.headers()["x-request-id"].to_str().unwrap());
    (response, body)
}

#[tokio::test]
async fn an_unknown_path_is_a_problem() {
    let (response, body) = problem(request("GET", "/api/v1/workflow").body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(body["code"], "not_found");
}

#[tokio::test]
async fn an_unknown_method_is_a_problem_that_names_the_known_ones() {
    let (response, body) = problem(request("PUT", "/api/v1/workflows").body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(body["code"], "method_not_allowed");
    let allowed = response.headers()[header::ALLOW].to_str().unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
}

#[tokio::test]
async fn an_id_that_is_no_uuid_is_a_problem() {
    for (method, path) in [
        ("GET", "/api/v1/workflows/7"),
        ("DELETE", "/api/v1/workflows/not-a-uuid"),
        ("POST", "/api/v1/workflows/7/execute"),
        ("GET", "/api/v1/executions/7"),
        ("GET", "/api/v1/executions/%FF/stats"),
        ("POST", "/api/v1/executions/7/pause"),
        ("PATCH", "/api/v1/executions/7"),
        ("GET", "/api/v1/schedules/7"),
        ("POST", "/api/v1/schedules/7/run"),
    ] {
        let (response, body) = problem(request(method, path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(body["code"], "invalid_id", "{path}");
    }
}

#[tokio::test]
async fn a_syntax_error_names_its_place() {
    let sent =
        request("POST", "/api/v1/workflows").body(Body::from("{\n  \"name\": \"x\",\n  oops\n}")).unwrap();
    let (response, body) = problem(sent).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(body["code"], "malformed_json");
    assert!(body["detail"].as_str().unwrap().contains("line 3, column 3"), "{body}");
}

#[tokio::test]
async fn an_empty_body_is_a_problem() {
    let (response, body) = problem(request("POST", "/api/v1/workflows").body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(body["code"], "malformed_json");
}

#[tokio::test]
async fn a_body_of_another_type_is_a_problem() {
    let sent = request("POST", "/api/v1/workflows")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from("{}"))
        .unwrap();
    let (response, body) = problem(sent).await;
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(body["code"], "unsupported_media_type");
}

#[tokio::test]
async fn an_unknown_parameter_is_a_problem_everywhere() {
    for (method, path) in [
        ("GET", "/api/v1/workflows?stauts=draft"),
        ("GET", "/api/v1/executions?stauts=draft"),
        ("GET", "/api/v1/schedules?stauts=draft"),
        ("GET", "/api/v1/openapi.json?stauts=draft"),
        ("POST", "/api/v1/workflows?stauts=draft"),
    ] {
        let (response, body) = problem(request(method, path).body(Body::from("{}")).unwrap()).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(body["errors"][0]["code"], "unknown_parameter", "{path}");
        assert_eq!(body["errors"][0]["parameter"], "stauts", "{path}");
    }
}

#[tokio::test]
async fn a_status_that_does_not_exist_is_a_problem() {
    for text in [r#"{"status": "running"}"#, r#"{"status": 1}"#, "{}", "[]"] {
        let sent =
            request("PATCH", &format!("/api/v1/workflows/{ID}/status")).body(Body::from(text)).unwrap();
        let (response, body) = problem(sent).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{text}");
        assert_eq!(body["code"], "invalid_status", "{text}");
        assert_eq!(body["errors"][0]["pointer"], "/status", "{text}");
    }
}

#[tokio::test]
async fn wrong_limits_and_wrong_schedules_are_told_before_a_database_is_asked() {
    for (method, path, text, pointer) in [
        ("PATCH", format!("/api/v1/executions/{ID}"), r#"{"weight": 1.5}"#, "/weight"),
        ("PATCH", format!("/api/v1/executions/{ID}"), "{}", ""),
        ("PATCH", format!("/api/v1/executions/{ID}"), "[]", ""),
        ("POST", format!("/api/v1/executions/{ID}/cancel"), r#"{"mode": null}"#, "/mode"),
        ("POST", "/api/v1/schedules".to_owned(), r#"{"cron": "@daily"}"#, "/workflow_id"),
        ("POST", "/api/v1/schedules".to_owned(), r#"{"cron": "* *"}"#, "/workflow_id"),
    ] {
        let sent = request(method, &path).body(Body::from(text)).unwrap();
        let (response, body) = problem(sent).await;
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY, "{path} {text}");
        assert_eq!(body["errors"][0]["pointer"], pointer, "{path} {text}: {body}");
    }
    let path = format!("/api/v1/executions/{ID}/cancel?mode=soon");
    let (response, body) = problem(request("POST", &path).body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(body["errors"][0]["parameter"], "mode");
}

#[tokio::test]
async fn a_web_page_of_another_origin_changes_nothing() {
    let sent = request("POST", &format!("/api/v1/workflows/{ID}/execute"))
        .header(header::HOST, "127.0.0.1:8080")
        .header(header::ORIGIN, "https://example.com")
        .body(Body::empty())
        .unwrap();
    let (response, body) = problem(sent).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(body["code"], "cross_origin");
    assert!(!response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
}

#[tokio::test]
async fn without_a_database_requests_are_told_to_come_back_and_nothing_of_it_is_shown() {
    let (response, body) =
        problem(request("GET", &format!("/api/v1/workflows/{ID}")).body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["code"], "database_unavailable");
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    let text = body.to_string();
    assert!(!text.contains("sesame") && !text.contains("127.0.0.1"), "{text}");
}

#[tokio::test]
async fn without_a_database_we_live_but_are_neither_healthy_nor_ready() {
    let get = |path: &str| request("GET", path).body(Body::empty()).unwrap();
    let (live, _) = send(router(state()), get("/livez")).await;
    assert_eq!(live.status(), StatusCode::OK);
    let (ready, _) = send(router(state()), get("/readyz")).await;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let (health, body) = send(router(state()), get("/health")).await;
    assert_eq!(health.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["status"], "unhealthy");
    assert_eq!(body["version"], "1.2.3");
    assert!(body["time"].is_string());
}

#[tokio::test]
async fn whether_the_broker_is_there_is_told_by_health_and_by_the_metrics() {
    for (is_there, word, gauge) in [(true, "connected", 1), (false, "away", 0)] {
        let broker_link = BrokerLink::asked_by(move || std::future::ready(is_there));
        let router = router(ApiState { broker_link, ..state() });
        let get = |path: &str| request("GET", path).body(Body::empty()).unwrap();
        let (_, body) = send(router.clone(), get("/health")).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["broker"], word);
        let (_, body) = send(router, get("/metrics")).await;
        let text = String::from_utf8(body).unwrap();
        assert!(text.contains(&format!("\ncrawlify_broker_connected {gauge}\n")), "{text}");
    }
}

#[tokio::test]
async fn a_handler_that_panics_answers_with_a_problem() {
    async fn panicking() -> &'static str {
        panic!("the cause, with secret particulars")
    }
    let state = state();
    let observer = observe::Observer::new(&state.metrics);
    let router = surround(Router::new().route("/panic", get(panicking)), observer, &state).with_state(state);
    let (response, body) = send(router, request("GET", "/panic").body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["code"], "internal");
    assert!(!body.to_string().contains("secret"));
}

#[tokio::test]
async fn requests_are_measured_by_route_template() {
    let router = router(state());
    let get = |path: String| request("GET", &path).body(Body::empty()).unwrap();
    send(router.clone(), get("/livez".to_owned())).await;
    send(router.clone(), get("/api/v1/workflows/7".to_owned())).await;
    send(router.clone(), get("/no/such/path".to_owned())).await;
    let (response, body) = send(router, get("/metrics".to_owned())).await;
    assert!(response.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/plain"));
    let text = String::from_utf8(body).unwrap();
    for labels in [
        r#"{method="GET",route="/livez",status_class="2xx"}"#,
        r#"{method="GET",route="/api/v1/workflows/{id}",status_class="4xx"}"#,
        r#"{method="GET",route="unmatched",status_class="4xx"}"#,
    ] {
        let line = format!("crawlify_http_request_duration_seconds_count{labels} 1");
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn the_description_names_every_route_and_the_problem_that_each_may_answer() {
    let sent = request("GET", "/api/v1/openapi.json").body(Body::empty()).unwrap();
    let (response, body) = send(router(state()), sent).await;
    assert_eq!(response.status(), StatusCode::OK);
    let description: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(description["info"]["version"], "1.2.3");
    let mut operations = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push(format!("{} {path}", method.to_uppercase()));
            let default = &operation["responses"]["default"]["content"]["application/problem+json"];
            assert_eq!(default["schema"]["$ref"], "#/components/schemas/ProblemBody", "{method} {path}");
        }
    }
    operations.sort();
    let expected = [
        "DELETE /api/v1/executions/{id}",
        "DELETE /api/v1/schedules/{id}",
        "DELETE /api/v1/workflows/{id}",
        "GET /api/v1/executions",
        "GET /api/v1/executions/{id}",
        "GET /api/v1/executions/{id}/data",
        "GET /api/v1/executions/{id}/quarantine",
        "GET /api/v1/executions/{id}/skipped",
        "GET /api/v1/executions/{id}/stats",
        "GET /api/v1/hosts",
        "GET /api/v1/openapi.json",
        "GET /api/v1/schedules",
        "GET /api/v1/schedules/{id}",
        "GET /api/v1/workflows",
        "GET /api/v1/workflows/{id}",
        "GET /health",
        "GET /livez",
        "GET /metrics",
        "GET /readyz",
        "PATCH /api/v1/executions/{id}",
        "PATCH /api/v1/schedules/{id}",
        "PATCH /api/v1/workflows/{id}/status",
        "POST /api/v1/executions/{id}/cancel",
        "POST /api/v1/executions/{id}/pause",
        "POST /api/v1/executions/{id}/resume",
        "POST /api/v1/executions/{id}/retry",
        "POST /api/v1/schedules",
        "POST /api/v1/schedules/{id}/run",
        "POST /api/v1/workflows",
        "POST /api/v1/workflows/validate",
        "POST /api/v1/workflows/{id}/execute",
        "PUT /api/v1/workflows/{id}",
    ];
    assert_eq!(operations, expected);
}

#[tokio::test]
async fn every_reference_in_the_description_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.push(reference.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let sent = request("GET", "/api/v1/openapi.json").body(Body::empty()).unwrap();
    let (_, body) = send(router(state()), sent).await;
    let description: Value = serde_json::from_slice(&body).unwrap();
    let mut found = Vec::new();
    references(&description, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.trim_start_matches('#');
        assert!(description.pointer(pointer).is_some(), "{reference}");
    }
}
