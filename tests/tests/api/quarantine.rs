//! Pages that are quarantined.

use reqwest::{Method, StatusCode};
use serde_json::json;
use uuid::Uuid;

use super::Api;

#[tokio::test]
async fn quarantined_pages_are_listed_with_the_evidence() {
    let api = Api::start().await;
    let (path, id) = api.execution(&api.workflow("active").await).await;
    let empty = api.get(&format!("{path}/quarantine")).await;
    assert_eq!(empty, json!({"pages": [], "total": 0, "limit": 50, "offset": 0}));
    api.change(
        "UPDATE url_queue SET status = 'failed', error_class = 'poison', error = 'quarantined: three times', \
         processed_at = now() WHERE execution_id = $1 AND url LIKE '%sale'",
        id,
    )
    .await;
    api.change(
        "INSERT INTO lost_attempts (page_id, epoch, attempt, fault, worker_id, error)
         SELECT id, n, n, 'worker', gen_random_uuid(), 'not heard of any more' FROM url_queue, generate_series(1, 3) n
         WHERE execution_id = $1 AND error_class = 'poison'",
        id,
    )
    .await;
    let listed = api.get(&format!("{path}/quarantine")).await;
    assert_eq!(listed["total"], 1);
    let page = &listed["pages"][0];
    assert_eq!(page["url"], "http://shop.test/sale");
    assert_eq!(page["error"], "quarantined: three times");
    let attempts: Vec<_> = page["losses"].as_array().unwrap().iter().map(|loss| &loss["attempt"]).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert_eq!(page["losses"][2]["fault"], "worker");
    assert!(page["losses"][2]["worker_id"].is_string() && page["quarantined_at"].is_string());
    assert_eq!(api.get(&format!("{path}/quarantine?offset=1")).await["pages"], json!([]));
    let nobody = format!("/api/v1/executions/{}/quarantine", Uuid::now_v7());
    api.expect(StatusCode::NOT_FOUND, Method::GET, &nobody, None).await;
}
