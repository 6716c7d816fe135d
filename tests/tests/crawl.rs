//! The main job in one process: `crawlify run` and `crawlify demo` as a person starts them, with a real Chrome and,
//! where nothing else is said, a private Postgres.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use axum::response::{Html, IntoResponse};
use crawlify_cli::demo_site::{Content, DemoSite, Shop, WORKFLOW};
use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use harness::answering_site::{AnsweringSite, status, text};
use harness::chain_site::ChainSite;
use harness::hostile::LuredSite;
use harness::invariants;
use harness::postgres::TestDatabase;
use harness::processes::wait_until_gone;
use harness::program::{Program, crawlify};
use harness::rabbitmq::TestVhost;
use harness::scratch::Scratch;
use serde_json::{Value, json};

use crate::CRAWLIFY;
use crate::recorded::{Recorded, compare_with_shop};

/// How long a crawl of a few pages may take on a machine that is busy with other things.
const SHORT: Duration = Duration::from_secs(90);
/// 720 pages.
const LONG: Duration = Duration::from_secs(280);

#[tokio::test]
async fn the_demo_crawls_every_product_right_and_keeps_what_it_did() {
    let scratch = Scratch::create();
    let (items, data) = (scratch.path("items.jsonl"), scratch.path("data"));
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("demo").arg("-o").arg(&items).arg("--keep").arg("--data-dir").arg(&data);
    let mut demo = Program::start(command);
    demo.says("pages 0/", SHORT).await;
    let children = demo.children();
    assert!(children.iter().any(|process| process.name == "postgres"), "{children:?}");
    let ended = demo.end(LONG).await.with_code(0);
    let pages = Shop::new().pages();
    let said = format!("{pages} completed");
    let ended = ended.saying(&["completed in ", "every page has ended", &said, &items.display().to_string()]);
    assert_eq!(ended.stdout, "", "data were asked for in a file");
    let garbage = ended
        .stderr
        .lines()
        .find(|line| ["WARN", "ERROR", "panicked", "\u{1b}"].iter().any(|sign| line.contains(sign)));
    assert_eq!(garbage, None, "{}", ended.stderr);
    wait_until_gone(&children, Duration::from_secs(5)).await;
    assert_eq!(scratch.leftovers(), [""; 0]);

    let summary = compare_with_shop(&scratch, &items, |_| true);
    assert!(summary.starts_with("EQUAL: 640 of 640 books"), "{summary}");

    let kept = PrivatePostgres::start(&Options { data_dir: Some(data), ..Options::default() }).await.unwrap();
    let recorded = Recorded::open(kept.url()).await;
    let pages = i64::try_from(pages).unwrap();
    let (status, statuses) = recorded.statuses().await;
    assert_eq!((status.as_str(), statuses), ("completed", [("completed".to_owned(), pages)].into()));
    assert_eq!(recorded.assert_twenty_rows_a_page().await, 20 * pages);
    recorded.assert_frontier_is_filtered().await;
    recorded.assert_is_sound().await;
    assert_queries_answer(&recorded, usize::try_from(pages).unwrap());
    recorded.pool.close().await;
    kept.stop().await;
}

/// The six queries that users of the old system have.
fn assert_queries_answer(recorded: &Recorded, pages: usize) {
    let (columns, rows) = recorded.run_query("7_1_1_every_node_execution");
    assert_eq!(columns, "node_id,status,started_at,completed_at,duration_ms");
    assert_eq!(rows.len(), 20 * pages);
    let milliseconds = |row: &str| row.rsplit(',').next().unwrap().parse::<f64>().unwrap();
    assert!(rows.iter().all(|row| (0.0..60_000.0).contains(&milliseconds(row))));
    assert!(rows.iter().any(|row| milliseconds(row) > 0.0));

    let (columns, rows) = recorded.run_query("7_1_2_statistics_by_status");
    assert_eq!(columns, "status,count,avg_duration_ms");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(rows[0].starts_with(&format!("completed,{},", 20 * pages)), "{rows:?}");

    let (columns, rows) = recorded.run_query("7_1_3_failed_nodes");
    assert_eq!((columns.as_str(), rows.len()), ("node_id,started_at,error,retry_count", 0));

    let (columns, rows) = recorded.run_query("7_1_4_timeline");
    assert_eq!(
        (columns.as_str(), rows.len()),
        ("node_id,status,started_at,completed_at,duration", 20 * pages)
    );
    assert!(rows[0].starts_with("wait_for_page_load,completed,"), "{}", rows[0]);

    let (columns, rows) = recorded.run_query("7_1_5_node_performance");
    assert_eq!((columns.as_str(), rows.len()), ("node_id,execution_count,avg_ms,min_ms,max_ms", 10));
    for row in &rows {
        let figures: Vec<f64> = row.split(',').skip(1).map(|figure| figure.parse().unwrap()).collect();
        assert!(figures[0] == pages as f64 && figures[2] <= figures[1] && figures[1] <= figures[3], "{row}");
    }

    let (columns, rows) = recorded.run_query("7_1_6_count");
    assert_eq!((columns.as_str(), rows), ("count", vec![(20 * pages).to_string()]));
}

#[tokio::test]
async fn a_page_limit_is_kept_to_the_page_and_items_can_go_to_stdout() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let site = DemoSite::start(0, Content::Shop).await.unwrap();
    let lured = LuredSite::before(&site.url()).await;
    let workflow = scratch.path("demo_shop.json");
    std::fs::write(&workflow, WORKFLOW).unwrap();
    let mut command = run(&scratch, &workflow, &lured.url(), &database);
    command.args(["--max-pages", "60", "-o", "-"]);
    let ended = Program::start(command).end(SHORT).await.with_code(0);
    let ended = ended.saying(&["60 completed", "the page limit was reached"]);

    let items: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(items.len(), 60);
    let urls: BTreeSet<&str> = items.iter().map(|item| item["url"].as_str().unwrap()).collect();
    assert_eq!(urls.len(), 60);
    let written = scratch.path("items.jsonl");
    std::fs::write(&written, &ended.stdout).unwrap();
    let base = lured.url();
    let visited = |path: &str| urls.contains(format!("{}{path}", base.trim_end_matches('/')).as_str());
    let summary = compare_with_shop(&scratch, &written, visited);
    assert!(summary.starts_with("EQUAL: "), "{summary}");

    let recorded = Recorded::open(database.url()).await;
    let (status, statuses) = recorded.statuses().await;
    assert_eq!((status.as_str(), statuses["completed"]), ("completed", 60));
    assert_eq!(statuses.keys().collect::<Vec<_>>(), ["completed", "skipped"]);
    assert_eq!(recorded.assert_twenty_rows_a_page().await, 1200);
    recorded.assert_is_sound().await;
    assert_eq!(scratch.leftovers(), [""; 0]);
    lured.assert_in_vain();
    site.stop().await;
}

#[tokio::test]
async fn a_crawl_may_begin_with_sitemaps_and_says_what_robots_txt_kept_it_from() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let site = AnsweringSite::start(|own, path| match path {
        "/robots.txt" => text("User-agent: *\nDisallow: /private\n"),
        "/sitemap.xml" => text(format!("<urlset><url><loc>{own}/1</loc></url></urlset>")),
        "/1" => Html("<h1>One</h1><a href=\"/private/2\">two</a>").into_response(),
        _ => status(404),
    })
    .await;
    let workflow = chain_workflow(&scratch);
    let mut document: Value = serde_json::from_slice(&std::fs::read(&workflow).unwrap()).unwrap();
    document["config"]["sitemaps"] = json!([site.url("/sitemap.xml")]);
    document["config"]["politeness"] = json!({});
    std::fs::write(&workflow, document.to_string()).unwrap();
    let command = run(&scratch, &workflow, &site.url("/private/start"), &database);
    let ended = Program::start(command).end(SHORT).await.with_code(0);
    let _ = ended.saying(&[
        "every page has ended",
        "2 completed",
        "1 skipped",
        "not visited",
        "2 forbidden by robots.txt",
    ]);
    let asked: BTreeSet<String> = site.requests().into_iter().map(|(path, _)| path).collect();
    assert!(asked.iter().all(|path| !path.starts_with("/private")), "{asked:?}");
    assert_eq!(site.asked_for("/robots.txt"), 1);
}

#[tokio::test]
async fn links_are_followed_as_deep_as_was_said_and_no_deeper() {
    let (scratch, database, site) =
        (Scratch::create(), TestDatabase::create().await, ChainSite::start(0).await);
    let workflow = chain_workflow(&scratch);
    let mut command = run(&scratch, &workflow, &site.url("/chain/0"), &database);
    command.args(["--max-depth", "3"]);
    let _ = Program::start(command).end(SHORT).await.with_code(0).saying(&["4 completed"]);
    let asked: Vec<String> = site.log().into_iter().map(|(_, path)| path).collect();
    assert_eq!(asked, ["/chain/0", "/chain/1", "/chain/2", "/chain/3"]);
    Recorded::open(database.url()).await.assert_is_sound().await;
}

#[tokio::test]
async fn a_host_is_asked_no_faster_than_the_rate_limit_delay() {
    let (scratch, database, site) =
        (Scratch::create(), TestDatabase::create().await, ChainSite::start(6).await);
    let workflow = chain_workflow(&scratch);
    let mut command = run(&scratch, &workflow, &site.url("/"), &database);
    command.args(["--rate-limit-delay", "1000", "--slots", "2"]);
    let _ = Program::start(command).end(SHORT).await.with_code(0).saying(&["7 completed"]);
    let log = site.log();
    assert_eq!(log.len(), 7, "{log:?}");
    // A request may come late, and the next one not, but hardly twice: of pairs, three intervals would be short.
    let times: Vec<Duration> = log.iter().map(|(at, _)| *at - log[0].0).collect();
    let is_short = |two: &&[Duration]| two[1] - two[0] < Duration::from_millis(950);
    assert!(times.windows(2).filter(is_short).count() <= 1, "{times:?}");
    assert!(times.windows(4).all(|four| four[3] - four[0] >= Duration::from_millis(1_500)), "{times:?}");
    assert!(times[6] >= Duration::from_millis(5_000), "{times:?}");
    let recorded = Recorded::open(database.url()).await;
    let interval = "SELECT min(h.min_interval_ms)::int8 FROM hosts h JOIN url_queue q USING (host)
        WHERE q.execution_id = $1";
    let interval = recorded.number(interval).await;
    assert!(interval >= 950, "two pages started within {interval} ms");
    recorded.assert_is_sound().await;
}

#[tokio::test]
async fn given_servers_are_used_instead_of_private_ones() {
    let (scratch, database, vhost) =
        (Scratch::create(), TestDatabase::create().await, TestVhost::create().await);
    let site = ChainSite::start(12).await;
    let workflow = chain_workflow(&scratch);
    let items = scratch.path("items.jsonl");
    let mut command = run(&scratch, &workflow, &site.url("/"), &database);
    command.arg("-o").arg(&items).arg("--amqp-url").arg(vhost.url().expose());
    let mut running = Program::start(command);
    running.says("broker RabbitMQ", SHORT).await;
    assert!(running.children().iter().all(|process| process.name != "postgres"));
    let ended = running.end(SHORT).await.with_code(0).saying(&["Postgres at postgres://", "13 completed"]);
    let secret = vhost.url().expose().split(['/', '@']).nth(2).unwrap().to_owned();
    assert!(!ended.stderr.contains(&secret), "the password is shown: {}", ended.stderr);
    assert_eq!(std::fs::read_to_string(items).unwrap().lines().count(), 13);
    Recorded::open(database.url()).await.assert_is_sound().await;
    invariants::assert_none(&invariants::broker::leftovers(&vhost.url()).await.unwrap());
}

/// `crawlify run` without waiting between pages, on a database of the test's own.
fn run(scratch: &Scratch, workflow: &PathBuf, start: &str, database: &TestDatabase) -> Command {
    let mut command = crawlify(CRAWLIFY, scratch);
    command.arg("run").arg(workflow).args(["--start-url", start]);
    command.arg("--database-url").arg(database.url().expose());
    command
}

/// Follows every link, and extracts the heading.
pub(crate) fn chain_workflow(scratch: &Scratch) -> PathBuf {
    let file = scratch.path("chain.json");
    let workflow = json!({
        "name": "Chain",
        "config": {
            "start_urls": ["http://127.0.0.1:9/"],
            "max_depth": 50,
            "rate_limit_delay": 0,
            "url_discovery": [{"id": "links", "type": "extract_links", "params": {"selector": "a"}}],
            "data_extraction": [
                {"id": "title", "type": "extract", "params": {"selector": "h1", "type": "text"}, "output_key": "title"}
            ]
        }
    });
    std::fs::write(&file, workflow.to_string()).unwrap();
    file
}
