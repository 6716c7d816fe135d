//! Figures and data of executions, from rows as workers write them.

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::store::counters::{DURATION_BUCKETS, bucket};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Api, assert_keys};

impl Api {
    /// Writes what one worker counted of a node whose runs took these microseconds.
    async fn count_node(&self, execution: Uuid, phase: &str, node_id: &str, durations: &[i64]) {
        let mut counts = vec![0_i64; DURATION_BUCKETS];
        for &duration in durations {
            counts[bucket(duration)] += 1;
        }
        sqlx::query(
            "INSERT INTO node_counters
                 (execution_id, worker_id, phase, node_id, node_type, completed, failed, retries, duration_us, durations)
             VALUES ($1, gen_random_uuid(), $2, $3, 'extract', $4, 1, 2, $5, $6)",
        )
        .bind(execution)
        .bind(phase)
        .bind(node_id)
        .bind(durations.len() as i64)
        .bind(durations.iter().sum::<i64>())
        .bind(counts)
        .execute(&self.pool)
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn figures_of_all_workers_are_added_up() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (execution, id) = api.execution(&path).await;
    for statement in [
        "UPDATE url_queue SET status = 'completed', attempt = 1 WHERE execution_id = $1 AND url LIKE '%sale'",
        "UPDATE url_queue SET status = 'failed', attempt = 4, error = 'no such host', error_class = 'dns'
         WHERE execution_id = $1 AND status = 'pending'",
        "INSERT INTO page_counters
             (execution_id, worker_id, completed, failed, items, urls_found, nodes_executed, nodes_failed, retried)
         VALUES ($1, gen_random_uuid(), 1, 0, 3, 5, 20, 1, 1), ($1, gen_random_uuid(), 0, 1, 4, 6, 40, 2, 2)",
        "INSERT INTO url_queue (id, execution_id, url, url_hash, host, parent_id)
         SELECT gen_random_uuid(), $1, 'http://shop.test/' || n, decode(md5(n::text), 'hex'), 'shop.test', gen_random_uuid()
         FROM generate_series(1, 11) AS n",
        "INSERT INTO node_definitions (execution_id, position, phase, node_id, node_type, input)
         VALUES ($1, 0, 'data_extraction', 'title', 'extract', '{}')",
        "INSERT INTO node_records (started_at, page_id, definition_id, duration_us, attempt, retry_count, status, error,
             error_class)
         SELECT now(), q.id, d.id, 5, n.attempt, 0, 'f', 'nothing matches h1', 'selector_missing'
         FROM url_queue q JOIN node_definitions d USING (execution_id), generate_series(1, 3) AS n (attempt)
         WHERE execution_id = $1 AND url LIKE '%sale'",
        "INSERT INTO node_records (started_at, page_id, definition_id, duration_us, attempt, retry_count, status)
         SELECT now(), gen_random_uuid(), id, 5, 1, 0, 'c' FROM node_definitions WHERE execution_id = $1",
    ] {
        api.change(statement, id).await;
    }
    api.count_node(id, "url_discovery", "links", &[600; 10]).await;
    api.count_node(id, "url_discovery", "links", &[800; 30]).await;
    api.count_node(id, "data_extraction", "title", &[]).await;

    let stats = api.get(&format!("{execution}/stats")).await;
    assert_keys(&stats, &["execution_id", "stats", "pending_count"]);
    assert_eq!(stats["pending_count"], 11);
    let figures = &stats["stats"];
    for (key, value) in [
        ("pending", 11),
        ("completed", 1),
        ("failed", 1),
        ("items_extracted", 7),
        ("urls_discovered", 11),
        ("nodes_executed", 60),
        ("nodes_failed", 3),
    ] {
        assert_eq!(figures[key], value, "{key}");
    }
    assert_eq!(stats["attempts"], json!([{"attempt": 1, "pages": 1}, {"attempt": 4, "pages": 1}]));

    // In the order of execution, which is not that of the alphabet.
    let links = &stats["nodes"][0];
    assert_eq!(links["node_id"], "links");
    assert_eq!(
        (&links["completed"], &links["failed"], &links["retries"]),
        (&json!(40), &json!(2), &json!(4))
    );
    assert_eq!(links["total_duration_ms"], 30.0);
    assert_eq!(links["avg_duration_ms"], 0.75);
    // All runs lie between 0.5 and 1 ms, so the estimates do.
    assert_eq!(links["p50_duration_ms"], 0.75);
    assert_eq!(links["p95_duration_ms"], 0.975);
    let title = &stats["nodes"][1];
    assert_eq!((&title["node_id"], &title["avg_duration_ms"]), (&json!("title"), &Value::Null));

    assert_eq!(
        stats["page_errors"],
        json!([{"error_class": "dns", "message": "no such host", "count": 1, "sample_url": "http://shop.test/"}])
    );
    assert_eq!(
        stats["node_errors"],
        json!([{
            "error_class": "selector_missing",
            "message": "nothing matches h1",
            "count": 3,
            "sample_url": "http://shop.test/sale"
        }])
    );
}

#[tokio::test]
async fn the_figures_of_a_fresh_execution_are_zero_and_not_missing() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (execution, id) = api.execution(&path).await;
    let stats = api.get(&format!("{execution}/stats")).await;
    assert_eq!(stats["pending_count"], 2);
    assert_eq!(stats["stats"]["items_extracted"], 0);
    assert_eq!(stats["nodes"], json!([]));
    let summary = api.store.summary(ExecutionId(id)).await.unwrap().unwrap();
    assert_eq!(summary.pages.pending, 2);
    assert!(summary.totals.updated_at.is_none());
    assert!(api.store.summary(ExecutionId::generate()).await.unwrap().is_none());
}

#[tokio::test]
async fn how_pages_are_loaded_is_told_with_the_reason() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (execution, id) = api.execution(&path).await;
    assert_eq!(api.get(&format!("{execution}/stats")).await["render"], json!([]));
    let statement = "INSERT INTO render_decisions (execution_id, worker_id, phase, shape, mode, reason, static_pages,
             full_pages, compared, disagreed)
         VALUES ($1, gen_random_uuid(), 'url_discovery', 'shop.test/#', 'static', '3 of 3 agreed', 7, 3, 3, 0)";
    api.change(statement, id).await;
    assert_eq!(
        api.get(&format!("{execution}/stats")).await["render"],
        json!([{
            "phase": "url_discovery",
            "shape": "shop.test/#",
            "mode": "static",
            "reason": "3 of 3 agreed",
            "static_pages": 7,
            "full_pages": 3,
            "compared": 3,
            "disagreed": 0
        }])
    );
}

#[tokio::test]
async fn data_is_listed_in_pages_under_the_old_keys() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (execution, id) = api.execution(&path).await;
    let empty = api.get(&format!("{execution}/data")).await;
    assert_eq!(
        (&empty["data"], &empty["total"], &empty["limit"], &empty["offset"]),
        (&json!([]), &json!(0), &json!(100), &json!(0))
    );
    insert_items(&api, id).await;

    let page = api.get(&format!("{execution}/data?limit=3&offset=4")).await;
    assert_keys(&page, &["execution_id", "data", "total", "limit", "offset", "items"]);
    assert_eq!((&page["total"], &page["limit"], &page["offset"]), (&json!(250), &json!(3), &json!(4)));
    assert_eq!(page["data"], page["items"]);
    let entry = &page["data"][0];
    assert_keys(entry, &["id", "execution_id", "url", "data", "schema", "extracted_at"]);
    assert_eq!((&entry["data"], &entry["url"]), (&json!({"n": 5}), &json!("http://shop.test/5")));

    let legacy = api.get(&format!("{execution}/data?limit=1&legacy=1")).await;
    let text = legacy["items"][0]["data"].as_str().expect("a string of JSON");
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), json!({"n": 1}));

    for limit in ["0", "1001", "many"] {
        let path = format!("{execution}/data?limit={limit}");
        api.expect(StatusCode::BAD_REQUEST, Method::GET, &path, None).await;
    }
    let all = api.get(&format!("{execution}/data?limit=1000")).await;
    assert_eq!(all["data"].as_array().unwrap().len(), 250);
}

#[tokio::test]
async fn an_export_reads_every_item_once_though_many_share_a_time() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (_, id) = api.execution(&path).await;
    let (_, other) = api.execution(&path).await;
    insert_items(&api, id).await;
    insert_items(&api, other).await;

    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let items = api.store.items_after(ExecutionId(id), after, 7).await.unwrap();
        let Some(last) = items.last() else { break };
        after = Some(last.cursor());
        seen.extend(items.iter().map(|item| item.id));
    }
    let all = api.store.items(ExecutionId(id), 1000, 0).await.unwrap();
    assert_eq!(seen.len(), 250);
    assert_eq!(seen, all.iter().map(|item| item.id).collect::<Vec<_>>());
}

/// Writes 250 items; of each ten in a row all were extracted in the same second. Their ids rise with them.
async fn insert_items(api: &Api, execution: Uuid) {
    let ids: Vec<Uuid> = (0..250).map(|_| Uuid::now_v7()).collect();
    sqlx::query(
        "INSERT INTO extracted_items (id, execution_id, page_id, url, data, extracted_at)
         SELECT id, $1, gen_random_uuid(), 'http://shop.test/' || n, jsonb_build_object('n', n),
             timestamptz '2026-01-01' + (n / 10) * interval '1 second'
         FROM UNNEST($2::uuid[]) WITH ORDINALITY AS item (id, n)",
    )
    .bind(execution)
    .bind(ids)
    .execute(&api.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn pages_that_were_not_to_be_visited_are_counted_by_reason() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (execution, id) = api.execution(&path).await;
    let skip = "UPDATE url_queue SET status = 'skipped', processed_at = now(), error_class = 'robots',
             error = 'robots.txt disallows it'
         WHERE execution_id = $1 AND url LIKE '%sale'";
    api.change(skip, id).await;
    let stats = api.get(&format!("{execution}/stats")).await;
    assert_eq!(stats["stats"]["skipped"], 1);
    let counts = json!([{"reason": "robots", "urls": 1, "sample_url": "http://shop.test/sale",
        "sample_detail": "robots.txt disallows it"}]);
    assert_eq!(stats["skipped_by_reason"], counts);
    assert_eq!(stats["page_errors"], json!([]));
}
