//! Schedules over REST: made, listed, changed, deleted, run before their time.

use chrono::{DateTime, Utc};
use reqwest::header::{ETAG, IF_MATCH, LOCATION};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Api, assert_keys};

const SCHEDULES: &str = "/api/v1/schedules";

impl Api {
    /// Makes a schedule of a new active workflow, and gives its path.
    async fn schedule(&self, overlap: &str) -> String {
        let workflow = self.workflow("active").await;
        let id = workflow.rsplit('/').next().unwrap();
        let document = json!({"workflow_id": id, "cron": "0 4 * * *", "overlap": overlap});
        let made = self.expect(StatusCode::CREATED, Method::POST, SCHEDULES, Some(&document)).await;
        format!("{SCHEDULES}/{}", made["id"].as_str().unwrap())
    }
}

fn next_run(schedule: &Value) -> DateTime<Utc> {
    schedule["next_run_at"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_schedule_is_made_with_its_defaults_and_read_again() {
    let api = Api::start().await;
    let workflow = api.workflow("draft").await;
    let id = workflow.rsplit('/').next().unwrap();
    let document = json!({"workflow_id": id, "cron": "30 4 * * *"});
    let response = api.send(Method::POST, SCHEDULES, Some(&document)).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()[ETAG], "\"0\"");
    let location = response.headers()[LOCATION].to_str().unwrap().to_owned();
    let made: Value = response.json().await.unwrap();
    assert_keys(&made, &["last_run_at", "last_execution_id", "last_outcome", "created_at", "updated_at"]);
    assert_eq!(location, format!("{SCHEDULES}/{}", made["id"].as_str().unwrap()));
    let defaults = (&made["time_zone"], &made["enabled"], &made["overlap"]);
    assert_eq!(defaults, (&json!("UTC"), &json!(true), &json!("skip")));
    assert!(made["next_run_at"].as_str().unwrap().ends_with("T04:30:00Z"), "{made}");
    assert!(next_run(&made) > Utc::now());
    assert_eq!(api.get(&location).await, made);
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_schedule_is_told_with_its_place() {
    let api = Api::start().await;
    let bad = json!({"workflow_id": "7", "cron": "61 * * * *", "time_zone": "Europe/Berln", "enabled": "yes",
        "overlap": "never", "corn": 1});
    let problem = api.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, SCHEDULES, Some(&bad)).await;
    assert_eq!(problem["code"], "invalid_schedule");
    let mistakes = problem["errors"].as_array().unwrap();
    let mut pointers: Vec<_> = mistakes.iter().map(|told| told["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/corn", "/cron", "/enabled", "/overlap", "/time_zone", "/workflow_id"]);
    assert!(problem.to_string().contains("did you mean `Europe/Berlin`?"), "{problem}");
    let nobodys = json!({"workflow_id": "01890a5d-ac96-774b-bcce-b302099a8057", "cron": "@daily"});
    let problem = api.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, SCHEDULES, Some(&nobodys)).await;
    assert_eq!(problem["errors"][0]["pointer"], "/workflow_id");
    assert_eq!(api.get(SCHEDULES).await["total"], 0);
}

#[tokio::test]
async fn a_schedule_is_changed_in_part_and_only_at_the_version_that_was_read() {
    let api = Api::start().await;
    let schedule = api.schedule("skip").await;
    let before = api.get(&schedule).await;
    let change = json!({"overlap": "queue"});
    let changed = api.expect(StatusCode::OK, Method::PATCH, &schedule, Some(&change)).await;
    assert_eq!((&changed["overlap"], &changed["version"]), (&json!("queue"), &json!(1)));
    assert_eq!(changed["next_run_at"], before["next_run_at"], "its times are the same");
    let change = json!({"time_zone": "Asia/Tokyo"});
    let changed = api.expect(StatusCode::OK, Method::PATCH, &schedule, Some(&change)).await;
    assert!(changed["next_run_at"].as_str().unwrap().ends_with("T19:00:00Z"), "{changed}");
    let off = api.expect(StatusCode::OK, Method::PATCH, &schedule, Some(&json!({"enabled": false}))).await;
    assert_eq!(off["next_run_at"], Value::Null);
    let on = api.expect(StatusCode::OK, Method::PATCH, &schedule, Some(&json!({"enabled": true}))).await;
    assert!(next_run(&on) > Utc::now());

    for (method, body) in [(Method::PATCH, Some(json!({"cron": "@hourly"}))), (Method::DELETE, None)] {
        let mut request = api.client.request(method, format!("{}{schedule}", api.base));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let refused = request.header(IF_MATCH, "\"3\"").send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::PRECONDITION_FAILED);
    }
    for bad in [json!({}), json!({"workflow_id": "7"}), json!({"cron": 7}), json!({"cron": "0 0 30 2 *"})] {
        api.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::PATCH, &schedule, Some(&bad)).await;
    }
    api.expect(StatusCode::NO_CONTENT, Method::DELETE, &schedule, None).await;
    let gone = api.expect(StatusCode::NOT_FOUND, Method::GET, &schedule, None).await;
    assert_eq!(gone["code"], "schedule_not_found");
}

#[tokio::test]
async fn schedules_are_listed_newest_first_by_workflow_and_whether_they_are_enabled() {
    let api = Api::start().await;
    let (first, second) = (api.schedule("skip").await, api.schedule("allow").await);
    api.expect(StatusCode::OK, Method::PATCH, &first, Some(&json!({"enabled": false}))).await;
    let list = api.get(SCHEDULES).await;
    assert_keys(&list, &["schedules", "total", "limit", "offset"]);
    let id = |path: &str| json!(path.rsplit('/').next().unwrap());
    assert_eq!(list["schedules"][0]["id"], id(&second));
    assert_eq!(list["total"], 2);
    let off = api.get(&format!("{SCHEDULES}?enabled=false")).await;
    assert_eq!((&off["total"], &off["schedules"][0]["id"]), (&json!(1), &id(&first)));
    let workflow = api.get(&second).await["workflow_id"].as_str().unwrap().to_owned();
    let of_one = api.get(&format!("{SCHEDULES}?workflow_id={workflow}&limit=1")).await;
    assert_eq!((&of_one["total"], &of_one["schedules"][0]["id"]), (&json!(1), &id(&second)));
}

#[tokio::test]
async fn a_schedule_is_run_by_hand_as_its_overlap_policy_says() {
    let api = Api::start().await;
    let schedule = api.schedule("skip").await;
    let run = format!("{schedule}/run");
    let response = api.send(Method::POST, &run, None).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let location = response.headers()[LOCATION].to_str().unwrap().to_owned();
    let told: Value = response.json().await.unwrap();
    assert_keys(&told, &["message", "schedule_id", "execution_id", "outcome"]);
    let execution = api.get(&location).await;
    assert_eq!((&execution["id"], &execution["status"]), (&told["execution_id"], &json!("running")));
    assert!(schedule.ends_with(execution["schedule_id"].as_str().unwrap()));
    assert_eq!(api.get(&schedule).await["last_execution_id"], told["execution_id"]);

    let refused = api.expect(StatusCode::CONFLICT, Method::POST, &run, None).await;
    assert_eq!(refused["code"], "run_would_overlap");
    api.expect(StatusCode::OK, Method::PATCH, &schedule, Some(&json!({"overlap": "queue"}))).await;
    let queued = api.expect(StatusCode::ACCEPTED, Method::POST, &run, None).await;
    assert_eq!((&queued["outcome"], &queued["execution_id"]), (&json!("queued"), &Value::Null));
    api.expect(StatusCode::OK, Method::PATCH, &schedule, Some(&json!({"overlap": "cancel_previous"}))).await;
    let replaced = api.expect(StatusCode::ACCEPTED, Method::POST, &run, None).await;
    assert_eq!(replaced["outcome"], "replaced");
    assert_eq!(api.get(&location).await["status"], "cancelled");

    let metrics = api.client.get(format!("{}/metrics", api.base)).send().await.unwrap().text().await.unwrap();
    let line = "crawlify_executions_started_total{trigger=\"schedule_run\"} 2";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_schedule_of_a_workflow_that_is_not_active_is_not_run_by_hand_and_goes_with_it() {
    let api = Api::start().await;
    let workflow = api.workflow("draft").await;
    let document = json!({"workflow_id": workflow.rsplit('/').next().unwrap(), "cron": "@daily"});
    let made = api.expect(StatusCode::CREATED, Method::POST, SCHEDULES, Some(&document)).await;
    let schedule = format!("{SCHEDULES}/{}", made["id"].as_str().unwrap());
    let refused = api.expect(StatusCode::BAD_REQUEST, Method::POST, &format!("{schedule}/run"), None).await;
    assert_eq!(refused["code"], "workflow_not_active");
    api.expect(StatusCode::NO_CONTENT, Method::DELETE, &workflow, None).await;
    api.expect(StatusCode::NOT_FOUND, Method::GET, &schedule, None).await;
}
