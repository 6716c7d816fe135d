//! How pages and nodes end, and what becomes of the crawl then.

use std::collections::BTreeSet;
use std::time::Duration;

use crawlify_shared::config::LeaseTimes;
use crawlify_worker::chrome::driver::Input;
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use harness::crawl::{Crawl, NO_LIMITS};
use harness::wait::wait_for;
use serde_json::{Value, json};

use super::{ENDED, NODES, PAGES, Running, TIMES, WITHIN, extract, links, page, shop, workflow};

fn optional(mut node: Value) -> Value {
    node["optional"] = json!(true);
    node
}

async fn status(crawl: &harness::crawl::Crawl) -> Vec<String> {
    crawl.texts("SELECT concat_ws(' ', status, error) FROM workflow_executions").await
}

#[tokio::test]
async fn a_site_is_crawled_to_its_end_each_page_once() {
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1", "2", "/1#top", "mailto:a@shop.test"])])
        .with_page("http://shop.test/1", [page(&["/", "/2"])])
        .with_page("http://shop.test/2", [page(&["/3"])])
        .with_page("http://shop.test/3", [page(&[])]);
    let running = Running::start(&shop(), driver, TIMES).await;
    let driver = running.driver.clone();
    let crawl = running.end().await;
    assert_eq!(status(&crawl).await, ["completed"]);
    assert_eq!(
        crawl.texts(PAGES).await,
        ["/ completed 1", "/1 completed 1", "/2 completed 1", "/3 completed 1"]
    );
    assert_eq!(driver.loads().len(), 4);
    let nodes: Vec<_> = ["/", "/1", "/2", "/3"]
        .iter()
        .flat_map(|page| [format!("{page} links completed"), format!("{page} title completed")])
        .collect();
    assert_eq!(crawl.texts(NODES).await, nodes);
    let items = "SELECT url || ' ' || (data->>'title') FROM extracted_items ORDER BY 1";
    assert_eq!(crawl.texts(items).await.len(), 4);
    assert_eq!(crawl.texts(items).await[3], "http://shop.test/3 the h1");
    let depths =
        "SELECT concat_ws(' ', replace(url, 'http://shop.test', ''), depth) FROM url_queue ORDER BY 1";
    assert_eq!(crawl.texts(depths).await, ["/ 0", "/1 1", "/2 1", "/3 2"]);
}

#[tokio::test]
async fn a_failed_node_cancels_what_follows_it_in_its_phase_and_the_other_phase_runs() {
    let config = workflow(
        json!([links("first", "a"), links("broken", "missing"), links("never", "a")]),
        json!([extract("title", "h1"), optional(extract("extra", "missing")), extract("price", "p")]),
    );
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1"])])
        .with_page("http://shop.test/1", [page(&[])]);
    let crawl = Running::start(&config, driver, TIMES).await.end().await;
    assert_eq!(
        crawl.texts(NODES).await[..6],
        [
            "/ first completed",
            "/ broken failed selector_missing",
            "/ never cancelled cancelled",
            "/ title completed",
            "/ extra failed selector_missing",
            "/ price completed",
        ]
    );
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/1 completed 1"], "what was found before counts");
    assert_eq!(crawl.number("SELECT min(failed_nodes)::int8 FROM url_queue").await, 2);
    assert_eq!(
        crawl.texts("SELECT data::text FROM extracted_items LIMIT 1").await,
        ["{\"price\": \"the p\", \"title\": \"the h1\"}"]
    );
}

#[tokio::test]
async fn what_is_done_to_a_page_stands_between_what_is_read_before_and_after_and_makes_it_a_page_of_a_tab() {
    let click = |selector: &str| json!({"id": "more", "type": "click", "params": {"selector": selector}, "output_key": "x"});
    for (selector, more, after) in
        [("button", "completed", "completed"), ("missing", "failed selector_missing", "cancelled cancelled")]
    {
        let mut config =
            workflow(json!([links("first", "a"), click(selector), links("rest", "a")]), json!([]));
        config["render"] = json!("static");
        let driver = FakeDriver::new().with_page("http://shop.test/", [page(&[])]);
        let running = Running::start(&config, driver, TIMES).await;
        let driver = running.driver.clone();
        let crawl = running.end().await;
        let expected = ["/ first completed".to_owned(), format!("/ more {more}"), format!("/ rest {after}")];
        assert_eq!(crawl.texts(NODES).await, expected);
        assert_eq!(driver.loads().len(), 1, "no page is read as it comes");
        let output =
            "SELECT output::text FROM node_executions WHERE node_id = 'more' AND status = 'completed'";
        let (inputs, outputs) = (driver.inputs(), crawl.texts(output).await);
        if more == "completed" {
            assert_eq!(
                (inputs, outputs),
                (vec![Input::Click(0.0, 0.0)], vec!["{\"clicked\": \"button\"}".to_owned()])
            );
        } else {
            assert!(inputs.is_empty() && outputs.is_empty(), "{inputs:?}");
        }
        assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 0, "it is no value");
    }
}

#[tokio::test]
async fn a_click_that_leads_to_an_error_fails_the_page_and_nothing_is_read_there() {
    let click = json!({"id": "more", "type": "click", "params": {"selector": "button"}, "optional": true});
    let config =
        workflow(json!([links("first", "a"), click, links("rest", "a")]), json!([extract("title", "h1")]));
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1"])])
        .leading_to("http://shop.test/gone", 404);
    let crawl = Running::start(&config, driver, TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ failed 1 http_4xx"]);
    let expected = [
        "/ first completed",
        "/ more failed http_4xx",
        "/ rest cancelled cancelled",
        "/ title cancelled cancelled",
    ];
    assert_eq!(crawl.texts(NODES).await, expected);
    let error = "SELECT error FROM url_queue";
    let why = "it led to http://shop.test/gone: the server answered with HTTP status 404";
    assert_eq!(crawl.texts(error).await, [why]);
    assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 0);
}

#[tokio::test]
async fn where_a_click_leads_links_are_resolved() {
    let click = json!({"id": "more", "type": "click", "params": {"selector": "button"}});
    let mut config = workflow(json!([links("first", "a"), click, links("rest", "a")]), json!([]));
    config["max_depth"] = json!(1);
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["1"])])
        .with_page("http://shop.test/1", [page(&[])])
        .with_page("http://shop.test/deep/1", [page(&[])])
        .leading_to("http://shop.test/deep/", 200);
    let crawl = Running::start(&config, driver, TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/1 completed 1", "/deep/1 completed 1"]);
    let final_url = "SELECT final_url FROM url_queue WHERE depth = 0";
    assert_eq!(crawl.texts(final_url).await, ["http://shop.test/deep/"]);
}

#[tokio::test]
async fn a_filter_holds_although_a_node_before_it_failed() {
    let filter = json!({"id": "filter", "type": "filter_urls", "params": {"same_domain": true}});
    let config = workflow(json!([links("links", "a"), links("broken", "missing"), filter]), json!([]));
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1", "http://elsewhere.test/"])])
        .with_page("http://shop.test/1", [page(&[])]);
    let crawl = Running::start(&config, driver, TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/1 completed 1"]);
    assert_eq!(
        crawl.texts(NODES).await[..3],
        ["/ links completed", "/ broken failed selector_missing", "/ filter cancelled cancelled"]
    );
}

#[tokio::test]
async fn a_page_that_does_not_exist_fails_without_another_attempt() {
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/gone"])])
        .with_page("http://shop.test/gone", [FakePage::with_status(404)]);
    let crawl = Running::start(&shop(), driver, TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/gone failed 1 http_4xx"]);
    assert_eq!(status(&crawl).await, ["completed"]);
}

#[tokio::test]
async fn a_server_that_is_down_is_asked_four_times_later_each_time() {
    // Each pause is written down with what begins it: on a busy machine it may be over before anybody looks.
    const NOTED: &str = "CREATE TABLE pauses (attempt int, ms int8);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO pauses VALUES (NEW.attempt, (EXTRACT(EPOCH FROM NEW.not_before - now()) * 1000)::int8);
            RETURN NULL;
        END $$;
        CREATE TRIGGER note AFTER UPDATE ON url_queue FOR EACH ROW
            WHEN (OLD.status = 'processing' AND NEW.status = 'pending') EXECUTE FUNCTION note();";
    let driver = FakeDriver::new().with_page("http://shop.test/", [FakePage::with_status(500)]);
    let crawl = Crawl::of(&shop(), NO_LIMITS, &["http://shop.test/"]).await;
    crawl.change(NOTED).await;
    let running = Running::of(crawl, driver, TIMES).await;
    // They are not waited for.
    wait_for("the execution ended", 2 * WITHIN, async || {
        running.crawl.change("UPDATE url_queue SET not_before = now() WHERE status = 'pending'").await;
        running.crawl.number(ENDED).await != 0
    })
    .await;
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ failed 4 http_5xx"]);
    let pauses: Vec<(i32, i64)> =
        sqlx::query_as("SELECT * FROM pauses ORDER BY attempt").fetch_all(&crawl.pool).await.unwrap();
    let attempts: Vec<i32> = pauses.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    // Twice as long each time, and half as much more or less: the third is always longer than the first.
    let within =
        |(attempt, ms): &(i32, i64)| (500_i64 << (attempt - 1)..=1_500 << (attempt - 1)).contains(ms);
    assert!(pauses.iter().all(within), "{pauses:?}");
    let error = "failed no page could be loaded: the server answered with HTTP status 500";
    assert_eq!(status(&crawl).await, [error]);
    assert_eq!(crawl.number("SELECT retried FROM page_counters").await, 3);
}

#[tokio::test]
async fn a_server_that_recovers_is_crawled() {
    let loads = [FakePage::with_status(503), page(&[])];
    let driver = FakeDriver::new().with_page("http://shop.test/", loads);
    let crawl = Running::start(&shop(), driver, TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 2"]);
    assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 1);
}

#[tokio::test]
async fn a_panic_costs_one_attempt_of_one_page_and_the_worker_lives() {
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/panics", "/fine"])])
        .with_page("http://shop.test/panics", [FakePage::Panics, page(&[])])
        .with_page("http://shop.test/fine", [page(&[])]);
    let crawl = Running::start(&shop(), driver, TIMES).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/fine completed 1", "/panics completed 2"]);
}

#[tokio::test]
async fn a_page_that_hangs_ends_at_its_deadline() {
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/hangs"])])
        .with_page("http://shop.test/hangs", [FakePage::Hangs]);
    let times = LeaseTimes { page_deadline: Duration::from_millis(300), ..TIMES };
    let crawl = Crawl::of(&shop(), NO_LIMITS, &["http://shop.test/", "http://shop.test/hangs"]).await;
    // It is tried once more, and then no more.
    crawl.change("UPDATE url_queue SET site_faults = 2 WHERE url LIKE '%/hangs'").await;
    let crawl = Running::of(crawl, driver, times).await.end().await;
    assert_eq!(crawl.texts(PAGES).await, ["/ completed 1", "/hangs failed 2 nav_timeout"]);
}

#[tokio::test]
async fn pages_that_ignore_their_deadline_are_stopped_by_force_and_their_slots_go_to_others() {
    // More than the worker takes at once: the last are loaded only in slots that the first had.
    let paths = ["/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8"];
    let mut driver = FakeDriver::new().with_page("http://shop.test/", [page(&paths)]);
    for (place, path) in paths.into_iter().enumerate() {
        let deaf = if place % 2 == 0 { FakePage::NeverEnds } else { FakePage::NeverEndsRun };
        driver = driver.with_page(&format!("http://shop.test{path}"), [deaf, page(&[])]);
    }
    let times = LeaseTimes { page_deadline: Duration::from_millis(300), ..TIMES };
    let running = Running::start(&shop(), driver, times).await;
    let stopped = "SELECT (count(*) = 8)::int::int8 FROM url_queue WHERE site_faults = 1";
    let why = "SELECT DISTINCT concat_ws(' ', error_class, error) FROM url_queue WHERE error IS NOT NULL";
    let said = "nav_timeout it went on 10 s after its deadline, and was stopped by force";
    let mut reasons = BTreeSet::new();
    // Four at a time, ten seconds each. What is said of a page is gone when it is tried again.
    wait_for("all of them were stopped", 2 * WITHIN, async || {
        reasons.extend(running.crawl.texts(why).await);
        running.crawl.number(stopped).await != 0
    })
    .await;
    assert_eq!(reasons.iter().collect::<Vec<_>>(), [said]);
    running.crawl.change("UPDATE url_queue SET not_before = now() WHERE status = 'pending'").await;
    running.wait("the execution ended", ENDED).await;
    running.assert_exported("crawlify_pages_overdue_total 8");
    let crawl = running.stop().await;
    let ends = "SELECT DISTINCT concat_ws(' ', status, attempt, site_faults) FROM url_queue WHERE depth = 1";
    assert_eq!(crawl.texts(ends).await, ["completed 2 1"]);
}

#[tokio::test]
async fn a_redirect_makes_no_foreign_site_the_own_one_except_at_the_start() {
    let elsewhere = |url: &str, links: &[&str]| match page(links) {
        FakePage::Loads { status, answer, .. } => {
            FakePage::Loads { final_url: Some(url.parse().unwrap()), status, answer }
        }
        other => other,
    };
    let filter = json!({"id": "filter", "type": "filter_urls", "params": {"same_domain": true}});
    let config = workflow(json!([links("links", "a"), filter]), json!([]));
    let driver = FakeDriver::new()
        .with_page(
            "http://shop.test/",
            [elsewhere("http://www.shop.test/", &["/in", "http://shop.test/out"])],
        )
        .with_page("http://www.shop.test/in", [page(&[])])
        .with_page(
            "http://shop.test/out",
            [elsewhere("http://foreign.test/", &["/1", "http://shop.test/back"])],
        )
        .with_page("http://shop.test/back", [page(&[])]);
    let crawl = Running::start(&config, driver, TIMES).await.end().await;
    let urls = crawl.texts("SELECT url FROM url_queue ORDER BY url").await;
    let expected =
        ["http://shop.test/", "http://shop.test/back", "http://shop.test/out", "http://www.shop.test/in"];
    assert_eq!(urls, expected);
}
