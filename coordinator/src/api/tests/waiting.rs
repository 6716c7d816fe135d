//! What is answered before the servers are there.

use super::*;
use crate::missing::Server;

fn get(path: &str) -> Request<Body> {
    request("GET", path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn while_a_server_is_missing_only_who_asks_how_we_are_is_answered_and_the_rest_hears_which() {
    let missing = Missing::everything();
    let router = router(ApiState { missing: missing.clone(), ..state() });
    let waits_for = async |path: &str, what: &str| {
        let (response, body) = send(router.clone(), get(path)).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json", "{path}");
        assert_eq!(response.headers()[header::RETRY_AFTER], "5", "{path}");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], "starting", "{path}");
        assert!(body["detail"].as_str().unwrap().contains(&format!("still waits for {what};")), "{body}");
    };
    for path in ["/readyz", "/api/v1/workflows", "/api/v1/openapi.json", "/no/such/path"] {
        waits_for(path, "the database and the broker").await;
    }
    for path in ["/livez", "/metrics"] {
        assert_eq!(send(router.clone(), get(path)).await.0.status(), StatusCode::OK, "{path}");
    }
    missing.cross_out(Server::Database);
    waits_for("/readyz", "the broker").await;
    missing.cross_out(Server::Broker);
    assert_eq!(send(router.clone(), get("/api/v1/openapi.json")).await.0.status(), StatusCode::OK);
}

#[tokio::test]
async fn who_has_no_key_hears_nothing_of_what_is_missing() {
    let key = crate::keys::NewKey::generate(crate::keys::Scope::Read).unwrap();
    let keys = [key.hash].into_iter().collect();
    let router = router(ApiState { missing: Missing::everything(), keys, ..state() });
    let (refused, _) = send(router.clone(), get("/api/v1/workflows")).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let (ready, _) = send(router, get("/readyz")).await;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE, "a probe has no key");
}
