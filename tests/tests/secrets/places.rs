//! Where something could have been written: the broker's messages, every row of every table, every answer of the API.

use std::collections::BTreeMap;
use std::time::Duration;

use crawlify_shared::broker::amqp::AmqpOptions;
use crawlify_shared::config::SecretUrl;
use harness::wait::wait_for_value;
use lapin::options::{BasicGetOptions, BasicNackOptions};
use lapin::{Connection, ConnectionProperties};
use reqwest::Method;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use super::Admin;

/// What was found, by place.
#[derive(Debug, Default)]
pub(super) struct Found(BTreeMap<String, String>);

impl Found {
    pub(super) fn add(&mut self, place: &str, text: String) {
        let there = self.0.entry(place.to_owned()).or_default();
        there.push_str(&text);
        there.push('\n');
    }

    /// Where a word is found.
    pub(super) fn places_of(&self, word: &str) -> Vec<String> {
        self.0.iter().filter(|(_, text)| text.contains(word)).map(|(place, _)| place.clone()).collect()
    }

    pub(super) fn text(&self, place: &str) -> &str {
        &self.0[place]
    }
}

/// Takes the messages that wait, at least so many, and gives them back.
pub(super) async fn messages(found: &mut Found, vhost: &SecretUrl, at_least: usize) {
    let connection = Connection::connect(vhost.expose(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let queue = AmqpOptions::default().queue;
    let mut taken = Vec::new();
    while taken.len() < at_least {
        let got = wait_for_value("a message waits", Duration::from_secs(30), async || {
            channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.unwrap()
        });
        taken.push(got.await);
    }
    for message in &taken {
        let headers = format!("{:?} {:?}", message.delivery.properties, message.delivery.routing_key);
        found.add("messages", headers + &String::from_utf8_lossy(&message.delivery.data));
    }
    let last = taken.last().map(|message| message.delivery.delivery_tag).unwrap();
    channel.basic_nack(last, BasicNackOptions { multiple: true, requeue: true }).await.unwrap();
    connection.close(0, "looked".into()).await.unwrap();
}

/// Reads every row of every table as text; what a workflow's author gave is a place of its own.
pub(super) async fn tables(found: &mut Found, pool: &PgPool) {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(tables.len() >= 10, "{tables:?}");
    for table in tables {
        let name = table.trim_start_matches("public.");
        let is_definition = ["workflows", "workflow_versions"].contains(&name);
        let row = if is_definition { "(to_jsonb(t) - 'config')::text" } else { "t::text" };
        found.add(&format!("table {name}"), rows(pool, &format!("SELECT {row} FROM {table} AS t")).await);
        if is_definition {
            let given = rows(pool, &format!("SELECT config::text FROM {table}")).await;
            found.add(&format!("definitions in {name}"), given);
        }
    }
    for kept_by_the_server in ["pg_stat_activity", "pg_stats"] {
        let all = rows(pool, &format!("SELECT t::text FROM {kept_by_the_server} AS t")).await;
        // It samples the definitions too.
        let all = all.lines().filter(|line| !line.contains("workflow") || !line.contains(",config,"));
        found.add(&format!("view {kept_by_the_server}"), all.collect::<Vec<_>>().join("\n"));
    }
}

async fn rows(pool: &PgPool, query: &str) -> String {
    let rows: Vec<Option<String>> =
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(pool).await.unwrap();
    rows.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

/// Asks for everything that can be asked for.
pub(super) async fn answers(found: &mut Found, admin: &Admin, ids: &[(Uuid, Uuid)]) {
    let description = admin.send(Method::GET, "/api/v1/openapi.json", None).await;
    let (workflow, _) = ids[0];
    let schedule = serde_json::json!({"workflow_id": workflow, "cron": "0 0 1 1 *"});
    let schedule = admin.send(Method::POST, "/api/v1/schedules", Some(&schedule)).await;
    let schedule: Uuid = schedule["id"].as_str().unwrap().parse().unwrap();
    let mut asked = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        if item.get("get").is_none() {
            continue;
        }
        for (workflow, execution) in ids {
            let id = match path.split('/').nth(3) {
                Some("workflows") => workflow,
                Some("executions") => execution,
                _ => &schedule,
            };
            let answer = admin.send(Method::GET, &path.replace("{id}", &id.to_string()), None).await;
            found.add(&format!("GET {path}"), answer.to_string());
            asked += 1;
        }
    }
    assert!(asked >= 30, "{asked}");
}
