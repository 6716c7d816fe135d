//! Who shares a robots file: crawls that ask for it the same way and in the same name.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::answering_site::{AnsweringSite, status, text};
use harness::crawl::NO_LIMITS;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::robots::{driver, obeying};
use super::{ENDED, Running, TIMES};

const FORBIDS: &str = "User-agent: *\nDisallow: /private\n";
const PAGES: &str = "SELECT concat_ws(' ', regexp_replace(url, '^http://[^/]*', ''), status, error_class)
    FROM url_queue ORDER BY 1";
const TWO_ENDED: &str = "SELECT (count(*) = 2)::int::int8 FROM workflow_executions WHERE status <> 'running'";
const THREE_ENDED: &str =
    "SELECT (count(*) = 3)::int::int8 FROM workflow_executions WHERE status <> 'running'";

/// A proxy that has one site answer in the place of all others.
struct Diverting {
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl Diverting {
    async fn to(site: &AnsweringSite) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let site = site.url("").trim_start_matches("http://").to_owned();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(divert(stream, site.clone()));
            }
        });
        Self { address, _server: server }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn divert(mut client: TcpStream, site: String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    assert!(head.starts_with(b"CONNECT "), "{}", String::from_utf8_lossy(&head));
    let mut server = TcpStream::connect(site).await.unwrap();
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

/// Starts another crawl, of one page.
async fn another(running: &Running, mut config: Value, url: &str) {
    config["start_urls"] = json!([url]);
    running.crawl.another_of(&config, NO_LIMITS, &[url]).await;
}

#[tokio::test]
async fn what_a_proxy_answers_in_the_place_of_a_site_holds_for_crawls_through_it_alone() {
    let site = AnsweringSite::start(|_, _| text(FORBIDS)).await;
    let in_its_place = AnsweringSite::start(|_, _| status(403)).await;
    let proxy = Diverting::to(&in_its_place).await;
    let urls = ["/private/1", "/private/2", "/private/3"].map(|path| site.url(path));
    let mut proxied = obeying(&urls[..1]);
    proxied["proxy_config"] = json!({"enabled": true, "server": proxy.url()});
    let running = Running::start(&proxied, driver(&urls), TIMES).await;
    running.wait("the crawl through the proxy ended", ENDED).await;
    another(&running, obeying(&urls[1..2]), &urls[1]).await;
    running.wait("the crawl that asks straight ended", TWO_ENDED).await;
    another(&running, proxied, &urls[2]).await;
    running.wait("another crawl through the proxy ended", THREE_ENDED).await;
    let crawl = running.stop().await;
    let expected = ["/private/1 completed", "/private/2 skipped robots", "/private/3 completed"];
    assert_eq!(crawl.texts(PAGES).await, expected);
    assert_eq!(site.asked_for("/robots.txt"), 1);
    assert_eq!(in_its_place.asked_for("/robots.txt"), 1, "crawls through one proxy share a file");
}

#[tokio::test]
async fn a_site_that_turns_one_crawler_away_has_said_nothing_to_others() {
    let answers = AtomicUsize::new(0);
    let site = AnsweringSite::start(move |_, _| {
        // It does not want the first.
        if answers.fetch_add(1, Ordering::Relaxed) == 0 { status(403) } else { text(FORBIDS) }
    })
    .await;
    let urls = ["/private/1", "/private/2", "/private/3"].map(|path| site.url(path));
    let mut named = obeying(&urls[..1]);
    named["politeness"]["agent"] = json!("ShopBot/1.0 (+https://shop.example/bot)");
    let running = Running::start(&named, driver(&urls), TIMES).await;
    running.wait("the crawl with a name ended", ENDED).await;
    another(&running, obeying(&urls[1..2]), &urls[1]).await;
    running.wait("the crawl without one ended", TWO_ENDED).await;
    another(&running, named, &urls[2]).await;
    running.wait("another crawl with the name ended", THREE_ENDED).await;
    let crawl = running.stop().await;
    let expected = ["/private/1 completed", "/private/2 skipped robots", "/private/3 completed"];
    assert_eq!(crawl.texts(PAGES).await, expected);
    assert_eq!(site.asked_for("/robots.txt"), 2);
}
