//! Crawls that are stopped in the middle: gently, at once, and with SIGKILL.

use std::time::Duration;

use crawlify_cli::demo_site::{Content, DemoSite, WORKFLOW};
use harness::chain_site::ChainSite;
use harness::processes::wait_until_gone;
use harness::program::{Program, crawlify};
use harness::scratch::Scratch;
use harness::wait::wait_for;
use rustix::process::Signal;

use super::SHORT;
use crate::CRAWLIFY;
use crate::crawl::chain_workflow;

/// A crawl of the demo shop with everything private, that has got some way.
async fn begun(scratch: &Scratch, site: &DemoSite) -> Program {
    let workflow = scratch.path("demo_shop.json");
    std::fs::write(&workflow, WORKFLOW).unwrap();
    let mut command = crawlify(CRAWLIFY, scratch);
    command.arg("run").arg(workflow).args(["--start-url", &site.url()]);
    command.arg("-o").arg(scratch.path("items.jsonl"));
    let running = Program::start(command);
    wait_for("the crawl has got some way", SHORT, async || site.requests() > 60).await;
    running
}

/// A crawl whose one page is never answered.
async fn stuck(scratch: &Scratch, site: &ChainSite) -> Program {
    let mut command = crawlify(CRAWLIFY, scratch);
    command.arg("run").arg(chain_workflow(scratch)).args(["--start-url", &site.url("/never")]);
    let running = Program::start(command);
    wait_for("the page is asked for", SHORT, async || !site.log().is_empty()).await;
    running
}

#[tokio::test]
async fn the_first_interrupt_ends_the_pages_in_hand_and_writes_what_there_is() {
    let scratch = Scratch::create();
    let site = DemoSite::start(0, Content::Shop).await.unwrap();
    let running = begun(&scratch, &site).await;
    let children = running.children();
    assert!(children.iter().any(|child| child.name == "postgres"), "{children:?}");
    running.signal(Signal::INT);
    let ended = running.end(Duration::from_secs(30)).await.with_code(130);
    let ended = ended.saying(&["stopping: pages in hand may end", "interrupted", "cancelled", "items.jsonl"]);
    let items = std::fs::read_to_string(scratch.path("items.jsonl")).unwrap();
    let count = items.lines().count();
    assert!(count > 0);
    assert!(
        items
            .lines()
            .all(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["data"].is_object())
    );
    let said = ended.stderr.lines().find_map(|line| line.trim().strip_prefix("items ")).unwrap();
    assert_eq!(said.trim(), count.to_string());
    wait_until_gone(&children, Duration::from_secs(5)).await;
    assert_eq!(scratch.leftovers(), [""; 0]);
    site.stop().await;
}

#[tokio::test]
async fn the_second_interrupt_ends_it_at_once() {
    let (scratch, site) = (Scratch::create(), ChainSite::start(0).await);
    let mut running = stuck(&scratch, &site).await;
    let children = running.children();
    running.signal(Signal::INT);
    running.says("stopping: pages in hand may end", Duration::from_secs(5)).await;
    let interrupted = std::time::Instant::now();
    running.signal(Signal::INT);
    let _ = running.end(Duration::from_secs(10)).await.with_code(130).saying(&["stopped at once"]);
    assert!(interrupted.elapsed() < Duration::from_secs(3), "{:?}", interrupted.elapsed());
    wait_until_gone(&children, Duration::from_secs(5)).await;
    assert_eq!(scratch.leftovers(), [""; 0]);
}

#[tokio::test]
async fn an_interrupt_during_the_start_leaves_nothing() {
    let (scratch, site) = (Scratch::create(), ChainSite::start(0).await);
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("run").arg(chain_workflow(&scratch)).args(["--start-url", &site.url("/")]);
    let mut running = Program::start(command);
    running.says("starting Postgres and Chrome", SHORT).await;
    wait_for("something has been started", SHORT, async || !running.children().is_empty()).await;
    let children = running.children();
    running.signal(Signal::INT);
    let _ =
        running.end(Duration::from_secs(10)).await.with_code(130).saying(&["interrupted before the start"]);
    wait_until_gone(&children, Duration::from_secs(5)).await;
    assert_eq!(scratch.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_killed_crawl_takes_its_servers_along_and_the_next_one_cleans_up() {
    let (scratch, site) = (Scratch::create(), ChainSite::start(3).await);
    let running = stuck(&scratch, &site).await;
    let children = running.children();
    let names: Vec<&str> = children.iter().map(|child| child.name.as_str()).collect();
    assert!(names.contains(&"postgres") && names.iter().any(|name| name.contains("chrom")), "{names:?}");
    running.signal(Signal::KILL);
    let _ = running.end(Duration::from_secs(5)).await.with_code(137);
    wait_until_gone(&children, Duration::from_secs(10)).await;
    assert_eq!(scratch.leftovers().len(), 2, "Postgres' folder and Chrome's: {:?}", scratch.leftovers());

    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("run").arg(chain_workflow(&scratch)).args(["--start-url", &site.url("/")]);
    let _ = Program::start(command).end(SHORT).await.with_code(0).saying(&["4 completed"]);
    assert_eq!(scratch.leftovers(), [""; 0]);
}
