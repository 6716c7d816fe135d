//! Measures the recorder's statement: node rows a second at 20, 200 and 2,000 rows a statement, against bare binary
//! COPY of the same rows into the same table. `make bench-record` runs it; ARCHITECTURE.md has the numbers.
//!
//! The Postgres is a private one with fsync on, as it is in earnest. One connection each, one statement after the
//! other; only the statements are timed, not the making of the rows. Never touches another database.

use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use crawlify_cli::demo_site::WORKFLOW;
use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_shared::domain::id::{ExecutionId, NodeExecutionId, PageId, WorkerId, WorkflowId};
use crawlify_shared::domain::outcome::{DiscoveredUrl, NodeEnd, NodeRecord, PageEnd, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus, NodeDefinition, NodeTable};
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Workflow, parse_text};
use crawlify_shared::store::Store;
use crawlify_shared::store::executions::StartExecution;
use crawlify_shared::store::hot::HotStore;
use crawlify_shared::store::workflows::{WorkflowStatus, WorkflowText};
use serde_json::{Value, json};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls};
use tokio_util::task::TaskTracker;

/// Pages of one statement; each has as many node rows as the demo workflow has nodes, which is 20.
const GROUPS: [usize; 3] = [1, 10, 100];
const ROUNDS: usize = 5;
/// How long one measurement takes, counting only what is measured.
const MEASURED: Duration = Duration::from_secs(3);
/// Pages that are prepared at a time.
const PREPARED: usize = 1_000;
const LINKS: usize = 20;
/// URLs that are in the frontier already. As each page is found once, 19 of 20 links lead to one of them.
const KNOWN_URLS: usize = 1_000;

const COPY: &str =
    "COPY node_executions (id, execution_id, node_id, status, started_at, completed_at, input, output,
    error, retry_count, page_id, node_type, phase, attempt, worker_id, error_class, position)
    FROM STDIN (FORMAT binary)";
const COPY_TYPES: [Type; 17] = [
    Type::UUID,
    Type::UUID,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::TIMESTAMPTZ,
    Type::TIMESTAMPTZ,
    Type::JSONB,
    Type::JSONB,
    Type::TEXT,
    Type::INT4,
    Type::UUID,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::INT4,
    Type::UUID,
    Type::VARCHAR,
    Type::INT2,
];

/// What one series of statements took.
struct Measured {
    rows_a_second: f64,
    statements: Vec<Duration>,
}

struct Bench {
    hot: HotStore,
    client: Client,
    execution: ExecutionId,
    worker: WorkerId,
    table: Arc<NodeTable>,
    /// How many pages were made, so that each has a URL of its own.
    pages_made: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    // Postgres, under an account of its own where we are root, must pass through it.
    #[cfg(unix)]
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let options = Options { data_dir: Some(folder.path().join("data")), ..Options::default() };
    let postgres = PrivatePostgres::start(&options).await?;
    let measured = measure(&postgres).await;
    postgres.stop().await;
    measured
}

async fn measure(postgres: &PrivatePostgres) -> Result<()> {
    let store = Store::connect(&postgres.url(), 2)?;
    store.migrate().await?;
    store.create_partitions(1).await?;
    let definition = parse_text(WORKFLOW).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let execution = start_execution(&store).await?;
    let (client, connection) = tokio_postgres::connect(postgres.url().expose(), NoTls).await?;
    let connections = TaskTracker::new();
    connections.spawn(connection);
    connections.close();
    let worker = WorkerId::generate();
    let mut bench = Bench {
        hot: HotStore::connect(&postgres.url(), worker)?,
        client,
        execution,
        worker,
        table: Arc::new(node_table(&definition.workflow)),
        pages_made: 0,
    };
    bench.insert_known_urls().await?;
    bench.explain_fsync(&mut std::io::stdout()).await?;
    // The first statements find cold caches and statements that are not prepared.
    bench.record(10, Duration::from_millis(500)).await?;
    bench.copy(10, Duration::from_millis(500)).await?;
    let mut results: Vec<[Vec<Measured>; 2]> = GROUPS.iter().map(|_| Default::default()).collect();
    for round in 1..=ROUNDS {
        for (group, [recorded, copied]) in GROUPS.iter().zip(&mut results) {
            recorded.push(bench.record(*group, MEASURED).await?);
            copied.push(bench.copy(*group, MEASURED).await?);
        }
        writeln!(std::io::stderr(), "round {round} of {ROUNDS} done")?;
    }
    let bytes_a_row = bench.bytes_a_row().await?;
    report(&results, bench.table.nodes.len(), bytes_a_row, &mut std::io::stdout())?;
    bench.hot.close();
    store.close().await;
    drop(bench);
    connections.wait().await;
    Ok(())
}

async fn start_execution(store: &Store) -> Result<ExecutionId> {
    let definition = parse_text(WORKFLOW).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let text = WorkflowText {
        name: &definition.name,
        description: &definition.description,
        config: &definition.config,
    };
    let row = store.create_workflow(text, WorkflowStatus::Active).await?;
    let workflow = &definition.workflow;
    let started =
        store.start_execution(WorkflowId(row.id), row.version, workflow.limits, &workflow.start_urls).await?;
    match started {
        StartExecution::Started(execution) => Ok(execution),
        StartExecution::NotActive(_) | StartExecution::NotFound => anyhow::bail!("no execution was started"),
    }
}

fn node_table(workflow: &Workflow) -> NodeTable {
    let nodes = workflow.phases.iter().flat_map(|phase| {
        phase.nodes.iter().map(|node| NodeDefinition {
            node_id: node.id.clone(),
            node_type: node.action.node_type(),
            phase: phase.id.clone(),
            params: node.params.clone(),
        })
    });
    NodeTable { nodes: nodes.collect() }
}

impl Bench {
    /// Records groups of `pages` pages until `time` was spent in statements.
    async fn record(&mut self, pages: usize, time: Duration) -> Result<Measured> {
        let mut statements = Vec::new();
        let mut spent = Duration::ZERO;
        while spent < time {
            let prepared = self.finished_pages(PREPARED.max(pages))?;
            self.insert_claimed(&prepared).await?;
            for group in prepared.chunks(pages) {
                let begun = Instant::now();
                let written = self.hot.record(group).await?;
                let took = begun.elapsed();
                ensure!(written.len() == group.len(), "{} of {} pages were recorded", written.len(), pages);
                spent += took;
                statements.push(took);
                if spent >= time {
                    break;
                }
            }
        }
        Ok(self.measured(pages, statements, spent))
    }

    /// Copies the node rows of groups of `pages` pages until `time` was spent.
    async fn copy(&mut self, pages: usize, time: Duration) -> Result<Measured> {
        let mut statements = Vec::new();
        let mut spent = Duration::ZERO;
        while spent < time {
            let prepared = self.finished_pages(PREPARED.max(pages))?;
            for group in prepared.chunks(pages) {
                let begun = Instant::now();
                let rows = self.copy_group(group).await?;
                let took = begun.elapsed();
                ensure!(rows == self.rows(group.len()), "{rows} rows were copied");
                spent += took;
                statements.push(took);
                if spent >= time {
                    break;
                }
            }
        }
        Ok(self.measured(pages, statements, spent))
    }

    async fn copy_group(&self, group: &[FinishedPage]) -> Result<u64> {
        let sink = self.client.copy_in(COPY).await?;
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &COPY_TYPES));
        for finished in group {
            let page = &finished.page;
            for node in &finished.outcome.nodes {
                let definition = &self.table.nodes[usize::from(node.position)];
                let at_ms = page.claimed_at.timestamp_millis();
                let id = NodeExecutionId::derive(page.page_id, page.attempt, node.position, at_ms).0;
                let NodeEnd::Completed(output) = &node.end else { continue };
                let output = (!output.is_null()).then_some(output);
                let input = Value::Object(definition.params.clone());
                let row: [&(dyn ToSql + Sync); 17] = [
                    &id,
                    &page.execution_id.0,
                    &definition.node_id,
                    &"completed",
                    &node.started_at,
                    &node.completed_at,
                    &input,
                    &output,
                    &None::<&str>,
                    &0_i32,
                    &page.page_id.0,
                    &definition.node_type,
                    &definition.phase,
                    &page.attempt,
                    &self.worker.0,
                    &None::<&str>,
                    &i16::try_from(node.position)?,
                ];
                writer.as_mut().write(&row).await?;
            }
        }
        Ok(writer.finish().await?)
    }

    /// Makes finished pages as the demo shop gives them.
    fn finished_pages(&mut self, count: usize) -> Result<Vec<FinishedPage>> {
        (0..count)
            .map(|_| {
                self.pages_made += 1;
                finished_page(self.execution, self.pages_made, &self.table)
            })
            .collect()
    }

    /// Writes their rows, as if this worker had claimed them.
    async fn insert_claimed(&self, pages: &[FinishedPage]) -> Result<()> {
        let ids: Vec<_> = pages.iter().map(|finished| finished.page.page_id.0).collect();
        let urls: Vec<_> = pages.iter().map(|finished| finished.page.url.as_str()).collect();
        let hashes: Vec<_> = pages.iter().map(|finished| finished.page.url.hash().to_vec()).collect();
        self.client
            .execute(
                "INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, status, attempt, epoch, admitted,
                    locked_at, locked_by, locked_until)
                 SELECT p.id, $4, p.url, p.url_hash, '127.0.0.1', 3, 'processing', 1, 0, true, now(), $5,
                    now() + interval '3 minutes'
                 FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS p (id, url, url_hash)",
                &[&ids, &urls, &hashes, &self.execution.0, &self.worker.0],
            )
            .await?;
        Ok(())
    }

    /// Writes the pages that most links lead to.
    async fn insert_known_urls(&self) -> Result<()> {
        for number in 0..KNOWN_URLS {
            let url = known_url(number)?;
            self.client
                .execute(
                    "INSERT INTO url_queue (id, execution_id, url, url_hash, host, status, attempt)
                     VALUES ($1, $2, $3, $4, $5, 'completed', 1)",
                    &[
                        &PageId::generate().0,
                        &self.execution.0,
                        &url.as_str(),
                        &url.hash().to_vec(),
                        &url.host(),
                    ],
                )
                .await?;
        }
        self.client.batch_execute("ANALYZE url_queue").await?;
        Ok(())
    }

    async fn explain_fsync(&self, to: &mut impl Write) -> Result<()> {
        let row = self
            .client
            .query_one(
                "SELECT version(), current_setting('fsync'), current_setting('synchronous_commit'),
                    current_setting('shared_buffers')",
                &[],
            )
            .await?;
        let (version, fsync): (String, String) = (row.get(0), row.get(1));
        ensure!(fsync == "on", "fsync is {fsync}");
        let (commit, buffers): (String, String) = (row.get(2), row.get(3));
        let version = version.split(" on ").next().unwrap_or(&version);
        writeln!(to, "{version}, fsync {fsync}, synchronous_commit {commit}, shared_buffers {buffers}")?;
        Ok(())
    }

    /// Bytes of `node_executions` with its indexes, for each row.
    async fn bytes_a_row(&self) -> Result<f64> {
        let row = self
            .client
            .query_one(
                "SELECT (SELECT sum(pg_total_relation_size(relid))::int8
                         FROM pg_partition_tree('node_executions') WHERE isleaf),
                    (SELECT count(*) FROM node_executions)",
                &[],
            )
            .await?;
        let (bytes, rows): (i64, i64) = (row.get(0), row.get(1));
        Ok(bytes as f64 / rows as f64)
    }

    fn rows(&self, pages: usize) -> u64 {
        (pages * self.table.nodes.len()) as u64
    }

    fn measured(&self, pages: usize, statements: Vec<Duration>, spent: Duration) -> Measured {
        let rows = statements.len() as f64 * self.rows(pages) as f64;
        Measured { rows_a_second: rows / spent.as_secs_f64(), statements }
    }
}

fn finished_page(execution_id: ExecutionId, number: usize, table: &Arc<NodeTable>) -> Result<FinishedPage> {
    let now = Utc::now();
    let page = ClaimedPage {
        page_id: PageId::generate(),
        execution_id,
        url: PageUrl::parse(&format!("http://127.0.0.1:8090/book/a-title-of-usual-length-{number}/"))?,
        depth: 3,
        priority: -30,
        attempt: 1,
        created_at: now,
        claimed_at: now,
        start_in: Duration::ZERO,
    };
    let mut nodes = Vec::with_capacity(table.nodes.len());
    let mut started_at = now;
    for (position, node) in table.nodes.iter().enumerate() {
        let completed_at = started_at + Duration::from_micros(300);
        let end = NodeEnd::Completed(output(&node.node_id, number));
        nodes.push(NodeRecord {
            position: u16::try_from(position)?,
            started_at,
            completed_at,
            end,
            retries: 0,
        });
        started_at = completed_at;
    }
    let item = json!({
        "title": output("extract_book_title", number), "price": 51.77, "currency": "GBP", "rating": "Three",
        "availability": "In stock (22 available)", "image_url": output("extract_book_image", number),
        "description": output("extract_description", number), "upc": output("extract_upc", number),
        "product_type": "Books", "price_excl_tax": 51.77, "price_incl_tax": 51.77, "tax": 0, "num_reviews": 0,
        "category": "Poetry",
    });
    // One link of each page is new.
    let links = (1..LINKS).map(|link| known_url((number * 7 + link * 13) % KNOWN_URLS));
    let new = PageUrl::parse(&format!("http://127.0.0.1:8090/book/a-new-link-of-page-{number}/"));
    let discovered = links
        .chain([new.map_err(Into::into)])
        .map(|url| Ok(DiscoveredUrl { url: url?, discovered_by: "extract_book_links".to_owned() }))
        .collect::<Result<_>>()?;
    let outcome = PageOutcome {
        end: PageEnd::Completed,
        nodes,
        item: Some(item),
        discovered,
        final_url: Some(page.url.as_str().to_owned()),
    };
    Ok(FinishedPage { page, table: Arc::clone(table), outcome, next: NextStatus::Completed })
}

fn known_url(number: usize) -> Result<PageUrl> {
    Ok(PageUrl::parse(&format!("http://127.0.0.1:8090/book/a-book-that-is-known-{number}/"))?)
}

/// A node's output, as long as the demo shop's outputs are on average.
fn output(node_id: &str, number: usize) -> Value {
    const SENTENCE: &str = "A lonely lighthouse keeper finds a letter that was never meant for him. ";
    match node_id {
        "extract_category_links" => links(6),
        "extract_book_links" => links(14),
        "extract_pagination_next" => json!([]),
        "filter_discovered_urls" => json!({"kept": 20, "dropped": 2, "dropped_urls": []}),
        "extract_book_title" => json!(format!("The Quiet Harbour, volume {number}")),
        "extract_book_price" | "extract_price_excl_tax" | "extract_price_incl_tax" => json!(51.77),
        "extract_tax" | "extract_num_reviews" => json!(0),
        "extract_currency" => json!("GBP"),
        "extract_rating" => json!("Three"),
        "extract_availability" => json!("In stock (22 available)"),
        "extract_book_image" => json!(format!("http://127.0.0.1:8090/media/{number:08}.png")),
        "extract_description" => json!(format!("{number}. {}", SENTENCE.repeat(8))),
        "extract_upc" => json!(format!("a897fe39b10{number:05}")),
        "extract_product_type" => json!("Books"),
        "extract_category" => json!("Poetry"),
        _ => Value::Null,
    }
}

fn links(count: usize) -> Value {
    (0..count).map(|link| format!("/book/a-book-that-is-known-{link}/")).collect::<Vec<_>>().into()
}

fn report(results: &[[Vec<Measured>; 2]], nodes: usize, bytes_a_row: f64, to: &mut impl Write) -> Result<()> {
    writeln!(to, "medians of {ROUNDS} rounds of {} s, one connection", MEASURED.as_secs())?;
    writeln!(
        to,
        "{:>14} {:>12} {:>12} {:>9} {:>14} {:>12}  rows/s of each round (record / COPY)",
        "rows/statement", "record rows/s", "COPY rows/s", "of COPY", "record p50", "COPY p50"
    )?;
    for (pages, [recorded, copied]) in GROUPS.iter().zip(results) {
        let [record, copy] = [recorded, copied].map(|rounds| median(rounds.iter().map(|r| r.rows_a_second)));
        let [record_p50, copy_p50] = [recorded, copied].map(|rounds| {
            let statements = rounds.iter().flat_map(|round| &round.statements);
            median(statements.map(|took| took.as_secs_f64() * 1000.0))
        });
        let rounds: Vec<String> = recorded
            .iter()
            .zip(copied)
            .map(|(record, copy)| format!("{:.0}/{:.0}", record.rows_a_second, copy.rows_a_second))
            .collect();
        writeln!(
            to,
            "{:>14} {record:>13.0} {copy:>12.0} {:>8.0}% {record_p50:>11.2} ms {copy_p50:>9.2} ms  {}",
            pages * nodes,
            record / copy * 100.0,
            rounds.join(" ")
        )?;
    }
    writeln!(to, "{bytes_a_row:.0} bytes a row of node_executions, indexes included")?;
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
