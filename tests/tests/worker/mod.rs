//! A whole worker and a whole coordinator in this process, with the broker in memory and a browser that does what the
//! test says.

mod control;
mod crawl;
mod database;
mod database_faults;
mod lifecycle;
mod outage;
mod readiness;
mod render;
mod robots;
mod robots_askers;
mod sitemaps;
mod skips;
mod stopping;
mod storing;
mod suspects;
mod turns;
mod unreachable;
mod upgrade;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crawlify_coordinator::Coordinator;
use crawlify_shared::broker::{Broker, InProcessBroker, MESSAGE_VERSION, PageMessage};
use crawlify_shared::config::{LeaseTimes, SecretUrl};
use crawlify_shared::domain::id::{ExecutionId, PageId};
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::workflow::{Selector, Target, parse_config};
use crawlify_shared::store::Store;
use crawlify_shared::telemetry;
use crawlify_worker::Worker;
use crawlify_worker::chrome::driver::{DomOp, DomStep};
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use crawlify_worker::egress::{Egress, EgressOptions};
use harness::crawl::{Crawl, page_url};
use harness::invariants;
use harness::wait::wait_for;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const CAPACITY: usize = 500;
const WITHIN: Duration = Duration::from_secs(30);
const TIMES: LeaseTimes = LeaseTimes {
    heartbeat_every: Duration::from_millis(500),
    worker_lost_after: Duration::from_secs(10),
    page_deadline: Duration::from_secs(60),
    deadline_slack: Duration::from_secs(60),
    fence_after: Duration::from_secs(5),
};

/// A crawl that is being worked on.
struct Running {
    crawl: Crawl,
    broker: InProcessBroker,
    driver: Arc<FakeDriver>,
    coordinator: Coordinator,
    worker: Worker,
    /// The worker's metrics.
    registry: Registry,
    stop_coordinator: CancellationToken,
    stop_worker: CancellationToken,
}

impl Running {
    async fn start(config: &Value, driver: FakeDriver, times: LeaseTimes) -> Self {
        let workflow = parse_config(config).unwrap_or_else(|problems| panic!("{problems:?}"));
        let urls: Vec<_> = workflow.start_urls.iter().map(|url| url.as_str()).collect();
        Self::of(Crawl::of(config, workflow.limits, &urls).await, driver, times).await
    }

    async fn of(crawl: Crawl, driver: FakeDriver, times: LeaseTimes) -> Self {
        let url = crawl.database.url();
        Self::behind(crawl, &url, driver, times).await
    }

    /// Everybody reaches the crawl's database at this address.
    async fn behind(crawl: Crawl, url: &SecretUrl, driver: FakeDriver, times: LeaseTimes) -> Self {
        Self::apart(crawl, [url, url], driver, times).await
    }

    /// The coordinator and the worker reach the crawl's database at these addresses.
    async fn apart(
        crawl: Crawl,
        [of_coordinator, of_worker]: [&SecretUrl; 2],
        driver: FakeDriver,
        times: LeaseTimes,
    ) -> Self {
        let broker = InProcessBroker::with_capacity(CAPACITY);
        let driver = Arc::new(driver);
        let (stop_coordinator, stop_worker) = (CancellationToken::new(), CancellationToken::new());
        let coordinator = crawlify_coordinator::start(
            crawlify_coordinator::Config { listen: None, lease: times, only: None, broker_forgets: true },
            Store::connect(of_coordinator, 8).unwrap(),
            Arc::new(broker.clone()),
            telemetry::registry(),
            stop_coordinator.clone(),
        )
        .await
        .unwrap();
        let registry = telemetry::registry();
        let worker = start_worker(of_worker, &broker, &driver, times, &stop_worker, &registry).await;
        Self { crawl, broker, driver, coordinator, worker, registry, stop_coordinator, stop_worker }
    }

    /// Waits until the execution has ended, stops everything, and looks whether it is as it must be at every end.
    async fn end(self) -> Crawl {
        self.wait("the execution ended", ENDED).await;
        self.stop().await
    }

    /// Stops everything. Whatever happened, no delivery, tab or lease is left, the counters are right, and the invariants hold
    /// of what has ended; and no page was loaded more often than it was claimed.
    async fn stop(self) -> Crawl {
        self.stop_worker.cancel();
        self.stop_coordinator.cancel();
        tokio::time::timeout(WITHIN, self.worker.stopped()).await.expect("the worker stops");
        tokio::time::timeout(WITHIN, self.coordinator.stopped()).await.expect("the coordinator stops");
        assert_eq!(self.driver.open_tabs(), 0);
        // As many messages as the broker can hold find room only if it holds none.
        let confirmed = self.broker.publish(&vec![message("http://other.test/"); CAPACITY]).await.unwrap();
        assert!(confirmed.iter().all(|confirmed| *confirmed), "a delivery was not acknowledged");
        let held = "SELECT count(*) FROM url_queue WHERE status = 'processing' OR locked_by IS NOT NULL";
        assert_eq!(self.crawl.number(held).await, 0);
        self.crawl.assert_counters_are_a_recount().await;
        invariants::assert_ended_are_sound(&self.crawl.pool).await;
        assert_loaded_once_a_claim(&self.crawl, &self.driver).await;
        self.crawl
    }

    /// Waits until a query gives a number that is not zero.
    async fn wait(&self, what: &str, query: &'static str) {
        wait_for(what, WITHIN, async || self.crawl.number(query).await != 0).await;
    }

    /// Asserts that the worker exports this line among its metrics.
    fn assert_exported(&self, line: &str) {
        let text = telemetry::encode(&self.registry).unwrap();
        assert!(text.lines().any(|exported| exported == line), "{line} is not among\n{text}");
    }

    /// Waits until it does.
    async fn exports(&self, line: &str) {
        wait_for(&format!("the worker exports {line}"), WITHIN, async || {
            let text = telemetry::encode(&self.registry).unwrap();
            text.lines().any(|exported| exported == line)
        })
        .await;
    }

    /// Waits until the browser was asked for that many pages.
    async fn loaded(&self, count: usize) {
        wait_for("pages loaded", WITHIN, async || self.driver.loads().len() >= count).await;
    }
}

/// I13, asked of the fake browser. A page was claimed once, and once more for each time that it went back, which its epoch counts.
async fn assert_loaded_once_a_claim(crawl: &Crawl, driver: &FakeDriver) {
    let mut asked = BTreeMap::new();
    for (session, url) in driver.loads() {
        *asked.entry(format!("{} {}", session.execution_id.0, url.as_str())).or_insert(0_u64) += 1;
    }
    let rows: Vec<(Uuid, String, i32)> = sqlx::query_as("SELECT execution_id, url, epoch FROM url_queue")
        .fetch_all(&crawl.pool)
        .await
        .unwrap();
    let claims = rows.into_iter().map(|(execution, url, epoch)| {
        (format!("{execution} {url}"), u64::try_from(epoch).expect("epochs rise from 0") + 1)
    });
    // Others may have been loaded elsewhere, or read as they came.
    let claims: BTreeMap<String, u64> = claims.filter(|(page, _)| asked.contains_key(page)).collect();
    invariants::assert_none(&invariants::around::requests(&asked, &claims, 0));
}

const ENDED: &str = "SELECT count(*) FROM workflow_executions WHERE status <> 'running'";
const PAGES: &str =
    "SELECT concat_ws(' ', replace(url, 'http://shop.test', ''), status, attempt, error_class)
    FROM url_queue ORDER BY 1";
const NODES: &str =
    "SELECT concat_ws(' ', replace(q.url, 'http://shop.test', ''), n.node_id, n.status, n.error_class)
    FROM node_executions n JOIN url_queue q ON q.id = n.page_id ORDER BY q.url, n.attempt, n.position";

async fn start_worker(
    url: &SecretUrl,
    broker: &InProcessBroker,
    driver: &Arc<FakeDriver>,
    times: LeaseTimes,
    stop: &CancellationToken,
    registry: &Registry,
) -> Worker {
    start_as(config(url, times), broker, driver, stop, registry).await
}

fn config(url: &SecretUrl, times: LeaseTimes) -> crawlify_worker::Config {
    crawlify_worker::Config {
        name: "test".to_owned(),
        slots: 4,
        database_url: url.clone(),
        admin: None,
        lease: times,
        newer_within: crawlify_worker::NEWER_WITHIN,
        drain_deadline: Duration::from_secs(2),
        // Two hosts, for sites that lead to each other.
        egress: Egress::start(EgressOptions::allowing(&["127.0.0.1", "127.0.0.3"]).unwrap()).unwrap(),
        recorded: Arc::default(),
    }
}

async fn start_as(
    config: crawlify_worker::Config,
    broker: &InProcessBroker,
    driver: &Arc<FakeDriver>,
    stop: &CancellationToken,
    registry: &Registry,
) -> Worker {
    let driver = Arc::clone(driver);
    crawlify_worker::start(config, Arc::new(broker.clone()), driver, registry.clone(), stop.clone())
        .await
        .unwrap()
}

/// A message of a page that is in no frontier.
fn message(url: &str) -> PageMessage {
    PageMessage {
        v: MESSAGE_VERSION,
        page_id: PageId::generate(),
        execution_id: ExecutionId::generate(),
        epoch: 0,
        url: page_url(url),
    }
}

/// A workflow of `http://shop.test/` with these nodes in its two phases.
fn workflow(discovery: Value, extraction: Value) -> Value {
    json!({
        "start_urls": ["http://shop.test/"], "max_depth": 50,
        "url_discovery": discovery, "data_extraction": extraction,
    })
}

/// A workflow that follows every link and takes the title.
fn shop() -> Value {
    workflow(json!([links("links", "a")]), json!([extract("title", "h1")]))
}

fn links(id: &str, selector: &str) -> Value {
    json!({"id": id, "type": "extract_links", "params": {"selector": selector}})
}

fn extract(id: &str, selector: &str) -> Value {
    json!({"id": id, "type": "extract", "params": {"selector": selector, "type": "text"}, "output_key": id})
}

/// A page whose links are these, whose texts are the selectors they were asked for, and where `missing` is not there.
fn page(links: &[&str]) -> FakePage {
    FakePage::loads(answers(links, "the"))
}

/// What the steps of such a page give; its texts begin with `article`.
fn answers(
    links: &[&str],
    article: &'static str,
) -> impl Fn(&DomStep) -> Result<Value, Failure> + Send + Sync + 'static {
    let links = json!(links);
    move |step: &DomStep| match &step.op {
        DomOp::Links(Selector::Css(query))
        | DomOp::Read { selector: Selector::Css(query), .. }
        | DomOp::Locate { target: Target { selector: Selector::Css(query), .. }, .. }
            if query == "missing" =>
        {
            Err(Failure::new(ErrorClass::SelectorMissing, "nothing matches `missing`"))
        }
        DomOp::Links(_) => Ok(links.clone()),
        DomOp::Read { selector: Selector::Css(query), .. } => Ok(json!(format!("{article} {query}"))),
        _ => Ok(Value::Null),
    }
}
