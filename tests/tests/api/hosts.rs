//! The paces of hosts.

use crawlify_shared::domain::id::ExecutionId;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::Api;

#[tokio::test]
async fn a_hosts_pace_is_shown_and_what_was_kept_of_it() {
    let api = Api::start().await;
    let workflow = api.workflow("active").await;
    let (_, execution) = api.execution(&workflow).await;
    let row = api.get("/api/v1/hosts?host=SHOP.test").await;
    let expected = json!({
        "host": "shop.test", "executions": 1, "in_flight": 0, "delay_ms": 250, "crawl_delay_ms": 0,
        "concurrency": null, "latency_ms": 0, "backoff_until": null, "unreachable": 0, "refused": 0,
        "min_interval_ms": null, "min_interval_delay_ms": null, "min_interval_at": null,
        "recent_interval_ms": null, "recent_interval_delay_ms": null, "recent_interval_at": null
    });
    assert_eq!(row, json!({"hosts": [expected], "total": 1, "limit": 50, "offset": 0}));

    // What its robots.txt says, and what the worker saw of it; another execution is stricter, and adaptive.
    let (_, other) = api.execution(&workflow).await;
    api.change(
        "UPDATE workflow_executions SET adaptive_delay = true, host_concurrency = 3 WHERE id = $1",
        other,
    )
    .await;
    api.change(
        "UPDATE hosts SET crawl_delay_ms = 900, latency_ms = 1200, min_interval_ms = 451, min_interval_delay_ms = 500,
            min_interval_at = '2026-11-02T03:04:05Z', recent_delays_ms = '{250, 250}',
            recent_starts = '{2026-11-27T12:00:00.257Z, 2026-11-27T12:00:00Z}', backoff_until = now() + interval '1 minute'
         WHERE EXISTS (SELECT FROM workflow_executions WHERE id = $1)",
        other,
    )
    .await;
    let hosts = api.get("/api/v1/hosts").await;
    let host = &hosts["hosts"][0];
    assert_eq!(json!([host["executions"], host["delay_ms"], host["concurrency"]]), json!([2, 1200, 3]));
    let interval = |kind: &str| {
        json!([
            host[format!("{kind}_interval_ms")],
            host[format!("{kind}_interval_delay_ms")],
            host[format!("{kind}_interval_at")]
        ])
    };
    assert_eq!(interval("min"), json!([451, 500, "2026-11-02T03:04:05Z"]), "once it was not kept");
    assert_eq!(interval("recent"), json!([257, 250, "2026-11-27T12:00:00.257Z"]), "now it is");
    assert!(host["backoff_until"].is_string(), "{host}");
    let metrics = api.send(Method::GET, "/metrics", None).await.text().await.unwrap();
    assert!(metrics.contains("\ncrawlify_politeness_hosts 1\n"), "{metrics}");

    // A page that was sent out counts.
    let clear = "UPDATE hosts SET backoff_until = '-infinity' WHERE $1::uuid IS NOT NULL";
    api.change(clear, execution).await;
    assert_eq!(api.store.reserve_pages(ExecutionId(execution), 10).await.unwrap().len(), 1);
    let host = api.get("/api/v1/hosts").await["hosts"][0].clone();
    assert_eq!((&host["in_flight"], &host["backoff_until"]), (&json!(1), &json!(null)));
}

#[tokio::test]
async fn a_host_that_nobody_visited_is_no_row_and_nonsense_is_refused() {
    let api = Api::start().await;
    assert_eq!(api.get("/api/v1/hosts?host=other.test").await["hosts"], json!([]));
    let refused =
        api.expect(StatusCode::BAD_REQUEST, Method::GET, "/api/v1/hosts?limit=0&sort=pace", None).await;
    assert_eq!(refused["code"], "invalid_parameters");
}
