//! Executions that are paused, resumed, cancelled, limited anew and retried over REST.

use reqwest::header::{ETAG, IF_MATCH};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Api, assert_keys};

const ACTS: [&str; 3] = ["pause", "resume", "cancel"];
const ENDED: &str = "UPDATE workflow_executions SET status = 'completed', completed_at = now() WHERE id = $1";

impl Api {
    async fn act(&self, status: StatusCode, execution: &str, act: &str) -> Value {
        self.expect(status, Method::POST, &format!("{execution}/{act}"), None).await
    }
}

#[tokio::test]
async fn each_act_answers_with_the_old_keys_the_status_and_the_version() {
    let api = Api::start().await;
    let (execution, id) = api.execution(&api.workflow("active").await).await;
    for (act, status, version) in
        [("pause", "paused", 1), ("resume", "running", 2), ("cancel", "cancelled", 3)]
    {
        let response = api.send(Method::POST, &format!("{execution}/{act}"), None).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED, "{act}");
        assert_eq!(response.headers()[ETAG], format!("\"{version}\""), "{act}");
        let told: Value = response.json().await.unwrap();
        assert_keys(&told, &["message", "execution_id"]);
        assert_eq!(told["execution_id"], id.to_string());
        assert_eq!((&told["status"], &told["version"]), (&json!(status), &json!(version)));
        let read = api.send(Method::GET, &execution, None).await;
        assert_eq!(read.headers()[ETAG], format!("\"{version}\""), "{act}");
        let read: Value = read.json().await.unwrap();
        assert_eq!((&read["status"], &read["control_version"]), (&json!(status), &json!(version)));
        assert_eq!(read["running"], status == "running");
        // Doing so again changes nothing.
        assert_eq!(api.act(StatusCode::ACCEPTED, &execution, act).await["version"], version, "{act}");
    }
    assert_eq!(api.get(&execution).await["cancel_mode"], "graceful");
}

#[tokio::test]
async fn a_paused_execution_is_listed_as_such_and_may_be_cancelled() {
    let api = Api::start().await;
    let (execution, id) = api.execution(&api.workflow("active").await).await;
    api.act(StatusCode::ACCEPTED, &execution, "pause").await;
    let listed = api.get("/api/v1/executions?status=paused").await;
    assert_eq!(listed["executions"][0]["id"], id.to_string());
    let cancelled = api.act(StatusCode::ACCEPTED, &execution, "cancel?mode=now").await;
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(api.get(&execution).await["cancel_mode"], "now");
}

#[tokio::test]
async fn an_act_upon_an_execution_that_has_ended_is_a_conflict_that_names_its_status() {
    let api = Api::start().await;
    let (execution, id) = api.execution(&api.workflow("active").await).await;
    api.change(ENDED, id).await;
    for act in ACTS {
        let refused = api.act(StatusCode::CONFLICT, &execution, act).await;
        assert_eq!(refused["code"], "execution_ended", "{act}");
        assert!(refused["detail"].as_str().unwrap().contains("completed"), "{refused}");
        assert_eq!(refused["errors"][0]["code"], "completed");
    }
    let change = json!({"max_pages": 7, "weight": 7});
    api.expect(StatusCode::CONFLICT, Method::PATCH, &execution, Some(&change)).await;
    assert_eq!(api.act(StatusCode::CONFLICT, &execution, "retry").await["code"], "nothing_to_retry");
    assert_eq!(api.get(&execution).await["control_version"], 0);
}

#[tokio::test]
async fn an_act_upon_another_version_is_refused() {
    let api = Api::start().await;
    let (execution, _) = api.execution(&api.workflow("active").await).await;
    let act = async |tag: &str| {
        let request = api.client.post(format!("{}{execution}/pause", api.base)).header(IF_MATCH, tag);
        request.send().await.unwrap()
    };
    for tag in ["\"1\"", "W/\"0\"", "\"abc\"", "0"] {
        let refused = act(tag).await;
        assert_eq!(refused.status(), StatusCode::PRECONDITION_FAILED, "{tag}");
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["code"], "version_mismatch");
        assert!(problem["detail"].as_str().unwrap().contains("version 0 and running"), "{problem}");
    }
    assert_eq!(act("\"9\", \"0\"").await.status(), StatusCode::ACCEPTED);
    assert_eq!(act("*").await.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn the_mode_of_a_cancellation_is_in_the_query_or_in_the_body() {
    let api = Api::start().await;
    let workflow = api.workflow("active").await;
    let (execution, _) = api.execution(&workflow).await;
    let cancel = format!("{execution}/cancel");
    let bad = json!({"mode": "soon", "mod": 1});
    let refused = api.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, &cancel, Some(&bad)).await;
    let pointers: Vec<_> =
        refused["errors"].as_array().unwrap().iter().map(|told| &told["pointer"]).collect();
    assert_eq!(pointers, ["/mode", "/mod"]);
    let now = json!({"mode": "now"});
    let both = format!("{cancel}?mode=graceful");
    api.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, &both, Some(&now)).await;
    assert_eq!(api.get(&execution).await["status"], "running");
    api.expect(StatusCode::ACCEPTED, Method::POST, &cancel, Some(&now)).await;
    assert_eq!(api.get(&execution).await["cancel_mode"], "now");
}

#[tokio::test]
async fn limits_are_changed_while_an_execution_runs_and_wrong_ones_are_told_all_at_once() {
    let api = Api::start().await;
    let (execution, _) = api.execution(&api.workflow("active").await).await;
    let bad = json!({"max_pages": -1, "concurrency": 1.5, "rate_limit_delay": "1000", "weight": 0, "priority": 1001, "wieght": 2});
    let refused = api.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::PATCH, &execution, Some(&bad)).await;
    assert_eq!(refused["code"], "invalid_limits");
    let pointers: Vec<_> =
        refused["errors"].as_array().unwrap().iter().map(|told| &told["pointer"]).collect();
    assert_eq!(
        pointers,
        ["/max_pages", "/concurrency", "/rate_limit_delay", "/weight", "/priority", "/wieght"]
    );
    api.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::PATCH, &execution, Some(&json!({}))).await;

    let good = json!({"max_pages": 7, "rate_limit_delay": 0, "concurrency": 2, "weight": 3, "priority": -5});
    let changed = api.expect(StatusCode::OK, Method::PATCH, &execution, Some(&good)).await;
    assert_eq!(changed["version"], 1);
    let read = api.get(&execution).await;
    for (name, value) in good.as_object().unwrap() {
        assert_eq!(&read[name], value, "{name}");
    }
    for no_limit in [json!(0), Value::Null] {
        let change = json!({"max_pages": no_limit, "concurrency": no_limit});
        api.expect(StatusCode::OK, Method::PATCH, &execution, Some(&change)).await;
        let read = api.get(&execution).await;
        assert_eq!((&read["max_pages"], &read["concurrency"]), (&Value::Null, &Value::Null));
    }
    assert_eq!(api.get(&execution).await["weight"], 3, "what is not given stays");
}

#[tokio::test]
async fn budgets_are_changed_while_an_execution_runs_and_wrong_ones_are_told_all_at_once() {
    let api = Api::start().await;
    let (execution, id) = api.execution(&api.workflow("active").await).await;
    let patch = async |status, change: Value| {
        api.expect(status, Method::PATCH, &execution, Some(&json!({"budgets": change}))).await
    };
    let bad = json!({
        "time": 0, "bytes": "1 GB", "byte": 5,
        "path_prefixes": [{"prefix": "a/", "max_pages": 1}, {"prefix": "/a/", "max_page": 1}],
    });
    let refused = patch(StatusCode::UNPROCESSABLE_ENTITY, bad).await;
    assert_eq!(refused["code"], "invalid_limits");
    let pointers: Vec<_> =
        refused["errors"].as_array().unwrap().iter().map(|told| told["pointer"].as_str().unwrap()).collect();
    assert_eq!(
        pointers,
        [
            "/budgets/time",
            "/budgets/bytes",
            "/budgets/path_prefixes/0/prefix",
            "/budgets/path_prefixes/1/max_pages",
            "/budgets/path_prefixes/1/max_page",
            "/budgets/byte",
        ]
    );
    for bad in [json!({}), json!([]), json!(60)] {
        assert_eq!(patch(StatusCode::UNPROCESSABLE_ENTITY, bad).await["errors"][0]["pointer"], "/budgets");
    }
    let nothing = json!({"time": null, "bytes": null, "path_prefixes": []});
    let read = api.get(&execution).await;
    assert_eq!((&read["budgets"], &read["control_version"]), (&nothing, &json!(0)));

    let paths = json!([{"prefix": "/sale", "max_pages": 5}]);
    patch(StatusCode::OK, json!({"time": 600, "path_prefixes": paths})).await;
    assert_eq!(patch(StatusCode::OK, json!({"time": null, "bytes": 1_000})).await["version"], 2);
    let paths = json!([{"prefix": "/sale", "max_pages": 5, "used": 0}]);
    let standing = json!({"time": null, "bytes": 1_000, "path_prefixes": paths});
    assert_eq!(api.get(&execution).await["budgets"], standing);
    patch(StatusCode::OK, Value::Null).await;
    assert_eq!(api.get(&execution).await["budgets"], nothing);

    let over = "UPDATE url_queue SET status = 'skipped', error_class = 'time_budget' WHERE execution_id = $1";
    api.change(over, id).await;
    patch(StatusCode::OK, json!({"time": 3_600})).await;
    assert_eq!(api.get(&execution).await["stats"]["pending"], 2, "pages wait again before the answer");
    api.change(ENDED, id).await;
    let both = json!({"priority": 9, "budgets": {"time": 7_200}});
    let refused = api.expect(StatusCode::CONFLICT, Method::PATCH, &execution, Some(&both)).await;
    assert_eq!(refused["code"], "execution_ended");
    assert_eq!(api.get(&execution).await["budgets"]["time"], 3_600);
    patch(StatusCode::OK, json!({"time": 7_200})).await;
    let read = api.get(&execution).await;
    assert_eq!((&read["budgets"]["time"], &read["status"]), (&json!(7_200), &json!("completed")));
    api.change("UPDATE workflow_executions SET status = 'cancelled' WHERE id = $1", id).await;
    assert_eq!(patch(StatusCode::CONFLICT, json!({"time": 9_000})).await["code"], "execution_ended");
}

#[tokio::test]
async fn a_retry_is_refused_with_the_budgets_that_are_used_up_and_done_when_they_are_raised() {
    let api = Api::start().await;
    let (execution, id) = api.execution(&api.workflow("active").await).await;
    let budgets = json!({"budgets": {"time": 60, "bytes": 1_000}});
    api.expect(StatusCode::OK, Method::PATCH, &execution, Some(&budgets)).await;
    api.change("UPDATE url_queue SET status = 'failed', processed_at = now(), error_class = 'dns' WHERE execution_id = $1", id)
        .await;
    api.change(
        "INSERT INTO page_counters (execution_id, worker_id, failed, bytes) VALUES ($1, gen_random_uuid(), 2, 1000)",
        id,
    )
    .await;
    api.change(
        "UPDATE workflow_executions SET started_at = started_at - interval '61 seconds' WHERE id = $1",
        id,
    )
    .await;
    api.change(ENDED, id).await;
    let refused = api.act(StatusCode::CONFLICT, &execution, "retry").await;
    assert_eq!(refused["code"], "budget_spent");
    let codes: Vec<_> =
        refused["errors"].as_array().unwrap().iter().map(|told| told["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["bytes", "time"]);
    assert!(refused["errors"][1]["message"].as_str().unwrap().contains("`budgets.time`"), "{refused}");
    let read = api.get(&execution).await;
    assert_eq!((&read["status"], &read["stats"]["failed"]), (&json!("completed"), &json!(2)));

    let raised = json!({"budgets": {"time": null, "bytes": 2_000}});
    api.expect(StatusCode::OK, Method::PATCH, &execution, Some(&raised)).await;
    assert_eq!(api.act(StatusCode::ACCEPTED, &execution, "retry").await["pages"], 2);
    assert_eq!(api.get(&execution).await["stats"]["pending"], 2);
}

#[tokio::test]
async fn a_retry_is_refused_where_no_page_has_a_place_in_the_limit_and_done_when_it_is_raised() {
    let api = Api::start().await;
    let (execution, id) = api.execution(&api.workflow("active").await).await;
    api.change("UPDATE url_queue SET status = 'failed', processed_at = now(), error_class = 'connect' WHERE execution_id = $1", id)
        .await;
    let counted =
        "INSERT INTO page_counters (execution_id, worker_id, failed) VALUES ($1, gen_random_uuid(), 2)";
    api.change(counted, id).await;
    api.change("UPDATE workflow_executions SET max_pages = 1, pages_admitted = 1 WHERE id = $1", id).await;
    api.change(ENDED, id).await;
    let refused = api.act(StatusCode::CONFLICT, &execution, "retry").await;
    assert_eq!(
        (&refused["code"], &refused["errors"][0]["code"]),
        (&json!("budget_spent"), &json!("max_pages"))
    );
    assert!(refused["errors"][0]["message"].as_str().unwrap().contains("`PATCH "), "{refused}");
    assert_eq!(api.get(&execution).await["status"], "completed");

    api.expect(StatusCode::OK, Method::PATCH, &execution, Some(&json!({"max_pages": 2}))).await;
    assert_eq!(api.act(StatusCode::ACCEPTED, &execution, "retry").await["pages"], 1);
    let read = api.get(&execution).await;
    assert_eq!(read["stats"]["pending"], 1, "the other one has no place, and stays as it is");
    assert_eq!(api.count("SELECT count(*) FROM url_queue WHERE status = 'failed'").await, 1);
}

#[tokio::test]
async fn a_change_of_an_execution_that_has_ended_says_whether_anything_can_come_of_it() {
    let api = Api::start().await;
    let (execution, id) = api.execution(&api.workflow("active").await).await;
    let left_out = "UPDATE url_queue SET status = 'skipped', error_class = 'limit', processed_at = now() WHERE execution_id = $1";
    api.change(left_out, id).await;
    api.change(ENDED, id).await;
    let raise = async || {
        let more = json!({"max_pages": 100});
        let changed = api.expect(StatusCode::OK, Method::PATCH, &execution, Some(&more)).await;
        assert_eq!(changed["status"], "completed");
        changed["message"].as_str().unwrap().to_owned()
    };
    let message = raise().await;
    assert!(message.contains("does not go on") && message.contains("Start another execution"), "{message}");
    let refused = api.act(StatusCode::CONFLICT, &execution, "retry").await;
    assert_eq!(refused["code"], "nothing_to_retry");
    assert!(refused["detail"].as_str().unwrap().contains("start another execution"), "{refused}");

    let one_failed = "UPDATE url_queue SET status = 'failed', error_class = 'dns' WHERE execution_id = $1 AND url LIKE '%sale'";
    api.change(one_failed, id).await;
    let counted =
        "INSERT INTO page_counters (execution_id, worker_id, failed) VALUES ($1, gen_random_uuid(), 1)";
    api.change(counted, id).await;
    let message = raise().await;
    assert!(message.contains("does not go on by itself") && message.contains("/retry"), "{message}");
    assert_eq!(api.act(StatusCode::ACCEPTED, &execution, "retry").await["pages"], 1);
    assert_eq!(api.get(&execution).await["stats"]["pending"], 2, "with the one that was left out");
}

#[tokio::test]
async fn a_higher_limit_puts_pages_back_and_a_retry_failed_ones_before_they_answer() {
    let api = Api::start().await;
    let (execution, id) = api.execution(&api.workflow("active").await).await;
    api.change(
        "UPDATE url_queue SET status = 'skipped', error_class = 'limit' WHERE execution_id = $1 AND url LIKE '%sale'",
        id,
    )
    .await;
    api.change(
        "UPDATE url_queue SET status = 'failed', processed_at = now() WHERE execution_id = $1 AND url LIKE '%/'",
        id,
    )
    .await;
    api.change(
        "INSERT INTO page_counters (execution_id, worker_id, failed) VALUES ($1, gen_random_uuid(), 1)",
        id,
    )
    .await;
    api.expect(StatusCode::OK, Method::PATCH, &execution, Some(&json!({"max_pages": 50}))).await;
    assert_eq!(api.get(&execution).await["stats"]["pending"], 1);
    api.change(ENDED, id).await;
    let retried = api.act(StatusCode::ACCEPTED, &execution, "retry").await;
    assert_eq!((&retried["pages"], &retried["status"]), (&json!(1), &json!("running")));
    let read = api.get(&execution).await;
    assert_eq!((&read["stats"]["pending"], &read["stats"]["failed"]), (&json!(2), &json!(0)));
    assert_eq!(read["completed_at"], Value::Null);
    assert_eq!(api.count("SELECT sum(failed)::int8 FROM page_counters").await, 0);
}

#[tokio::test]
async fn a_workflow_is_not_deleted_under_a_paused_execution() {
    let api = Api::start().await;
    let workflow = api.workflow("active").await;
    let (execution, _) = api.execution(&workflow).await;
    api.act(StatusCode::ACCEPTED, &execution, "pause").await;
    api.expect(StatusCode::CONFLICT, Method::DELETE, &workflow, None).await;
}
