//! A worker that is told to stop while its database swallows what it is sent: it ends by the clock, and what it had in hand is
//! completed by another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crawlify_shared::broker::{Broker, MESSAGE_VERSION, PageMessage};
use crawlify_shared::domain::id::{ExecutionId, PageId};
use crawlify_shared::telemetry;
use crawlify_worker::chrome::fake::{FakeDriver, FakePage};
use harness::crawl::{Crawl, NO_LIMITS, page_url};
use harness::fault_proxy::{FaultProxy, Mode};
use harness::wait::wait_for;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Running, TIMES, WITHIN, page, shop, start_worker};

const LATE: &str = "http://shop.test/late";

/// When it has ended: its drain deadline (2 s), two seconds to give pages back, one for its last writes, and four for a
/// busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(9);

#[tokio::test]
async fn a_worker_whose_database_swallows_everything_ends_in_time_and_another_one_completes_its_pages() {
    let urls = ["http://shop.test/1", "http://shop.test/2", LATE];
    let crawl = Crawl::of(&shop(), NO_LIMITS, &urls).await;
    crawl.change("UPDATE url_queue SET not_before = now() + interval '1 hour' WHERE url LIKE '%/late'").await;
    let (proxy, behind) = FaultProxy::before_postgres(&crawl.database.url()).await;
    let driver = |first: FakePage| {
        urls.iter().fold(FakeDriver::new(), |driver, url| driver.with_page(url, [first.clone()]))
    };
    // The crawl's own worker comes second: it has no browser yet.
    let later = driver(page(&[]));
    later.set_ready(false);
    let running = Running::of(crawl, later, TIMES).await;
    let (driver, stop, registry) =
        (Arc::new(driver(FakePage::Hangs)), CancellationToken::new(), telemetry::registry());
    let worker = start_worker(&behind, &running.broker, &driver, TIMES, &stop, &registry).await;
    wait_for("it has two pages", WITHIN, async || driver.loads().len() == 2).await;

    proxy.set(Mode::BlackHole);
    // It also asks for a page of which it will never hear.
    assert_eq!(running.broker.publish(&[message_of_late(&running.crawl).await]).await.unwrap(), [true]);
    let told = Instant::now();
    stop.cancel();
    tokio::time::timeout(WITHIN, worker.stopped()).await.expect("the worker stops");
    assert!(told.elapsed() < ENDS_WITHIN, "it took {:?}", told.elapsed());
    assert_eq!(driver.open_tabs(), 0);
    assert_eq!(driver.loads().len(), 2, "the third page was never its own");

    // What was swallowed arrives, late.
    proxy.set(Mode::Pass);
    running.crawl.change("UPDATE url_queue SET not_before = now() WHERE url LIKE '%/late'").await;
    running.driver.set_ready(true);
    let crawl = running.end().await;
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await, 3);
    assert_eq!(crawl.number("SELECT count(*) FROM extracted_items").await, 3);
}

async fn message_of_late(crawl: &Crawl) -> PageMessage {
    let row = "SELECT id, execution_id, epoch FROM url_queue WHERE url LIKE '%/late'";
    let (page, execution, epoch): (Uuid, Uuid, i32) =
        sqlx::query_as(row).fetch_one(&crawl.pool).await.unwrap();
    PageMessage {
        v: MESSAGE_VERSION,
        page_id: PageId(page),
        execution_id: ExecutionId(execution),
        epoch,
        url: page_url(LATE),
    }
}
