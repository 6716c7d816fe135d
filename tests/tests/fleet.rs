//! The main job as a fleet: one coordinator and three workers as processes of their own, over RabbitMQ and Postgres,
//! one of the workers killed in the middle.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crawlify_cli::demo_site::{Content, DemoSite, WORKFLOW};
use harness::hostile::LuredSite;
use harness::invariants;
use harness::postgres::TestDatabase;
use harness::processes::wait_until_gone;
use harness::program::{Program, crawlify};
use harness::rabbitmq::TestVhost;
use harness::scratch::Scratch;
use harness::wait::{wait_for, wait_for_value};
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{PgPool, Row};
use uuid::Uuid;

use crate::CRAWLIFY;
use crate::recorded::{Recorded, compare_with_shop};

const PAGES: i64 = 160;
/// How long a process may take to be ready on a machine that is busy with other things.
const READY: Duration = Duration::from_secs(90);
/// How long the whole crawl may take.
const LONG: Duration = Duration::from_secs(200);

/// A worker that is ready.
struct Worker {
    program: Program,
    id: Uuid,
    admin: String,
}

#[tokio::test]
async fn three_workers_crawl_and_the_death_of_one_costs_nothing() {
    let (scratch, database, vhost) =
        (Scratch::create(), TestDatabase::create().await, TestVhost::create().await);
    let site = DemoSite::start(0, Content::Shop).await.unwrap();
    let lured = LuredSite::before(&site.url()).await;
    let pool = PgPool::connect(database.url().expose()).await.unwrap();
    let start = |arguments: &[&str]| {
        let mut command = crawlify(CRAWLIFY, &scratch);
        command.args(arguments);
        command
            .arg("--database-url")
            .arg(database.url().expose())
            .arg("--amqp-url")
            .arg(vhost.url().expose());
        Program::start(command)
    };
    let mut coordinator = start(&["coordinator", "--port", "0"]);
    let starting = [(); 3].map(|()| start(&["worker", "--slots", "1", "--admin-port", "0"]));
    let line = coordinator.says("the coordinator is ready", READY).await;
    let api = format!("http://{}", field(&line, "address"));
    let mut workers = Vec::new();
    for program in starting {
        workers.push(Worker::ready(program).await);
    }
    for worker in &workers {
        let ready = format!("http://{}/readyz", worker.admin);
        wait_for("the worker is ready", READY, async || get(&ready).await.0 == StatusCode::OK.as_u16()).await;
    }
    let execution = execute(&api, &lured.url()).await;

    // In the middle, one worker dies with a page in its hands.
    wait_for("some pages are completed", READY, async || completed(&pool).await >= 20).await;
    let (victim, held) = kill_one_with_pages(&mut workers, &pool).await;
    let killed = Instant::now();
    wait_for("the killed worker's pages are completed", Duration::from_secs(40), async || {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM url_queue WHERE id = ANY($1) AND status <> 'completed'")
                .bind(&held)
                .fetch_one(&pool)
                .await
                .unwrap();
        left == 0
    })
    .await;
    assert!(killed.elapsed() < Duration::from_secs(25), "recovery took {:?}", killed.elapsed());
    let ended = wait_for_value("the execution ends", LONG, async || {
        let (_, body) = get(&format!("{api}/api/v1/executions/{execution}")).await;
        let status = serde_json::from_str::<Value>(&body).ok()?["status"].as_str()?.to_owned();
        (status != "running").then_some(status)
    })
    .await;
    assert_eq!(ended, "completed");

    let recorded = Recorded { pool, url: database.url(), execution };
    let (_, statuses) = recorded.statuses().await;
    assert_eq!(statuses["completed"], PAGES);
    assert!(
        statuses.keys().all(|status| ["completed", "skipped"].contains(&status.as_str())),
        "{statuses:?}"
    );
    assert_eq!(recorded.assert_twenty_rows_a_page().await, 20 * PAGES);
    recorded.assert_is_sound().await;
    let attempts: Vec<i32> = sqlx::query_scalar("SELECT attempt FROM url_queue WHERE id = ANY($1)")
        .bind(&held)
        .fetch_all(&recorded.pool)
        .await
        .unwrap();
    assert!(attempts.iter().all(|attempt| *attempt == 2), "a death is charged: {attempts:?}");
    compare_items(&scratch, &recorded, &lured.url()).await;

    let per_worker = counted(&recorded).await;
    assert!(per_worker.contains_key(&victim.id), "the victim had completed something");
    for worker in &workers {
        let url = format!("http://{}/metrics", worker.admin);
        let (pages, nodes) = per_worker[&worker.id];
        let (completed, ran) =
            ("crawlify_pages_total{outcome=\"completed\",", "crawlify_node_duration_seconds_count{");
        let mut metrics = String::new();
        // A page is counted when the answer to its record has come.
        wait_for("its last page is counted", READY, async || {
            metrics = get(&url).await.1;
            sum(&metrics, completed) >= pages && sum(&metrics, ran) >= nodes
        })
        .await;
        assert_eq!(sum(&metrics, completed), pages, "{metrics}");
        assert_eq!(sum(&metrics, ran), nodes, "{metrics}");
    }
    let (_, metrics) = get(&format!("{api}/metrics")).await;
    assert!(sum(&metrics, "crawlify_pages_dispatched_total") >= PAGES, "{metrics}");
    assert!(sum(&metrics, "crawlify_leases_expired_total") >= 1, "{metrics}");

    stop(workers, coordinator).await;
    invariants::assert_none(&invariants::broker::leftovers(&vhost.url()).await.unwrap());
    lured.assert_in_vain();
    site.stop().await;
    // The victim's profile is there for the next worker to sweep; nothing else is.
    assert!(scratch.leftovers().len() <= 1, "{:?}", scratch.leftovers());
}

impl Worker {
    async fn ready(mut program: Program) -> Self {
        let line = program.says("the worker is ready", READY).await;
        let id = field(&line, "worker.id").parse().unwrap();
        Self { program, id, admin: field(&line, "admin") }
    }
}

/// Makes the workflow and starts it, as a client of the API does.
async fn execute(api: &str, start_url: &str) -> Uuid {
    let mut workflow: Value = serde_json::from_str(WORKFLOW).unwrap();
    workflow["status"] = json!("active");
    workflow["config"]["start_urls"] = json!([start_url]);
    workflow["config"]["max_pages"] = json!(PAGES);
    let client = reqwest::Client::new();
    let made = client.post(format!("{api}/api/v1/workflows")).json(&workflow).send().await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: Value = made.json().await.unwrap();
    let path = format!("{api}/api/v1/workflows/{}/execute", made["id"].as_str().unwrap());
    let started = client.post(path).send().await.unwrap();
    assert_eq!(started.status(), StatusCode::ACCEPTED);
    started.json::<Value>().await.unwrap()["execution_id"].as_str().unwrap().parse().unwrap()
}

/// Kills a worker at a moment at which it surely holds pages, and sees its browser die. Answers it and the pages.
async fn kill_one_with_pages(workers: &mut Vec<Worker>, pool: &PgPool) -> (Worker, Vec<Uuid>) {
    let victim = workers.remove(0);
    let held = wait_for_value("the victim holds a page", READY, async || {
        // Frozen, it cannot complete what is seen in its hands, unless Postgres has its record already: that is so
        // no more when others have recorded pages in the meantime.
        victim.program.signal(Signal::STOP);
        let mut held = held_by(victim.id, pool).await;
        if !held.is_empty() {
            let before = completed(pool).await;
            wait_for("the others go on", READY, async || completed(pool).await >= before + 2).await;
            held = held_by(victim.id, pool).await;
        }
        if held.is_empty() {
            victim.program.signal(Signal::CONT);
        }
        (!held.is_empty()).then_some(held)
    })
    .await;
    let children = victim.program.children();
    assert!(children.iter().any(|child| child.name.contains("chrom")), "{children:?}");
    victim.program.signal(Signal::KILL);
    wait_until_gone(&children, Duration::from_secs(5)).await;
    (victim, held)
}

/// SIGTERM ends everything well; a worker that drains is not ready any more.
async fn stop(workers: Vec<Worker>, coordinator: Program) {
    for worker in workers {
        let children = worker.program.children();
        worker.program.signal(Signal::TERM);
        let ready = format!("http://{}/readyz", worker.admin);
        wait_for("the worker is not ready", Duration::from_secs(10), async || {
            get(&ready).await.0 != StatusCode::OK.as_u16()
        })
        .await;
        let _ = worker.program.end(Duration::from_secs(30)).await.with_code(0);
        wait_until_gone(&children, Duration::from_secs(5)).await;
    }
    coordinator.signal(Signal::TERM);
    let _ = coordinator.end(Duration::from_secs(30)).await.with_code(0);
}

/// Writes the items as an export does, and compares them with the truth about the visited products.
async fn compare_items(scratch: &Scratch, recorded: &Recorded, base: &str) {
    let rows =
        sqlx::query("SELECT url, data, extracted_at::text FROM extracted_items WHERE execution_id = $1")
            .bind(recorded.execution)
            .fetch_all(&recorded.pool)
            .await
            .unwrap();
    let urls: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(i64::try_from(urls.len()).unwrap(), PAGES);
    let line = |row: &sqlx::postgres::PgRow| {
        let (url, data, at): (String, Value, String) = (row.get(0), row.get(1), row.get(2));
        format!("{}\n", json!({"url": url, "data": data, "extracted_at": at}))
    };
    let file: PathBuf = scratch.path("items.jsonl");
    std::fs::write(&file, rows.iter().map(line).collect::<String>()).unwrap();
    let visited =
        |path: &str| urls.iter().any(|url| url.strip_prefix(base.trim_end_matches('/')) == Some(path));
    let summary = compare_with_shop(scratch, &file, visited);
    assert!(summary.starts_with("EQUAL: "), "{summary}");
}

/// The pages in a worker's hands, as the database has it.
pub(crate) async fn held_by(worker: Uuid, pool: &PgPool) -> Vec<Uuid> {
    sqlx::query_scalar("SELECT id FROM url_queue WHERE status = 'processing' AND locked_by = $1")
        .bind(worker)
        .fetch_all(pool)
        .await
        .unwrap()
}

async fn completed(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM url_queue WHERE status = 'completed'")
        .fetch_one(pool)
        .await
        .unwrap()
}

/// By worker: completed pages, and nodes that ran.
async fn counted(recorded: &Recorded) -> BTreeMap<Uuid, (i64, i64)> {
    let rows =
        sqlx::query("SELECT worker_id, completed, nodes_executed FROM page_counters WHERE execution_id = $1")
            .bind(recorded.execution)
            .fetch_all(&recorded.pool)
            .await
            .unwrap();
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

/// Status (0 where nobody answers) and body.
async fn get(url: &str) -> (u16, String) {
    match reqwest::get(url).await {
        Ok(response) => (response.status().as_u16(), response.text().await.unwrap_or_default()),
        Err(_) => (0, String::new()),
    }
}

/// Adds up the series whose lines begin so.
fn sum(metrics: &str, series: &str) -> i64 {
    let values = metrics.lines().filter(|line| line.starts_with(series));
    values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as i64).sum()
}

/// The value of a field of a log line.
pub(crate) fn field(line: &str, name: &str) -> String {
    let (_, rest) = line.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("no {name} in {line}"));
    rest.split_whitespace().next().unwrap_or_default().to_owned()
}
