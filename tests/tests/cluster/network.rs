//! A worker whose network is taken away in the middle of a crawl, or falls silent, and is given back, while its database stays: no
//! page and no host pays for that, where the worker can tell.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONNECTION;
use axum::http::{HeaderName, Uri};
use axum::response::Html;
use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use harness::own_network::OwnNetwork;
use harness::postgres::TestDatabase;
use harness::program::{Program, crawlify};
use harness::scratch::Scratch;
use harness::wait::wait_for;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::WITHIN;
use crate::CRAWLIFY;
use crate::recorded::Recorded;

const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
/// Two in the internet.
const SITES: [Ipv4Addr; 2] = [Ipv4Addr::new(93, 184, 216, 34), Ipv4Addr::new(93, 184, 216, 35)];
/// One that is there whatever becomes of the network.
const NEARBY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// In a network of one's own every port is free.
const PORT: u16 = 8080;
/// Of each host.
const PAGES: usize = 60;
/// Longer than the pauses before the first tries, than one try of a silent host, and than what was found out about the network is
/// believed.
const AWAY: Duration = Duration::from_secs(20);

/// Pages that met a network that was away, or was just changed.
const MET_IT: &str = "SELECT count(*) FROM url_queue WHERE execution_id = $1 AND proxy_faults > 0";
/// So many of them show what becomes of them.
const ENOUGH_TO_SEE: i64 = 3;

/// What befalls the network.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// There is no way to its hosts, and the kernel says so.
    NoWay,
    /// Packets vanish without a word.
    Silence,
    /// All stays as it is, but that addresses of this machine's come and go, as those of containers do.
    Changes,
}

/// A crawl that went through an outage and has ended.
struct Crawled {
    recorded: Recorded,
    postgres: PrivatePostgres,
    _database: TestDatabase,
    stderr: String,
}

#[test]
fn a_network_that_is_away_for_a_while_costs_no_page_and_no_host_anything() {
    let name = "cluster::network::a_network_that_is_away_for_a_while_costs_no_page_and_no_host_anything";
    let Some(network) = OwnNetwork::enter(name, &HOSTS) else { return };
    run(nobody_pays(network, &HOSTS, Outage::NoWay));
}

#[test]
fn a_network_that_swallows_packets_for_a_while_costs_no_page_and_no_host_anything() {
    let name =
        "cluster::network::a_network_that_swallows_packets_for_a_while_costs_no_page_and_no_host_anything";
    let Some(network) = OwnNetwork::enter(name, &HOSTS) else { return };
    run(nobody_pays(network, &HOSTS, Outage::Silence));
}

#[test]
fn a_host_nearby_that_answers_has_no_site_blamed_for_a_network_that_is_away() {
    let name = "cluster::network::a_host_nearby_that_answers_has_no_site_blamed_for_a_network_that_is_away";
    let Some(network) = OwnNetwork::enter(name, &SITES) else { return };
    run(nobody_pays(network, &[SITES[0], SITES[1], NEARBY], Outage::NoWay));
}

#[test]
fn a_silent_network_of_a_single_host_is_taken_for_the_host_and_its_pages_outlast_it() {
    let name =
        "cluster::network::a_silent_network_of_a_single_host_is_taken_for_the_host_and_its_pages_outlast_it";
    let Some(network) = OwnNetwork::enter(name, &HOSTS[..1]) else { return };
    run(async {
        let crawled = crawl(network, &HOSTS[..1], Outage::Silence).await;
        // Nobody else could be asked: it counts as the site's fault, of which a page may have four.
        assert!(crawled.number("SELECT sum(site_faults) FROM url_queue WHERE execution_id = $1").await > 0);
        assert!(
            crawled.number("SELECT max(site_faults)::int8 FROM url_queue WHERE execution_id = $1").await < 4
        );
        let others = "SELECT sum(charged + proxy_faults + browser_faults + worker_faults) FROM url_queue WHERE execution_id = $1";
        assert_eq!(crawled.number(others).await, 0);
        crawled.end().await;
    });
}

#[test]
fn addresses_that_come_and_go_cost_no_page_and_no_host_anything() {
    let name = "cluster::network::addresses_that_come_and_go_cost_no_page_and_no_host_anything";
    let Some(network) = OwnNetwork::enter(name, &HOSTS) else { return };
    run(nobody_pays(network, &HOSTS, Outage::Changes));
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// A worker that knows two hosts which are away sees that it is none of them.
async fn nobody_pays(network: OwnNetwork, hosts: &[Ipv4Addr], outage: Outage) {
    let crawled = crawl(network, hosts, outage).await;
    assert!(crawled.number(MET_IT).await > 0, "no page met a network that was away");
    let said = "SELECT COALESCE(string_agg(DISTINCT error, '; '), 'nothing') FROM node_executions WHERE execution_id = $1";
    let said: String = crawled.recorded.text(said).await;
    let charged = "SELECT sum(charged + site_faults + browser_faults + worker_faults) FROM url_queue WHERE execution_id = $1";
    assert_eq!(crawled.number(charged).await, 0, "nodes said {said}\n{}", crawled.stderr);
    crawled.end().await;
}

impl Crawled {
    async fn number(&self, query: &'static str) -> i64 {
        self.recorded.number(query).await
    }

    async fn end(self) {
        self.postgres.stop().await;
    }
}

/// Crawls these hosts, through an outage in the middle: every page is completed, and no host is held for gone.
async fn crawl(network: OwnNetwork, hosts: &[Ipv4Addr], outage: Outage) -> Crawled {
    let (_servers, asked) = serve(hosts).await;
    let (scratch, postgres) = (Scratch::create(), PrivatePostgres::start(&Options::default()).await.unwrap());
    let database = TestDatabase::on(&postgres.url()).await;
    let file = scratch.path("hosts.json");
    let start_urls: Vec<_> = hosts.iter().map(|host| page(*host, 1)).collect();
    let workflow = json!({"name": "Hosts", "config": {
        "start_urls": start_urls, "max_depth": 100, "rate_limit_delay": 100,
        "url_discovery": [{"id": "links", "type": "extract_links", "params": {"selector": "a"}}],
        "data_extraction": [
            {"id": "title", "type": "extract", "params": {"selector": "h1", "type": "text"}, "output_key": "title"}
        ],
    }});
    std::fs::write(&file, workflow.to_string()).unwrap();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("run").arg(&file).arg("--database-url").arg(database.url().expose()).args(["--slots", "2"]);
    let program = Program::start(command);
    let is_at_work = |asked: &Arc<AtomicUsize>| asked.load(Ordering::Relaxed) > PAGES / 4;
    wait_for("the crawl is at work", WITHIN, async || asked.iter().all(is_at_work)).await;
    let pages = hosts.len() * PAGES;
    let asked = || asked.iter().map(|asked| asked.load(Ordering::Relaxed)).sum::<usize>();
    match outage {
        Outage::NoWay => network.take_away(),
        Outage::Silence => network.fall_silent(),
        Outage::Changes => {
            let recorded = Recorded::open(database.url()).await;
            while asked() < pages && recorded.number(MET_IT).await < ENOUGH_TO_SEE {
                (0..20).for_each(|_| network.gain_and_lose_an_address());
            }
        }
    }
    if !matches!(outage, Outage::Changes) {
        tokio::time::sleep(AWAY).await;
        assert!(asked() < pages, "the crawl was over before");
    }
    match outage {
        Outage::NoWay => network.give_back(),
        Outage::Silence => network.speak_again(),
        Outage::Changes => {}
    }
    let ended = program.end(WITHIN).await.with_code(0);
    assert_eq!(scratch.leftovers(), [""; 0]);

    let recorded = Recorded::open(database.url()).await;
    let (status, ends) = recorded.statuses().await;
    assert_eq!(status, "completed", "{}", ended.stderr);
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), [("completed".to_owned(), pages as i64)]);
    recorded.assert_is_sound().await;
    let blamed = "SELECT count(*) FROM hosts WHERE unreachable > 0 AND $1::uuid IS NOT NULL";
    assert_eq!(recorded.number(blamed).await, 0);
    Crawled { recorded, postgres, _database: database, stderr: ended.stderr }
}

/// Serves the pages of these hosts, and counts how many each was asked for.
async fn serve(hosts: &[Ipv4Addr]) -> (JoinSet<()>, Vec<Arc<AtomicUsize>>) {
    let (mut servers, mut counts) = (JoinSet::new(), Vec::new());
    for host in hosts {
        let listener = TcpListener::bind((*host, PORT)).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        counts.push(Arc::clone(&asked));
        let answer = move |uri: Uri| {
            if uri.path() != "/favicon.ico" {
                asked.fetch_add(1, Ordering::Relaxed);
            }
            async move { answer(&uri) }
        };
        let router = Router::new().fallback(answer);
        servers.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
    }
    (servers, counts)
}

/// A page that links to two more of its host. Each is asked for on a connection of its own, which must come about.
fn answer(uri: &Uri) -> ([(HeaderName, &'static str); 1], Html<String>) {
    let number: usize = uri.path().trim_matches('/').parse().unwrap_or(0);
    let links = [2 * number, 2 * number + 1].into_iter().filter(|link| (1..=PAGES).contains(link));
    let links: String = links.map(|link| format!("<a href=/{link}/>{link}</a>")).collect();
    ([(CONNECTION, "close")], Html(format!("<title>{number}</title><h1>{number}</h1>{links}")))
}

fn page(host: Ipv4Addr, number: usize) -> String {
    format!("http://{host}:{PORT}/{number}/")
}
