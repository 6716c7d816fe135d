//! A minute of the storm: two coordinators, three workers with their browsers, RabbitMQ and Postgres, of which one is killed
//! every five seconds. `make chaos` does the same for longer.

use std::time::Duration;

use crawlify_cli::demo_site::WORKFLOW;
use harness::invariants::assert_none;
use harness::storm::{Options, run};
use serde_json::{Value, json};

use crate::CRAWLIFY;

/// Every tenth of the shop's products is enough for a minute.
const OTHER_PRODUCTS: &str = "_\\d*[1-9]\\.html$";

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the seed and the report belong into the test's output")]
async fn a_minute_of_kills_loses_no_page_and_repeats_none() {
    let mut workflow: Value = serde_json::from_str(WORKFLOW).unwrap();
    let nodes = workflow["config"]["url_discovery"].as_array_mut().unwrap();
    let filter = nodes.iter_mut().find(|node| node["type"] == "filter_urls").unwrap();
    filter["params"]["exclude_patterns"].as_array_mut().unwrap().push(json!(OTHER_PRODUCTS));
    let options = Options {
        program: CRAWLIFY.into(),
        storm: Duration::from_secs(60),
        every: Duration::from_secs(5),
        seed: u64::from(std::process::id()),
        site: None,
        workflow,
        coordinators: 2,
        workers: 3,
        slots: 2,
        at_once: 2,
    };
    let report = run(&options, &|line| println!("{line}")).await.unwrap();
    println!("{report}");
    assert_none(&report.broken);
    assert_eq!(report.kinds(), ["broker", "browser", "coordinator", "database", "worker"], "each was hit");
    assert_eq!(report.failures(), [""; 0], "{report}");
}
