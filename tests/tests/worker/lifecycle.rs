//! Starting to consume, draining, and messages that come more than once.

use crawlify_shared::broker::Broker;
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::telemetry;
use crawlify_worker::chrome::driver::TabError;
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use harness::crawl::NO_LIMITS;
use harness::held_port::HeldPort;
use harness::wait::wait_for;
use serde_json::json;

use super::{ENDED, PAGES, Running, TIMES, WITHIN, extract, page, shop, workflow};

#[tokio::test]
async fn nothing_is_consumed_while_there_is_no_browser() {
    let driver = FakeDriver::new().with_page("http://shop.test/", [page(&[])]);
    driver.set_ready(false);
    let running = Running::start(&shop(), driver, TIMES).await;
    running.wait("the page was published", "SELECT count(*) FROM url_queue WHERE status = 'queued'").await;
    let alive = "SELECT count(*) FROM workers WHERE heartbeat_at > started_at";
    running.wait("the worker has been alive for a while", alive).await;
    assert_eq!(running.crawl.texts(PAGES).await, ["/ queued 0"]);
    running.driver.set_ready(true);
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1"]);
}

#[tokio::test]
async fn a_page_for_which_no_tab_opens_goes_back_unharmed_until_one_does() {
    let driver = FakeDriver::new().with_page("http://shop.test/", [page(&[])]);
    // As often as a page may fail by its own fault.
    driver.set_not_opening(4);
    let running = Running::start(&shop(), driver, TIMES).await;
    running.wait("the execution ended", ENDED).await;
    assert_eq!((running.driver.not_opening(), running.driver.loads().len()), (0, 1));
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1"]);
    let faults = "SELECT sum(charged + site_faults + proxy_faults + browser_faults + worker_faults)::int8 FROM url_queue";
    assert_eq!(crawl.number(faults).await, 0);
}

#[tokio::test]
async fn a_browser_that_dies_costs_the_page_in_hand_one_attempt_and_the_others_none() {
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1", "/2"])])
        .with_page("http://shop.test/1", [FakePage::LosesBrowser, page(&[])])
        .with_page("http://shop.test/2", [page(&[])]);
    let running = Running::start(&shop(), driver, TIMES).await;
    let lost = "SELECT count(*) FROM url_queue WHERE url LIKE '%/1' AND error_class = 'browser_lost'";
    running.wait("the browser died", lost).await;
    // Long after the page's delay it still waits for a browser.
    running.crawl.change("UPDATE url_queue SET not_before = now()").await;
    let queued = "SELECT count(*) FROM url_queue WHERE url LIKE '%/1' AND status = 'queued'";
    running.wait("the page was published again", queued).await;
    running.driver.set_ready(true);
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await[1], "/1 completed 2");
}

#[tokio::test]
async fn a_page_that_loses_its_browser_again_and_again_is_quarantined_and_the_others_end() {
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/poison", "/fine"])])
        .with_page("http://shop.test/poison", [FakePage::LosesBrowser])
        .with_page("http://shop.test/fine", [page(&[])]);
    let running = Running::start(&shop(), driver, TIMES).await;
    wait_for("the execution ended", WITHIN, async || {
        // Nobody waits for the pause between two attempts, and a new browser is there at once.
        running.crawl.change("UPDATE url_queue SET not_before = now() WHERE status = 'pending'").await;
        running.driver.set_ready(true);
        running.crawl.number(ENDED).await != 0
    })
    .await;
    let crawl = running.end().await;
    // A page that was in the same browser is tried again, and what it shared with the other is not charged to it.
    let rows = "SELECT concat_ws(' ', split_part(url, '/', 4), status, charged + site_faults, error_class) FROM url_queue ORDER BY 1";
    assert_eq!(crawl.texts(rows).await, [" completed 0", "fine completed 0", "poison failed 0 poison"]);
    let evidence = crawl.store.quarantined_pages(crawl.execution, 10, 0).await.unwrap().remove(0);
    assert!(evidence.error.unwrap().starts_with("quarantined: 3 browsers were lost with the page in hand"));
    let losses: Vec<_> = evidence.losses.iter().map(|loss| (loss.attempt, loss.fault.as_str())).collect();
    assert_eq!(losses, [(1, "browser"), (2, "browser"), (3, "browser")]);
    assert!(evidence.losses.iter().all(|loss| loss.worker_id.is_some()));
}

#[tokio::test]
async fn a_dead_proxy_uses_up_none_of_a_pages_attempts() {
    let fails = |class, message: &str| {
        FakePage::Fails(TabError { failure: Failure::new(class, message), tab_usable: true })
    };
    let dead = || fails(ErrorClass::Proxy, "the proxy does not answer");
    let refused = || fails(ErrorClass::Connect, "connection refused");
    // More failures than a page has attempts; then the site is away for a while too.
    let mut loads: Vec<_> = (0..6).map(|_| dead()).collect();
    loads.extend([refused(), refused(), refused(), page(&[])]);
    let driver = FakeDriver::new().with_page("http://shop.test/", loads);
    let running = Running::start(&shop(), driver, TIMES).await;
    wait_for("the page was loaded", WITHIN, async || {
        running.crawl.change("UPDATE url_queue SET not_before = now() WHERE status = 'pending'").await;
        running.crawl.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await == 1
    })
    .await;
    let faults = "SELECT concat_ws(' ', attempt, charged, site_faults, proxy_faults) FROM url_queue";
    assert_eq!(running.end().await.texts(faults).await, ["10 0 3 6"]);
}

#[tokio::test]
async fn what_is_heard_through_an_executions_own_proxy_is_counted_against_no_host() {
    for (is_proxied, expected) in [(false, "1 t"), (true, "0 t")] {
        let driver = FakeDriver::new().with_page("http://shop.test/", [FakePage::with_status(503)]);
        let closed = HeldPort::take().unwrap();
        let mut config = shop();
        if is_proxied {
            let server = format!("http://127.0.0.1:{}", closed.number());
            config["proxy_config"] = json!({"enabled": true, "server": server});
        }
        let running = Running::start(&config, driver, TIMES).await;
        let refused = "SELECT count(*) FROM url_queue WHERE unavailable_faults > 0";
        running.wait("the page was refused", refused).await;
        let counted = "SELECT concat_ws(' ', refused, backoff_until > '-infinity') FROM hosts";
        assert_eq!(running.stop().await.texts(counted).await, [expected], "it is left alone");
    }
}

#[tokio::test]
async fn a_drain_lets_the_page_in_hand_end_and_takes_no_other() {
    let pause = json!({"id": "pause", "type": "wait", "params": {"duration": 600}});
    let config = workflow(json!([pause, super::links("links", "a")]), json!([extract("title", "h1")]));
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1"])])
        .with_page("http://shop.test/1", [page(&[])]);
    let running = Running::start(&config, driver, TIMES).await;
    running.loaded(1).await;
    running.stop_worker.cancel();
    tokio::time::timeout(WITHIN, running.worker.stopped()).await.expect("the worker stops");
    let crawl = &running.crawl;
    assert_eq!(crawl.texts(PAGES).await[0], "/ completed 1");
    assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 1);
    assert_eq!(crawl.texts("SELECT status FROM workers").await, ["stopped"]);
    assert_eq!(running.driver.loads().len(), 1);
}

#[tokio::test]
async fn a_page_that_outlasts_the_drain_is_given_back_uncharged_and_another_worker_takes_it() {
    let loads = [FakePage::Hangs, page(&[])];
    let driver = FakeDriver::new().with_page("http://shop.test/", loads);
    let mut running = Running::start(&shop(), driver, TIMES).await;
    running.loaded(1).await;
    running.stop_worker.cancel();
    tokio::time::timeout(WITHIN, running.worker.stopped()).await.expect("the worker stops");
    assert_eq!(running.driver.open_tabs(), 0);
    let uncharged = "SELECT count(*) FROM url_queue WHERE attempt = 0 AND epoch = 1 AND locked_by IS NULL";
    assert_eq!(running.crawl.number(uncharged).await, 1);
    running.stop_worker = tokio_util::sync::CancellationToken::new();
    let (url, stop) = (running.crawl.database.url(), &running.stop_worker);
    let registry = telemetry::registry();
    running.worker =
        super::start_worker(&url, &running.broker, &running.driver, TIMES, stop, &registry).await;
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1"]);
}

#[tokio::test]
async fn messages_that_come_again_and_messages_of_nothing_are_harmless() {
    let mut driver = FakeDriver::new().with_page("http://shop.test/last", [page(&[])]);
    let paths: Vec<_> = (0..20).map(|number| format!("/{number}")).collect();
    driver =
        driver.with_page("http://shop.test/", [page(&paths.iter().map(String::as_str).collect::<Vec<_>>())]);
    for path in &paths {
        driver = driver.with_page(&format!("http://shop.test{path}"), [page(&["/"])]);
    }
    let running = Running::start(&shop(), driver, TIMES).await;
    let messages = "SELECT concat_ws(' ', id, execution_id, epoch, url) FROM url_queue";
    wait_for("the execution ended", WITHIN, async || {
        for row in running.crawl.texts(messages).await {
            let columns: Vec<_> = row.split(' ').collect();
            let mut message = super::message(columns[3]);
            message.page_id.0 = columns[0].parse().unwrap();
            message.execution_id.0 = columns[1].parse().unwrap();
            for epoch in 0..2 {
                message.epoch = epoch;
                running.broker.publish(&[message.clone()]).await.unwrap();
            }
        }
        running.broker.publish(&[super::message("http://shop.test/")]).await.unwrap();
        running.crawl.number(ENDED).await != 0
    })
    .await;
    // Messages come in order: after this page the worker is through with all of them.
    running.crawl.another(NO_LIMITS, &["http://shop.test/last"]).await;
    let all_ended = "SELECT (count(*) = 0)::int::int8 FROM workflow_executions WHERE status = 'running'";
    running.wait("the other execution ended", all_ended).await;
    assert_eq!(running.driver.loads().len(), 22, "each page was fetched once");
    let crawl = running.stop().await;
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE attempt = 1").await, 22);
}
