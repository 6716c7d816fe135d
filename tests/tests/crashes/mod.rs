//! Processes that die, or freeze, between two durable effects: wherever that is, the crawl ends as if nothing had happened.
//!
//! The places are those of `crawlify_shared::crash`. Processes, Postgres and RabbitMQ are real; the pages are not
//! (`harness::synthetic`), so that a test takes hardly longer than the recovery itself.

mod coordinator;
mod frozen;
mod poison;
mod worker;

use std::path::Path;

use crawlify_shared::crash::CrashPoint;
use harness::fleet::{Fleet, SLOTS};
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

/// One death costs an attempt of the pages in hand, and no more: as many as there are slots, those claimed ahead, and those
/// that wait to be recorded together.
async fn assert_attempts_are_few(fleet: &Fleet) {
    let wasted = fleet.number("SELECT sum(greatest(attempt - 1, 0)) FROM url_queue").await;
    assert!(wasted <= 3 * SLOTS as i64, "{wasted} attempts were wasted");
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
