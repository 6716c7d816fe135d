//! Processes that die, or freeze, between two durable effects: wherever that is, the crawl ends as if nothing had happened.
//!
//! The places are those of `crawlify_shared::crash`. Processes, Postgres and RabbitMQ are real; the pages are not
//! (`harness::synthetic`), so that a test takes hardly longer than the recovery itself.

mod coordinator;
mod frozen;
mod loops;
mod poison;
mod worker;

use std::collections::BTreeSet;
use std::path::Path;

use crawlify_shared::crash::CrashPoint;
use crawlify_shared::domain::id::ExecutionId;
use harness::fleet::Fleet;
use uuid::Uuid;

/// Enough for some rounds of every loop.
const PAGES: u64 = 150;

/// Room for a fleet.
async fn fleet() -> Fleet {
    Fleet::create(env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await
}

/// What happens where, the `time`th time.
fn kill(point: CrashPoint, time: u32) -> String {
    format!("{}:kill@{time}", point.as_str())
}

/// The code that comes there the `time`th time panics.
fn panics(point: CrashPoint, time: u32) -> String {
    format!("{}:panic@{time}", point.as_str())
}

/// Every page that is completed: its attempt, and when it ended.
async fn completed(fleet: &Fleet) -> Vec<(Uuid, i32, chrono::DateTime<chrono::Utc>)> {
    let query = "SELECT id, attempt, processed_at FROM url_queue WHERE status = 'completed' ORDER BY id";
    sqlx::query_as(query).fetch_all(&fleet.pool).await.unwrap()
}

/// Nothing that was completed before is touched again.
async fn assert_untouched(fleet: &Fleet, before: &[(Uuid, i32, chrono::DateTime<chrono::Utc>)]) {
    let after = completed(fleet).await;
    let touched = before.iter().find(|page| !after.contains(page));
    assert_eq!(touched, None, "a completed page was executed again");
}

/// What a worker left when it died.
struct Left {
    /// Pages that it had claimed, but for those that had long been executed and waited to be recorded: these are charged
    /// nothing.
    in_hand: BTreeSet<Uuid>,
    /// Pages that nobody had claimed, and whose messages it had in hand, or nobody.
    sent: BTreeSet<Uuid>,
}

impl Left {
    /// Looks what a worker left, as soon as its last statements have ended. It must be the only one so far that died, and
    /// nobody may have taken its place.
    async fn behind(fleet: &Fleet) -> Self {
        let ended = "SELECT (count(*) = 0)::int::int8 FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'crawlify-worker'";
        fleet.wait("what the dead worker told the database has ended", ended).await;
        // The coordinator may have given it up already, however soon that is.
        let in_hand = "SELECT q.id FROM url_queue q LEFT JOIN workers w ON w.id = q.locked_by
            WHERE q.status = 'processing'
                AND (concat_ws('/', q.id, q.epoch, q.attempt) = ANY (w.unrecorded)) IS NOT TRUE
            UNION SELECT page_id FROM lost_attempts";
        let sent = "SELECT id FROM url_queue WHERE status = 'queued' AND attempt = 0";
        Self { in_hand: ids(fleet, in_hand).await, sent: ids(fleet, sent).await }
    }

    /// One death costs each page in hand an attempt, for which its worker is blamed, and no other page anything.
    async fn assert_charged(&self, fleet: &Fleet, execution: ExecutionId) {
        let query = "SELECT id, attempt::int8, worker_faults::int8, (charged + site_faults + rate_limit_faults
                + unavailable_faults + proxy_faults + browser_faults)::int8 FROM url_queue WHERE execution_id = $1";
        let pages: Vec<(Uuid, i64, i64, i64)> =
            sqlx::query_as(query).bind(execution.0).fetch_all(&fleet.pool).await.unwrap();
        for (page, attempts, losses, others) in pages {
            let lost = i64::from(self.in_hand.contains(&page));
            assert_eq!((attempts, losses, others), (1 + lost, lost, 0), "{page}, of {:?}", self.in_hand);
        }
        assert_eq!(ids(fleet, "SELECT page_id FROM lost_attempts").await, self.in_hand, "the evidence");
    }
}

/// The pages that a query gives.
async fn ids(fleet: &Fleet, query: &'static str) -> BTreeSet<Uuid> {
    let ids: Vec<Uuid> = sqlx::query_scalar(query).fetch_all(&fleet.pool).await.unwrap();
    ids.into_iter().collect()
}

#[test]
fn every_crash_point_is_at_one_place_in_the_code_and_in_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let code = sources(&["shared/src", "coordinator/src", "worker/src"].map(|folder| root.join(folder)));
    let tests = sources(&[root.join("tests/tests/crashes")]);
    for point in CrashPoint::ALL {
        let reached = format!("crash::reach(CrashPoint::{point:?});");
        assert_eq!(code.matches(&reached).count(), 1, "{reached}");
        assert!(tests.contains(&format!("(CrashPoint::{point:?}, ")), "{point:?} is in no test");
    }
}

/// The text of all files below these folders.
fn sources(folders: &[std::path::PathBuf]) -> String {
    let (mut text, mut folders) = (String::new(), folders.to_vec());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                text.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }
    text
}
