//! Where something could have been written: all that the broker was sent and sent itself, what it put aside, command
//! lines, every row of every table, every answer of the API.

use std::collections::BTreeMap;
use std::time::Duration;

use crawlify_shared::broker::amqp::AmqpOptions;
use crawlify_shared::config::SecretUrl;
use harness::fault_proxy::FaultProxy;
use harness::program::Program;
use harness::wait::wait_for_value;
use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
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

/// Takes the messages that wait, so many, and gives them back: they come to a worker a second time. One comes again in
/// a version that no worker reads, which has it put aside.
pub(super) async fn messages(found: &mut Found, vhost: &SecretUrl, count: usize) {
    let connection = Connection::connect(vhost.expose(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let queue = AmqpOptions::default().queue;
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.push(next(&channel, &queue).await);
    }
    for message in &taken {
        found.add("messages", text(message));
    }
    let last = taken.last().unwrap();
    let body = String::from_utf8_lossy(&last.data);
    let unreadable = body.replace(r#""v":1,"#, r#""v":99,"#);
    assert_ne!(body, unreadable);
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let published =
        channel.basic_publish("".into(), queue.as_str().into(), options, unreadable.as_bytes(), properties);
    published.await.unwrap().await.unwrap();
    let nack = BasicNackOptions { multiple: true, requeue: true };
    channel.basic_nack(last.delivery_tag, nack).await.unwrap();
    connection.close(0, "looked".into()).await.unwrap();
}

/// Takes what was put aside, of which there is something.
pub(super) async fn dead_messages(found: &mut Found, vhost: &SecretUrl) {
    let connection = Connection::connect(vhost.expose(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let queue = format!("{}.dead", AmqpOptions::default().queue);
    let mut message = Some(next(&channel, &queue).await);
    while let Some(taken) = message {
        found.add("dead messages", text(&taken));
        message = take(&channel, &queue).await;
    }
    connection.close(0, "looked".into()).await.unwrap();
}

async fn next(channel: &Channel, queue: &str) -> Delivery {
    wait_for_value("a message waits", Duration::from_secs(30), async || take(channel, queue).await).await
}

async fn take(channel: &Channel, queue: &str) -> Option<Delivery> {
    let taken = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
    taken.map(|message| message.delivery)
}

fn text(message: &Delivery) -> String {
    format!("{:?} {:?}", message.properties, message.routing_key) + &String::from_utf8_lossy(&message.data)
}

/// All that the programs have sent to the broker, and it to them: each message, each time.
pub(super) fn wire(found: &mut Found, broker: &FaultProxy) {
    let streams = broker.recorded();
    assert!(streams.iter().any(|stream| has_redelivery(stream)), "no message came a second time");
    for stream in streams {
        found.add("wire", String::from_utf8_lossy(&stream).into_owned());
    }
}

/// Whether some `basic.deliver` (AMQP 0-9-1, class 60, method 60) says that its message was delivered before, which it
/// does after its consumer's tag, a short string, and eight bytes of its own.
fn has_redelivery(stream: &[u8]) -> bool {
    let mut deliveries = stream.windows(4).enumerate().filter(|(_, bytes)| **bytes == [0_u8, 60, 0, 60]);
    deliveries.any(|(at, _)| {
        let tag_bytes = stream.get(at + 4).map_or(0, |length| usize::from(*length));
        stream.get(at + 5 + tag_bytes + 8) == Some(&1)
    })
}

/// Reads the command lines of what a worker has started and runs now, each once.
pub(super) fn command_lines(found: &mut Found, worker: &Program) {
    const PLACE: &str = "command lines";
    for process in worker.children() {
        let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if found.0.get(PLACE).is_none_or(|there| !there.contains(&*line)) {
            found.add(PLACE, line.into_owned());
        }
    }
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
