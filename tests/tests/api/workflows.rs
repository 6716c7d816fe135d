//! Workflows: made, listed, read, replaced, activated, checked, deleted.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{Api, assert_keys, shop};

const WORKFLOW_KEYS: [&str; 7] =
    ["id", "name", "description", "config", "status", "created_at", "updated_at"];

#[tokio::test]
async fn a_workflow_goes_through_its_life_with_the_old_keys() {
    let api = Api::start().await;

    let response = api.send(Method::POST, "/api/v1/workflows", Some(&shop())).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let made: serde_json::Value = response.json().await.unwrap();
    assert_keys(&made, &WORKFLOW_KEYS);
    assert_eq!(made["status"], "draft");
    assert_eq!(made["version"], 1);
    assert_eq!(made["config"], shop()["config"]);
    assert_warns_of(&made, "/config/url_discovery");
    let path = format!("/api/v1/workflows/{}", made["id"].as_str().unwrap());
    assert_eq!(location, path);

    let read = api.get(&path).await;
    assert_keys(&read, &WORKFLOW_KEYS);
    assert_eq!(read["name"], "Shop");

    let list = api.get("/api/v1/workflows").await;
    assert_keys(&list, &["workflows", "count"]);
    assert_eq!(list["count"], 1);
    assert_keys(&list["workflows"][0], &WORKFLOW_KEYS);

    let mut changed = shop();
    changed["name"] = json!("Bigger shop");
    let replaced = api.expect(StatusCode::OK, Method::PUT, &path, Some(&changed)).await;
    assert_keys(&replaced, &WORKFLOW_KEYS);
    assert_eq!(replaced["name"], "Bigger shop");
    assert_eq!(replaced["created_at"], made["created_at"]);

    let active = json!({"status": "active"});
    let set = api.expect(StatusCode::OK, Method::PATCH, &format!("{path}/status"), Some(&active)).await;
    assert_keys(&set, &["message", "status"]);
    assert_eq!(set["status"], "active");
    assert_eq!(api.get(&path).await["status"], "active");

    api.expect(StatusCode::NO_CONTENT, Method::DELETE, &path, None).await;
    api.expect(StatusCode::NOT_FOUND, Method::GET, &path, None).await;
    api.expect(StatusCode::NOT_FOUND, Method::DELETE, &path, None).await;
}

#[tokio::test]
async fn a_status_is_accepted_on_creation_and_kept_by_a_replacement_without_one() {
    let api = Api::start().await;
    let path = api.workflow("paused").await;
    assert_eq!(api.get(&path).await["status"], "paused");
    let replaced = api.expect(StatusCode::OK, Method::PUT, &path, Some(&shop())).await;
    assert_eq!(replaced["status"], "paused");
}

#[tokio::test]
async fn a_changed_config_is_a_new_version_and_older_ones_stay_as_they_were() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (execution, _) = api.execution(&path).await;

    let mut renamed = shop();
    renamed["name"] = json!("Other name");
    let same = api.expect(StatusCode::OK, Method::PUT, &path, Some(&renamed)).await;
    assert_eq!(same["version"], 1, "a new name is no new definition");

    let mut changed = shop();
    changed["config"]["max_pages"] = json!(7);
    let replaced = api.expect(StatusCode::OK, Method::PUT, &path, Some(&changed)).await;
    assert_eq!(replaced["version"], 2);
    assert_eq!(api.count("SELECT COUNT(*) FROM workflow_versions").await, 2);
    let first: i64 =
        api.count("SELECT (config ->> 'max_pages')::bigint FROM workflow_versions WHERE version = 1").await;
    assert_eq!(first, 40);

    let running = api.get(&execution).await;
    assert_eq!((&running["version"], &running["max_pages"]), (&json!(1), &json!(40)));
    let (next, _) = api.execution(&path).await;
    let next = api.get(&next).await;
    assert_eq!((&next["version"], &next["max_pages"]), (&json!(2), &json!(7)));
}

#[tokio::test]
async fn changes_at_the_same_time_each_become_a_version() {
    let api = Api::start().await;
    let path = api.workflow("draft").await;
    let put = async |max_pages: u32| {
        let mut document = shop();
        document["config"]["max_pages"] = json!(max_pages);
        api.expect(StatusCode::OK, Method::PUT, &path, Some(&document)).await["version"].as_i64().unwrap()
    };
    let (a, b, c, d) = tokio::join!(put(1), put(2), put(3), put(4));
    let mut versions = [a, b, c, d];
    versions.sort_unstable();
    assert_eq!(versions, [2, 3, 4, 5]);
    assert_eq!(api.count("SELECT COUNT(*) FROM workflow_versions").await, 5);
}

#[tokio::test]
async fn lists_are_newest_first_in_pages_and_by_status() {
    let api = Api::start().await;
    let mut paths = Vec::new();
    for status in ["draft", "active", "draft"] {
        paths.push(api.workflow(status).await);
    }
    let page = api.get("/api/v1/workflows?limit=2").await;
    assert_eq!((&page["count"], &page["total"]), (&json!(2), &json!(3)));
    assert!(paths[2].ends_with(page["workflows"][0]["id"].as_str().unwrap()));
    let rest = api.get("/api/v1/workflows?limit=2&offset=2").await;
    assert_eq!(rest["count"], 1);
    assert!(paths[0].ends_with(rest["workflows"][0]["id"].as_str().unwrap()));
    let active = api.get("/api/v1/workflows?status=active").await;
    assert_eq!((&active["count"], &active["total"]), (&json!(1), &json!(1)));
    assert_eq!(active["workflows"][0]["status"], "active");
}

#[tokio::test]
async fn a_check_reports_and_makes_nothing() {
    let api = Api::start().await;
    let path = "/api/v1/workflows/validate";
    let good = api.expect(StatusCode::OK, Method::POST, path, Some(&shop())).await;
    assert_eq!((&good["valid"], &good["problems"]), (&json!(true), &json!([])));
    assert_warns_of(&good, "/config/url_discovery");

    let mut bad = shop();
    bad["config"]["start_urls"] = json!([]);
    bad["config"]["url_discovery"][0]["type"] = json!("extract_lnks");
    let bad = api.expect(StatusCode::OK, Method::POST, path, Some(&bad)).await;
    assert_eq!(bad["valid"], false);
    let pointers: Vec<_> =
        bad["problems"].as_array().unwrap().iter().map(|problem| &problem["pointer"]).collect();
    assert_eq!(pointers, ["/config/start_urls", "/config/url_discovery/0/type"]);
    assert_eq!(api.get("/api/v1/workflows").await["count"], 0);
}

#[tokio::test]
async fn a_workflow_is_not_deleted_while_an_execution_of_it_runs_or_a_worker_holds_a_page() {
    let api = Api::start().await;
    let path = api.workflow("active").await;
    let (execution, id) = api.execution(&path).await;

    let refused = api.expect(StatusCode::CONFLICT, Method::DELETE, &path, None).await;
    assert_eq!(refused["code"], "workflow_in_use");

    api.change("UPDATE url_queue SET status = 'processing' WHERE execution_id = $1", id).await;
    api.expect(StatusCode::OK, Method::DELETE, &execution, None).await;
    let refused = api.expect(StatusCode::CONFLICT, Method::DELETE, &path, None).await;
    assert_eq!(refused["code"], "workflow_in_use");
    assert_eq!(api.count("SELECT COUNT(*) FROM url_queue").await, 2);

    api.change("UPDATE url_queue SET status = 'failed' WHERE execution_id = $1", id).await;
    api.expect(StatusCode::NO_CONTENT, Method::DELETE, &path, None).await;
}

#[tokio::test]
async fn a_deletion_takes_everything_of_the_workflow_and_nothing_of_others() {
    let api = Api::start().await;
    let (doomed, kept) = (api.workflow("active").await, api.workflow("active").await);
    for path in [&doomed, &kept] {
        let (execution, id) = api.execution(path).await;
        for statement in [
            "WITH definition AS (
                 INSERT INTO node_definitions (execution_id, position, phase, node_id, node_type, input)
                 VALUES ($1, 0, 'data_extraction', 'title', 'extract', '{}') RETURNING id
             )
             INSERT INTO node_records (started_at, page_id, definition_id, duration_us, attempt, retry_count, status)
             SELECT now(), page.id, definition.id, 5, 1, 0, 'c' FROM definition, url_queue AS page
             WHERE page.execution_id = $1 AND page.url LIKE '%sale'",
            "INSERT INTO extracted_items (id, execution_id, page_id, url, data)
             VALUES (gen_random_uuid(), $1, gen_random_uuid(), 'http://shop.test/', '{}')",
            "INSERT INTO page_counters (execution_id, worker_id) VALUES ($1, gen_random_uuid())",
            "INSERT INTO node_counters (execution_id, worker_id, phase, node_id, node_type, durations)
             VALUES ($1, gen_random_uuid(), 'p', 'title', 'extract', '{}')",
        ] {
            api.change(statement, id).await;
        }
        api.expect(StatusCode::OK, Method::DELETE, &execution, None).await;
    }
    api.expect(StatusCode::NO_CONTENT, Method::DELETE, &doomed, None).await;
    for (query, left) in [
        ("SELECT COUNT(*) FROM workflows", 1),
        ("SELECT COUNT(*) FROM workflow_versions", 1),
        ("SELECT COUNT(*) FROM workflow_executions", 1),
        ("SELECT COUNT(*) FROM url_queue", 2),
        ("SELECT COUNT(*) FROM node_executions", 1),
        ("SELECT COUNT(*) FROM node_records", 1),
        ("SELECT COUNT(*) FROM extracted_items", 1),
        ("SELECT COUNT(*) FROM page_counters", 1),
        ("SELECT COUNT(*) FROM node_counters", 1),
    ] {
        assert_eq!(api.count(query).await, left, "{query}");
    }
}

#[tokio::test]
async fn what_was_deleted_is_not_found_while_rows_of_it_are_still_there() {
    let api = Api::start().await;
    let workflow = api.workflow("active").await;
    let (execution, id) = api.execution(&workflow).await;
    api.expect(StatusCode::OK, Method::DELETE, &execution, None).await;
    // Its removal waits for nobody who holds a page.
    let mut reader = api.pool.begin().await.unwrap();
    let hold = "SELECT FROM url_queue WHERE execution_id = $1 AND url LIKE '%sale' FOR UPDATE";
    sqlx::query(hold).bind(id).execute(&mut *reader).await.unwrap();
    api.expect(StatusCode::NO_CONTENT, Method::DELETE, &workflow, None).await;
    assert_eq!(api.count("SELECT COUNT(*) FROM url_queue").await, 1);

    for path in ["", "/stats", "/data", "/skipped", "/quarantine"] {
        api.expect(StatusCode::NOT_FOUND, Method::GET, &format!("{execution}{path}"), None).await;
    }
    for act in ["pause", "resume", "cancel", "retry"] {
        api.expect(StatusCode::NOT_FOUND, Method::POST, &format!("{execution}/{act}"), None).await;
    }
    let change = json!({"max_pages": 7});
    api.expect(StatusCode::NOT_FOUND, Method::PATCH, &execution, Some(&change)).await;
    for method in [Method::GET, Method::DELETE] {
        api.expect(StatusCode::NOT_FOUND, method, &workflow, None).await;
    }
    api.expect(StatusCode::NOT_FOUND, Method::PUT, &workflow, Some(&shop())).await;
    api.expect(StatusCode::NOT_FOUND, Method::POST, &format!("{workflow}/execute"), None).await;
    let active = json!({"status": "active"});
    api.expect(StatusCode::NOT_FOUND, Method::PATCH, &format!("{workflow}/status"), Some(&active)).await;
    for list in ["executions", "workflows"] {
        assert_eq!(api.get(&format!("/api/v1/{list}")).await["total"], 0, "{list}");
    }

    reader.rollback().await.unwrap();
    assert!(api.store.remove_deleted(None, 10).await.unwrap() > 0);
    assert_eq!(api.count("SELECT COUNT(*) FROM workflows").await, 0);
}

#[track_caller]
fn assert_warns_of(answer: &serde_json::Value, pointer: &str) {
    let warnings = answer["compat"]["warnings"].as_array().expect("a list of warnings");
    for warning in warnings {
        assert_keys(warning, &["pointer", "code", "message"]);
    }
    assert!(warnings.iter().any(|warning| warning["pointer"] == pointer), "{answer}");
}
