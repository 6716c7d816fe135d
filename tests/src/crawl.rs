//! A crawl in a database of its own, for tests that call the store as coordinators and workers do.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use crawlify_shared::domain::id::{ExecutionId, WorkerId, WorkflowId};
use crawlify_shared::domain::outcome::{
    DiscoveredUrl, HostContact, NodeEnd, NodeRecord, PageEnd, PageOutcome, Rendered,
};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus, NodeDefinition, NodeTable};
use crawlify_shared::domain::page_url::{HostUnit, PageUrl};
use crawlify_shared::domain::workflow::{Limits, parse_config};
use crawlify_shared::store::Store;
use crawlify_shared::store::executions::{StartExecution, WorkflowStatus};
use crawlify_shared::store::hot::{ClaimRequest, HotStore, Vitals};
use crawlify_shared::store::start::Beginning;
use crawlify_shared::store::workflows::WorkflowText;
use serde_json::{Map, Value, json};
use sqlx::PgPool;

use crate::postgres::TestDatabase;

/// The lease of the claims that [`Crawl`] makes.
pub const LEASE: Duration = Duration::from_secs(60);
/// Of a worker that is well, and has next to nothing to do.
pub const VITALS: Vitals = Vitals { slots: 4, wants: 16, is_draining: false, has_unrecorded: false };
/// No limits at all.
pub const NO_LIMITS: Limits = Limits {
    max_depth: None,
    max_pages: None,
    rate_limit_delay: Duration::ZERO,
    host_concurrency: None,
    adaptive_delay: false,
    host_unit: HostUnit::Host,
};

/// A running execution, and ways to look at its rows.
#[derive(Debug)]
pub struct Crawl {
    /// The first execution of the database.
    pub execution: ExecutionId,
    /// A coordinator's connections.
    pub store: Store,
    /// For rows that nobody has a way to write or count.
    pub pool: PgPool,
    /// Dropped with the crawl.
    pub database: TestDatabase,
}

impl Crawl {
    /// Starts an execution of a small workflow with these start URLs, in a database of its own.
    pub async fn start(limits: Limits, start_urls: &[&str]) -> Self {
        Self::of(&small_workflow(), limits, start_urls).await
    }

    /// Starts an execution of a workflow.
    pub async fn of(config: &Value, limits: Limits, start_urls: &[&str]) -> Self {
        Self::on(TestDatabase::create().await, config, limits, start_urls).await
    }

    /// Starts an execution of a workflow in this database.
    pub async fn on(database: TestDatabase, config: &Value, limits: Limits, start_urls: &[&str]) -> Self {
        let store = Store::connect(&database.url(), 8).expect("the URL is valid");
        let pool = PgPool::connect(database.url().expose()).await.expect("the database is there");
        let execution = start(&store, config, limits, start_urls).await;
        Self { execution, store, pool, database }
    }

    /// Starts another execution beside the first one.
    pub async fn another(&self, limits: Limits, start_urls: &[&str]) -> ExecutionId {
        self.another_of(&small_workflow(), limits, start_urls).await
    }

    /// Starts another execution, of this workflow.
    pub async fn another_of(&self, config: &Value, limits: Limits, start_urls: &[&str]) -> ExecutionId {
        start(&self.store, config, limits, start_urls).await
    }

    /// A worker that has announced itself.
    pub async fn worker(&self) -> HotStore {
        let worker = HotStore::connect(&self.database.url(), WorkerId::generate()).expect("the URL is valid");
        worker.announce("test", 4).await.expect("the database is there");
        worker
    }

    /// Dispatches every page that is due, as far as the store goes, and however lately the dispatcher looked.
    pub async fn queue(&self) -> Vec<ClaimRequest> {
        self.queue_at_most(10_000).await
    }

    /// Dispatches so many pages at most of those that are due.
    pub async fn queue_at_most(&self, limit: i64) -> Vec<ClaimRequest> {
        self.look_at_all_lanes().await;
        let pages = self.store.reserve_pages(self.execution, limit).await.expect("pages are reserved");
        pages.iter().map(|page| ClaimRequest { page_id: page.page_id, epoch: page.epoch }).collect()
    }

    /// Dispatches every page that is due, and claims it.
    pub async fn claim(&self, worker: &HotStore) -> Vec<ClaimedPage> {
        let requests = self.queue().await;
        worker.claim(&requests, LEASE, false).await.expect("pages are claimed")
    }

    /// The one number that a query gives.
    pub async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.expect("the query is right")
    }

    /// The texts that a query gives.
    pub async fn texts(&self, query: &'static str) -> Vec<String> {
        sqlx::query_scalar(query).fetch_all(&self.pool).await.expect("the query is right")
    }

    /// Runs statements; the next look of a dispatcher will see what they changed.
    pub async fn change(&self, statements: &'static str) {
        sqlx::raw_sql(statements).execute(&self.pool).await.expect("the statement is right");
        self.look_at_all_lanes().await;
    }

    /// Makes every lane due, as if its time had come.
    async fn look_at_all_lanes(&self) {
        let due = "UPDATE lanes SET due_at = now() - interval '1 minute', misses = 0";
        sqlx::query(due).execute(&self.pool).await.expect("the statement is right");
    }

    /// Asserts that every counter is what a recount of the rows gives, and that nothing was recorded twice.
    pub async fn assert_counters_are_a_recount(&self) {
        crate::invariants::assert_counters_are_a_recount(&self.pool).await;
    }
}

async fn start(store: &Store, config: &Value, limits: Limits, start_urls: &[&str]) -> ExecutionId {
    let text = WorkflowText { name: "Test", description: "", config };
    let row = store.create_workflow(text, WorkflowStatus::Active).await.expect("it is stored");
    let workflow = parse_config(config).expect("the workflow is valid");
    let start_urls: Vec<PageUrl> = start_urls.iter().map(|url| page_url(url)).collect();
    let beginning = Beginning { limits, start_urls: &start_urls, ..Beginning::of(1, &workflow) };
    match store.start_execution(WorkflowId(row.id), &beginning).await.expect("it is started") {
        StartExecution::Started(execution) | StartExecution::Repeated(execution) => execution,
        other => panic!("the workflow does not start: {other:?}"),
    }
}

/// A workflow with one node in each phase: `links` and `title`.
pub fn small_workflow() -> Value {
    json!({
        "start_urls": ["http://shop.test/"],
        "url_discovery": [
            {"id": "links", "type": "extract_links", "params": {"selector": "a"}}
        ],
        "data_extraction": [
            {"id": "title", "type": "extract", "params": {"selector": "h1", "type": "text"}, "output_key": "title"}
        ]
    })
}

/// The nodes that the records of [`finished`] speak of.
pub fn small_table() -> Arc<NodeTable> {
    let node = |node_id: &str, node_type: &'static str, phase: &str| NodeDefinition {
        node_id: node_id.to_owned(),
        node_type,
        phase: phase.to_owned(),
        params: Map::from_iter([("selector".to_owned(), json!("a"))]),
    };
    let nodes =
        vec![node("links", "extract_links", "url_discovery"), node("title", "extract", "data_extraction")];
    Arc::new(NodeTable { nodes })
}

/// A page that ended well: both of its nodes ran, and gave these links and a title.
pub fn finished(page: &ClaimedPage, table: &Arc<NodeTable>, links: &[String]) -> FinishedPage {
    let record = |position, output: Value| NodeRecord {
        position,
        started_at: Utc::now(),
        completed_at: Utc::now() + Duration::from_millis(3),
        end: NodeEnd::Completed(output),
        retries: 0,
    };
    let discovered = links
        .iter()
        .map(|link| DiscoveredUrl {
            url: page_url(link),
            discovered_by: "links".to_owned(),
            skipped: None,
            is_sitemap: false,
        })
        .collect();
    FinishedPage {
        page: page.clone(),
        table: Arc::clone(table),
        outcome: PageOutcome {
            end: PageEnd::Completed,
            nodes: vec![record(0, json!(links)), record(1, json!("a title"))],
            item: Some(json!({"title": "a title", "url": page.url.as_str()})),
            discovered,
            final_url: Some(page.url.as_str().to_owned()),
            rendered: Rendered::Full,
            contact: HostContact::default(),
            bytes: 0,
            received: None,
        },
        next: NextStatus::Completed,
    }
}

/// A page's address.
pub fn page_url(url: &str) -> PageUrl {
    PageUrl::parse(url).expect("the test's URL is valid")
}
