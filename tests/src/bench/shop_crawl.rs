//! A crawl of the demo shop as rows only, on a private Postgres that keeps what it confirms: what the benchmarks of
//! statements measure on. No browser, no broker.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use crawlify_cli::demo_site::WORKFLOW;
use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_shared::config::SecretUrl;
use crawlify_shared::domain::id::{ExecutionId, PageId, WorkerId, WorkflowId};
use crawlify_shared::domain::page::{FinishedPage, NodeTable};
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Definition, Limits, parse_text};
use crawlify_shared::store::Store;
use crawlify_shared::store::executions::StartExecution;
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use crawlify_shared::store::start::Beginning;
use crawlify_shared::store::workflows::{WorkflowStatus, WorkflowText};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};
use tokio_util::task::TaskTracker;

use super::pages::{KNOWN_URLS, finished_page, known_url, node_table};

/// A Postgres with fsync, as it is in earnest, in a folder that goes with it.
#[derive(Debug)]
pub struct DurablePostgres {
    server: PrivatePostgres,
    _folder: TempDir,
}

/// An execution with a thousand pages that are done, a worker, and connections.
#[derive(Debug)]
pub struct ShopCrawl {
    /// A coordinator's connections.
    pub store: Store,
    /// The worker's.
    pub hot: HotStore,
    /// For rows that nobody has a way to write.
    pub client: Client,
    /// The execution, without limits.
    pub execution: ExecutionId,
    /// The worker.
    pub worker: WorkerId,
    /// The nodes of the demo shop's workflow.
    pub table: Arc<NodeTable>,
    /// How many pages were made, so that each has a URL of its own.
    pages_made: usize,
    connections: TaskTracker,
}

impl DurablePostgres {
    /// Starts one.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub async fn start() -> Result<Self> {
        let folder = open_folder()?;
        let options = Options { data_dir: Some(folder.path().join("data")), ..Options::default() };
        Ok(Self { server: PrivatePostgres::start(&options).await?, _folder: folder })
    }

    /// The server.
    pub fn server(&self) -> &PrivatePostgres {
        &self.server
    }

    /// Stops it, and removes what it has written.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// A folder that Postgres, under an account of its own where we are root, can pass through.
///
/// # Errors
/// It cannot be made.
pub fn open_folder() -> Result<TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// The demo shop's workflow.
///
/// # Errors
/// It is broken.
pub fn demo_workflow() -> Result<Definition> {
    parse_text(WORKFLOW).map_err(|problems| anyhow!("{problems:?}"))
}

/// Stores a workflow and starts an execution of it.
///
/// # Errors
/// The store's.
pub async fn start_execution(store: &Store, definition: &Definition, limits: Limits) -> Result<ExecutionId> {
    let text = WorkflowText {
        name: &definition.name,
        description: &definition.description,
        config: &definition.config,
    };
    let row = store.create_workflow(text, WorkflowStatus::Active).await?;
    let beginning = Beginning { limits, ..Beginning::of(row.version, &definition.workflow) };
    match store.start_execution(WorkflowId(row.id), &beginning).await? {
        StartExecution::Started(execution) | StartExecution::Repeated(execution) => Ok(execution),
        StartExecution::NotActive(_) | StartExecution::NotFound => bail!("no execution was started"),
    }
}

impl ShopCrawl {
    /// Migrates, starts an execution, and connects.
    ///
    /// # Errors
    /// The server does not do it.
    pub async fn start(url: &SecretUrl) -> Result<Self> {
        let store = Store::connect(url, 2)?;
        store.migrate().await?;
        store.create_partitions(1).await?;
        let definition = demo_workflow()?;
        let execution = start_execution(&store, &definition, crate::crawl::NO_LIMITS).await?;
        let (client, connection) = tokio_postgres::connect(url.expose(), NoTls).await?;
        let connections = TaskTracker::new();
        connections.spawn(connection);
        connections.close();
        let worker = WorkerId::generate();
        let hot = HotStore::connect(url, worker)?;
        let table = Arc::new(node_table(&definition.workflow));
        let crawl = Self { store, hot, client, execution, worker, table, pages_made: 0, connections };
        crawl.insert_known_urls().await?;
        Ok(crawl)
    }

    /// Ends every connection.
    pub async fn close(self) {
        self.hot.close();
        self.store.close().await;
        drop(self.client);
        self.connections.wait().await;
    }

    /// Makes finished pages as the demo shop gives them; their rows are not written.
    ///
    /// # Errors
    /// A URL is none.
    pub fn finished_pages(&mut self, count: usize) -> Result<Vec<FinishedPage>> {
        let pages = (0..count).map(|_| {
            self.pages_made += 1;
            finished_page(self.execution, self.pages_made, &self.table)
        });
        pages.collect()
    }

    /// Writes the rows of pages as if this worker had claimed them.
    ///
    /// # Errors
    /// The server's.
    pub async fn insert_claimed(&self, pages: &[FinishedPage]) -> Result<()> {
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

    /// Writes new pages that wait, and answers what a message would say of each.
    ///
    /// # Errors
    /// The server's.
    pub async fn insert_pending(&mut self, count: usize) -> Result<Vec<ClaimRequest>> {
        let first = self.pages_made;
        self.pages_made += count;
        let urls = (first..self.pages_made)
            .map(|page| PageUrl::parse(&format!("http://127.0.0.1:8090/book/a-page-that-waits-{page}/")))
            .collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<_> = urls.iter().map(|_| PageId::generate()).collect();
        let keys: Vec<_> = ids.iter().map(|id| id.0).collect();
        let texts: Vec<_> = urls.iter().map(PageUrl::as_str).collect();
        let hashes: Vec<_> = urls.iter().map(|url| url.hash().to_vec()).collect();
        self.client
            .execute(
                "WITH woken AS (UPDATE lanes SET due_at = now(), misses = 0)
                 INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, status)
                 SELECT p.id, $4, p.url, p.url_hash, '127.0.0.1', 3, 'pending'
                 FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS p (id, url, url_hash)",
                &[&keys, &texts, &hashes, &self.execution.0],
            )
            .await?;
        Ok(ids.into_iter().map(|page_id| ClaimRequest { page_id, epoch: 0 }).collect())
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
}
