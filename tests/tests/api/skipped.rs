//! The report of URLs that an execution did not visit.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Api, assert_keys};

async fn with_skips() -> (Api, String) {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (execution, id) = api.execution(&path).await;
    for statement in [
        "UPDATE url_queue SET status = 'skipped', processed_at = now(), error_class = 'limit',
             error = 'the page limit (max_pages) was reached'
         WHERE execution_id = $1 AND url LIKE '%sale'",
        "INSERT INTO skipped_links (id, execution_id, url, url_hash, reason, detail, parent_id, discovered_by)
         SELECT gen_random_uuid(), $1, 'http://shop.test/' || n, int8send(n::int8), 'trap', 'it is trap ' || n, q.id, 'links'
         FROM generate_series(1, 5) n, url_queue q WHERE q.execution_id = $1 AND q.url = 'http://shop.test/'",
    ] {
        api.change(statement, id).await;
    }
    (api, execution)
}

#[tokio::test]
async fn skipped_urls_are_listed_with_reason_sentence_and_parent() {
    let (api, execution) = with_skips().await;
    let body = api.get(&format!("{execution}/skipped")).await;
    let skipped = body["skipped"].as_array().unwrap();
    assert_eq!((skipped.len(), &body["next_cursor"]), (6, &Value::Null));
    assert_keys(&skipped[0], &["url", "reason", "detail", "parent_url", "discovered_by", "skipped_at"]);
    assert_eq!(skipped[0]["reason"], "limit");
    assert_eq!(skipped[0]["detail"], "the page limit (max_pages) was reached");
    assert_eq!(skipped[0]["parent_url"], Value::Null);
    assert_eq!(skipped[1]["parent_url"], "http://shop.test/");
    let limits = api.get(&format!("{execution}/skipped?reason=limit")).await;
    assert_eq!(limits["skipped"].as_array().unwrap().len(), 1);
    let stats = api.get(&format!("{execution}/stats")).await;
    let counts = stats["skipped_by_reason"].as_array().unwrap();
    assert_eq!((&counts[0]["reason"], &counts[0]["urls"]), (&json!("trap"), &json!(5)));
    assert_eq!(counts[0]["sample_url"], skipped[1]["url"]);
    assert_eq!(counts[0]["sample_detail"], skipped[1]["detail"]);
    let limit = json!({"reason": "limit", "urls": 1, "sample_url": "http://shop.test/sale",
        "sample_detail": "the page limit (max_pages) was reached"});
    assert_eq!(counts[1], limit);
}

#[tokio::test]
async fn skipped_urls_are_read_on_with_the_cursor() {
    let (api, execution) = with_skips().await;
    let (mut urls, mut cursor) = (Vec::new(), String::new());
    for _ in 0..3 {
        let body = api.get(&format!("{execution}/skipped?limit=2&cursor={cursor}")).await;
        urls.extend(
            body["skipped"].as_array().unwrap().iter().map(|one| one["url"].as_str().unwrap().to_owned()),
        );
        cursor = body["next_cursor"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(cursor, "", "nothing follows");
    urls.sort();
    urls.dedup();
    assert_eq!(urls.len(), 6);
}

#[tokio::test]
async fn mistakes_in_the_query_are_told() {
    let (api, execution) = with_skips().await;
    for query in ["reason=dns", "cursor=7", "limit=0"] {
        let path = format!("{execution}/skipped?{query}");
        let body = api.expect(StatusCode::BAD_REQUEST, Method::GET, &path, None).await;
        assert_eq!(body["code"], "invalid_parameters", "{query}: {body}");
    }
    let unknown = format!("/api/v1/executions/{}/skipped", uuid::Uuid::nil());
    api.expect(StatusCode::NOT_FOUND, Method::GET, &unknown, None).await;
}
