//! A worker whose network is taken away in the middle of a crawl, and given back, while its database stays: no page and no
//! host pays for that.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::Uri;
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
/// In a network of one's own every port is free.
const PORT: u16 = 8080;
/// Of each host.
const PAGES: usize = 60;
/// Longer than the pauses before the first tries, and than what was found out about the network is believed.
const AWAY: Duration = Duration::from_secs(20);

#[test]
fn a_network_that_is_away_for_a_while_costs_no_page_and_no_host_anything() {
    let name = "cluster::network::a_network_that_is_away_for_a_while_costs_no_page_and_no_host_anything";
    let Some(network) = OwnNetwork::enter(name, &HOSTS) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(crawl(network));
}

async fn crawl(network: OwnNetwork) {
    let asked = Arc::new(AtomicUsize::new(0));
    let _servers = serve(&asked).await;
    let (scratch, postgres) = (Scratch::create(), PrivatePostgres::start(&Options::default()).await.unwrap());
    let database = TestDatabase::on(&postgres.url()).await;
    let file = scratch.path("hosts.json");
    let workflow = json!({"name": "Hosts", "config": {
        "start_urls": HOSTS.map(|host| page(host, 1)), "max_depth": 100, "rate_limit_delay": 100,
        "url_discovery": [{"id": "links", "type": "extract_links", "params": {"selector": "a"}}],
        "data_extraction": [
            {"id": "title", "type": "extract", "params": {"selector": "h1", "type": "text"}, "output_key": "title"}
        ],
    }});
    std::fs::write(&file, workflow.to_string()).unwrap();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("run").arg(&file).arg("--database-url").arg(database.url().expose());
    let program = Program::start(command);
    wait_for("the crawl is at work", WITHIN, async || asked.load(Ordering::Relaxed) > PAGES / 2).await;
    network.take_away();
    tokio::time::sleep(AWAY).await;
    let meanwhile = asked.load(Ordering::Relaxed);
    assert!(meanwhile < 2 * PAGES, "the crawl was over before");
    network.give_back();
    let ended = program.end(WITHIN).await.with_code(0);

    let recorded = Recorded::open(database.url()).await;
    let (status, pages) = recorded.statuses().await;
    assert_eq!(status, "completed", "{}", ended.stderr);
    assert_eq!(pages.into_iter().collect::<Vec<_>>(), [("completed".to_owned(), 2 * PAGES as i64)]);
    let waited = "SELECT count(*) FROM url_queue WHERE execution_id = $1 AND proxy_faults > 0";
    assert!(recorded.number(waited).await > 0, "no page met a network that was away");
    let charged = "SELECT sum(charged + site_faults + browser_faults + worker_faults) FROM url_queue WHERE execution_id = $1";
    assert_eq!(recorded.number(charged).await, 0);
    let blamed = "SELECT count(*) FROM hosts WHERE unreachable > 0 AND $1::uuid IS NOT NULL";
    assert_eq!(recorded.number(blamed).await, 0);
    postgres.stop().await;
}

async fn serve(asked: &Arc<AtomicUsize>) -> JoinSet<()> {
    let mut servers = JoinSet::new();
    for host in HOSTS {
        let listener = TcpListener::bind((host, PORT)).await.unwrap();
        let asked = Arc::clone(asked);
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
    servers
}

/// A page that links to two more of its host.
fn answer(uri: &Uri) -> Html<String> {
    let number: usize = uri.path().trim_matches('/').parse().unwrap_or(0);
    let links = [2 * number, 2 * number + 1].into_iter().filter(|link| (1..=PAGES).contains(link));
    let links: String = links.map(|link| format!("<a href=/{link}/>{link}</a>")).collect();
    Html(format!("<title>{number}</title><h1>{number}</h1>{links}"))
}

fn page(host: Ipv4Addr, number: usize) -> String {
    format!("http://{host}:{PORT}/{number}/")
}
