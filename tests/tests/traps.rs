//! Parts of a site without end, with a real Chrome: each is left with its reason, and what has an end is crawled in
//! full.

use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::skip::SkipReason;
use crawlify_shared::store::Store;
use harness::postgres::TestDatabase;
use harness::program::{Program, crawlify};
use harness::scratch::Scratch;
use harness::trap_site::{LISTS, PRODUCTS, TrapSite};
use serde_json::json;

use crate::CRAWLIFY;
use crate::recorded::Recorded;

/// How long the crawl may take on a machine that is busy with other things.
const WITHIN: Duration = Duration::from_secs(200);

#[tokio::test]
async fn each_trap_of_a_site_is_left_with_its_reason_and_the_shop_beside_them_is_crawled_in_full() {
    let (scratch, database, site) =
        (Scratch::create(), TestDatabase::create().await, TrapSite::start().await);
    let file = scratch.path("traps.json");
    let workflow = json!({"name": "Traps", "config": {
        "start_urls": [site.url()], "max_depth": 100_000, "rate_limit_delay": 0, "render": "static",
        "traps": {"query_variants": 50, "session_ids": 5, "identical_pages": 10},
        "url_discovery": [{"id": "links", "type": "extract_links", "params": {"selector": "a"}}],
        "data_extraction": [
            {"id": "text", "type": "extract", "params": {"selector": "main", "type": "text"}, "output_key": "text"}
        ],
    }});
    std::fs::write(&file, workflow.to_string()).unwrap();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("run").arg(&file).arg("--database-url").arg(database.url().expose());
    let ended = Program::start(command).end(WITHIN).await.with_code(0);
    assert_eq!(scratch.leftovers(), [""; 0]);
    let ended = ended.saying(&["every page has ended", "not visited", "in traps"]);

    let recorded = Recorded::open(database.url()).await;
    let execution = ExecutionId(
        sqlx::query_scalar("SELECT id FROM workflow_executions").fetch_one(&recorded.pool).await.unwrap(),
    );
    let store = Store::connect(&database.url(), 1).unwrap();
    let traps = store.skipped_urls(execution, Some(SkipReason::Trap), None, 1_000).await.unwrap();
    let shown: Vec<_> = traps.iter().map(|trap| format!("{}: {}", trap.url, trap.detail)).collect();
    for (path, reason) in [
        ("/loop/loop/loop/", "the path has `loop` 3 times in a row"),
        ("/calendar?year=", "days ahead, more than 730"),
        ("/day/11", "the last 10 pages of the shape"),
        ("/find?", "combinations of the parameters `brand`, `colour`, `size`, more than 50"),
        ("/item/6?", "the parameter `phpsessid` looks like the id of a session"),
        ("/long/xxx", "bytes, more than 2000"),
    ] {
        let found =
            shown.iter().find(|trap| trap.contains(path)).unwrap_or_else(|| panic!("{path} in {shown:#?}"));
        assert!(found.contains(reason), "{found}");
    }
    let visited = async |pattern: &str| -> i64 {
        let query = "SELECT count(*) FROM url_queue WHERE status = 'completed' AND url LIKE $1";
        sqlx::query_scalar(query).bind(pattern).fetch_one(&recorded.pool).await.unwrap()
    };
    assert_eq!(visited("%/shop?page=%").await, LISTS as i64, "{}", ended.stderr);
    assert_eq!(visited("%/product/%").await, (LISTS * PRODUCTS) as i64);
    assert_eq!(visited("%/loop/%").await, 2);
    assert_eq!(visited("%/day/%").await, 10);
    assert_eq!(visited("%/item/%").await, 5);
    let combinations = visited("%/find?%").await;
    assert!((200..450).contains(&combinations), "{combinations}");
    let months = visited("%/calendar?%").await;
    assert!((24..=37).contains(&months), "{months}");
    assert!(shown.iter().all(|trap| !trap.contains("/shop") && !trap.contains("/product/")), "{shown:#?}");
    let unmeasured =
        "SELECT count(*) FROM url_queue WHERE execution_id = $1 AND bytes < 200 AND status = 'completed'";
    assert_eq!(recorded.number(unmeasured).await, 0, "each document was counted");
    let heads = "SELECT (SELECT sum(bytes) FROM page_counters WHERE execution_id = $1)::int8
        - (SELECT sum(bytes) FROM url_queue WHERE execution_id = $1)::int8";
    assert!(recorded.number(heads).await > 0, "the guard counts more than documents");
    recorded.assert_is_sound().await;
}
