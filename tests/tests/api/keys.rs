//! Keys: what an API that has some answers to whom.

use crawlify_coordinator::keys::{NewKey, Scope};
use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{Api, assert_keys, shop};

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
/// What orchestrators ask, who have no key.
const PROBES: [&str; 3] = ["/health", "/livez", "/readyz"];

/// An API with one key of each scope.
struct Locked {
    api: Api,
    reader: String,
    admin: String,
}

impl Locked {
    async fn start() -> Self {
        let [reader, admin] = [Scope::Read, Scope::Admin].map(|scope| NewKey::generate(scope).unwrap());
        let keys = [reader.hash, admin.hash].into_iter().collect();
        Self { api: Api::with_keys(keys).await, reader: reader.text, admin: admin.text }
    }

    async fn ask(&self, key: Option<&str>, method: &Method, path: &str) -> Response {
        let mut request = self.api.client.request(method.clone(), format!("{}{path}", self.api.base));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        request.json(&json!({})).send().await.unwrap()
    }

    /// Every operation that the API describes, with an id in its path that nothing has.
    async fn operations(&self) -> Vec<(Method, String, Value)> {
        let description = self.ask(Some(&self.reader), &Method::GET, "/api/v1/openapi.json").await;
        let description: Value = description.json().await.unwrap();
        let mut operations = Vec::new();
        for (path, item) in description["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let method = method.to_uppercase().parse().unwrap();
                operations.push((method, path.replace("{id}", ID), operation["security"].clone()));
            }
        }
        assert!(operations.len() >= 29, "{operations:?}");
        operations
    }
}

fn challenge(response: &Response) -> &str {
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap()
}

#[tokio::test]
async fn every_operation_but_the_probes_asks_for_a_key_and_every_change_for_an_admins() {
    let locked = Locked::start().await;
    let wrong = NewKey::generate(Scope::Admin).unwrap().text;
    let (mut probes, mut changes) = (0, 0);
    for (method, path, security) in locked.operations().await {
        let what = format!("{method} {path}");
        if PROBES.contains(&path.as_str()) {
            probes += 1;
            assert_eq!(security, json!([]), "{what}");
            for key in [None, Some(wrong.as_str()), Some(&locked.reader)] {
                assert_eq!(locked.ask(key, &method, &path).await.status(), StatusCode::OK, "{what}");
            }
            continue;
        }
        let response = locked.ask(None, &method, &path).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(challenge(&response), r#"Bearer realm="crawlify""#);
        let problem: Value = response.json().await.unwrap();
        assert_keys(
            &problem,
            &["type", "title", "status", "detail", "instance", "code", "error", "request_id"],
        );
        assert_eq!(problem["code"], "key_missing");

        let response = locked.ask(Some(&wrong), &method, &path).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{what}");
        assert!(challenge(&response).contains("invalid_token"), "{what}");
        assert!(!response.text().await.unwrap().contains(&wrong));

        let response = locked.ask(Some(&locked.reader), &method, &path).await;
        // A check changes nothing, although it is sent as a POST.
        if method == Method::GET || path.ends_with("/validate") {
            assert_eq!(security, json!([{"api_key": ["read"]}]), "{what}");
            assert_ne!(response.status(), StatusCode::UNAUTHORIZED, "{what}");
            assert_ne!(response.status(), StatusCode::FORBIDDEN, "{what}");
        } else {
            changes += 1;
            assert_eq!(security, json!([{"api_key": ["admin"]}]), "{what}");
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{what}");
            assert!(challenge(&response).contains("insufficient_scope"), "{what}");
            let problem: Value = response.json().await.unwrap();
            assert_eq!(problem["code"], "scope_too_small");
            assert!(problem["detail"].as_str().unwrap().contains("`admin`"), "{problem}");
        }

        let response = locked.ask(Some(&locked.admin), &method, &path).await;
        assert_ne!(response.status(), StatusCode::UNAUTHORIZED, "{what}");
        assert_ne!(response.status(), StatusCode::FORBIDDEN, "{what}");
    }
    assert_eq!((probes, changes >= 15), (PROBES.len(), true), "{changes}");
}

#[tokio::test]
async fn an_admin_does_everything_and_a_reader_sees_it() {
    let locked = Locked::start().await;
    let url = |path: &str| format!("{}{path}", locked.api.base);
    let mut document = shop();
    document["status"] = json!("active");
    let create = locked.api.client.post(url("/api/v1/workflows")).json(&document);
    let made: Value = create.bearer_auth(&locked.admin).send().await.unwrap().json().await.unwrap();
    let execute = format!("/api/v1/workflows/{}/execute", made["id"].as_str().unwrap());
    let started = locked.ask(Some(&locked.admin), &Method::POST, &execute).await;
    assert_eq!(started.status(), StatusCode::ACCEPTED);
    let started: Value = started.json().await.unwrap();
    let execution = format!("/api/v1/executions/{}", started["execution_id"].as_str().unwrap());
    for path in [execution.as_str(), "/api/v1/workflows", "/metrics"] {
        let read = locked.ask(Some(&locked.reader), &Method::GET, path).await;
        assert_eq!(read.status(), StatusCode::OK, "{path}");
    }
    let cancel = locked.ask(Some(&locked.reader), &Method::DELETE, &execution).await;
    assert_eq!(cancel.status(), StatusCode::FORBIDDEN);
    let cancel = locked.ask(Some(&locked.admin), &Method::DELETE, &execution).await;
    assert_eq!(cancel.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_key_counts_in_the_header_alone_and_paths_that_lead_nowhere_are_locked_too() {
    let locked = Locked::start().await;
    for path in [
        &format!("/api/v1/workflows?access_token={}", locked.admin),
        &format!("/api/v1/workflows?api_key={}", locked.admin),
        "/",
        "/no/such/path",
        "/livez/",
        "/livez/../api/v1/workflows",
        "//livez",
        "/%6civez",
    ] {
        let response = locked.ask(None, &Method::GET, path).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(!response.text().await.unwrap().contains(&locked.admin));
    }
    // What is wrong with a request is nobody's business who has no key.
    let response = locked.ask(None, &Method::TRACE, "/api/v1/workflows/7").await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn nothing_is_offered_to_pages_of_other_origins() {
    let locked = Locked::start().await;
    let url = format!("{}/api/v1/workflows", locked.api.base);
    let preflight = locked.api.client.request(Method::OPTIONS, &url);
    let preflight = preflight.header("access-control-request-method", "POST");
    for request in [preflight, locked.api.client.get(&url).bearer_auth(&locked.reader)] {
        let response = request.header(header::ORIGIN, "https://example.com").send().await.unwrap();
        let cors = response.headers().keys().find(|name| name.as_str().starts_with("access-control-"));
        assert_eq!(cors, None);
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    }
}
