//! What pages are charged for when their worker is lost or their lease ends, and what not: pages that wait to be recorded, the loss
//! of a worker that is heard again, and what a server says that has only just taken over.

use std::time::Duration;

use chrono::TimeDelta;
use crawlify_shared::domain::fault::LOSSES_TAKEN_BACK;
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageOutcome};
use crawlify_shared::domain::page::{FinishedPage, NextStatus};
use crawlify_shared::store::heard_again::TakenBack;
use crawlify_shared::store::hot::{HotStore, Standing, UnrecordedPage};
use crawlify_shared::store::rescue::{MeantServer, Patience, Rescued};
use harness::crawl::{Crawl, NO_LIMITS, VITALS, finished, small_table};
use harness::invariants::assert_ended_are_sound;

const PAGES: [&str; 2] = ["http://shop.test/1", "http://shop.test/2"];
// The tests' server may have been started just now.
const PATIENCE: Patience =
    Patience { worker_lost_after: Duration::from_secs(15), after_start: Duration::ZERO, server: None };
/// Each page with its status, its attempts, and how many workers it was charged with.
const CHARGED: &str =
    "SELECT concat_ws(' ', replace(url, 'http://shop.test', ''), status, attempt, worker_faults)
    FROM url_queue ORDER BY url";
const LOSSES: &str = "SELECT concat_ws(' ', attempt, standing) FROM lost_attempts ORDER BY page_id, epoch";
const RETRIED: &str = "SELECT sum(retried)::int8 FROM page_counters";
const SILENCE: &str = "UPDATE workers SET heartbeat_at = now() - interval '16 seconds'";
const OVERDUE: &str =
    "UPDATE url_queue SET locked_until = now() - interval '1 second' WHERE status = 'processing'";
const NOTHING: TakenBack = TakenBack { losses: 0, pages_put_back: 0 };

async fn rescue(crawl: &Crawl, patience: Patience) -> Rescued {
    crawl.store.rescue(Some(patience), Duration::from_secs(30)).await.unwrap()
}

/// Nobody has heard of any worker for long.
async fn lose_workers(crawl: &Crawl) -> Rescued {
    crawl.change(SILENCE).await;
    rescue(crawl, PATIENCE).await
}

async fn take_back(crawl: &Crawl) -> TakenBack {
    crawl.store.take_losses_back().await.unwrap()
}

async fn is_heard_again(worker: &HotStore) {
    assert_eq!(worker.heartbeat(VITALS).await.unwrap().standing, Standing::WasLost);
}

/// Another worker completes whatever is left.
async fn complete(crawl: &Crawl) {
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    let done: Vec<_> = pages.iter().map(|page| finished(page, &small_table(), &[])).collect();
    assert_eq!(worker.record(&done).await.unwrap().len(), pages.len());
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
}

#[tokio::test]
async fn pages_that_wait_to_be_recorded_stay_with_a_living_worker_and_are_not_charged_for_a_lost_one() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    let mut pages = crawl.claim(&worker).await;
    pages.sort_by(|one, other| one.url.as_str().cmp(other.url.as_str()));
    let waits = UnrecordedPage::from(&pages[0]);
    // What is said of another attempt says nothing of this one.
    let another = UnrecordedPage { epoch: pages[1].epoch - 1, ..UnrecordedPage::from(&pages[1]) };
    worker.name_unrecorded(&[waits, another]).await.unwrap();
    crawl.change(OVERDUE).await;
    assert_eq!(rescue(&crawl, PATIENCE).await, Rescued { pages_returned: 1, ..Rescued::default() });
    assert_eq!(crawl.texts(CHARGED).await, ["/1 processing 1 0", "/2 pending 1 1"]);

    assert_eq!(crawl.claim(&worker).await.len(), 1);
    assert_eq!(
        lose_workers(&crawl).await,
        Rescued { workers_lost: 1, pages_returned: 2, ..Rescued::default() }
    );
    assert_eq!(crawl.texts(CHARGED).await, ["/1 pending 0 0", "/2 pending 2 2"]);
    assert_eq!(crawl.texts(LOSSES).await, ["1 final", "2 provisional"]);
    // Once they are recorded nothing is said of them any more.
    is_heard_again(&worker).await;
    worker.name_unrecorded(&[]).await.unwrap();
    assert_eq!(crawl.number("SELECT count(*) FROM workers WHERE unrecorded IS NULL").await, 1);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_page_that_still_waits_to_be_recorded_a_day_after_its_lease_is_taken_away_and_charged() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    worker.name_unrecorded(&[UnrecordedPage::from(&page)]).await.unwrap();
    crawl.change("UPDATE url_queue SET locked_until = now() - interval '23 hours'").await;
    assert_eq!(rescue(&crawl, PATIENCE).await, Rescued::default());
    crawl.change("UPDATE url_queue SET locked_until = now() - interval '25 hours'").await;
    assert_eq!(rescue(&crawl, PATIENCE).await, Rescued { pages_returned: 1, ..Rescued::default() });
    assert_eq!(crawl.texts(CHARGED).await, ["/1 pending 1 1"]);
    assert_eq!(crawl.texts(LOSSES).await, ["1 final"]);
    // What its worker brings in the end is nobody's any more.
    let late = [finished(&page, &small_table(), &[])];
    assert!(worker.record(&late).await.unwrap().is_empty());
    complete(&crawl).await;
    assert_eq!(crawl.texts(CHARGED).await, ["/1 completed 2 1"]);
    assert_ended_are_sound(&crawl.pool).await;
}

#[tokio::test]
async fn nobody_is_lost_where_another_server_answers_than_the_one_that_is_meant() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    crawl.claim(&worker).await;
    crawl.change(SILENCE).await;
    crawl.change(OVERDUE).await;
    let time = crawl.store.server_time().await.unwrap();
    let not_after = time.now + TimeDelta::minutes(1);
    let started = |started_at| Patience { server: Some(MeantServer { started_at, not_after }), ..PATIENCE };
    let another = started(time.started_at - TimeDelta::seconds(1));
    assert_eq!(rescue(&crawl, another).await, Rescued::default());
    // Nor are pages of a worker that another server has given up.
    crawl.change("UPDATE workers SET status = 'lost'").await;
    assert_eq!(rescue(&crawl, another).await, Rescued::default());
    assert_eq!(rescue(&crawl, started(time.started_at)).await.pages_returned, 2);
}

#[tokio::test]
async fn nobody_is_lost_where_the_clock_has_leapt_since_it_was_looked_at() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    let worker = crawl.worker().await;
    crawl.claim(&worker).await;
    crawl.change(SILENCE).await;
    crawl.change(OVERDUE).await;
    let time = crawl.store.server_time().await.unwrap();
    let started_at = time.started_at;
    let until = |not_after| Patience { server: Some(MeantServer { started_at, not_after }), ..PATIENCE };
    let before = until(time.now - TimeDelta::seconds(1));
    assert_eq!(rescue(&crawl, before).await, Rescued::default());
    // Nor are pages of a worker that was given up before the leap.
    crawl.change("UPDATE workers SET status = 'lost'").await;
    assert_eq!(rescue(&crawl, before).await, Rescued::default());
    assert_eq!(rescue(&crawl, until(time.now + TimeDelta::minutes(1))).await.pages_returned, 2);
}

#[tokio::test]
async fn what_a_page_was_charged_for_a_worker_that_is_heard_again_is_taken_back_once() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    crawl.claim(&worker).await;
    assert_eq!(lose_workers(&crawl).await.pages_returned, 1);
    assert_eq!(take_back(&crawl).await, NOTHING, "it may be dead");
    assert_eq!(crawl.texts(CHARGED).await, ["/1 pending 1 1"]);
    let other = crawl.worker().await;
    let page = crawl.claim(&other).await.remove(0);
    assert_eq!(page.faults.worker, 1);

    is_heard_again(&worker).await;
    assert_eq!(take_back(&crawl).await, TakenBack { losses: 1, pages_put_back: 0 });
    assert_eq!(take_back(&crawl).await, NOTHING, "once");
    assert_eq!(crawl.texts(CHARGED).await, ["/1 processing 2 0"], "whoever has it keeps it");
    assert_eq!(crawl.texts(LOSSES).await, ["1 taken_back"]);
    let told = "SELECT count(*) FROM lost_attempts WHERE error LIKE '%; it was heard again, so that %'";
    assert_eq!((crawl.number(told).await, crawl.number(RETRIED).await), (1, 0));
    let done = [finished(&page, &small_table(), &[])];
    assert_eq!(other.record(&done).await.unwrap(), [page.page_id]);
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    assert_ended_are_sound(&crawl.pool).await;
}

#[tokio::test]
async fn the_retry_of_a_page_that_fails_unread_meanwhile_is_taken_back_once() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    crawl.claim(&worker).await;
    assert_eq!(lose_workers(&crawl).await.pages_returned, 1);
    assert_eq!(crawl.number(RETRIED).await, 1);
    crawl.change("UPDATE url_queue SET url = 'gopher://shop.test/1'").await;
    assert!(crawl.queue().await.is_empty(), "this version cannot read it");
    let ends = "SELECT concat_ws(' ', status, error_class) FROM url_queue";
    assert_eq!(crawl.texts(ends).await, ["failed internal"]);
    assert_eq!(crawl.number(RETRIED).await, 0, "it is tried no more");
    is_heard_again(&worker).await;
    assert_eq!(take_back(&crawl).await, TakenBack { losses: 1, pages_put_back: 0 });
    assert_eq!(crawl.number(RETRIED).await, 0);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_worker_that_announces_itself_anew_or_says_goodbye_is_heard_again_too() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    crawl.claim(&worker).await;
    crawl.change("DELETE FROM workers").await;
    assert_eq!(rescue(&crawl, PATIENCE).await.pages_returned, 1);
    assert_eq!(take_back(&crawl).await, NOTHING);
    worker.announce("test", 4).await.unwrap();
    assert_eq!(take_back(&crawl).await.losses, 1);
    assert_eq!(crawl.texts(CHARGED).await, ["/1 pending 1 0"]);
    assert_eq!(crawl.claim(&worker).await.len(), 1);
    assert_eq!(lose_workers(&crawl).await.pages_returned, 1);
    worker.retire().await.unwrap();
    assert_eq!(take_back(&crawl).await.losses, 1);
    assert_eq!(crawl.texts(CHARGED).await, ["/1 pending 2 0"]);
    complete(&crawl).await;
    assert_ended_are_sound(&crawl.pool).await;
}

/// A page that was quarantined for the loss of a worker, and one that was only charged for it.
async fn quarantined() -> (Crawl, HotStore) {
    let crawl = Crawl::start(NO_LIMITS, &PAGES).await;
    crawl.change("UPDATE url_queue SET worker_faults = 2, attempt = 2 WHERE url LIKE '%/1'").await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    worker.begin_alone(pages.iter().find(|page| page.faults.is_suspect()).unwrap()).await.unwrap();
    let rescued = lose_workers(&crawl).await;
    assert_eq!((rescued.pages_quarantined, rescued.pages_returned), (1, 1));
    assert_eq!(crawl.texts(CHARGED).await, ["/1 failed 3 3", "/2 pending 1 1"]);
    (crawl, worker)
}

#[tokio::test]
async fn a_page_that_was_quarantined_for_a_worker_that_is_heard_again_waits_again_where_its_execution_runs() {
    let (crawl, worker) = quarantined().await;
    is_heard_again(&worker).await;
    assert_eq!(take_back(&crawl).await, TakenBack { losses: 2, pages_put_back: 1 });
    assert_eq!(crawl.texts(CHARGED).await, ["/1 pending 3 2", "/2 pending 1 0"]);
    crawl.assert_counters_are_a_recount().await;
    complete(&crawl).await;
    assert_eq!(crawl.texts(CHARGED).await, ["/1 completed 4 2", "/2 completed 2 0"]);
    assert_ended_are_sound(&crawl.pool).await;
}

#[tokio::test]
async fn a_page_that_was_quarantined_stays_failed_where_its_execution_has_ended_until_it_is_retried() {
    let (crawl, worker) = quarantined().await;
    complete(&crawl).await;
    is_heard_again(&worker).await;
    assert_eq!(take_back(&crawl).await, TakenBack { losses: 2, pages_put_back: 0 });
    assert_eq!(crawl.texts(CHARGED).await, ["/1 failed 3 2", "/2 completed 2 0"]);
    assert_ended_are_sound(&crawl.pool).await;
    crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1);
    complete(&crawl).await;
    assert_eq!(crawl.texts(CHARGED).await, ["/1 completed 4 0", "/2 completed 2 0"]);
}

#[tokio::test]
async fn a_page_whose_worker_is_lost_and_heard_again_each_time_is_charged_in_the_end() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let worker = crawl.worker().await;
    for time in 1..=LOSSES_TAKEN_BACK + 1 {
        assert_eq!(crawl.claim(&worker).await.len(), 1);
        lose_workers(&crawl).await;
        is_heard_again(&worker).await;
        assert_eq!(take_back(&crawl).await.losses, u64::from(time <= LOSSES_TAKEN_BACK));
    }
    assert_eq!(crawl.texts(CHARGED).await, ["/1 pending 4 1"]);
    assert_eq!(crawl.texts(LOSSES).await, ["1 taken_back", "2 taken_back", "3 taken_back", "4 final"]);
    complete(&crawl).await;
    assert_ended_are_sound(&crawl.pool).await;
}

#[tokio::test]
async fn a_loss_from_before_a_retry_takes_nothing_from_what_is_charged_since() {
    let crawl = Crawl::start(NO_LIMITS, &PAGES[..1]).await;
    let (before, other) = (crawl.worker().await, crawl.worker().await);
    crawl.claim(&before).await;
    lose_workers(&crawl).await;
    is_heard_again(&other).await;
    let page = crawl.claim(&other).await.remove(0);
    let failure = Failure::new(ErrorClass::Http4xx, "it is not there");
    let failed = FinishedPage {
        outcome: PageOutcome::failed(failure.clone()),
        next: NextStatus::Failed(failure),
        ..finished(&page, &small_table(), &[])
    };
    assert_eq!(other.record(&[failed]).await.unwrap(), [page.page_id]);
    assert_eq!(crawl.store.finish_executions().await.unwrap().len(), 1);
    crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 1);
    crawl.claim(&other).await;
    assert_eq!(lose_workers(&crawl).await.pages_returned, 1);

    is_heard_again(&before).await;
    assert_eq!(take_back(&crawl).await, NOTHING);
    assert_eq!(crawl.texts(CHARGED).await, ["/1 pending 3 1"]);
    assert_eq!(crawl.texts(LOSSES).await, ["1 final", "3 provisional"]);
    is_heard_again(&other).await;
    assert_eq!(take_back(&crawl).await.losses, 1);
    assert_eq!(crawl.texts(CHARGED).await, ["/1 pending 3 0"]);
}
