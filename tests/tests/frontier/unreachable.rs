//! Hosts that cannot be reached: asked more and more rarely, by one page at a time, and given up in the end.

use std::time::Duration;

use crawlify_shared::domain::fault::{HOST_DOUBTED_AFTER, HOST_GIVEN_UP_AFTER};
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageEnd, PageOutcome};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus};
use crawlify_shared::domain::page_url::HostUnit;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::hot::HotStore;
use futures_util::future::join;
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, small_table};
use url::Url;

const TIMES: &str = "SELECT unreachable::int8 FROM hosts WHERE host = 'gone.test'";
/// Seconds of its pause, from when it was asked last: however long ago that is on a busy machine.
const PAUSE: &str = "SELECT ceil(EXTRACT(EPOCH FROM greatest(unreachable_until, asked_at) - asked_at))::int8
    FROM hosts WHERE host = 'gone.test'";
/// Seconds that are left of it.
const LEFT: &str = "SELECT ceil(EXTRACT(EPOCH FROM greatest(unreachable_until, now()) - now()))::int8
    FROM hosts WHERE host = 'gone.test'";
/// When it is over, in microseconds.
const UNTIL: &str =
    "SELECT (EXTRACT(EPOCH FROM unreachable_until) * 1000000)::int8 FROM hosts WHERE host = 'gone.test'";
const PAUSE_LASTS: &str = "UPDATE hosts SET unreachable_until = unreachable_until + interval '1 minute'";
const PAUSE_IS_OVER: &str =
    "UPDATE hosts SET unreachable_until = least(unreachable_until, now()), next_start_at = '-infinity';
    UPDATE url_queue SET not_before = now() WHERE site_faults = 0";

fn urls(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("http://gone.test/{number}")).collect()
}

async fn start(limits: Limits, urls: &[String]) -> (Crawl, HotStore) {
    let crawl = Crawl::start(limits, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = crawl.worker().await;
    (crawl, worker)
}

fn unreached(page: &ClaimedPage) -> FinishedPage {
    let failure = Failure::new(ErrorClass::Connect, "no connection to the host");
    FinishedPage {
        outcome: PageOutcome::failed(failure.clone()),
        next: NextStatus::Retry(failure, Duration::from_secs(3_600)),
        ..finished(page, &small_table(), &[])
    }
}

/// Has pages fail one after the other until the host was missed so often.
async fn miss(crawl: &Crawl, worker: &HotStore, times: i16) {
    while crawl.number(TIMES).await < i64::from(times) {
        crawl.change(PAUSE_IS_OVER).await;
        let pages = crawl.claim(worker).await;
        worker.record(&[unreached(&pages[0])]).await.unwrap();
        // The others were not loaded.
        let others: Vec<_> = pages[1..]
            .iter()
            .map(|page| FinishedPage {
                outcome: PageOutcome::nothing(PageEnd::Released),
                next: NextStatus::Released,
                ..finished(page, &small_table(), &[])
            })
            .collect();
        worker.record(&others).await.unwrap();
    }
}

#[tokio::test]
async fn a_host_that_is_missed_again_and_again_is_asked_more_rarely_by_one_page_at_a_time() {
    let (crawl, worker) = start(NO_LIMITS, &urls(40)).await;
    let late = crawl.queue().await;
    let all = worker.claim(&late[..18], LEASE, false).await.unwrap();
    for (page, times) in all.iter().zip(1..HOST_DOUBTED_AFTER) {
        worker.record(&[unreached(page)]).await.unwrap();
        assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (i64::from(times), 0));
    }
    worker.record(&[unreached(&all[2])]).await.unwrap();
    assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (i64::from(HOST_DOUBTED_AFTER), 1));
    // All that are in workers' hands then count as one time, if they are recorded before its pause is over.
    crawl.change(PAUSE_LASTS).await;
    let until = crawl.number(UNTIL).await;
    for page in &all[3..] {
        worker.record(&[unreached(page)]).await.unwrap();
    }
    assert_eq!(
        (crawl.number(TIMES).await, crawl.number(UNTIL).await),
        (i64::from(HOST_DOUBTED_AFTER), until),
        "they do not lengthen it"
    );
    assert!(worker.claim(&late[18..], LEASE, false).await.unwrap().is_empty(), "those on their way go back");
    assert!(crawl.queue().await.is_empty(), "it is left alone");
    for (times, pause) in [(4, 2), (5, 4), (6, 8), (7, 16), (8, 32), (9, 60), (10, 60)] {
        crawl.change(PAUSE_IS_OVER).await;
        let pages = crawl.claim(&worker).await;
        assert_eq!(pages.len(), 1, "one page is enough to see whether it is there");
        worker.record(&[unreached(&pages[0])]).await.unwrap();
        assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (times, pause));
    }
    // It is there again.
    crawl.change(PAUSE_IS_OVER).await;
    let pages = crawl.claim(&worker).await;
    worker.record(&[finished(&pages[0], &small_table(), &[])]).await.unwrap();
    assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (0, 0));
    crawl.change("").await;
    assert_eq!(crawl.queue().await.len(), 14, "all that are left, at once");
}

#[tokio::test]
async fn pages_that_were_in_hand_when_a_long_pause_began_do_not_lengthen_it() {
    let (crawl, worker) = start(NO_LIMITS, &urls(10)).await;
    let all = crawl.claim(&worker).await;
    // As if it had been missed so often just now: one that began anew with each page would show.
    crawl.change("UPDATE hosts SET unreachable = 8, unreachable_until = now()").await;
    worker.record(&[unreached(&all[0])]).await.unwrap();
    assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (9, 60));
    let until = crawl.number(UNTIL).await;
    for page in &all[1..] {
        worker.record(&[unreached(page)]).await.unwrap();
    }
    assert_eq!((crawl.number(TIMES).await, crawl.number(UNTIL).await), (9, until));
}

#[tokio::test]
async fn failures_between_which_it_is_found_cost_no_pause() {
    let (crawl, worker) = start(NO_LIMITS, &urls(12)).await;
    let pages = crawl.claim(&worker).await;
    for two in pages.chunks(3) {
        for page in &two[..2] {
            worker.record(&[unreached(page)]).await.unwrap();
        }
        assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (2, 0));
        worker.record(&[finished(&two[2], &small_table(), &[])]).await.unwrap();
        assert_eq!(crawl.number(TIMES).await, 0, "although it was claimed when nobody had missed it");
    }
}

#[tokio::test]
async fn a_page_that_finds_it_ends_its_pause() {
    let (crawl, worker) = start(NO_LIMITS, &urls(20)).await;
    let early = crawl.claim(&worker).await;
    for page in &early[..3] {
        worker.record(&[unreached(page)]).await.unwrap();
    }
    assert_eq!(crawl.number(PAUSE).await, 1);
    // That a connection broke says nothing.
    let failure = Failure::new(ErrorClass::ConnectionLost, "the connection was lost");
    let lost = FinishedPage { next: NextStatus::Retry(failure, Duration::ZERO), ..unreached(&early[3]) };
    worker.record(&[lost]).await.unwrap();
    assert_eq!(crawl.number(TIMES).await, 3);
    // It sent a page to a host that is gone: it answered.
    let [met, asked] = ["http://other.test/", "http://gone.test/"].map(|url| Url::parse(url).unwrap());
    let failure = Failure::new(ErrorClass::Connect, "no connection to the host").met_at(&met, &asked);
    let sent_on = FinishedPage { next: NextStatus::Retry(failure, Duration::ZERO), ..unreached(&early[4]) };
    worker.record(&[sent_on]).await.unwrap();
    assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (0, 0));
    crawl.change("UPDATE url_queue SET not_before = now()").await;
    assert_eq!(crawl.queue().await.len(), 5);
}

#[tokio::test]
async fn one_that_does_not_answer_any_more_is_not_asked_by_one_page_at_a_time_for_ever() {
    let (crawl, worker) = start(NO_LIMITS, &urls(20)).await;
    miss(&crawl, &worker, HOST_DOUBTED_AFTER).await;
    crawl.change(PAUSE_IS_OVER).await;
    assert_eq!(crawl.claim(&worker).await.len(), 1);
    assert!(crawl.queue().await.is_empty());
    crawl.change("UPDATE hosts SET unreachable_until = now() - interval '61 seconds'").await;
    assert_eq!(crawl.queue().await.len(), 16, "the page has waited for an answer for a minute");
}

#[tokio::test]
async fn what_a_host_answered_before_it_went_makes_its_pauses_no_longer() {
    let (crawl, worker) = start(NO_LIMITS, &urls(20)).await;
    crawl.change("UPDATE hosts SET refused = 9, backoff_until = now() - interval '11 minutes'").await;
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER).await;
    crawl.change(PAUSE_IS_OVER).await;
    let page = crawl.claim(&worker).await.remove(0);
    let failure = Failure::new(ErrorClass::Http5xx, "the server answered with HTTP status 503");
    let mut busy = FinishedPage { next: NextStatus::Retry(failure, Duration::ZERO), ..unreached(&page) };
    busy.outcome.contact.back_off = Some(Duration::ZERO);
    worker.record(&[busy]).await.unwrap();
    assert_eq!(crawl.number("SELECT refused::int8 FROM hosts").await, 1);
}

#[tokio::test]
async fn the_pages_of_a_host_that_is_gone_fail_untried_and_the_crawl_ends() {
    let mut start_urls = urls(200);
    start_urls.extend((0..20).map(|number| format!("https://gone.test/secure/{number}")));
    start_urls.push("http://well.test/".to_owned());
    let (crawl, worker) = start(NO_LIMITS, &start_urls).await;
    let aside = "UPDATE url_queue SET status = 'skipped' WHERE url LIKE 'https%' OR host = 'well.test'";
    crawl.change(aside).await;
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER - 1).await;
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER).await;
    crawl.change("UPDATE url_queue SET status = 'pending' WHERE status = 'skipped'").await;
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 200);
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
    let ends = "SELECT DISTINCT concat_ws(' ', host, split_part(url, ':', 1), status, error_class) FROM url_queue ORDER BY 1";
    let expected = ["gone.test http failed connect", "gone.test https pending", "well.test http pending"];
    assert_eq!(crawl.texts(ends).await, expected, "nobody has missed it by https");
    crawl.assert_counters_are_a_recount().await;
    // Now somebody has.
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER + 1).await;
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 20);
    crawl.assert_counters_are_a_recount().await;

    // A retry gives it another chance at once.
    crawl.change("UPDATE url_queue SET status = 'cancelled' WHERE status = 'pending'").await;
    assert_eq!(crawl.store.finish_executions().await.unwrap(), [(crawl.execution, "failed".to_owned())]);
    crawl.store.retry_execution(crawl.execution, None).await.unwrap();
    assert_eq!(crawl.store.put_pages_back(None).await.unwrap(), 220);
    assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (0, 0));
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
    crawl.change("UPDATE url_queue SET not_before = now()").await;
    assert_eq!(crawl.queue().await.len(), 220);
}

#[tokio::test]
async fn a_page_that_failed_once_and_was_given_back_counts_as_retried_no_longer_when_it_is_given_up() {
    let (crawl, worker) = start(NO_LIMITS, &urls(30)).await;
    let pages = crawl.claim(&worker).await;
    worker.record(&[unreached(&pages[0])]).await.unwrap();
    crawl.change("UPDATE url_queue SET not_before = now()").await;
    let again = crawl.claim(&worker).await;
    assert_eq!(again.len(), 1);
    let released = |page| FinishedPage {
        outcome: PageOutcome::nothing(PageEnd::Released),
        next: NextStatus::Released,
        ..finished(page, &small_table(), &[])
    };
    let given_back: Vec<_> = again.iter().chain(&pages[1..]).map(released).collect();
    worker.record(&given_back).await.unwrap();
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER).await;
    assert_eq!(crawl.store.held_back_hosts().await.unwrap(), 1, "although it asked for nothing");
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 30);
    crawl.assert_counters_are_a_recount().await;
    let retried = "SELECT sum(retried)::int8 FROM page_counters";
    assert_eq!(crawl.number(retried).await, 1, "the one that was tried again, and missed it again");
}

#[tokio::test]
async fn links_of_two_schemes_to_a_host_that_is_gone_count_together() {
    let both: Vec<_> =
        (0..30).map(|number| format!("http{}://gone.test/{number}", ["", "s"][number % 2])).collect();
    let (crawl, worker) = start(NO_LIMITS, &both).await;
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER).await;
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 30);
}

#[tokio::test]
async fn a_start_gives_a_host_another_chance_and_so_does_time() {
    let (crawl, worker) = start(NO_LIMITS, &urls(30)).await;
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER).await;
    let other = crawl.another(NO_LIMITS, &["http://gone.test/other"]).await;
    assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (0, 0));
    assert_eq!(crawl.store.reserve_pages(other, 10).await.unwrap().len(), 1);
    crawl.change("UPDATE url_queue SET status = 'cancelled' WHERE url LIKE '%/other'").await;
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER).await;
    crawl.change("UPDATE hosts SET unreachable_until = now() - interval '11 minutes'").await;
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0, "nobody has looked lately");
    let page = crawl.claim(&worker).await.remove(0);
    worker.record(&[unreached(&page)]).await.unwrap();
    assert_eq!(crawl.number(TIMES).await, 1);
}

#[tokio::test]
async fn starts_that_come_more_often_than_a_host_is_given_up_do_not_keep_it_from_being_given_up() {
    let (crawl, worker) = start(NO_LIMITS, &urls(30)).await;
    for times in 1..=HOST_GIVEN_UP_AFTER {
        miss(&crawl, &worker, times).await;
        if times < HOST_GIVEN_UP_AFTER {
            crawl.another(NO_LIMITS, &["http://gone.test/other"]).await;
            assert_eq!(
                (crawl.number(TIMES).await, crawl.number(LEFT).await),
                (i64::from(times), 0),
                "tried at once"
            );
            crawl.change("UPDATE url_queue SET status = 'cancelled' WHERE url LIKE '%/other'").await;
        }
    }
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 30);
}

#[tokio::test]
async fn a_miss_that_is_recorded_while_a_start_gives_another_chance_is_the_first() {
    let (crawl, worker) = start(NO_LIMITS, &urls(30)).await;
    miss(&crawl, &worker, HOST_GIVEN_UP_AFTER).await;
    crawl.change(PAUSE_IS_OVER).await;
    let page = crawl.claim(&worker).await.remove(0);
    // As a start does, in a transaction that is still open when the miss is recorded.
    let mut start = crawl.pool.begin().await.unwrap();
    let chance =
        "UPDATE hosts SET unreachable = 0, unreachable_until = '-infinity', unreachable_origins = '{}'";
    sqlx::query(chance).execute(&mut *start).await.unwrap();
    let missed = [unreached(&page)];
    let record = worker.record(&missed);
    let commit = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        start.commit().await.unwrap();
    };
    join(record, commit).await.0.unwrap();
    assert_eq!((crawl.number(TIMES).await, crawl.number(PAUSE).await), (1, 0));
}

#[tokio::test]
async fn a_server_of_a_domain_that_is_gone_holds_up_nobody_whose_limits_are_of_domains() {
    let limits = Limits { host_unit: HostUnit::Domain, ..NO_LIMITS };
    let (crawl, worker) = start(limits, &urls(5)).await;
    let page = crawl.claim(&worker).await.remove(0);
    worker.record(&[unreached(&page)]).await.unwrap();
    assert_eq!(crawl.number(TIMES).await, 0);
    // Another execution, whose limits are of hosts, misses the host of that name.
    crawl
        .change(
            "UPDATE hosts SET unreachable = 10, unreachable_until = now() + interval '1 minute',
        unreachable_origins = '{http://gone.test}'; UPDATE url_queue SET not_before = now()",
        )
        .await;
    assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
    assert_eq!(crawl.claim(&worker).await.len(), 1, "the one that failed");
}
