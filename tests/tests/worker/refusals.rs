//! A Postgres that refuses statements for a while, with every class of error that passes: the same is tried again, and
//! nothing is lost, doubled or charged.

use crawlify_worker::chrome::fake::FakeDriver;

use super::{ENDED, Running, TIMES, page, shop};

/// Serialisation failure, deadlock, disk full, too many connections, shutdown by an administrator, start-up, read-only,
/// cancelled statement, lock not available.
const PASSING: [&str; 9] = ["40001", "40P01", "53100", "53300", "57P01", "57P03", "25006", "57014", "55P03"];

/// Refuses what `{table}` gets, the first times. The times are counted by a sequence, which no rollback takes back.
fn refusing(code: &str, when: &str) -> String {
    format!(
        "CREATE SEQUENCE refused;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
            IF nextval('refused') <= 2 THEN
                RAISE EXCEPTION 'refused by the test' USING ERRCODE = '{code}';
            END IF;
            RETURN NEW;
         END $$;
         CREATE TRIGGER refused {when} FOR EACH ROW EXECUTE FUNCTION refuse();"
    )
}

/// Crawls four pages while the database refuses something twice.
async fn crawl(code: &str, when: &str) {
    let driver = FakeDriver::new()
        .with_page("http://shop.test/", [page(&["/1", "/2", "/3"])])
        .with_page("http://shop.test/1", [page(&["/2"])])
        .with_page("http://shop.test/2", [page(&[])])
        .with_page("http://shop.test/3", [page(&[])]);
    driver.set_ready(false);
    let running = Running::start(&shop(), driver, TIMES).await;
    let refusing = sqlx::AssertSqlSafe(refusing(code, when));
    sqlx::raw_sql(refusing).execute(&running.crawl.pool).await.unwrap();
    running.driver.set_ready(true);
    running.wait("the execution ended", ENDED).await;
    let loads = running.driver.loads().len();
    let crawl = running.stop().await;
    assert!(crawl.number("SELECT last_value FROM refused").await > 2, "{code}: it was refused");
    assert_eq!(loads, 4, "{code}: each page was fetched once");
    let once = "SELECT count(*) FROM url_queue WHERE status = 'completed' AND attempt = 1";
    assert_eq!(crawl.number(once).await, 4, "{code}");
}

#[tokio::test]
async fn records_that_are_refused_for_a_while_are_written_later() {
    for code in PASSING {
        crawl(code, "BEFORE INSERT ON extracted_items").await;
    }
}

#[tokio::test]
async fn claims_that_are_refused_for_a_while_are_made_later() {
    crawl("40001", "BEFORE UPDATE ON url_queue").await;
    crawl("57P01", "BEFORE UPDATE ON url_queue").await;
}
