//! Pages whose data Postgres refuses although they were cleaned: they fail alone.

use crawlify_worker::chrome::fake::FakeDriver;
use harness::wait::wait_for;

use super::{PAGES, Running, TIMES, WITHIN, page, shop};

/// Postgres refuses the items of these pages, with the class of errors that bad data have.
const REFUSED_ITEMS: &str = "
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused by the test' USING ERRCODE = '22P05'; END $$;
CREATE TRIGGER refused BEFORE INSERT ON extracted_items
    FOR EACH ROW WHEN (NEW.url LIKE '%/bad%') EXECUTE FUNCTION refuse();";

/// It refuses one of the pages without its item as well.
const REFUSED_PAGE: &str = "
CREATE TRIGGER refused BEFORE UPDATE ON url_queue
    FOR EACH ROW WHEN (NEW.url LIKE '%/bad1' AND NEW.error_class = 'internal') EXECUTE FUNCTION refuse();";

/// A shop with six good and two bad pages: as many as the worker holds at once.
async fn running() -> Running {
    let mut paths: Vec<_> = (0..6).map(|number| format!("/good{number}")).collect();
    paths.splice(4..4, ["/bad1".to_owned(), "/bad2".to_owned()]);
    let mut driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&paths.iter().map(String::as_str).collect::<Vec<_>>())]);
    for path in &paths {
        driver = driver.with_page(&format!("http://shop.test{path}"), [page(&[])]);
    }
    driver.set_ready(false);
    Running::start(&shop(), driver, TIMES).await
}

#[tokio::test]
async fn a_page_whose_data_are_refused_fails_alone() {
    let running = running().await;
    running.crawl.change(REFUSED_ITEMS).await;
    running.driver.set_ready(true);
    let crawl = running.end().await;
    let pages = crawl.texts(PAGES).await;
    assert_eq!(pages[1..3], ["/bad1 failed 1 internal", "/bad2 failed 1 internal"]);
    assert_eq!(pages.iter().filter(|page| page.contains("completed 1")).count(), 7);
    assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 7);
}

#[tokio::test]
async fn a_group_of_which_one_page_is_refused_is_recorded_without_it() {
    let running = running().await;
    running.crawl.change(REFUSED_ITEMS).await;
    running.driver.set_ready(true);
    running.wait("the links are there", "SELECT count(*) FROM url_queue WHERE parent_id IS NOT NULL").await;
    // While the counters are locked, pages that have ended wait for one another and are recorded together.
    let mut lock = running.crawl.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM page_counters FOR UPDATE").execute(&mut *lock).await.unwrap();
    running.loaded(9).await;
    lock.rollback().await.unwrap();
    let crawl = running.end().await;
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE status = 'failed'").await, 2);
    assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 7);
}

#[tokio::test]
async fn a_page_that_is_refused_without_its_data_as_well_does_not_stop_the_others() {
    let running = running().await;
    running.crawl.change(REFUSED_ITEMS).await;
    running.crawl.change(REFUSED_PAGE).await;
    running.driver.set_ready(true);
    let others = "SELECT count(*) FROM url_queue WHERE status IN ('completed', 'failed')";
    wait_for("the others were recorded", WITHIN, async || running.crawl.number(others).await == 8).await;
    // As if it had been lost twice before, and been alone this time.
    let alone = "UPDATE workers
        SET (alone_with, alone_epoch) = (SELECT id, epoch FROM url_queue WHERE status = 'processing')";
    running.crawl.change(alone).await;
    running
        .crawl
        .change("UPDATE url_queue SET worker_faults = 2, locked_until = now() WHERE status = 'processing'")
        .await;
    let crawl = running.end().await;
    assert_eq!(crawl.texts(PAGES).await[1], "/bad1 failed 1 poison");
}
