//! Crawls that are stopped in the middle: gently, at once, and with SIGKILL; also while their database hangs.

use std::time::{Duration, Instant};

use crawlify_cli::demo_site::{Content, DemoSite, WORKFLOW};
use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use harness::chain_site::ChainSite;
use harness::processes::{Process, wait_until_gone};
use harness::program::{Program, crawlify};
use harness::scratch::Scratch;
use harness::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};

use super::SHORT;
use crate::CRAWLIFY;
use crate::crawl::chain_workflow;
use crate::recorded::Recorded;

/// How long pages in hand may go on after the first signal.
const DRAIN: Duration = Duration::from_secs(20);
/// How long after that a crawl has ended whatever hangs, as documented, and three seconds for a busy machine.
const ENDS_ANYWAY_WITHIN: Duration = Duration::from_secs(10 + 3);

/// The processes of a crawl's private Postgres, stopped: they do nothing, and hear nothing but a kill. Those that are left at the
/// end of the test go on.
struct Frozen(Vec<Process>);

impl Frozen {
    fn postgres_of(program: &Program) -> Self {
        let mut frozen = Self(Vec::new());
        loop {
            // The first is the one that starts the others; whom it has just started is found when it does no more.
            let is_new = |process: &Process| process.name == "postgres" && !frozen.0.contains(process);
            let found: Vec<Process> = program.children().into_iter().filter(is_new).collect();
            if found.is_empty() {
                assert!(frozen.0.len() > 1, "a server and its children: {:?}", frozen.0);
                return frozen;
            }
            for process in found {
                send(&process, Signal::STOP);
                frozen.0.push(process);
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in self.0.iter().filter(|process| process.is_alive()) {
            send(process, Signal::CONT);
        }
    }
}

/// Sends a signal to a process; one that has just ended needs none.
fn send(process: &Process, signal: Signal) {
    let _ = kill_process(Pid::from_raw(process.pid).unwrap(), signal);
}

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
    let interrupted = Instant::now();
    running.signal(Signal::INT);
    let _ = running.end(DRAIN).await.with_code(130).saying(&["stopped at once"]);
    // For a browser and a server that have to end, on a busy machine; its page would have had the whole drain deadline.
    assert!(interrupted.elapsed() < Duration::from_secs(7), "{:?}", interrupted.elapsed());
    wait_until_gone(&children, Duration::from_secs(5)).await;
    assert_eq!(scratch.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_crawl_whose_database_hangs_ends_in_time_after_one_signal_and_leaves_nothing() {
    let (scratch, site) = (Scratch::create(), ChainSite::start(0).await);
    let running = stuck(&scratch, &site).await;
    let children = running.children();
    let frozen = Frozen::postgres_of(&running);
    let told = Instant::now();
    running.signal(Signal::TERM);
    let (ended, family) = running.end_with_family(2 * (DRAIN + ENDS_ANYWAY_WITHIN)).await;
    let took = told.elapsed();
    let ended = ended.with_code(69).saying(&["the database does not answer; nothing was summed up"]);
    assert!(took <= DRAIN + ENDS_ANYWAY_WITHIN, "it took {took:?}:\n{}", ended.stderr);
    for processes in [&children, &family, &frozen.0] {
        wait_until_gone(processes, Duration::from_secs(5)).await;
    }
    assert_eq!(scratch.leftovers(), [""; 0]);
}

#[tokio::test]
async fn the_second_interrupt_ends_a_crawl_whose_database_hangs_and_leaves_nothing() {
    let (scratch, site) = (Scratch::create(), ChainSite::start(0).await);
    let mut running = stuck(&scratch, &site).await;
    let children = running.children();
    let frozen = Frozen::postgres_of(&running);
    running.signal(Signal::INT);
    running.says("stopping: pages in hand may end", Duration::from_secs(5)).await;
    let interrupted = Instant::now();
    running.signal(Signal::INT);
    let (ended, family) = running.end_with_family(DRAIN).await;
    let took = interrupted.elapsed();
    let ended = ended.with_code(130).saying(&["stopped at once"]);
    // Two for the pages, three for a server that does not go at once, two for what is left of the runtime.
    assert!(took <= Duration::from_secs(7 + 3), "it took {took:?}:\n{}", ended.stderr);
    for processes in [&children, &family, &frozen.0] {
        wait_until_gone(processes, Duration::from_secs(5)).await;
    }
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
    // Its own data are elsewhere, and stay.
    let data = scratch.path("data");
    command.arg("--keep").arg("--data-dir").arg(&data);
    let _ = Program::start(command).end(SHORT).await.with_code(0).saying(&["4 completed"]);
    assert_eq!(scratch.leftovers(), [""; 0]);
    let kept = PrivatePostgres::start(&Options { data_dir: Some(data), ..Options::default() }).await.unwrap();
    let recorded = Recorded::open(kept.url()).await;
    recorded.assert_is_sound().await;
    recorded.pool.close().await;
    kept.stop().await;
}
