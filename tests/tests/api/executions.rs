//! Executions: started, listed, read, cancelled.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::Row;
use uuid::Uuid;

use super::{Api, assert_keys};

#[tokio::test]
async fn only_an_active_workflow_is_executed() {
    let api = Api::start().await;
    for status in ["draft", "paused", "archived"] {
        let path = api.workflow(status).await;
        let refused =
            api.expect(StatusCode::BAD_REQUEST, Method::POST, &format!("{path}/execute"), None).await;
        assert_eq!(refused["code"], "workflow_not_active");
        assert!(refused["error"].as_str().unwrap().contains(status), "{refused}");
    }
    assert_eq!(api.count("SELECT COUNT(*) FROM workflow_executions").await, 0);
    assert_eq!(api.count("SELECT COUNT(*) FROM url_queue").await, 0);
}

#[tokio::test]
async fn a_start_that_comes_again_with_its_key_is_the_same_execution() {
    let api = Api::start().await;
    let (path, other) = (api.workflow("active").await, api.workflow("active").await);
    let start = async |path: &str, key: &str| {
        let request = api.client.post(format!("{}{path}/execute", api.base)).header("idempotency-key", key);
        let response = request.send().await.unwrap();
        let (status, body) = (response.status(), response.json::<serde_json::Value>().await.unwrap());
        (status, body["execution_id"].as_str().map(str::to_owned), body["code"].as_str().map(str::to_owned))
    };
    let at_once = futures_util::future::join_all((0..100).map(|_| start(&path, "order-1"))).await;
    let first = at_once[0].1.clone().expect("an execution");
    for (status, execution, _) in at_once {
        assert_eq!((status, execution.as_ref()), (StatusCode::ACCEPTED, Some(&first)));
    }
    assert_eq!(api.count("SELECT COUNT(*) FROM workflow_executions").await, 1);
    assert_eq!(api.count("SELECT COUNT(*) FROM url_queue").await, 2);
    assert_eq!(api.count("SELECT COUNT(*) FROM lanes").await, 1);

    let second = start(&path, "order-2").await.1.unwrap();
    let elsewhere = start(&other, "order-1").await.1.unwrap();
    assert!(first != second && first != elsewhere && second != elsewhere);
    let paused = json!({"status": "paused"});
    api.expect(StatusCode::OK, Method::PATCH, &format!("{path}/status"), Some(&paused)).await;
    assert_eq!(start(&path, "\"order-1\"").await.1, Some(first), "whatever has become of the workflow");
    assert_eq!(start(&path, "order-3").await.2.as_deref(), Some("workflow_not_active"));
    let wrong = start(&other, "two words").await;
    assert_eq!((wrong.0, wrong.2.as_deref()), (StatusCode::BAD_REQUEST, Some("bad_idempotency_key")));
}

#[tokio::test]
async fn a_start_writes_the_execution_and_each_start_page_once_and_wakes_the_dispatcher() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let response = api.send(Method::POST, &format!("{path}/execute"), None).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let started: serde_json::Value = response.json().await.unwrap();
    assert_keys(&started, &["message", "execution_id", "workflow_id"]);
    assert!(path.ends_with(started["workflow_id"].as_str().unwrap()));
    assert_eq!(location, format!("/api/v1/executions/{}", started["execution_id"].as_str().unwrap()));
    tokio::time::timeout(Duration::from_secs(5), api.frontier_changed.notified())
        .await
        .expect("the dispatcher is woken");

    let row = sqlx::query("SELECT id, status, version, max_pages, host_delay_ms FROM workflow_executions")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert_eq!(row.get::<Uuid, _>("id").to_string(), started["execution_id"].as_str().unwrap());
    assert_eq!(row.get::<Uuid, _>("id").get_version_num(), 7);
    assert_eq!(row.get::<&str, _>("status"), "running");
    assert_eq!(row.get::<i32, _>("version"), 1);
    assert_eq!(row.get::<Option<i64>, _>("max_pages"), Some(40));
    assert_eq!(row.get::<i32, _>("host_delay_ms"), 250);

    let pages =
        sqlx::query("SELECT id, url, octet_length(url_hash) AS hash, host, depth, priority, status FROM url_queue ORDER BY id")
            .fetch_all(&api.pool)
            .await
            .unwrap();
    let urls: Vec<&str> = pages.iter().map(|page| page.get("url")).collect();
    assert_eq!(urls, ["http://shop.test/", "http://shop.test/sale"], "in the order of the workflow");
    for page in &pages {
        assert_eq!(page.get::<Uuid, _>("id").get_version_num(), 7);
        assert_eq!(page.get::<i32, _>("hash"), 16);
        assert_eq!(page.get::<&str, _>("host"), "shop.test");
        assert_eq!(page.get::<i32, _>("depth"), 0);
        assert_eq!(page.get::<i32, _>("priority"), 100);
        assert_eq!(page.get::<&str, _>("status"), "pending");
    }
}

#[tokio::test]
async fn a_workflow_may_run_twice_at_once_each_with_its_own_pages() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (_, first) = api.execution(&path).await;
    let (_, second) = api.execution(&path).await;
    assert_ne!(first, second);
    assert_eq!(api.count("SELECT COUNT(*) FROM url_queue").await, 4);
    assert_eq!(api.count("SELECT COUNT(DISTINCT execution_id) FROM url_queue").await, 2);
}

#[tokio::test]
async fn an_execution_is_read_with_the_keys_of_both_versions_of_the_old_system() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (execution, id) = api.execution(&path).await;
    let read = api.get(&execution).await;
    assert_keys(&read, &["execution_id", "running", "stats"]);
    assert_keys(&read["stats"], &["pending", "processing", "completed", "failed"]);
    assert_keys(
        &read,
        &["id", "workflow_id", "workflow_name", "status", "started_at", "completed_at", "error"],
    );
    assert_keys(
        &read["stats"],
        &[
            "urls_discovered",
            "urls_processed",
            "urls_failed",
            "items_extracted",
            "bytes_downloaded",
            "duration",
            "nodes_executed",
            "nodes_failed",
            "last_update",
        ],
    );
    assert_eq!((&read["running"], &read["status"]), (&json!(true), &json!("running")));
    assert_eq!(read["stats"]["pending"], 2);
    assert_eq!(read["workflow_name"], "Shop");

    // A page that lies in the broker still waits, as far as users are concerned.
    api.change("UPDATE url_queue SET status = 'queued' WHERE execution_id = $1 AND url LIKE '%sale'", id)
        .await;
    assert_eq!(api.get(&execution).await["stats"]["pending"], 2);
}

#[tokio::test]
async fn a_running_execution_is_cancelled_once_and_an_ended_one_is_not() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (execution, _) = api.execution(&path).await;
    let cancelled = api.expect(StatusCode::OK, Method::DELETE, &execution, None).await;
    assert_keys(&cancelled, &["message", "execution_id"]);
    let read = api.get(&execution).await;
    assert_eq!((&read["running"], &read["status"]), (&json!(false), &json!("cancelled")));
    assert!(read["completed_at"].is_string());

    api.expect(StatusCode::OK, Method::DELETE, &execution, None).await;
    assert_eq!(api.get(&execution).await["completed_at"], read["completed_at"], "nothing changed");

    let (completed, id) = api.execution(&path).await;
    api.change("UPDATE workflow_executions SET status = 'completed', completed_at = now() WHERE id = $1", id)
        .await;
    let refused = api.expect(StatusCode::CONFLICT, Method::DELETE, &completed, None).await;
    assert_eq!(refused["code"], "execution_ended");
    assert_eq!(api.get(&completed).await["status"], "completed");
}

#[tokio::test]
async fn of_two_cancellations_at_once_one_ends_the_execution() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (execution, _) = api.execution(&path).await;
    let cancel = async || api.expect(StatusCode::OK, Method::DELETE, &execution, None).await;
    let answers = tokio::join!(cancel(), cancel());
    let messages = [answers.0["message"].clone(), answers.1["message"].clone()];
    assert_eq!(messages.iter().filter(|message| *message == "execution cancelled").count(), 1);
}

#[tokio::test]
async fn executions_are_listed_newest_first_by_workflow_and_status() {
    let api = Api::start().await;
    let (one, other) = (api.workflow("active").await, api.workflow("active").await);
    let (_, first) = api.execution(&one).await;
    let (cancelled, second) = api.execution(&one).await;
    let (_, third) = api.execution(&other).await;
    api.expect(StatusCode::OK, Method::DELETE, &cancelled, None).await;

    let ids = |list: &serde_json::Value| -> Vec<String> {
        let entries = list["executions"].as_array().unwrap();
        entries.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = api.get("/api/v1/executions").await;
    assert_keys(&all, &["executions", "total", "limit", "offset"]);
    assert_eq!(ids(&all), [third.to_string(), second.to_string(), first.to_string()]);
    let id = one.rsplit('/').next().unwrap();
    let of_one = api.get(&format!("/api/v1/executions?workflow_id={id}&limit=1")).await;
    assert_eq!((ids(&of_one), &of_one["total"]), (vec![second.to_string()], &json!(2)));
    let running = api.get(&format!("/api/v1/executions?workflow_id={id}&status=running")).await;
    assert_eq!((ids(&running), &running["total"]), (vec![first.to_string()], &json!(1)));
}
