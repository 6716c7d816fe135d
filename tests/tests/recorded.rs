//! What must hold of the rows of every execution that has ended, however it was run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::{DateTime, Utc};
use crawlify_cli::demo_site::{Shop, WORKFLOW};
use crawlify_shared::config::SecretUrl;
use crawlify_shared::domain::id::ExecutionId;
use harness::invariants;
use harness::scratch::Scratch;
use serde_json::Value;
use sqlx::{PgPool, Row};
use uuid::Uuid;

/// A node's id, and when a run of it started and ended.
type NodeRun = (String, DateTime<Utc>, DateTime<Utc>);

/// The database of one execution.
pub(crate) struct Recorded {
    pub(crate) pool: PgPool,
    pub(crate) url: SecretUrl,
    pub(crate) execution: Uuid,
}

impl Recorded {
    /// Opens a database that has had one execution.
    pub(crate) async fn open(url: SecretUrl) -> Self {
        let pool = PgPool::connect(url.expose()).await.unwrap();
        let execution =
            sqlx::query_scalar("SELECT id FROM workflow_executions").fetch_one(&pool).await.unwrap();
        Self { pool, url, execution }
    }

    /// The execution's status, and how many of its pages have which.
    pub(crate) async fn statuses(&self) -> (String, BTreeMap<String, i64>) {
        let status = sqlx::query_scalar("SELECT status FROM workflow_executions WHERE id = $1")
            .bind(self.execution)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        let rows =
            sqlx::query("SELECT status, count(*) FROM url_queue WHERE execution_id = $1 GROUP BY status")
                .bind(self.execution)
                .fetch_all(&self.pool)
                .await
                .unwrap();
        (status, rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    pub(crate) async fn text(&self, query: &'static str) -> String {
        sqlx::query_scalar(query).bind(self.execution).fetch_one(&self.pool).await.unwrap()
    }

    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).bind(self.execution).fetch_one(&self.pool).await.unwrap()
    }

    /// Every completed page has the demo workflow's 20 rows of its last attempt, in the order of its dependencies. Answers how
    /// many rows there are.
    pub(crate) async fn assert_twenty_rows_a_page(&self) -> i64 {
        let nodes = demo_nodes();
        let rows = sqlx::query(
            "SELECT n.page_id, n.node_id, n.started_at, n.completed_at, n.status
             FROM node_executions n JOIN url_queue q ON q.id = n.page_id AND q.attempt = n.attempt
             WHERE n.execution_id = $1 AND q.status = 'completed' ORDER BY n.page_id, n.position",
        )
        .bind(self.execution)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let mut pages: BTreeMap<Uuid, Vec<NodeRun>> = BTreeMap::new();
        for row in &rows {
            let (started, completed): (DateTime<Utc>, DateTime<Utc>) = (row.get(2), row.get(3));
            assert!(started <= completed);
            pages.entry(row.get(0)).or_default().push((row.get(1), started, completed));
        }
        for (page, runs) in &pages {
            let ids: Vec<&str> = runs.iter().map(|(id, ..)| id.as_str()).collect();
            assert_eq!(ids, nodes.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), "page {page}");
            let one_after_the_other = runs.windows(2).all(|pair| pair[0].2 <= pair[1].1);
            assert!(one_after_the_other, "page {page}: {runs:?}");
            let when = |id: &str| runs.iter().find(|(other, ..)| other == id).unwrap();
            for (id, dependencies) in &nodes {
                for dependency in dependencies {
                    assert!(
                        when(dependency).2 <= when(id).1,
                        "page {page}: {id} began before {dependency} ended"
                    );
                }
            }
        }
        let completed = self
            .number("SELECT count(*) FROM url_queue WHERE execution_id = $1 AND status = 'completed'")
            .await;
        assert_eq!(i64::try_from(pages.len()).unwrap(), completed, "completed pages without rows");
        i64::try_from(rows.len()).unwrap()
    }

    /// Every URL is there once, and nothing that the filter must drop: pictures and the partner's site.
    pub(crate) async fn assert_frontier_is_filtered(&self) {
        let urls: Vec<String> =
            sqlx::query_scalar("SELECT url FROM url_queue WHERE execution_id = $1 ORDER BY url")
                .bind(self.execution)
                .fetch_all(&self.pool)
                .await
                .unwrap();
        assert!(urls.windows(2).all(|pair| pair[0] != pair[1]));
        let foreign = urls.iter().find(|url| url.ends_with(".png") || url.contains("gift-cards.invalid"));
        assert_eq!(foreign, None);
        // They were there to be dropped.
        for dropped in ["%/media/price-list.png%", "%gift-cards.invalid%"] {
            let found: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM node_executions
                 WHERE execution_id = $1 AND node_id = 'extract_category_links' AND output::text LIKE $2",
            )
            .bind(self.execution)
            .bind(dropped)
            .fetch_one(&self.pool)
            .await
            .unwrap();
            assert!(found > 0, "no page links to {dropped}");
        }
    }

    /// Every invariant holds.
    pub(crate) async fn assert_is_sound(&self) {
        invariants::assert_sound(&self.pool, ExecutionId(self.execution), None).await;
    }

    /// Runs a query of `tests/queries` as its users do, with psql; answers the columns' names and the rows.
    pub(crate) fn run_query(&self, name: &str) -> (String, Vec<String>) {
        let output = Command::new("psql")
            .args([
                "--no-psqlrc",
                "--csv",
                "-v",
                "ON_ERROR_STOP=1",
                "-v",
                &format!("id='{}'", self.execution),
            ])
            .arg("-f")
            .arg(in_tests(&format!("queries/{name}.sql")))
            .arg(self.url.expose())
            .output()
            .expect("psql runs: it is in the package `postgresql-client`");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let mut lines = text.lines().map(str::to_owned);
        (lines.next().unwrap_or_default(), lines.collect())
    }
}

/// Compares lines of `-o` with the truth about those products of the demo shop that `visited` lets through, and
/// answers the line that sums up.
pub(crate) fn compare_with_shop(scratch: &Scratch, items: &Path, visited: impl Fn(&str) -> bool) -> String {
    let truth = Shop::new().expected_jsonl();
    let wanted = truth.lines().filter(|line| {
        let product: Value = serde_json::from_str(line).unwrap();
        visited(product["path"].as_str().unwrap())
    });
    let expected = scratch.path("expected.jsonl");
    std::fs::write(&expected, wanted.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let output = Command::new("python3")
        .arg(in_tests("compare_books.py"))
        .args([items, &expected])
        .output()
        .expect("python3 runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The demo workflow's nodes in the order of execution, each with what it depends on.
fn demo_nodes() -> Vec<(String, Vec<String>)> {
    let workflow: Value = serde_json::from_str(WORKFLOW).unwrap();
    let lists =
        ["url_discovery", "data_extraction"].map(|list| workflow["config"][list].as_array().unwrap().clone());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let nodes: Vec<_> = lists
        .iter()
        .flatten()
        .map(|node| {
            let dependencies = node["dependencies"].as_array().into_iter().flatten().map(text).collect();
            (text(&node["id"]), dependencies)
        })
        .collect();
    assert_eq!(nodes.len(), 20);
    nodes
}

fn in_tests(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
