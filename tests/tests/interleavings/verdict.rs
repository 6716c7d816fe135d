//! The end of a crawl, whatever has happened to it: it can be reached, and then everything is there once.

use std::collections::{BTreeMap, BTreeSet};

use crawlify_shared::domain::id::PageId;
use crawlify_shared::domain::page::NextStatus;
use crawlify_shared::store::executions::ExecutionStatus;
use harness::invariants::{assert_none, verify};
use uuid::Uuid;

use super::operation::{Answer, Operation, Publish};
use super::world::World;

/// A crawl of the largest site needs far fewer.
const ROUNDS: usize = 200;

/// A row of the frontier.
#[derive(Debug, sqlx::FromRow)]
struct Page {
    id: Uuid,
    url: String,
    status: String,
    error_class: Option<String>,
    is_held: bool,
}

impl World<'_> {
    /// Drives the crawl to its end, as a healthy fleet does.
    pub(super) async fn reach_the_end(&self) {
        self.perform(Operation::Resume).await;
        self.record_all_in_hand().await;
        // What nobody has in hand although it is claimed is found by the silence of its worker.
        for worker in 0..self.workers.len() {
            self.silence(worker).await;
        }
        self.perform(Operation::Rescue { messages_are_lost: true }).await;
        self.begin_anew(0).await;
        self.workers[0].announce("test", 4).await.unwrap();
        for _ in 0..ROUNDS {
            self.perform(Operation::Finish).await;
            let has_ended = self.state.borrow().status.has_ended();
            if has_ended && self.open_pages().await == 0 {
                return;
            }
            self.dispatch(50, Publish::Confirmed).await;
            self.claim(0, usize::MAX, Answer::Comes).await;
            self.record_all_in_hand().await;
        }
        panic!("the crawl does not end: {:#?}", self.pages().await);
    }

    /// After its goodbye nobody hears of a worker again: another process is in its place, for which its id serves as well.
    pub(super) async fn begin_anew(&self, worker: usize) {
        let begun =
            "UPDATE workers SET status = 'ready', heartbeat_at = now() WHERE id = $1 AND status = 'stopped'";
        let id = self.workers[worker].worker().0;
        sqlx::query(begun).bind(id).execute(&self.crawl.pool).await.unwrap();
    }

    pub(super) async fn silence(&self, worker: usize) {
        let silence = "UPDATE workers SET heartbeat_at = now() - interval '1 hour' WHERE id = $1";
        let id = self.workers[worker].worker().0;
        sqlx::query(silence).bind(id).execute(&self.crawl.pool).await.unwrap();
    }

    /// Holds the rows to what was done.
    pub(super) async fn judge(&self) {
        let pages = self.pages().await;
        for page in &pages {
            self.judge_page(page);
        }
        let known: BTreeSet<String> = pages.iter().map(|page| page.url.clone()).collect();
        let completed = pages.iter().filter(|page| page.status == "completed");
        let expected = self.site.known_after(completed.map(|page| page.url.as_str()));
        assert_eq!(known, expected, "the frontier is not what the completed pages link to");
        self.judge_nodes_and_items(&pages).await;
        self.judge_execution(&pages).await;
        let mut connection = self.crawl.pool.acquire().await.unwrap();
        assert_none(&verify(&mut connection, self.execution, None).await.unwrap());
    }

    fn judge_page(&self, page: &Page) {
        let state = self.state.borrow();
        let written: Vec<_> =
            state.written.iter().filter(|written| written.page_id == PageId(page.id)).collect();
        let completions = written.iter().filter(|written| written.next == NextStatus::Completed).count();
        let last = written.last().map(|written| &written.next);
        let cancelled = state.status == ExecutionStatus::Cancelled;
        let is_right = match page.status.as_str() {
            "completed" => completions == 1 && last == Some(&NextStatus::Completed),
            "failed" => {
                let by_its_end = matches!(last, Some(NextStatus::Failed(_)));
                completions == 0 && (by_its_end || page.error_class.as_deref() == Some("poison"))
            }
            "skipped" => completions == 0 && page.error_class.as_deref() == Some("limit"),
            "cancelled" => completions == 0 && cancelled,
            _ => false,
        };
        assert!(is_right && !page.is_held, "{page:?}, {completions} times completed, and last {last:?}");
    }

    async fn judge_nodes_and_items(&self, pages: &[Page]) {
        let rows: Vec<(Uuid, i32, i32)> = sqlx::query_as(
            "SELECT page_id, attempt, position::int FROM node_executions WHERE execution_id = $1 ORDER BY 1, 2, 3",
        )
        .bind(self.execution.0)
        .fetch_all(&self.crawl.pool)
        .await
        .unwrap();
        let mut expected = Vec::new();
        for written in &self.state.borrow().written {
            let nodes = written.nodes.iter();
            expected.extend(nodes.map(|node| (written.page_id.0, written.attempt, i32::from(*node))));
        }
        expected.sort_unstable();
        assert!(
            expected.windows(2).all(|pair| pair[0] != pair[1]),
            "two records of one attempt were written"
        );
        assert_eq!(rows, expected, "nodes by page, attempt and position");
        let items: Vec<Uuid> =
            sqlx::query_scalar("SELECT page_id FROM extracted_items WHERE execution_id = $1 ORDER BY 1")
                .bind(self.execution.0)
                .fetch_all(&self.crawl.pool)
                .await
                .unwrap();
        let completed = pages.iter().filter(|page| page.status == "completed").map(|page| page.id);
        assert_eq!(items, completed.collect::<Vec<_>>(), "one item of each page that was completed");
    }

    async fn judge_execution(&self, pages: &[Page]) {
        let mut by_status: BTreeMap<&str, usize> = BTreeMap::new();
        for page in pages {
            *by_status.entry(&page.status).or_default() += 1;
        }
        let count = |status: &str| by_status.get(status).copied().unwrap_or(0);
        let row = self.crawl.store.execution(self.execution).await.unwrap().expect("it is there");
        let expected = match row.status {
            ExecutionStatus::Cancelled => ExecutionStatus::Cancelled,
            _ if count("completed") == 0 && count("failed") > 0 => ExecutionStatus::Failed,
            _ => ExecutionStatus::Completed,
        };
        assert_eq!(row.status, expected, "{by_status:?}");
        let room = row.max_pages.is_none_or(|most| row.pages_admitted < most);
        assert!(!room || count("skipped") == 0 || expected == ExecutionStatus::Cancelled, "{by_status:?}");
    }

    async fn pages(&self) -> Vec<Page> {
        let pages = "SELECT id, url, status, error_class, locked_by IS NOT NULL AS is_held FROM url_queue
            WHERE execution_id = $1 ORDER BY id";
        sqlx::query_as(pages).bind(self.execution.0).fetch_all(&self.crawl.pool).await.unwrap()
    }
}
