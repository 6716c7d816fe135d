//! Random interleavings of all that can happen to a crawl, against a real Postgres: dispatchers that die, messages that are
//! lost, doubled or late, workers that go silent and come back, people who pause, cancel, limit and retry. No browser, no
//! RabbitMQ. Whatever the order, the crawl ends, and everything is recorded once.
//!
//! `PROPTEST_CASES=5000 cargo test -p crawlify-tests --test integration interleavings` looks longer.

mod operation;
mod site;
mod verdict;
mod world;

use crawlify_shared::config;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::hot::HotStore;
use harness::crawl::{Crawl, NO_LIMITS};
use proptest::option;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::seed;
use operation::Step;
use site::Site;
use world::World;

const CASES: u32 = 60;
/// How often a crawl that went wrong is tried with less of it, to find what matters.
const SHRINKS: u32 = 300;

/// What an earlier crawl left behind, which may have gone wrong.
const NOTHING_OF_OTHERS: &str =
    "DELETE FROM node_records; DELETE FROM workflow_executions; DELETE FROM workflows";

#[test]
fn whatever_happens_in_whatever_order_a_crawl_ends_and_everything_is_recorded_once() {
    let cases = config::variable("PROPTEST_CASES").and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let config = Config { cases, max_shrink_iters: SHRINKS, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (crawl, workers) = runtime.block_on(async {
        let crawl = Crawl::start(NO_LIMITS, &["http://beside.test/"]).await;
        let workers = vec![crawl.worker().await, crawl.worker().await, crawl.worker().await];
        (crawl, workers)
    });
    let any = (Site::any(), option::weighted(0.3, 1..30_u64), operation::steps());
    let judged = TestRunner::new(seed::told(config)).run(&any, |(site, max_pages, steps)| {
        runtime.block_on(run(&crawl, &workers, &site, max_pages, &steps.0));
        Ok::<_, TestCaseError>(())
    });
    runtime.block_on(async { drop((crawl, workers)) });
    judged.unwrap_or_else(|error| panic!("{error}"));
}

/// One crawl from its start to its end, and after that.
async fn run(crawl: &Crawl, workers: &[HotStore], site: &Site, max_pages: Option<u64>, steps: &[Step]) {
    crawl.change(NOTHING_OF_OTHERS).await;
    for worker in workers {
        worker.announce("test", 4).await.unwrap();
    }
    let starts = site.start_urls();
    let starts: Vec<_> = starts.iter().map(String::as_str).collect();
    let execution = crawl.another(Limits { max_pages, ..NO_LIMITS }, &starts).await;
    let world = World::new(crawl, workers, execution, site);
    for (number, step) in steps.iter().enumerate() {
        let _told = ToldOnPanic(number, *step);
        world.take(*step).await;
    }
    world.reach_the_end().await;
    world.judge().await;
    world.everything_comes_again().await;
    world.judge().await;
}

/// Says at which step a crawl went wrong: those after it do not matter.
struct ToldOnPanic(usize, Step);

impl Drop for ToldOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("... at step {}, {:?}", self.0, self.1);
        }
    }
}
