//! What a worker does about robots.txt, from the request for it to the row of the page.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::response::IntoResponse;
use crawlify_shared::store::control::CancelMode;
use crawlify_shared::store::skips::SkipCount;
use crawlify_shared::telemetry;
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use harness::answering_site::{AnsweringSite, endless, redirect, status, text};
use harness::crawl::NO_LIMITS;
use harness::held_port::HeldPort;
use harness::wait::wait_for;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{ENDED, Running, TIMES, WITHIN, page, shop, start_worker};

const PAGES: &str =
    "SELECT concat_ws(' ', regexp_replace(url, '^http://[^/]*', ''), status, attempt, error_class)
    FROM url_queue ORDER BY 1";
const STATUSES: &str = "SELECT status FROM url_queue ORDER BY created_at, id";

/// A crawl of these start URLs that obeys.
pub(super) fn obeying(starts: &[String]) -> Value {
    let mut config = shop();
    config["start_urls"] = json!(starts);
    config["politeness"] = json!({"robots": "obey"});
    config
}

/// A browser that knows these pages, which have no links.
pub(super) fn driver(urls: &[String]) -> FakeDriver {
    urls.iter().fold(FakeDriver::new(), |driver, url| driver.with_page(url, [page(&[])]))
}

#[tokio::test]
async fn what_robots_txt_disallows_is_skipped_with_the_reason() {
    let site = AnsweringSite::start(|_, _| text("User-agent: *\nDisallow: /private\n")).await;
    let starts = [site.url("/"), site.url("/private/start")];
    let driver = driver(&[site.url("/public")]).with_page(&starts[0], [page(&["/private/1", "/public"])]);
    let running = Running::start(&obeying(&starts), driver, TIMES).await;
    let driver = running.driver.clone();
    running.wait("the execution ended", ENDED).await;
    running.assert_exported("crawlify_links_skipped_total{reason=\"robots\"} 1");
    let crawl = running.stop().await;
    assert_eq!(
        crawl.texts(PAGES).await,
        ["/ completed 1", "/private/start skipped 1 robots", "/public completed 1"]
    );
    assert_eq!(driver.loads().len(), 2);
    assert_eq!(site.asked_for("/robots.txt"), 1);
    let skipped = "SELECT concat_ws(' ', regexp_replace(url, '^http://[^/]*', ''), reason, detail)
        FROM skipped_urls ORDER BY 1";
    let sentence = "robots.txt disallows it for `crawlify` (`Disallow: /private`)";
    let expected = ["/private/1", "/private/start"].map(|path| format!("{path} robots {sentence}"));
    assert_eq!(crawl.texts(skipped).await, expected, "the link too");
    assert_eq!(crawl.number("SELECT count(*) FROM node_executions").await, 4, "none of the skipped page");
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE rendered IS NULL").await, 1);
    let summary = crawl.store.summary(crawl.execution).await.unwrap().unwrap();
    let (sample_url, sample_detail) = (starts[1].clone(), sentence.to_owned());
    assert_eq!(
        summary.skips,
        [SkipCount { reason: "robots".to_owned(), count: 2, sample_url, sample_detail }]
    );
}

#[tokio::test]
async fn a_crawl_with_a_name_asks_for_everything_in_it_and_is_addressed_by_it() {
    const AGENT: &str = "ShopBot/1.0 (+https://shop.example/bot)";
    let site = AnsweringSite::start(|_, path| match path {
        "/robots.txt" => text("User-agent: *\nDisallow: /\n\nUser-agent: shopbot\nDisallow: /private\n"),
        _ => status(404),
    })
    .await;
    let starts = [site.url("/"), site.url("/private")];
    let mut config = obeying(&starts);
    config["politeness"]["agent"] = json!(AGENT);
    config["sitemaps"] = json!([site.url("/sitemap.xml")]);
    let running = Running::start(&config, driver(&starts), TIMES).await;
    let driver = running.driver.clone();
    let crawl = running.end().await;
    let expected = ["/ completed 1", "/private skipped 1 robots", "/sitemap.xml failed 1 http_4xx"];
    assert_eq!(crawl.texts(PAGES).await, expected);
    let requests = site.requests();
    assert_eq!(requests.len(), 2, "the robots file, and the sitemap");
    assert!(requests.iter().all(|(_, headers)| headers["user-agent"] == AGENT), "{requests:?}");
    let agents: Vec<_> = driver.loads().into_iter().map(|(session, _)| session.agent).collect();
    assert_eq!(agents, [Some(AGENT.to_owned())]);
}

#[tokio::test]
async fn nothing_is_kept_of_a_page_that_leads_to_where_robots_txt_disallows() {
    let site = AnsweringSite::start(|_, _| text("User-agent: *\nDisallow: /private\n")).await;
    let starts = [site.url("/open"), site.url("/moved")];
    let leading = |to: &str| {
        let FakePage::Loads { status, answer, .. } = page(&["/more"]) else { unreachable!() };
        FakePage::Loads { final_url: Some(to.parse().unwrap()), status, answer }
    };
    let driver = driver(&[site.url("/more")])
        .with_page(&starts[0], [leading(&site.url("/elsewhere"))])
        .with_page(&starts[1], [leading(&site.url("/private/page"))]);
    let crawl = Running::start(&obeying(&starts), driver, TIMES).await.end().await;
    let expected = ["/more completed 1", "/moved skipped 1 robots", "/open completed 1"];
    assert_eq!(crawl.texts(PAGES).await, expected);
    let of_it = "SELECT count(*) FROM extracted_items i JOIN url_queue q ON q.id = i.page_id WHERE q.url LIKE '%/moved'";
    assert_eq!(crawl.number(of_it).await, 0);
    let reason = "SELECT detail FROM skipped_urls WHERE url LIKE '%/moved'";
    let sentence = "robots.txt disallows it for `crawlify` (`Disallow: /private`)";
    let expected = format!("it leads to {}, and {sentence}", site.url("/private/page"));
    assert_eq!(crawl.texts(reason).await, [expected]);
}

#[tokio::test]
async fn a_crawl_that_ignores_robots_txt_does_not_ask_for_it() {
    let site = AnsweringSite::start(|_, _| text("User-agent: *\nDisallow: /\n")).await;
    let starts = [site.url("/")];
    let mut config = obeying(&starts);
    config["politeness"] = json!({"robots": "ignore"});
    let crawl = Running::start(&config, driver(&starts), TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1"]);
    assert!(site.requests().is_empty());
}

#[tokio::test]
async fn a_file_is_addressed_to_the_name_that_the_crawl_gives_itself() {
    let site = AnsweringSite::start(|_, _| {
        text("User-agent: shopbot\nDisallow: /a\n\nUser-agent: *\nDisallow: /b\n")
    })
    .await;
    let starts = [site.url("/a"), site.url("/b")];
    let mut config = obeying(&starts);
    config["headers"] = json!({"User-Agent": "ShopBot/1.0 (+http://shop.test/bot)"});
    let crawl = Running::start(&config, driver(&starts), TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/a skipped 1 robots", "/b completed 1"]);
    assert_eq!(site.requests()[0].1["user-agent"], "ShopBot/1.0 (+http://shop.test/bot)");
}

#[tokio::test]
async fn whatever_a_site_sends_instead_of_a_robots_file_is_survived() {
    const FORBIDS: &str = "User-agent: *\nDisallow: /\n";
    let packed = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, FORBIDS.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let bomb = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, FORBIDS.as_bytes()).unwrap();
        for _ in 0..200 {
            std::io::Write::write_all(&mut encoder, &[b'\n'; 1 << 20]).unwrap();
        }
        encoder.finish().unwrap()
    };
    let html = "<!doctype html><title>Not found</title><p>Disallow: /</p>";
    let sites = [
        ("none", AnsweringSite::start(|_, _| status(404)).await, "completed"),
        ("forbidden", AnsweringSite::start(|_, _| status(403)).await, "completed"),
        ("empty", AnsweringSite::start(|_, _| status(204)).await, "completed"),
        ("html", AnsweringSite::start(move |_, _| text(html)).await, "completed"),
        (
            "a redirect loop",
            AnsweringSite::start(|own, path| redirect(&format!("{own}{path}"))).await,
            "completed",
        ),
        (
            "five redirects",
            AnsweringSite::start(|own, path| match path.strip_prefix("/robots.txt") {
                Some("?5") => text(FORBIDS),
                Some(step) => {
                    let next = step.trim_start_matches('?').parse::<u8>().unwrap_or(0) + 1;
                    redirect(&format!("{own}/robots.txt?{next}"))
                }
                None => status(404),
            })
            .await,
            "skipped",
        ),
        (
            "an endless file",
            AnsweringSite::start(|_, _| endless(FORBIDS, "# x\n".repeat(9_999))).await,
            "skipped",
        ),
        (
            "a long line",
            AnsweringSite::start(|_, _| text(format!("{FORBIDS}Allow: /{}", "x".repeat(1 << 20)))).await,
            "skipped",
        ),
        ("packed", AnsweringSite::start(move |_, _| text(packed.clone())).await, "skipped"),
        ("packed and endless", AnsweringSite::start(move |_, _| text(bomb.clone())).await, "skipped"),
    ];
    let starts: Vec<String> = sites.iter().map(|(_, site, _)| site.url("/page")).collect();
    let crawl = Running::start(&obeying(&starts), driver(&starts), TIMES).await.end().await;
    for ((what, site, expected), _) in sites.iter().zip(0..) {
        let found: String = sqlx::query_scalar("SELECT status FROM url_queue WHERE url = $1")
            .bind(site.url("/page"))
            .fetch_one(&crawl.pool)
            .await
            .unwrap();
        assert_eq!(found, *expected, "{what}");
    }
}

#[tokio::test]
async fn while_a_robots_file_cannot_be_had_its_site_is_not_asked_for_pages() {
    let answers = AtomicUsize::new(0);
    let ill = AnsweringSite::start(move |_, _| {
        // Ill at first, and then well.
        if answers.fetch_add(1, Ordering::Relaxed) == 0 { status(503) } else { text("") }
    })
    .await;
    let gone = HeldPort::take().unwrap();
    let starts = [ill.url("/"), format!("http://127.0.0.1:{}/", gone.number())];
    let running = Running::start(&obeying(&starts), driver(&starts), TIMES).await;
    let waiting = "SELECT (count(*) = 2)::int::int8 FROM url_queue
        WHERE status = 'pending' AND attempt = 1 AND error_class = 'robots_unreachable'";
    running.wait("both pages wait", waiting).await;
    assert!(running.driver.loads().is_empty());
    let message = running.crawl.texts("SELECT error FROM url_queue WHERE error LIKE '%503%'").await;
    assert_eq!(
        message,
        ["its robots.txt cannot be had (HTTP status 503), and until then nothing is allowed"]
    );
    // Its time has come, and that of its pages.
    running.crawl.change("UPDATE robots_files SET expires_at = now()").await;
    let done = "SELECT count(*) FROM url_queue WHERE status = 'completed'";
    // The worker remembers for ten seconds, and its pages come again after some fifteen, or as many more.
    wait_for("the site that is well again was crawled", Duration::from_secs(120), async || {
        running.crawl.number(done).await == 1
    })
    .await;
    assert_eq!(ill.asked_for("/robots.txt"), 2);
    let last_attempt = "UPDATE url_queue SET not_before = now(), site_faults = 3
        WHERE id IN (SELECT id FROM url_queue WHERE status = 'pending' FOR UPDATE SKIP LOCKED)";
    wait_for("the site that is gone was given up", WITHIN, async || {
        running.crawl.change(last_attempt).await;
        running.crawl.number(ENDED).await == 1
    })
    .await;
    let crawl = running.stop().await;
    let given_up = "SELECT error_class FROM url_queue WHERE status = 'failed' AND site_faults = 4";
    assert_eq!(crawl.texts(given_up).await, ["robots_unreachable"]);
}

#[tokio::test]
async fn a_dead_proxy_is_not_the_sites_fault_and_keeps_the_file_from_no_other_crawl() {
    let site = AnsweringSite::start(|_, _| text("User-agent: *\nDisallow: /private\n")).await;
    let starts = [site.url("/"), site.url("/2"), site.url("/3")];
    let (proxied, others) = starts.split_at(1);
    let closed = HeldPort::take().unwrap();
    let mut config = obeying(proxied);
    let server = format!("http://127.0.0.1:{}", closed.number());
    config["proxy_config"] = json!({"enabled": true, "server": server});
    let running = Running::start(&config, driver(&starts), TIMES).await;
    running.wait("the page failed", "SELECT proxy_faults::int8 FROM url_queue").await;
    let failed = "SELECT concat_ws(' ', status, error_class, site_faults) FROM url_queue";
    assert_eq!(running.crawl.texts(failed).await, ["pending proxy 0"]);
    let error = running.crawl.texts("SELECT error FROM url_queue").await;
    assert!(error[0].starts_with("its robots.txt could not be asked for: "), "{error:?}");
    let known = "SELECT count(*) FROM robots_files WHERE expires_at > '-infinity' OR error IS NOT NULL";
    assert_eq!(running.crawl.number(known).await, 0);
    let other_urls: Vec<_> = others.iter().map(String::as_str).collect();
    running.crawl.another_of(&obeying(others), NO_LIMITS, &other_urls).await;
    let completed = "SELECT (count(*) = 2)::int::int8 FROM url_queue WHERE status = 'completed'";
    running.wait("the other crawl has its pages", completed).await;
    let charged = "SELECT count(*) FROM url_queue WHERE site_faults > 0 OR status = 'failed'";
    assert_eq!(running.crawl.number(charged).await, 0);
    assert_eq!(site.asked_for("/robots.txt"), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_site_that_wants_to_be_left_alone_when_asked_for_its_robots_file_is_left_alone_by_all() {
    let site = AnsweringSite::start(|_, _| ([("retry-after", "120")], status(503)).into_response()).await;
    let starts = [site.url("/")];
    let running = Running::start(&obeying(&starts), driver(&starts), TIMES).await;
    let waits =
        "SELECT count(*) FROM url_queue WHERE status = 'pending' AND error_class = 'robots_unreachable'";
    running.wait("the page waits", waits).await;
    for rest in [
        "SELECT EXTRACT(EPOCH FROM backoff_until - now())::int8 FROM hosts WHERE host = '127.0.0.1'",
        "SELECT EXTRACT(EPOCH FROM expires_at - now())::int8 FROM robots_files",
    ] {
        let rest = running.crawl.number(rest).await;
        assert!((90..=120).contains(&rest), "{rest} s");
    }
    // It does not obey, and waits all the same.
    let other = running.crawl.another(NO_LIMITS, &[&site.url("/other")]).await;
    assert!(running.crawl.store.reserve_pages(other, 10).await.unwrap().is_empty());
    // Neither are pages tried, and charged, before the file may be asked for again.
    running.crawl.change("UPDATE url_queue SET not_before = now()").await;
    assert!(running.crawl.store.reserve_pages(running.crawl.execution, 10).await.unwrap().is_empty());
    running.stop().await;
    assert_eq!(site.requests().len(), 1);
}

#[tokio::test]
async fn two_workers_and_many_pages_ask_a_site_once() {
    let site = AnsweringSite::start(|_, _| text("User-agent: *\nDisallow: /private\n")).await;
    let starts: Vec<String> = (0..40).map(|page| site.url(&format!("/{page}"))).collect();
    let running = Running::start(&obeying(&starts), driver(&starts), TIMES).await;
    let stop = CancellationToken::new();
    let url = running.crawl.database.url();
    let second =
        start_worker(&url, &running.broker, &running.driver, TIMES, &stop, &telemetry::registry()).await;
    running.wait("the execution ended", ENDED).await;
    stop.cancel();
    tokio::time::timeout(WITHIN, second.stopped()).await.unwrap();
    let crawl = running.stop().await;
    assert!(crawl.texts(STATUSES).await.iter().all(|status| status == "completed"));
    assert_eq!(site.asked_for("/robots.txt"), 1);
}

#[tokio::test]
async fn the_pace_that_a_file_asks_for_is_kept_by_all_pages_of_the_host() {
    let site = AnsweringSite::start(|_, _| text("User-agent: *\nCrawl-delay: 0.4\n")).await;
    let starts: Vec<String> = (0..6).map(|page| site.url(&format!("/{page}"))).collect();
    let running = Running::start(&obeying(&starts), driver(&starts), TIMES).await;
    let stop = CancellationToken::new();
    let url = running.crawl.database.url();
    let second =
        start_worker(&url, &running.broker, &running.driver, TIMES, &stop, &telemetry::registry()).await;
    running.wait("the execution ended", ENDED).await;
    stop.cancel();
    tokio::time::timeout(WITHIN, second.stopped()).await.unwrap();
    let crawl = running.stop().await;
    assert!(crawl.texts(STATUSES).await.iter().all(|status| status == "completed"));
    assert_eq!(site.asked_for("/robots.txt"), 1);
    assert_eq!(crawl.number("SELECT crawl_delay_ms::int8 FROM hosts WHERE host = '127.0.0.1'").await, 400);
    // Pages that were dispatched before the pace was known came again, uncharged.
    assert!(crawl.number("SELECT sum(epoch)::int8 FROM url_queue").await >= 1);
    assert_eq!(crawl.number("SELECT max(attempt)::int8 FROM url_queue").await, 1);
    let interval = crawl.number("SELECT min_interval_ms::int8 FROM hosts WHERE host = '127.0.0.1'").await;
    // A machine that is always late starts pages a little late, and the next ones not.
    assert!(interval >= 300, "two pages started within {interval} ms");
}

#[tokio::test]
async fn where_a_host_has_a_pace_the_request_for_its_file_takes_a_turn() {
    let site = AnsweringSite::start(|_, _| status(404)).await;
    let starts = [site.url("/")];
    let mut config = obeying(&starts);
    config["rate_limit_delay"] = json!(100);
    let running = Running::start(&config, driver(&starts), TIMES).await;
    running.wait("the execution ended", ENDED).await;
    // One for the file, one for the page.
    running.assert_exported("crawlify_politeness_wait_seconds_count 2");
    running.assert_exported("crawlify_politeness_interval_ratio_count 1");
    running.assert_exported("crawlify_politeness_handed_back_total 0");
    let crawl = running.stop().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1"]);
    assert_eq!(crawl.number("SELECT epoch::int8 FROM url_queue").await, 1, "the page came in the next turn");
}

#[tokio::test]
async fn a_fetch_that_is_given_up_with_its_page_keeps_nobody_else_from_the_file() {
    let site = AnsweringSite::slow(Duration::from_secs(60), |_, _| text("")).await;
    let starts = [site.url("/")];
    let running = Running::start(&obeying(&starts), driver(&starts), TIMES).await;
    wait_for("it is being fetched", WITHIN, async || site.asked_for("/robots.txt") == 1).await;
    let crawl = &running.crawl;
    let reserved = "SELECT count(*) FROM robots_files WHERE fetching_until > now()";
    assert_eq!(crawl.number(reserved).await, 1);
    crawl.store.cancel_execution(crawl.execution, CancelMode::Now, None).await.unwrap();
    // Much sooner than the reservation ends by itself.
    let soon = Duration::from_secs(10);
    wait_for("the reservation was given back", soon, async || crawl.number(reserved).await == 0).await;
    running.wait("the page ended", "SELECT count(*) FROM url_queue WHERE status = 'cancelled'").await;
    let crawl = running.stop().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ cancelled 0 cancelled"]);
}

#[tokio::test]
async fn a_robots_file_at_an_address_that_pages_may_not_reach_is_not_asked_for() {
    let forbidden = AnsweringSite::at("127.0.0.2", |_, _| text("")).await;
    let inside = forbidden.url("/robots.txt");
    let leads_there = AnsweringSite::start(move |_, _| redirect(&inside)).await;
    let starts = [forbidden.url("/"), leads_there.url("/")];
    let running = Running::start(&obeying(&starts), driver(&starts), TIMES).await;
    let waiting = "SELECT (count(*) = 2)::int::int8 FROM url_queue
        WHERE status = 'pending' AND attempt = 1 AND error_class = 'robots_unreachable'
          AND error LIKE '%(the address is not allowed)%'";
    running.wait("both pages wait", waiting).await;
    assert!(running.driver.loads().is_empty());
    assert!(forbidden.requests().is_empty());
    assert_eq!(leads_there.asked_for("/robots.txt"), 1);
    running.stop().await;
}
