//! Secrets in configurations: stored, used, and never answered with.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Api, shop};

/// A secret that is no string.
const PIN: u32 = 98_765_432;

/// A workflow with a secret at every place that has one.
fn with_secrets(secret: &str) -> Value {
    let mut document = shop();
    let config = &mut document["config"];
    config["headers"] = json!({"Authorization": format!("Bearer {secret}"), "User-Agent": "shopper"});
    config["cookies"] = json!([
        {"name": "session", "value": secret, "domain": "shop.test"},
        {"name": "pin", "value": PIN},
    ]);
    config["authentication"] = json!({"type": "basic", "username": "me", "password": secret});
    config["proxy_config"] =
        json!({"server": "http://proxy.test:3128", "username": "me", "password": secret});
    document
}

async fn stored(api: &Api) -> Vec<Value> {
    sqlx::query_scalar("SELECT config FROM workflow_versions ORDER BY version")
        .fetch_all(&api.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn no_answer_shows_a_secret_and_what_it_shows_can_be_sent_back() {
    let api = Api::start().await;
    let document = with_secrets("hunter2");
    let made = api.expect(StatusCode::CREATED, Method::POST, "/api/v1/workflows", Some(&document)).await;
    let path = format!("/api/v1/workflows/{}", made["id"].as_str().unwrap());
    let mut shown = api.get(&path).await;
    assert_eq!(shown["config"]["headers"], json!({"Authorization": "***", "User-Agent": "shopper"}));
    assert_eq!(shown["config"]["proxy_config"]["password"], "***");
    assert_eq!(shown["config"]["proxy_config"]["username"], "me");
    let list = api.get("/api/v1/workflows").await;
    for answer in [&made, &shown, &list] {
        assert!(!answer.to_string().contains("hunter2"), "{answer}");
        assert!(!answer.to_string().contains(&PIN.to_string()), "{answer}");
    }
    assert_eq!(shown["config"]["cookies"][1], json!({"name": "pin", "value": "***"}));

    // The same again is no new version; another limit is one, with the secrets of before.
    let same = api.expect(StatusCode::OK, Method::PUT, &path, Some(&shown)).await;
    assert_eq!(same["version"], 1);
    shown["config"]["max_pages"] = json!(7);
    shown["config"]["cookies"][0]["value"] = json!("new");
    let changed = api.expect(StatusCode::OK, Method::PUT, &path, Some(&shown)).await;
    assert_eq!(changed["version"], 2);
    assert!(!changed.to_string().contains("hunter2"), "{changed}");
    let versions = stored(&api).await;
    let mut expected = document["config"].clone();
    assert_eq!(versions[0], expected);
    expected["max_pages"] = json!(7);
    expected["cookies"][0]["value"] = json!("new");
    assert_eq!(versions[1], expected);
}

#[tokio::test]
async fn a_secret_that_was_never_given_is_asked_for() {
    let api = Api::start().await;
    let mut hidden = with_secrets("***");
    let problem =
        api.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, "/api/v1/workflows", Some(&hidden)).await;
    let pointers: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mistake| mistake["pointer"].as_str().unwrap())
        .collect();
    assert_eq!(
        pointers,
        ["/config/cookies/0/value", "/config/authentication/password", "/config/proxy_config/password",],
        "a header that holds more than what is shown for a secret is none: {problem}"
    );
    let path = api.workflow("draft").await;
    hidden["config"]["headers"]["Authorization"] = json!("***");
    let problem = api.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::PUT, &path, Some(&hidden)).await;
    assert_eq!(problem["errors"].as_array().unwrap().len(), 4, "{problem}");
    assert_eq!(stored(&api).await.len(), 1);
}

#[tokio::test]
async fn a_refusal_does_not_repeat_what_may_be_a_secret() {
    let api = Api::start().await;
    for (setting, value) in [
        ("headers", json!({"Authorization": "Bearer hunter2\nX: y"})),
        ("headers", json!("Authorization: hunter2")),
        ("headers", json!(["hunter2"])),
        ("proxy_config", json!("http://me:hunter2@proxy.test")),
        ("proxy_config", json!({"server": "http://me:hunter2@proxy.test"})),
        ("proxy_config", json!({"server": "http://proxy.test", "password": "hunter2\u{1}"})),
        ("start_urls", json!(["https://me:hunter2@shop.test/"])),
        // Other faults are found before the password is.
        ("start_urls", json!(["https://me:hunter2@shop.test:99999/"])),
        ("start_urls", json!(["ftp://me:hunter2@shop.test/"])),
        ("start_urls", json!(["hunter2:me@shop.test"])),
        ("start_urls", json!(["https://me:hunter2%40shop.test/"])),
        ("start_urls", json!("https://me:hunter2@shop.test/")),
        ("sitemaps", json!(["https://me:hunter2@shop.test/sitemap.xml"])),
        ("sitemaps", json!("https://me:hunter2@shop.test/sitemap.xml")),
        ("block", json!(["me:hunter2@shop"])),
        (
            "budgets",
            json!({"path_prefixes": [{"prefix": "https://me:hunter2@shop.test/a/", "max_pages": 1}]}),
        ),
    ] {
        let mut document = shop();
        document["config"][setting] = value.clone();
        let problem = api
            .expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, "/api/v1/workflows", Some(&document))
            .await;
        assert!(!problem.to_string().contains("hunter2"), "{value}: {problem}");
    }
}
