//! What a worker asks for by itself, robots files and sitemaps, keeps to the pace of the host, and so do redirects.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crawlify_shared::domain::id::WorkerId;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::hot::HotStore;
use crawlify_worker::chrome::driver::DomOp;
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use harness::answering_site::{AnsweringSite, redirect, status, text};
use harness::crawl::{Crawl, NO_LIMITS};
use harness::wait::wait_for;
use serde_json::json;

use super::robots::{driver, obeying};
use super::sitemaps::urlset;
use super::{Running, TIMES, WITHIN, answers, shop};

const DELAY_MS: u64 = 2_000;

/// When pages were looked at. Written by the browser, read by tests.
type Looks = Arc<Mutex<Vec<Instant>>>;

/// A browser that knows these pages, which have no links, and notes when it looks at one.
fn noting(urls: &[String], looks: &Looks) -> FakeDriver {
    urls.iter().fold(FakeDriver::new(), |driver, url| {
        let (looks, answer) = (Arc::clone(looks), answers(&[], "the"));
        let page = FakePage::loads(move |step| {
            // One of its steps.
            if matches!(step.op, DomOp::Links(_)) {
                looks.lock().unwrap().push(Instant::now());
            }
            answer(step)
        });
        driver.with_page(url, [page])
    })
}

/// Asserts that the site was asked so often, pages that were looked at included, and in the pace.
fn assert_apart(site: &AnsweringSite, looks: &Looks, expected: usize) {
    let mut asked = site.times();
    asked.extend(looks.lock().unwrap().iter());
    asked.sort();
    let spaces: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(asked.len(), expected, "{spaces:?}");
    // What lies between a turn and the request is the machine's, which is busy. Without a turn it would be nothing.
    let least = Duration::from_millis(DELAY_MS / 2);
    assert!(spaces.iter().all(|space| *space > least), "{spaces:?}");
}

#[tokio::test]
async fn each_redirect_of_a_robots_file_has_a_turn_of_its_own() {
    let site = AnsweringSite::start(|own, path| match path {
        "/robots.txt" => redirect(&format!("{own}/one")),
        "/one" => redirect(&format!("{own}/two")),
        "/two" => text("User-agent: *\nDisallow: /private\n"),
        _ => status(404),
    })
    .await;
    let starts = [site.url("/1"), site.url("/2")];
    let mut config = obeying(&starts);
    config["rate_limit_delay"] = json!(DELAY_MS);
    let looks = Looks::default();
    Running::start(&config, noting(&starts, &looks), TIMES).await.end().await;
    let paths: Vec<_> = site.requests().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["/robots.txt", "/one", "/two"]);
    assert_apart(&site, &looks, 5);
}

#[tokio::test]
async fn each_redirect_of_a_sitemap_has_a_turn_of_its_own() {
    let site = AnsweringSite::start(|own, path| match path {
        "/sitemap.xml" => redirect(&format!("{own}/one.xml")),
        "/one.xml" => redirect(&format!("{own}/two.xml")),
        "/two.xml" => text(urlset([format!("{own}/1")])),
        _ => status(404),
    })
    .await;
    let mut config = shop();
    config["start_urls"] = json!(null);
    config["sitemaps"] = json!([site.url("/sitemap.xml")]);
    config["rate_limit_delay"] = json!(DELAY_MS);
    let looks = Looks::default();
    Running::start(&config, noting(&[site.url("/1")], &looks), TIMES).await.end().await;
    assert_apart(&site, &looks, 4);
}

#[tokio::test]
async fn a_redirect_whose_turn_is_far_away_goes_on_at_once_and_the_next_page_waits_for_longer() {
    let site = AnsweringSite::start(|own, path| match path {
        "/robots.txt" => redirect(&format!("{own}/one")),
        _ => text(""),
    })
    .await;
    let starts = [site.url("/")];
    let mut config = obeying(&starts);
    config["rate_limit_delay"] = json!(60_000);
    let running = Running::start(&config, driver(&starts), TIMES).await;
    running.wait("the file is known", "SELECT count(*) FROM robots_files WHERE expires_at > now()").await;
    assert_eq!(site.asked_for("/one"), 1);
    let two_delays = "SELECT count(*) FROM hosts
        WHERE host = '127.0.0.1' AND next_start_at > now() + interval '65 seconds'";
    assert_eq!(running.crawl.number(two_delays).await, 1);
    running.stop().await;
}

/// The first two turns that a worker asks for while it fetches a robots file are refused. A sequence counts also what is rolled back.
const TWO_TURNS_REFUSED: &str = "
CREATE SEQUENCE asked;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('application_name') = 'crawlify-worker'
        AND EXISTS (SELECT FROM robots_files WHERE fetching_until > now())
    THEN
        IF nextval('asked') <= 2 THEN RAISE EXCEPTION 'refused by the test'; END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refused BEFORE UPDATE ON hosts FOR EACH ROW EXECUTE FUNCTION refuse();";

#[tokio::test]
async fn a_redirect_that_the_store_gives_no_turn_at_first_asks_for_one_again() {
    let site = AnsweringSite::start(|own, path| match path {
        "/robots.txt" => redirect(&format!("{own}/one")),
        "/one" => text("User-agent: *\nDisallow: /private\n"),
        _ => status(404),
    })
    .await;
    let starts = [site.url("/1")];
    let limits = Limits { rate_limit_delay: Duration::from_millis(DELAY_MS), ..NO_LIMITS };
    let crawl = Crawl::of(&obeying(&starts), limits, &[&starts[0]]).await;
    crawl.change(TWO_TURNS_REFUSED).await;
    let looks = Looks::default();
    let crawl = Running::of(crawl, noting(&starts, &looks), TIMES).await.end().await;
    assert!(crawl.number("SELECT last_value FROM asked").await > 2, "no turn was refused");
    assert_apart(&site, &looks, 3);
}

#[tokio::test]
async fn a_redirect_to_another_host_has_the_next_page_there_wait_for_longer() {
    let elsewhere = AnsweringSite::at("127.0.0.3", |_, _| text("")).await;
    let there = elsewhere.url("/robots.txt");
    let site = AnsweringSite::start(move |_, _| redirect(&there)).await;
    let starts = [site.url("/")];
    let crawl = Crawl::of(&obeying(&starts), NO_LIMITS, &[&starts[0]]).await;
    crawl.change("INSERT INTO hosts (host, delay_ms) VALUES ('127.0.0.3', 60000)").await;
    let crawl = Running::of(crawl, driver(&starts), TIMES).await.end().await;
    assert_eq!(elsewhere.asked_for("/robots.txt"), 1);
    let waits = "SELECT count(*) FROM hosts WHERE host = '127.0.0.3' AND next_start_at > '-infinity'";
    assert_eq!(crawl.number(waits).await, 1);
}

#[tokio::test]
async fn a_file_that_a_worker_was_to_fetch_which_died_is_asked_for_in_a_later_turn() {
    // Nothing comes of the request: no page shall ask for further turns.
    let site = AnsweringSite::slow(Duration::from_secs(60), |_, _| text("")).await;
    let starts = [site.url("/")];
    let limits = Limits { rate_limit_delay: Duration::from_millis(500), ..NO_LIMITS };
    let crawl = Crawl::of(&obeying(&starts), limits, &[&starts[0]]).await;
    let dead = HotStore::connect(&crawl.database.url(), WorkerId::generate()).unwrap();
    let key = format!("{} plain", site.url(""));
    assert!(dead.reserve_robots_fetch(&key, Duration::from_secs(3600)).await.unwrap());
    let running = Running::of(crawl, driver(&starts), TIMES).await;
    let has_passed = "SELECT count(*) FROM url_queue q JOIN hosts h ON h.host = q.host
        WHERE q.status = 'processing' AND h.next_start_at < now()";
    running.wait("the page's turn has passed", has_passed).await;
    let now = running.crawl.number("SELECT (EXTRACT(EPOCH FROM now()) * 1000)::int8").await;
    assert!(site.requests().is_empty());
    running.crawl.change("UPDATE robots_files SET fetching_until = now()").await;
    wait_for("it is asked for", WITHIN, async || site.asked_for("/robots.txt") == 1).await;
    let next_start =
        "SELECT (EXTRACT(EPOCH FROM next_start_at) * 1000)::int8 FROM hosts WHERE host = '127.0.0.1'";
    assert!(running.crawl.number(next_start).await > now, "it took no turn");
    running.stop().await;
}
