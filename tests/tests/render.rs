//! Pages that are read as they came, with a real Chrome: they give what rendered pages give, and what was decided
//! about them can be seen.

use std::process::Command;
use std::time::Duration;

use crawlify_cli::demo_site::{Content, DemoSite, Shop, WORKFLOW};
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::Rendered;
use crawlify_shared::store::Store;
use crawlify_shared::store::summary::Summary;
use harness::chain_site::ChainSite;
use harness::hostile::LuredSite;
use harness::postgres::TestDatabase;
use harness::program::{Program, crawlify};
use harness::scratch::Scratch;
use serde_json::{Value, json};

use crate::CRAWLIFY;
use crate::crawl::chain_workflow;
use crate::recorded::{Recorded, compare_with_shop};

/// How long a crawl may take on a machine that is busy with other things.
const WITHIN: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_static_crawl_gives_every_product_right_without_a_tab() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let items = scratch.path("items.jsonl");
    let mut command = demo(&scratch, &database);
    command.args(["--render", "static", "-o"]).arg(&items);
    let ended = Program::start(command).end(WITHIN).await.with_code(0);
    assert_eq!(scratch.leftovers(), [""; 0]);
    let pages = Shop::new().pages();
    let said = [&format!("{pages} completed"), &format!("render: {pages} pages static · 0 full"), "more\n"];
    let _ = ended.saying(&said.map(|text| text as &str));

    let equal = compare_with_shop(&scratch, &items, |_| true);
    assert!(equal.starts_with("EQUAL: 640 of 640 books"), "{equal}");
    let recorded = Recorded::open(database.url()).await;
    let pages = i64::try_from(pages).unwrap();
    assert_eq!(recorded.assert_twenty_rows_a_page().await, 20 * pages);
    recorded.assert_frontier_is_filtered().await;
    recorded.assert_is_sound().await;
    let summary = summary(&database, &recorded).await;
    assert_eq!((summary.totals.static_pages, rendered(&recorded, "static").await), (pages, pages));
    let products = decision(&summary, "/product/");
    assert_eq!((products.0, products.1.as_str()), (Rendered::Static, "the workflow says so"));
}

#[tokio::test]
async fn what_is_blocked_on_the_command_line_is_not_asked_for() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    for (block, parts) in
        [(&["--block", "image,stylesheet"] as &[&str], &[] as &[&str]), (&[], &["/part.css", "/part.png"])]
    {
        let site = ChainSite::start(0).await;
        let mut command = crawlify(CRAWLIFY, &scratch);
        command
            .arg("run")
            .arg(chain_workflow(&scratch))
            .args(["--start-url", &site.url("/parts")])
            .args(block);
        command.arg("--database-url").arg(database.url().expose());
        let _ = Program::start(command).end(WITHIN).await.with_code(0);
        assert_eq!(scratch.leftovers(), [""; 0]);
        let mut asked: Vec<String> = site.log().into_iter().map(|(_, path)| path).collect();
        asked.sort();
        assert_eq!(asked, [parts, &["/parts"]].concat());
    }
}

/// The demo's links are those of the lists here: the shop's script sorts those of the box of recently viewed products.
#[tokio::test]
async fn an_automatic_crawl_reads_pages_that_give_the_same_both_ways() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let site = DemoSite::start(0, Content::Shop).await.unwrap();
    let lured = LuredSite::before(&site.url()).await;
    let mut workflow: Value = serde_json::from_str(WORKFLOW).unwrap();
    let nodes = workflow["config"]["url_discovery"].as_array_mut().unwrap();
    let books = nodes.iter_mut().find(|node| node["id"] == "extract_book_links").unwrap();
    books["params"]["selector"] = json!("ol.products article.product_pod h3 a");
    workflow["config"]["render"] = json!("auto");
    let (file, items) = (scratch.path("lists.json"), scratch.path("items.jsonl"));
    std::fs::write(&file, workflow.to_string()).unwrap();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("run").arg(&file).args(["--start-url", &lured.url(), "--max-pages", "300", "-o"]).arg(&items);
    command.arg("--database-url").arg(database.url().expose());
    let ended = Program::start(command).end(WITHIN).await.with_code(0);
    assert_eq!(scratch.leftovers(), [""; 0]);
    let _ = ended.saying(&["300 completed", "gave the same both ways"]);

    let base = lured.url();
    let asked: Vec<String> = std::fs::read_to_string(&items)
        .unwrap()
        .lines()
        .map(|item| serde_json::from_str::<Value>(item).unwrap()["url"].as_str().unwrap().to_owned())
        .collect();
    let visited = |path: &str| asked.contains(&format!("{}{path}", base.trim_end_matches('/')));
    let equal = compare_with_shop(&scratch, &items, visited);
    assert!(equal.starts_with("EQUAL: "), "{equal}");
    let recorded = Recorded::open(database.url()).await;
    assert_eq!(recorded.assert_twenty_rows_a_page().await, 20 * 300);
    recorded.assert_is_sound().await;
    let summary = summary(&database, &recorded).await;
    let (fully, statically) = (rendered(&recorded, "full").await, rendered(&recorded, "static").await);
    assert_eq!((fully + statically, summary.totals.static_pages), (300, statically));
    assert!(statically > 150, "only {statically} pages were read as they came");
    let (mode, reason, full_pages) = decision(&summary, "/product/");
    assert_eq!(mode, Rendered::Static, "{reason}");
    assert!((5..100).contains(&full_pages), "{full_pages} products were loaded in a tab");
    lured.assert_in_vain();
    site.stop().await;
}

/// The shop's script sorts a box of products' pages, some time after they have loaded.
#[tokio::test]
async fn a_page_that_a_script_changes_is_found_out_and_stays_in_its_tab() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let site = DemoSite::start(0, Content::Shop).await.unwrap();
    let lured = LuredSite::before(&site.url()).await;
    let mut workflow: Value = serde_json::from_str(WORKFLOW).unwrap();
    let first = &mut workflow["config"]["url_discovery"][0];
    assert_eq!(first["type"], "wait_for");
    first["params"]["selector"] = json!("#recently_viewed[data-sorted], ol.products");
    let file = scratch.path("sorted.json");
    std::fs::write(&file, workflow.to_string()).unwrap();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("run").arg(&file).args([
        "--start-url",
        &lured.url(),
        "--render",
        "auto",
        "--max-pages",
        "60",
    ]);
    command.arg("--database-url").arg(database.url().expose());
    let ended = Program::start(command).end(WITHIN).await.with_code(0);
    assert_eq!(scratch.leftovers(), [""; 0]);
    let _ = ended.saying(&["60 completed", "is not visible in the response"]);
    let recorded = Recorded::open(database.url()).await;
    let summary = summary(&database, &recorded).await;
    let (mode, reason, _) = decision(&summary, "/product/");
    assert_eq!(mode, Rendered::Full, "{reason}");
    assert!(reason.ends_with("is not visible in the response"), "{reason}");
    let products = "SELECT count(*) FROM url_queue
        WHERE execution_id = $1 AND url LIKE '%/product/%' AND rendered = 'static'";
    assert_eq!(recorded.number(products).await, 0);
    recorded.assert_is_sound().await;
    lured.assert_in_vain();
    site.stop().await;
}

/// `crawlify demo` on a database of the test's own.
fn demo(scratch: &Scratch, database: &TestDatabase) -> Command {
    let mut command = crawlify(CRAWLIFY, scratch);
    command.arg("demo").arg("--database-url").arg(database.url().expose());
    command
}

async fn summary(database: &TestDatabase, recorded: &Recorded) -> Summary {
    let store = Store::connect(&database.url(), 2).unwrap();
    let summary = store.summary(ExecutionId(recorded.execution)).await.unwrap().unwrap();
    store.close().await;
    summary
}

async fn rendered(recorded: &Recorded, mode: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM url_queue WHERE execution_id = $1 AND rendered = $2")
        .bind(recorded.execution)
        .bind(mode)
        .fetch_one(&recorded.pool)
        .await
        .unwrap()
}

/// What was decided about shapes with this part, for the discovery of links: mode, reason, pages loaded in a tab.
fn decision(summary: &Summary, part: &str) -> (Rendered, String, u64) {
    let of_links = summary.render.iter().find(|row| row.phase == "url_discovery" && row.shape.contains(part));
    let row = of_links.unwrap_or_else(|| panic!("nothing was decided about {part}: {:?}", summary.render));
    (row.mode, row.reason.clone(), row.full_pages)
}
