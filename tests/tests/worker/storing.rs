//! Pages whose data Postgres refuses although they were cleaned, or whose records it never takes while it takes others: they
//! fail alone.

use crawlify_worker::chrome::fake::FakeDriver;
use harness::crawl::NO_LIMITS;
use harness::wait::wait_for;

use super::{PAGES, Running, TIMES, WITHIN, page, shop};

/// Postgres refuses the items of these pages, with the class of errors that bad data have.
const REFUSED_ITEMS: &str = "
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused by the test' USING ERRCODE = '22P05'; END $$;
CREATE TRIGGER refused BEFORE INSERT ON extracted_items
    FOR EACH ROW WHEN (NEW.url LIKE '%/bad%') EXECUTE FUNCTION refuse();";

/// The same by a trigger of the user's own, which says nothing of the data: it might as well refuse everything.
const REFUSED_BY_A_TRIGGER: &str = "
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused by the test'; END $$;
CREATE TRIGGER refused BEFORE INSERT ON extracted_items
    FOR EACH ROW WHEN (NEW.url LIKE '%/bad%') EXECUTE FUNCTION refuse();";

/// It refuses one of the pages without its item as well.
const REFUSED_PAGE: &str = "
CREATE TRIGGER refused BEFORE UPDATE ON url_queue
    FOR EACH ROW WHEN (NEW.url LIKE '%/bad1' AND NEW.error_class = 'internal') EXECUTE FUNCTION refuse();";

/// A page that later executions begin with.
const LATER: &str = "http://shop.test/later";

/// A shop with six good and two bad pages: as many as the worker holds at once.
async fn running() -> Running {
    let mut paths: Vec<_> = (0..6).map(|number| format!("/good{number}")).collect();
    paths.splice(4..4, ["/bad1".to_owned(), "/bad2".to_owned()]);
    let mut driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&paths.iter().map(String::as_str).collect::<Vec<_>>())]);
    for path in &paths {
        driver = driver.with_page(&format!("http://shop.test{path}"), [page(&[])]);
    }
    driver = driver.with_page(LATER, [page(&[])]);
    driver.set_ready(false);
    Running::start(&shop(), driver, TIMES).await
}

/// Lets the shop's pages end while the counters are locked: so they wait for one another and are recorded together.
async fn record_together(running: &Running) {
    running.wait("the links are there", "SELECT count(*) FROM url_queue WHERE parent_id IS NOT NULL").await;
    let mut lock = running.crawl.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM page_counters FOR UPDATE").execute(&mut *lock).await.unwrap();
    running.loaded(9).await;
    lock.rollback().await.unwrap();
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
    record_together(&running).await;
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
    let overdue = "UPDATE url_queue SET worker_faults = 2, locked_until = now() WHERE status = 'processing'";
    // The coordinator, which has just been started, has leases begin anew.
    wait_for("the execution ended", WITHIN, async || {
        running.crawl.change(overdue).await;
        running.crawl.number(super::ENDED).await != 0
    })
    .await;
    let crawl = running.stop().await;
    assert_eq!(crawl.texts(PAGES).await[1], "/bad1 failed 1 poison");
}

#[tokio::test]
async fn pages_whose_records_alone_are_never_taken_fail_and_keep_nobody_waiting() {
    const FAILED: &str = "SELECT count(*) FROM url_queue WHERE status = 'failed'";
    const ERRORS: &str = "SELECT DISTINCT error FROM url_queue WHERE status = 'failed'";
    const LATER_ONES: &str =
        "SELECT count(*) FROM url_queue WHERE url LIKE '%/later' AND status = 'completed'";
    const RUNNING: &str = "SELECT count(*) FROM workflow_executions WHERE status = 'running'";
    let running = running().await;
    running.crawl.change(REFUSED_BY_A_TRIGGER).await;
    running.driver.set_ready(true);
    record_together(&running).await;
    // Those two are told by what is taken beside them, so there has to be something.
    let mut later = 0;
    wait_for("both bad pages have failed", 4 * WITHIN, async || {
        if running.crawl.number(FAILED).await == 2 {
            return true;
        }
        later += 1;
        running.crawl.another_of(&shop(), NO_LIMITS, &[LATER]).await;
        let is_recorded = async || running.crawl.number(LATER_ONES).await == later;
        wait_for("a page that came later is recorded", WITHIN, is_recorded).await;
        false
    })
    .await;
    wait_for("every execution has ended", WITHIN, async || running.crawl.number(RUNNING).await == 0).await;
    let crawl = running.stop().await;
    assert!(later >= 3, "they were compared with {later} others");
    let said = "the page's data could not be stored: refused by the test (P0001)";
    assert_eq!(crawl.texts(ERRORS).await, [said]);
    assert_eq!(crawl.texts(PAGES).await[1..3], ["/bad1 failed 1 internal", "/bad2 failed 1 internal"]);
    assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 7 + later);
    let charged = "SELECT count(*) FROM url_queue WHERE attempt <> 1 OR worker_faults > 0";
    assert_eq!(crawl.number(charged).await, 0);
}
