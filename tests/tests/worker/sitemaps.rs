//! Sitemaps as seeds: downloaded by the real worker, without a tab.

use std::io::Write;

use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use crawlify_worker::chrome::fake::FakeDriver;
use harness::answering_site::{AnsweringSite, endless, redirect, status, text};
use harness::crawl::Crawl;
use serde_json::{Value, json};

use super::{ENDED, Running, TIMES, page, shop};

const PAGES: &str =
    "SELECT concat_ws(' ', regexp_replace(url, '^http://[^/]*', ''), status, depth, error_class)
    FROM url_queue ORDER BY 1";
const ERRORS: &str = "SELECT error FROM url_queue WHERE error IS NOT NULL ORDER BY url";

fn packed(document: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(document).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn urlset(urls: impl IntoIterator<Item = String>) -> String {
    let entries: String = urls.into_iter().map(|url| format!("<url><loc>{url}</loc></url>")).collect();
    format!(
        "<?xml version=\"1.0\"?><urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\">{entries}</urlset>"
    )
}

fn index(urls: &[String]) -> String {
    let entries: String = urls.iter().map(|url| format!("<sitemap><loc>{url}</loc></sitemap>")).collect();
    format!("<sitemapindex>{entries}</sitemapindex>")
}

fn seeded(changes: Value) -> Value {
    let mut config = shop();
    for (key, value) in changes.as_object().unwrap() {
        config[key.as_str()] = value.clone();
    }
    config
}

fn driver(site: &AnsweringSite, paths: &[&str]) -> FakeDriver {
    paths.iter().fold(FakeDriver::new(), |driver, path| driver.with_page(&site.url(path), [page(&[])]))
}

/// A crawl of one sitemap, which answers like this, and nothing else.
async fn of_one(answer: impl Fn() -> Response + Send + Sync + 'static) -> Crawl {
    let site = AnsweringSite::start(move |_, _| answer()).await;
    let config = seeded(json!({"start_urls": null, "sitemaps": [site.url("/sitemap.xml")]}));
    Running::start(&config, driver(&site, &["/1"]), TIMES).await.end().await
}

#[tokio::test]
async fn an_index_leads_to_sitemaps_and_these_to_pages_that_are_crawled_like_start_pages() {
    let site = AnsweringSite::start(|own, path| match path {
        "/index.xml" => text(index(&[format!("{own}/a.xml"), format!("{own}/b.xml.gz")])),
        "/a.xml" => text(urlset(["/1", "/2"].map(|path| format!("{own}{path}")))),
        "/b.xml.gz" => {
            let urls = [format!("{own}/2"), format!("{own}/private"), "http://elsewhere.test/".to_owned()];
            text(packed(urlset(urls).as_bytes()))
        }
        "/robots.txt" => text("User-agent: *\nDisallow: /private\n"),
        _ => status(404),
    })
    .await;
    let config = seeded(json!({
        "start_urls": null, "sitemaps": [site.url("/index.xml")], "politeness": {},
        "headers": {"Authorization": "Bearer x"},
    }));
    let running = Running::start(&config, driver(&site, &["/1", "/2"]), TIMES).await;
    let driver = running.driver.clone();
    running.wait("the execution ended", ENDED).await;
    running.assert_exported("crawlify_links_skipped_total{reason=\"robots\"} 1");
    running.assert_exported("crawlify_links_skipped_total{reason=\"scope\"} 1");
    let crawl = running.stop().await;
    assert_eq!(
        crawl.texts(PAGES).await,
        [
            "/1 completed 0",
            "/2 completed 0",
            "/a.xml completed 1",
            "/b.xml.gz completed 1",
            "/index.xml completed 0"
        ]
    );
    assert_eq!(driver.loads().len(), 2, "sitemaps need no tab");
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE is_sitemap").await, 3);
    let priorities = "SELECT max(priority)::int8 FROM url_queue WHERE NOT is_sitemap";
    assert!(crawl.number(priorities).await < 100, "start pages come first");
    let requests = site.requests();
    let of_index = requests.iter().find(|(path, _)| path == "/index.xml").unwrap();
    assert_eq!(of_index.1["authorization"], "Bearer x");
}

#[tokio::test]
async fn the_sitemaps_that_robots_txt_names_are_read_where_the_workflow_wants_it() {
    let site = AnsweringSite::start(|own, path| match path {
        // It names a sitemap that its rules would forbid.
        "/robots.txt" => text(format!("User-agent: *\nDisallow: /maps/\nSitemap: {own}/maps/s.xml\n")),
        "/maps/s.xml" => text(urlset([format!("{own}/1")])),
        _ => status(404),
    })
    .await;
    let config = seeded(json!({
        "start_urls": [site.url("/")], "sitemaps": "robots", "politeness": {"robots": "obey"},
    }));
    let crawl = Running::start(&config, driver(&site, &["/", "/1"]), TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 0", "/1 completed 0", "/maps/s.xml completed 0"]);
}

#[tokio::test]
async fn they_are_read_although_the_start_page_itself_is_not() {
    let site = AnsweringSite::start(|own, path| match path {
        "/robots.txt" => text(format!("User-agent: *\nDisallow: /start\nSitemap: {own}/s.xml\n")),
        "/s.xml" => text(urlset([format!("{own}/1")])),
        _ => status(404),
    })
    .await;
    let config = seeded(json!({
        "start_urls": [site.url("/start")], "sitemaps": "robots", "politeness": {"robots": "obey"},
    }));
    let crawl = Running::start(&config, driver(&site, &["/1"]), TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/1 completed 0", "/s.xml completed 0", "/start skipped 0 robots"]);
}

#[tokio::test]
async fn a_sitemap_that_pages_may_not_reach_is_not_asked_for() {
    let site = AnsweringSite::at("127.0.0.2", |own, _| text(urlset([format!("{own}/1")]))).await;
    let config = seeded(json!({"start_urls": null, "sitemaps": [site.url("/sitemap.xml")]}));
    let crawl = Running::start(&config, driver(&site, &["/1"]), TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/sitemap.xml failed 0 ssrf_blocked"]);
    assert!(site.requests().is_empty());
}

#[tokio::test]
async fn secrets_go_to_the_hosts_that_the_workflow_names_and_to_no_others() {
    const SECRETS: [&str; 3] = ["authorization", "cookie", "x-api-key"];
    let elsewhere = AnsweringSite::at("127.0.0.3", |own, path| match path {
        "/named.xml" | "/led-on.xml" => text(urlset([])),
        // What is left out of one request must not come back with the next.
        "/led.xml" => redirect(&format!("{own}/led-on.xml")),
        _ => status(404),
    })
    .await;
    let (named, led) = (elsewhere.url("/named.xml"), elsewhere.url("/led.xml"));
    let site = AnsweringSite::start(move |own, path| match path {
        "/robots.txt" => text(format!("Sitemap: {named}\nSitemap: {own}/own.xml\n")),
        "/own.xml" => redirect(&led),
        _ => status(404),
    })
    .await;
    let config = seeded(json!({
        "start_urls": [site.url("/")], "sitemaps": "robots", "politeness": {"robots": "obey"},
        "headers": {"Authorization": "Bearer x", "Cookie": "a=x", "X-Api-Key": "x", "Accept-Language": "de"},
    }));
    let crawl = Running::start(&config, driver(&site, &["/"]), TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 0", "/named.xml completed 0", "/own.xml completed 0"]);
    let of_own = site.requests().into_iter().find(|(path, _)| path == "/own.xml").unwrap().1;
    assert!(SECRETS.iter().all(|name| of_own.contains_key(*name)), "{of_own:?}");
    for path in ["/named.xml", "/led.xml", "/led-on.xml"] {
        assert_eq!(elsewhere.asked_for(path), 1, "{path}");
    }
    for (path, headers) in elsewhere.requests() {
        assert!(!SECRETS.iter().any(|name| headers.contains_key(*name)), "{path}: {headers:?}");
        assert!(path == "/robots.txt" || headers["accept-language"] == "de", "{path}: {headers:?}");
    }
}

#[tokio::test]
async fn a_host_to_whose_sitemap_a_robots_file_or_a_redirect_leads_is_not_crawled_for_it() {
    // Its sitemaps speak of the site in their path, and of their own host.
    let elsewhere = AnsweringSite::at("127.0.0.3", |own, path| {
        let Some((site, name)) = path.strip_prefix("/for/").and_then(|path| path.split_once('/')) else {
            return status(404);
        };
        match name {
            "index.xml" => text(index(&[format!("{own}/for/{site}/part.xml")])),
            _ => text(urlset([format!("http://{site}/{name}.html"), format!("{own}/{name}.html")])),
        }
    })
    .await;
    let there = elsewhere.url("/for");
    let site = AnsweringSite::start(move |own, path| {
        let address = own.trim_start_matches("http://");
        match path {
            "/robots.txt" => text(format!("Sitemap: {there}/{address}/index.xml\nSitemap: {own}/own.xml\n")),
            "/own.xml" => redirect(&format!("{there}/{address}/moved.xml")),
            _ => status(404),
        }
    })
    .await;
    let config = seeded(json!({
        "start_urls": [site.url("/")], "sitemaps": "robots", "politeness": {"robots": "obey"},
    }));
    let driver = driver(&site, &["/", "/part.xml.html", "/moved.xml.html"]);
    let crawl = Running::start(&config, driver, TIMES).await.end().await;
    let visited = "SELECT regexp_replace(url, '^http://127.0.0.1:[0-9]+', '') FROM url_queue
        WHERE NOT is_sitemap AND status = 'completed' ORDER BY 1";
    assert_eq!(crawl.texts(visited).await, ["/", "/moved.xml.html", "/part.xml.html"]);
    let of_it = "SELECT count(*) FROM url_queue WHERE host = '127.0.0.3' AND NOT is_sitemap";
    assert_eq!(crawl.number(of_it).await, 0);
    let reported = "SELECT url FROM skipped_urls WHERE reason = 'scope' ORDER BY url";
    let expected = ["/moved.xml.html", "/part.xml.html"].map(|path| elsewhere.url(path));
    assert_eq!(crawl.texts(reported).await, expected);
}

#[tokio::test]
async fn a_host_that_refuses_a_sitemap_for_a_while_is_left_alone() {
    let site =
        AnsweringSite::start(|_, _| (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "60")]).into_response())
            .await;
    let config = seeded(json!({"start_urls": null, "sitemaps": [site.url("/sitemap.xml")]}));
    let running = Running::start(&config, driver(&site, &[]), TIMES).await;
    let backs_off = "SELECT count(*) FROM hosts WHERE backoff_until > now() + interval '30 seconds'";
    running.wait("the host is left alone", backs_off).await;
    let crawl = running.stop().await;
    assert_eq!(crawl.texts(PAGES).await, ["/sitemap.xml pending 0 http_5xx"]);
    assert_eq!(site.requests().len(), 1);
}

#[tokio::test]
async fn a_broken_sitemap_fails_with_the_place_and_what_it_named_before_counts() {
    let site = AnsweringSite::start(|own, _| {
        text(format!("<urlset><url><loc>{own}/1</loc></url><url><loc>{own}/2</url></urlset>"))
    })
    .await;
    let config = seeded(json!({"start_urls": null, "sitemaps": [site.url("/sitemap.xml")]}));
    let crawl = Running::start(&config, driver(&site, &["/1"]), TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/1 completed 0", "/sitemap.xml failed 0 not_a_page"]);
    let error = crawl.texts(ERRORS).await.remove(0);
    assert!(error.starts_with("the sitemap was read only in part, and named 1 URLs: at byte "), "{error}");
}

#[tokio::test]
async fn what_is_no_sitemap_fails_with_a_reason() {
    let html = of_one(|| text("<!doctype html><html><p>Not found<br></html>")).await;
    assert_eq!(html.texts(PAGES).await, ["/sitemap.xml failed 0 not_a_page"]);
    let absent = of_one(|| status(404)).await;
    assert_eq!(absent.texts(ERRORS).await, ["the server answered with HTTP status 404"]);
    let foreign = of_one(|| text(urlset(["http://elsewhere.test/".to_owned()]))).await;
    assert!(foreign.texts(ERRORS).await[0].contains("name a start URL"));
}

#[tokio::test]
async fn neither_an_endless_sitemap_nor_one_that_unpacks_to_one_is_read_for_ever() {
    let blank = " ".repeat(1 << 20);
    let endless = of_one(move || endless("<urlset>", format!("<url>{blank}</url>"))).await;
    let said = "the sitemap was read only in part, and named 0 URLs: it has more than 50 MB";
    assert_eq!(endless.texts(ERRORS).await, [said]);
    let mut document = b"<urlset>".to_vec();
    document.extend(format!("<url>{}</url>", " ".repeat(64 << 10)).repeat(1_000).into_bytes());
    let bomb = packed(&document);
    assert!(bomb.len() < 1 << 20);
    let bomb = of_one(move || text(bomb.clone())).await;
    assert_eq!(bomb.texts(ERRORS).await, [said]);
    // Packed, and broken off.
    let mut cut = packed(urlset(["http://127.0.0.1/".to_owned()]).as_bytes());
    cut.truncate(cut.len() / 2);
    let cut = of_one(move || text(cut.clone())).await;
    assert_eq!(cut.texts(PAGES).await, ["/sitemap.xml failed 0 not_a_page"]);
}

#[tokio::test]
async fn a_sitemap_of_fifty_thousand_urls_becomes_as_many_pages() {
    let site = AnsweringSite::start(|own, _| {
        text(urlset((0..50_000).map(|page| format!("{own}/page-with-a-name-of-usual-length/{page}"))))
    })
    .await;
    let config = seeded(json!({
        "start_urls": null, "sitemaps": [site.url("/sitemap.xml")], "max_pages": 1,
    }));
    let crawl = Running::start(&config, FakeDriver::new(), TIMES).await.end().await;
    assert_eq!(
        crawl.number("SELECT count(*) FROM url_queue WHERE depth = 0 AND NOT is_sitemap").await,
        50_000
    );
    assert_eq!(crawl.number("SELECT sum(urls_found)::int8 FROM page_counters").await, 50_000);
}
