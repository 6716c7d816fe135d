//! A database that refuses statements for a while, ends connections, is slow, or is stopped: the worker and the
//! coordinator go on until it is well again. Nothing is lost, nothing is recorded twice, and no page is charged for it.
//!
//! Faults are triggers. They count in a sequence: a counter in a row would be rolled back with the statement that fails.

use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_shared::config::LeaseTimes;
use crawlify_worker::chrome::fake::FakeDriver;
use harness::crawl::{Crawl, NO_LIMITS};
use harness::postgres::TestDatabase;
use harness::wait::wait_for;
use serde_json::json;

use super::{ENDED, Running, TIMES, WITHIN, extract, links, page, shop, workflow};

/// Pages beside the first one.
const PAGES: usize = 24;
/// What becomes of the pages; and faults that were counted against them.
const UNHARMED: &str = "SELECT concat_ws(' ', count(*), status, attempt,
        sum(charged + site_faults + rate_limit_faults + unavailable_faults + proxy_faults + browser_faults + worker_faults)) FROM url_queue GROUP BY status, attempt";
/// The pages that have not each node of the workflow once, and one item.
const NOT_ONCE: &str = "SELECT url FROM url_queue q
    WHERE (SELECT count(*) FROM node_records n WHERE n.page_id = q.id) <> (SELECT count(*) FROM node_definitions)
        OR (SELECT count(*) FROM extracted_items i WHERE i.page_id = q.id) <> 1";

/// The failures of a server that is busy, full, stopping, starting, or a replica for a moment: serialisation, deadlock, disk
/// full, too many connections, shutdown, not yet started, read-only, cancelled statement, lock not available.
const PASSING: &str = "
CREATE SEQUENCE faults;
CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    codes text[] := ARRAY['40001', '40P01', '53100', '53300', '57P01', '57P03', '25006', '57014', '55P03'];
    number int := nextval('faults');
BEGIN
    IF number <= 2 * cardinality(codes) THEN
        RAISE EXCEPTION 'raised by the test' USING ERRCODE = codes[1 + number % cardinality(codes)];
    END IF;
    RETURN NULL;
END $$;";

/// The server ends the connection of whoever writes.
const ENDING: &str = "
CREATE SEQUENCE faults;
CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('faults') <= 5 THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
        PERFORM pg_sleep(10);
    END IF;
    RETURN NULL;
END $$;";

/// Whoever reads a workflow may not, as after a failover to a server whose roles are not those of the old one.
const FORBIDDING: &str = "
CREATE SEQUENCE faults;
CREATE FUNCTION may_read() RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('faults');
    RAISE EXCEPTION 'raised by the test' USING ERRCODE = '42501';
END $$;
ALTER TABLE workflow_versions RENAME TO versions;
CREATE VIEW workflow_versions AS SELECT * FROM versions WHERE may_read();";
const ALLOWING: &str = "CREATE OR REPLACE FUNCTION may_read() RETURNS bool LANGUAGE sql AS 'SELECT true'";

/// Whatever is written there is refused until the test has seen enough, as by a trigger of the user's own.
const REFUSING: &str = "
CREATE SEQUENCE faults;
CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('faults');
    RAISE EXCEPTION 'raised by the test';
END $$;";

/// Every statement takes two seconds; one with several writes, too.
const SLOW: &str = "
CREATE SEQUENCE faults;
CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('test.slept_in', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
        PERFORM set_config('test.slept_in', pg_current_xact_id()::text, false), pg_sleep(2), nextval('faults');
    END IF;
    RETURN NULL;
END $$;";

const ON_RECORDS: &str =
    "CREATE TRIGGER fault BEFORE INSERT ON node_records FOR EACH STATEMENT EXECUTE FUNCTION fault();";
const ON_ITEMS: &str =
    "CREATE TRIGGER fault BEFORE INSERT ON extracted_items FOR EACH STATEMENT EXECUTE FUNCTION fault();";
/// Claims, records, links, and what dispatcher, rescuer and finisher write.
const ON_PAGES: &str =
    "CREATE TRIGGER fault BEFORE INSERT OR UPDATE ON url_queue FOR EACH STATEMENT EXECUTE FUNCTION fault();";
const ON_WORKERS: &str =
    "CREATE TRIGGER fault BEFORE UPDATE ON workers FOR EACH STATEMENT EXECUTE FUNCTION fault();";

/// A shop whose first page links to all others, of which half link back and to each other.
fn driver() -> FakeDriver {
    let path = |number: usize| format!("/{number}");
    let all: Vec<_> = (0..PAGES).map(path).collect();
    let mut driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&all.iter().map(String::as_str).collect::<Vec<_>>())]);
    for number in 0..PAGES {
        let links = [path((number + 1) % PAGES), "/".to_owned()];
        let links: Vec<_> = links.iter().map(String::as_str).take(number % 2 * 2).collect();
        driver = driver.with_page(&format!("http://shop.test{}", path(number)), [page(&links)]);
    }
    driver
}

/// A crawl that waits for its browser, with faults to come.
async fn running(faults: &[&'static str], times: LeaseTimes) -> Running {
    let driver = driver();
    driver.set_ready(false);
    let running = Running::start(&shop(), driver, times).await;
    running.wait("the worker has announced itself", "SELECT count(*) FROM workers").await;
    for fault in faults {
        running.crawl.change(fault).await;
    }
    running
}

async fn assert_every_page_is_recorded_once_and_unharmed(crawl: &Crawl) {
    assert_eq!(crawl.texts(UNHARMED).await, [format!("{} completed 1 0", PAGES + 1)]);
    assert_eq!(crawl.texts(NOT_ONCE).await, [""; 0]);
}

#[tokio::test]
async fn dispatches_claims_and_records_that_fail_again_and_again_cost_no_page_anything() {
    let running = running(&[PASSING, ON_PAGES, ON_RECORDS, ON_ITEMS], TIMES).await;
    running.driver.set_ready(true);
    let crawl = running.end().await;
    assert!(crawl.number("SELECT last_value FROM faults").await > 18, "every fault was met");
    assert_every_page_is_recorded_once_and_unharmed(&crawl).await;
}

#[tokio::test]
async fn connections_that_the_server_ends_in_the_middle_of_a_statement_cost_no_page_anything() {
    let running = running(&[ENDING, ON_PAGES, ON_RECORDS], TIMES).await;
    running.driver.set_ready(true);
    let crawl = running.end().await;
    assert!(crawl.number("SELECT last_value FROM faults").await > 5, "every fault was met");
    assert_every_page_is_recorded_once_and_unharmed(&crawl).await;
}

#[tokio::test]
async fn workflows_that_may_not_be_read_for_a_while_cost_no_page_anything() {
    // More often than a page is tried, and for longer than it waits before it goes back.
    let refused = "SELECT (last_value > 24)::int::int8 FROM faults";
    let running = running(&[FORBIDDING], TIMES).await;
    running.driver.set_ready(true);
    running.wait("the worker was refused again and again", refused).await;
    running.crawl.change(ALLOWING).await;
    let crawl = running.end().await;
    assert_every_page_is_recorded_once_and_unharmed(&crawl).await;
}

/// Waits until the rescuer has looked at everything once more: a worker that is silent is given up by its next look, and all
/// that this one does is done when the one after it gives up another.
async fn rescuer_looks(crawl: &Crawl) {
    const COMES: &str = "INSERT INTO workers (id, name, slots, heartbeat_at)
        VALUES (gen_random_uuid(), 'silent', 1, now() - interval '1 hour')";
    const IS_THERE: &str = "SELECT count(*) FROM workers WHERE name = 'silent' AND status <> 'lost'";
    for _ in 0..2 {
        crawl.change(COMES).await;
        wait_for("a silent worker is given up", WITHIN, async || crawl.number(IS_THERE).await == 0).await;
    }
}

#[tokio::test]
async fn records_that_are_refused_for_longer_than_four_leases_cost_no_page_anything() {
    const URLS: [&str; 4] =
        ["http://shop.test/", "http://shop.test/1", "http://shop.test/2", "http://shop.test/3"];
    const NAMED: &str =
        "SELECT (count(*) = 4)::int::int8 FROM url_queue q JOIN workers w ON w.id = q.locked_by
        WHERE q.status = 'processing' AND concat_ws('/', q.id, q.epoch, q.attempt) = ANY (w.unrecorded)";
    const LEASES_END: &str =
        "UPDATE url_queue SET locked_until = now() - interval '1 second' WHERE status = 'processing'";
    const NONE_IS_NAMED: &str = "SELECT count(*) FROM workers WHERE status = 'ready' AND unrecorded IS NULL";
    let driver = URLS.iter().fold(FakeDriver::new(), |driver, url| driver.with_page(url, [page(&[])]));
    driver.set_ready(false);
    let running = Running::of(Crawl::of(&shop(), NO_LIMITS, &URLS).await, driver, TIMES).await;
    for fault in [REFUSING, ON_ITEMS] {
        running.crawl.change(fault).await;
    }
    running.driver.set_ready(true);
    running.wait("every page has been executed, and waits", NAMED).await;
    for _ in 0..4 {
        // Whoever took a page away would have given it to the worker anew.
        running.crawl.change(LEASES_END).await;
        rescuer_looks(&running.crawl).await;
        assert_eq!(running.crawl.texts(UNHARMED).await, ["4 processing 1 0"]);
    }
    let refused = running.crawl.number("SELECT last_value FROM faults").await;
    running.crawl.change("DROP FUNCTION fault CASCADE").await;
    running.wait("no page waits any more", NONE_IS_NAMED).await;
    let loads = running.driver.loads().len();
    let crawl = running.end().await;
    assert_eq!(loads, URLS.len(), "each page was executed once");
    assert!(refused > 4, "it was tried again and again");
    assert_eq!(crawl.texts(UNHARMED).await, ["4 completed 1 0"]);
    assert_eq!(crawl.texts(NOT_ONCE).await, [""; 0]);
    assert_eq!(crawl.number("SELECT count(*) FROM lost_attempts").await, 0);
}

#[tokio::test]
async fn a_database_that_takes_seconds_for_each_statement_is_waited_for_and_costs_no_lease() {
    // What a worker of four slots may hold: prefetched for its slots, and waiting to be recorded.
    const IN_HAND: i64 = 12;
    let running = running(&[SLOW, ON_PAGES, ON_RECORDS, ON_WORKERS], LeaseTimes::default()).await;
    running.driver.set_ready(true);
    let recorded = "SELECT count(*) FROM url_queue WHERE status = 'completed'";
    wait_for("the execution ended", 3 * WITHIN, async || {
        // Counted in this order, so that what happens in between makes the difference smaller.
        let loaded = running.driver.loads().len() as i64;
        let recorded = running.crawl.number(recorded).await;
        assert!(loaded <= recorded + IN_HAND, "{loaded} pages were loaded when {recorded} were recorded");
        running.crawl.number(ENDED).await != 0
    })
    .await;
    assert_eq!(running.crawl.number("SELECT count(*) FROM workers WHERE status <> 'ready'").await, 0);
    let loads = running.driver.loads().len();
    running.crawl.change("DROP FUNCTION fault CASCADE").await;
    let crawl = running.stop().await;
    assert_eq!(loads, PAGES + 1, "each page was loaded once");
    assert!(crawl.number("SELECT last_value FROM faults").await >= 6, "statements were slow");
    assert_every_page_is_recorded_once_and_unharmed(&crawl).await;
}

#[tokio::test]
async fn a_database_that_is_stopped_at_once_again_and_again_ends_with_the_same_pages() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { data_dir: Some(folder.path().join("data")), ..Options::default() };
    let mut postgres = PrivatePostgres::start(&options).await.unwrap();
    let database = TestDatabase::on(&postgres.url()).await;
    let pause = json!({"id": "pause", "type": "wait", "params": {"duration": 400}});
    let config = workflow(json!([pause, links("links", "a")]), json!([extract("title", "h1")]));
    let crawl = Crawl::on(database, &config, NO_LIMITS, &["http://shop.test/"]).await;
    let running = Running::of(crawl, driver(), TIMES).await;
    for loaded in [2, 8, 16] {
        running.loaded(loaded).await;
        // Dropping it is an immediate shutdown: no checkpoint is written, and the next start recovers from the log.
        drop(postgres);
        postgres = PrivatePostgres::start(&options).await.unwrap();
        let answers = async || sqlx::query("SELECT 1").execute(&running.crawl.pool).await.is_ok();
        wait_for("the database is back", WITHIN, answers).await;
    }
    let crawl = running.end().await;
    assert_every_page_is_recorded_once_and_unharmed(&crawl).await;
    drop(crawl);
    postgres.stop().await;
}
