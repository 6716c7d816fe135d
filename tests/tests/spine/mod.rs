//! A whole fleet to which anything happens, in random order: real workers, whose pages a made-up browser executes, and a real
//! coordinator, on a broker in memory and a real Postgres. They are killed, told to stop and given up, connections are cut,
//! messages are lost and doubled, and people pause, cancel, limit and retry. Whatever the order, the crawl ends, and each page
//! as its fate says.
//!
//! `interleavings` has the statements of the store alone, and so many more cases in the same time. Here the workers decide
//! when to send them. `PROPTEST_CASES=200 cargo test -p crawlify-tests --test integration spine` looks longer, and with
//! the `PROPTEST_RNG_SEED` that a failed run has told it takes the same steps.

mod broker;
mod browser;
mod fleet;
mod operation;
mod process;
mod site;
mod verdict;

use crawlify_shared::config;
use proptest::option;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::seed;
use fleet::Fleet;
use operation::Steps;
use site::Site;

const CASES: u32 = 12;
/// How often a crawl that went wrong is tried with less of it: each takes seconds,
const SHRINKS: u32 = 40;
/// and no longer than this is begun with another.
const SHRINK_FOR_MS: u32 = 100_000;

#[test]
fn whatever_happens_to_a_fleet_its_crawl_ends_and_each_page_as_its_fate_says() {
    let cases = config::variable("PROPTEST_CASES").and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let config = Config {
        cases,
        max_shrink_iters: SHRINKS,
        max_shrink_time: SHRINK_FOR_MS,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let any = (Site::any(), option::weighted(0.3, 1..16_u64), operation::steps());
    let judged = TestRunner::new(seed::told(config)).run(&any, |(site, max_pages, steps)| {
        runtime.block_on(run(site, max_pages, &steps));
        Ok::<_, TestCaseError>(())
    });
    judged.unwrap_or_else(|error| panic!("{error}"));
}

/// One crawl from its start to its end, and the end of its fleet.
async fn run(site: Site, max_pages: Option<u64>, steps: &Steps) {
    let _told = ToldOnPanic(format!("{site:?}\nat most {max_pages:?} pages{steps:?}"));
    let mut fleet = Fleet::start(site, max_pages).await;
    for step in &steps.0 {
        fleet.work(step.after).await;
        fleet.perform(step.operation).await;
    }
    fleet.reach_the_end().await;
    fleet.stop().await;
    fleet.judge().await;
}

/// Says which crawl went wrong, also where nobody has the patience to wait for a smaller one.
struct ToldOnPanic(String);

impl Drop for ToldOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("... in this crawl: {}", self.0);
        }
    }
}
