//! The end of a crawl, whatever has happened to it: everything is there once, and each page ended as its fate says.

use std::collections::{BTreeMap, BTreeSet};

use crawlify_shared::domain::fault::POISON_AFTER;
use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_shared::store::executions::ExecutionStatus;
use harness::invariants;
use harness::invariants::around::requests;

use super::fleet::Fleet;
use super::site::{Site, number_of};

/// A row of the frontier, and what was recorded of its last attempt.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Page {
    url: String,
    status: String,
    error_class: Option<String>,
    error: Option<String>,
    epoch: i32,
    /// How many workers it is charged with.
    worker_faults: i16,
    /// How many workers were lost with the page in hand, and were not heard again since.
    workers_lost: i64,
    /// How many of them were heard again.
    taken_back: i64,
    titles: Vec<String>,
    nodes: Vec<String>,
}

const PAGES: &str = "SELECT q.url, q.status, q.error_class, q.error, q.epoch, q.worker_faults,
        (SELECT count(*) FROM lost_attempts l
            WHERE l.page_id = q.id AND l.fault = 'worker' AND l.standing <> 'taken_back') AS workers_lost,
        (SELECT count(*) FROM lost_attempts l WHERE l.page_id = q.id AND l.standing = 'taken_back') AS taken_back,
        ARRAY(SELECT i.data->>'title' FROM extracted_items i WHERE i.page_id = q.id) AS titles,
        ARRAY(SELECT n.status::text FROM node_executions n WHERE n.page_id = q.id AND n.attempt = q.attempt
            ORDER BY n.position) AS nodes
    FROM url_queue q WHERE q.execution_id = $1 ORDER BY q.id";

impl Fleet {
    /// Holds the rows to the invariants and to what the site is like.
    pub(super) async fn judge(&self) {
        let (pages, site) = (self.pages().await, &self.place.web.site);
        let row = self.crawl.store.execution(self.crawl.execution).await.unwrap().expect("it is there");
        let is_cancelled = row.status == ExecutionStatus::Cancelled;
        for page in &pages {
            assert!(page.is_right(site, is_cancelled), "{page:?}");
        }
        let known: BTreeSet<String> = pages.iter().map(|page| page.url.clone()).collect();
        let completed = pages.iter().filter(|page| page.status == "completed");
        let expected = site.known_after(completed.map(|page| number_of(&page.url)));
        assert_eq!(known, expected, "the frontier is not what the completed pages link to");
        let count = |status: &str| pages.iter().filter(|page| page.status == status).count();
        let expected = match row.status {
            ExecutionStatus::Cancelled => ExecutionStatus::Cancelled,
            _ if count("completed") == 0 && count("failed") > 0 => ExecutionStatus::Failed,
            _ => ExecutionStatus::Completed,
        };
        assert_eq!(row.status, expected);
        let has_room = row.max_pages.is_none_or(|most| row.pages_admitted < most);
        assert!(!has_room || count("skipped") == 0 || is_cancelled, "pages were skipped that had room");
        self.assert_visited_once_a_claim(&pages);
        invariants::assert_sound(&self.crawl.pool, self.crawl.execution, None).await;
    }

    /// I13. A page was claimed once, and once more for each time that it went back, which its epoch counts.
    fn assert_visited_once_a_claim(&self, pages: &[Page]) {
        let visits = self.place.web.visits().into_iter().enumerate();
        let visits: BTreeMap<String, u64> =
            visits.map(|(number, visits)| (Site::url(number), visits)).collect();
        let claims = pages.iter().filter(|page| visits[&page.url] > 0).map(|page| {
            let went_back = u64::try_from(page.epoch).expect("epochs rise from 0");
            (page.url.clone(), went_back + 1)
        });
        invariants::assert_none(&requests(&visits, &claims.collect(), 0));
    }

    pub(super) async fn pages(&self) -> Vec<Page> {
        sqlx::query_as(PAGES).bind(self.crawl.execution.0).fetch_all(&self.crawl.pool).await.unwrap()
    }
}

impl Page {
    /// Whether it ended as its fate says, or as what has happened may have made it end, with what belongs to such an end.
    fn is_right(&self, site: &Site, is_cancelled: bool) -> bool {
        let number = number_of(&self.url);
        let end = site.pages[number].fate.end();
        let class = self.error_class.as_deref();
        let is_completed = self.status == "completed";
        let ended_well = match self.status.as_str() {
            "completed" => end.is_none(),
            "failed" => end.is_some_and(|end| class == Some(end.as_str())) || self.is_quarantined(),
            "skipped" => class == Some("limit"),
            "cancelled" => is_cancelled,
            _ => false,
        };
        let titles = if is_completed { vec![Site::title(number)] } else { Vec::new() };
        let all_nodes_ran = self.nodes == ["completed", "completed"];
        ended_well && self.is_charged_rightly() && self.titles == titles && (all_nodes_ran || !is_completed)
    }

    /// Whether it lost so many workers that it may be to blame: no browser is lost here. It stays failed where some of
    /// them are heard again only after its execution has ended; how many were lost by then its error says.
    fn is_quarantined(&self) -> bool {
        let lost_by_then = self.error.as_deref().and_then(|error| error.strip_prefix("quarantined: "));
        let lost_by_then = lost_by_then.and_then(|error| error.split(' ').next()?.parse::<i64>().ok());
        self.error_class.as_deref() == Some(ErrorClass::Poison.as_str())
            && lost_by_then.is_some_and(|lost| lost >= i64::from(POISON_AFTER))
            && i64::from(self.worker_faults) + self.taken_back >= i64::from(POISON_AFTER)
    }

    /// Whether it is charged with no more workers than were lost and not heard again. A retry forgets the charges, and
    /// not the evidence.
    fn is_charged_rightly(&self) -> bool {
        i64::from(self.worker_faults) <= self.workers_lost
    }
}
