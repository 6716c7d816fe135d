//! One crawl with the whole system in this process, on a private Postgres that keeps what it confirms. Only crawls,
//! and reads rows and metrics afterwards: who watches what it uses is another process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use chrono::{DateTime, Utc};
use crawlify_cli::args::Servers;
use crawlify_cli::system::{Foundation, System};
use crawlify_shared::config;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::parse_document;
use crawlify_worker::egress::{Egress, EgressOptions};
use crawlify_worker::machine::Slots;
use harness::bench::RECORD_BYTES;
use harness::bench::metrics_text::MetricsText;
use harness::bench::shop_crawl::{open_folder, start_execution};
use tokio_postgres::{Client, NoTls};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::job::{CrawlFigures, CrawlJob, Line, Message, Outcome};

/// How often the pages are counted. Each count is work for Postgres.
const COUNT_EVERY: Duration = Duration::from_millis(500);
/// What the steps of a page take.
const STEPS: &str = "crawlify_page_step_duration_seconds";
/// Its steps, in the order in which a page takes them; others follow.
const KNOWN_STEPS: [&str; 7] = ["claim", "open", "turn", "navigate", "nodes", "static", "record"];
/// How many attempts of pages there were, by how they were loaded.
const PAGES: &str = "crawlify_pages_total";

/// Crawls the workflow's site to the end.
///
/// # Errors
/// Something does not start, or the crawl loads nothing.
pub(crate) async fn crawl(job: CrawlJob, mut line: Line) -> Result<()> {
    let definition = parse_document(&job.document).map_err(|problems| anyhow!("{problems:?}"))?;
    let folder = open_folder()?;
    let data = Some(folder.path().join("data"));
    let foundation = Foundation::lay(&Servers::default(), data, Slots::Number(job.slots), egress()?)
        .await
        .map_err(|failure| anyhow!("{failure}"))?;
    // The metrics are read where everybody reads them.
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let system = match foundation.run(Some(listen.into()), None).await {
        Ok(system) => system,
        Err((foundation, failure)) => {
            foundation.clear().await;
            return Err(anyhow!("{failure}"));
        }
    };
    line.ready(None).await?;
    let store = &system.foundation.store;
    let execution = start_execution(store, &definition, definition.workflow.limits).await?;
    system.coordinator.frontier_changed.notify_one();
    wait_for_end(&system, execution, &line).await?;
    let outcome = outcome(&system, execution, &job).await?;
    line.say(&Message::Done(Box::new(outcome)))?;
    line.end().await;
    system.stop().await.map_err(|failure| anyhow!("{failure}"))
}

/// The guard as in earnest, with the site as the exception; `CRAWLIFY_EGRESS_GUARD=off` measures without it.
fn egress() -> Result<Arc<Egress>> {
    let guard = config::variable(config::EGRESS_GUARD).as_deref() != Some("off");
    Ok(Egress::start(EgressOptions { guard, ..EgressOptions::allowing(&["127.0.0.1"])? })?)
}

async fn wait_for_end(system: &System, execution: ExecutionId, line: &Line) -> Result<()> {
    let store = &system.foundation.store;
    let mut looks = tokio::time::interval(COUNT_EVERY);
    loop {
        looks.tick().await;
        let counts = store.page_counts(execution).await?;
        line.say(&Message::Pages(u64::try_from(counts.completed + counts.failed)?))?;
        let row = store.execution(execution).await?.context("the execution is gone")?;
        if row.status.has_ended() {
            return Ok(());
        }
    }
}

async fn outcome(system: &System, execution: ExecutionId, job: &CrawlJob) -> Result<Outcome> {
    let foundation = &system.foundation;
    let metrics = metrics(system).await?;
    let (client, connection) = tokio_postgres::connect(foundation.database_url.expose(), NoTls).await?;
    let connections = TaskTracker::new();
    connections.spawn(connection);
    connections.close();
    let mut notes = Vec::new();
    let read_statically = metrics.counted(PAGES, ("render", "static"));
    let is_as_asked = match job.render.as_str() {
        "full" => true,
        "static" => read_statically.is_some_and(|pages| pages > 0.0),
        _ => read_statically.is_some(),
    };
    if !is_as_asked {
        notes.push(format!(
            "no metric says that a page was read as `{}` asks: these are full pages",
            job.render
        ));
    }
    let steps_ms = steps(&metrics);
    if steps_ms.is_empty() {
        notes.push(format!("there is no `{STEPS}`: a page's time cannot be split"));
    }
    let pages = pages(&client, execution).await?;
    ensure!(!pages.urls.is_empty(), "no page could be loaded: {:?}", pages.error);
    let first_claim = first_claim(&client, execution).await?;
    let nodes = nodes(&client, execution).await?;
    let totals = foundation.store.totals(execution).await?;
    drop(client);
    connections.wait().await;
    let postgres = foundation.postgres.as_ref().map(|postgres| postgres.description());
    // Where its data are is of no interest once they are gone.
    let postgres = postgres.map(|text| text.split(" private").next().unwrap_or(&text).to_owned());
    Ok(Outcome {
        pages: pages.urls.len() as u64,
        failed: pages.failed,
        seconds: (pages.last_end - first_claim).as_seconds_f64(),
        urls: pages.urls,
        crawl: Some(CrawlFigures {
            steps_ms,
            is_as_asked,
            read_statically: read_statically.map(|pages| pages as u64),
            items: u64::try_from(totals.items)?,
            parts: postgres.into_iter().chain([foundation.driver.description().to_owned()]).collect(),
            ..nodes
        }),
        notes,
    })
}

async fn metrics(system: &System) -> Result<MetricsText> {
    let address = system.coordinator.address.context("the coordinator does not listen")?;
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
    let response = client.get(format!("http://{address}/metrics")).send().await?.error_for_status()?;
    Ok(MetricsText::parse(&response.text().await?))
}

/// What each step of a page takes on average, in milliseconds.
fn steps(metrics: &MetricsText) -> Vec<(String, f64)> {
    let mut steps = metrics.label_values(&format!("{STEPS}_count"), "step");
    let place = |step: &String| KNOWN_STEPS.iter().position(|known| known == step).unwrap_or(usize::MAX);
    steps.sort_by_key(place);
    let mean = |step: String| {
        let observed = metrics.observed(STEPS, ("step", &step))?;
        Some((step, observed.sum / observed.count * 1000.0))
    };
    steps.into_iter().filter_map(mean).collect()
}

struct Pages {
    /// Loaded, in the order of their ends.
    urls: Vec<String>,
    failed: u64,
    last_end: DateTime<Utc>,
    /// Why one was given up.
    error: Option<String>,
}

async fn pages(client: &Client, execution: ExecutionId) -> Result<Pages> {
    let rows = client
        .query(
            "SELECT url, status, processed_at, error FROM url_queue
             WHERE execution_id = $1 AND status IN ('completed', 'failed') ORDER BY processed_at, id",
            &[&execution.0],
        )
        .await?;
    let last = rows.last().context("no page has ended")?;
    let (ended, given_up): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| row.get::<_, &str>("status") == "completed");
    Ok(Pages {
        urls: ended.iter().map(|row| row.get("url")).collect(),
        failed: given_up.len() as u64,
        last_end: last.get("processed_at"),
        error: given_up.first().and_then(|row| row.get("error")),
    })
}

/// When the first page was claimed. The row of a page that has ended does not say so, but the ids of its node
/// executions begin with that time (`NodeExecutionId::derive`).
async fn first_claim(client: &Client, execution: ExecutionId) -> Result<DateTime<Utc>> {
    let row = client
        .query_one(
            "SELECT id FROM node_executions WHERE execution_id = $1 ORDER BY id LIMIT 1",
            &[&execution.0],
        )
        .await
        .context("no node was executed")?;
    let (seconds, nanoseconds) =
        row.get::<_, Uuid>(0).get_timestamp().context("the id holds no time")?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds)?, nanoseconds).context("the id's time is out of range")
}

async fn nodes(client: &Client, execution: ExecutionId) -> Result<CrawlFigures> {
    let row = client
        .query_one(
            "SELECT count(*) AS rows, count(*) FILTER (WHERE status <> 'cancelled') AS ran,
                count(DISTINCT page_id) AS pages,
                COALESCE(sum(EXTRACT(EPOCH FROM completed_at - started_at)), 0)::float8 AS seconds
             FROM node_executions WHERE execution_id = $1",
            &[&execution.0],
        )
        .await?;
    let pages = row.get::<_, i64>("pages").max(1) as f64;
    let record_bytes = client.query_one(RECORD_BYTES, &[]).await?.get::<_, i64>(0);
    Ok(CrawlFigures {
        record_bytes: u64::try_from(record_bytes)?,
        node_rows: u64::try_from(row.get::<_, i64>("rows"))?,
        nodes_a_page: row.get::<_, i64>("ran") as f64 / pages,
        node_times_ms: row.get::<_, f64>("seconds") * 1000.0 / pages,
        ..CrawlFigures::default()
    })
}
