//! A loop breaks that `run` or `up` lives by: what there is of a crawl is written and summed up, then it is said what
//! broke, and what can be done next.

use std::process::Command;

use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_shared::config::{CRASH_POINT, SecretUrl};
use crawlify_shared::crash::CrashPoint;
use harness::chain_site::ChainSite;
use harness::program::{Ended, Program, crawlify};
use harness::scratch::Scratch;
use harness::wait::wait_for;
use rustix::process::Signal;

use super::SHORT;
use crate::CRAWLIFY;
use crate::crawl::chain_workflow;
use crate::recorded::Recorded;

/// `crawlify` whose code panics when it comes to this point for the `time`th time.
fn breaking(scratch: &Scratch, point: CrashPoint, time: u32) -> Command {
    let mut command = crawlify(CRAWLIFY, scratch);
    command.env(CRASH_POINT, format!("{}:panic@{time}", point.as_str()));
    command
}

/// Has it crawl from here, and write the items.
async fn crawl(mut command: Command, scratch: &Scratch, start: &str) -> Ended {
    command.arg("run").arg(chain_workflow(scratch)).args(["--start-url", start]);
    command.arg("-o").arg(scratch.path("items.jsonl"));
    Program::start(command).end(SHORT).await
}

/// Holds it to having written as many items as it says, and to having summed up before it said what broke.
fn assert_is_told(scratch: &Scratch, ended: &Ended, items: usize) {
    let written = std::fs::read_to_string(scratch.path("items.jsonl")).unwrap();
    assert_eq!(written.lines().count(), items, "{written}");
    let said = ended.stderr.lines().find_map(|line| line.trim().strip_prefix("items ")).unwrap();
    assert_eq!(said.trim(), items.to_string());
    let summary = ended.stderr.find("items.jsonl (").unwrap();
    let broke = ended.stderr.find("a fault in Crawlify: the loop ").unwrap();
    assert!(summary < broke, "{}", ended.stderr);
}

#[tokio::test]
async fn a_crawl_whose_recorder_breaks_writes_the_items_of_the_pages_before_and_sums_up() {
    let (scratch, site) = (Scratch::create(), ChainSite::start(0).await);
    // Each page is found by the one before it, and recorded alone.
    let command = breaking(&scratch, CrashPoint::AfterDefinitionsBeforeRecord, 3);
    let ended = crawl(command, &scratch, &site.url("/chain/0")).await.with_code(70).saying(&[
        "the crawl cannot go on: pages in hand may end",
        "running in ",
        ": a part of Crawlify broke",
        "2 completed · 1 open",
        "the loop `record` panicked (a test wants a panic here)",
        "its open pages are gone with the private database; with --keep they stay",
    ]);
    assert_is_told(&scratch, &ended, 2);
    assert_eq!(scratch.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_kept_crawl_whose_dispatcher_breaks_is_summed_up_and_up_goes_on_with_it() {
    let (scratch, site) = (Scratch::create(), ChainSite::start(0).await);
    let data = scratch.path("data");
    // The first page may be published twice: the broker in the process remembers nothing of before.
    let mut command = breaking(&scratch, CrashPoint::AfterReserveBeforePublish, 4);
    command.arg("run").arg(chain_workflow(&scratch)).args(["--start-url", &site.url("/chain/0")]);
    command.args(["--max-depth", "4", "--keep", "--data-dir"]).arg(&data);
    let _ = Program::start(command).end(SHORT).await.with_code(70).saying(&[
        ": a part of Crawlify broke",
        "1 open",
        "the loop `dispatch` panicked (a test wants a panic here)",
        &format!("its open pages were kept: `crawlify up --data-dir {}` goes on with them", data.display()),
    ]);

    let mut command = crawlify(CRAWLIFY, &scratch);
    command.args(["up", "--port", "0", "--data-dir"]).arg(&data);
    let mut up = Program::start(command);
    let line = up.says("database  psql ", SHORT).await;
    let recorded = Recorded::open(SecretUrl::new(line.split('"').nth(1).unwrap().to_owned())).await;
    wait_for("the crawl is completed", SHORT, async || recorded.statuses().await.0 == "completed").await;
    recorded.pool.close().await;
    up.signal(Signal::INT);
    let _ = up.end(SHORT).await.with_code(0);
    let asked: Vec<String> = site.log().into_iter().map(|(_, path)| path).collect();
    assert_eq!(asked, ["/chain/0", "/chain/1", "/chain/2", "/chain/3", "/chain/4"]);
    assert_eq!(scratch.leftovers(), [""; 0]);
    let kept = PrivatePostgres::start(&Options { data_dir: Some(data), ..Options::default() }).await.unwrap();
    let recorded = Recorded::open(kept.url()).await;
    recorded.assert_is_sound().await;
    recorded.pool.close().await;
    kept.stop().await;
}

#[tokio::test]
async fn a_crawl_that_is_over_when_a_loop_breaks_is_told_as_it_ended() {
    let (scratch, site) = (Scratch::create(), ChainSite::start(3).await);
    let command = breaking(&scratch, CrashPoint::AfterDrainBeforeRetire, 1);
    let ended = crawl(command, &scratch, &site.url("/")).await.with_code(70).saying(&[
        "completed in ",
        ": every page has ended",
        "4 completed",
        "the loop `heartbeat` panicked (a test wants a panic here)",
    ]);
    assert_is_told(&scratch, &ended, 4);
    assert!(!ended.stderr.contains("open pages"), "it has none: {}", ended.stderr);
    assert_eq!(scratch.leftovers(), [""; 0]);
}

#[tokio::test]
async fn up_whose_finisher_breaks_says_so_and_leaves_nothing() {
    let scratch = Scratch::create();
    let mut command = breaking(&scratch, CrashPoint::AfterSweepBeforeFinish, 4);
    command.args(["up", "--ephemeral", "--port", "0"]);
    let ended = Program::start(command).end(SHORT).await.with_code(70);
    let _ = ended.saying(&["the loop `finish` panicked (a test wants a panic here)"]);
    assert_eq!(scratch.leftovers(), [""; 0]);
}
