//! Paces that change: whoever waits for a host waits for the delay that holds now, counted from the last start.

use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::HostContact;
use crawlify_shared::domain::workflow::Limits;
use crawlify_shared::store::control::{CancelMode, LimitChanges};
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, small_table};

const HOUR: Duration = Duration::from_secs(3_600);
const BRIEF: Duration = Duration::from_millis(300);

fn polite(delay: Duration) -> Limits {
    Limits { rate_limit_delay: delay, ..NO_LIMITS }
}

/// How many pages of an execution a dispatcher takes when its lanes are due; nothing else is as if time had passed.
async fn dispatched(crawl: &Crawl, execution: ExecutionId) -> usize {
    let due = "UPDATE lanes SET due_at = now() WHERE execution_id = $1";
    sqlx::query(due).bind(execution.0).execute(&crawl.pool).await.unwrap();
    crawl.store.reserve_pages(execution, 10).await.unwrap().len()
}

/// Two executions of one host, of which one asks for an hour between two pages, and has just had one.
async fn patient_and_hasty(hasty: Limits) -> (Crawl, ExecutionId) {
    let crawl = Crawl::start(polite(HOUR), &["http://a.test/1", "http://a.test/2"]).await;
    let hasty = crawl.another(hasty, &["http://a.test/3", "http://a.test/4"]).await;
    assert_eq!(dispatched(&crawl, crawl.execution).await, 1);
    assert_eq!(dispatched(&crawl, hasty).await, 0, "an hour for all");
    (crawl, hasty)
}

#[tokio::test]
async fn nobody_waits_for_a_pace_that_nobody_asks_for_any_more() {
    let (crawl, hasty) = patient_and_hasty(NO_LIMITS).await;
    let next_look = "SELECT ceil(EXTRACT(EPOCH FROM max(due_at) - now()))::int8 FROM lanes";
    assert!((2..=30).contains(&crawl.number(next_look).await), "the lanes are not forgotten for an hour");
    crawl.store.cancel_execution(crawl.execution, CancelMode::Graceful, None).await.unwrap();
    assert_eq!(dispatched(&crawl, hasty).await, 2);
}

#[tokio::test]
async fn a_shorter_pace_counts_from_the_last_start_and_so_does_a_longer_one() {
    let (crawl, hasty) = patient_and_hasty(polite(BRIEF)).await;
    crawl.store.pause_execution(crawl.execution, None).await.unwrap();
    tokio::time::sleep(BRIEF * 11 / 10).await;
    assert_eq!(dispatched(&crawl, hasty).await, 1, "it was the only one in so long");
    crawl.store.resume_execution(crawl.execution, None).await.unwrap();
    tokio::time::sleep(BRIEF * 11 / 10).await;
    for execution in [crawl.execution, hasty] {
        assert_eq!(
            dispatched(&crawl, execution).await,
            0,
            "an hour after the last start, whoever has had it"
        );
    }
    let planned = "SELECT round(EXTRACT(EPOCH FROM next_dispatch_at - now()))::int8 FROM hosts";
    // With the margin of 3 %.
    assert!((3_700..=3_708).contains(&crawl.number(planned).await), "{}", crawl.number(planned).await);
}

#[tokio::test]
async fn a_delay_that_is_shortened_holds_at_once() {
    let (crawl, _) = patient_and_hasty(polite(BRIEF)).await;
    let changes = LimitChanges { host_delay_ms: Some(0), ..LimitChanges::default() };
    crawl.store.change_limits(crawl.execution, changes, None).await.unwrap();
    let looks = "SELECT count(*) FROM lanes WHERE due_at <= now()";
    assert!(crawl.number(looks).await >= 1, "its lane is looked at now");
    tokio::time::sleep(BRIEF * 11 / 10).await;
    assert_eq!(dispatched(&crawl, crawl.execution).await, 1, "the other one's delay holds");
}

/// Milliseconds from now until a host is asked next, as it is planned.
async fn planned(crawl: &Crawl) -> i64 {
    crawl
        .number("SELECT (EXTRACT(EPOCH FROM next_start_at - clock_timestamp()) * 1000)::int8 FROM hosts")
        .await
}

#[tokio::test]
async fn starts_that_are_planned_while_the_pace_changes_are_as_far_apart_as_it_says() {
    // So long that it hardly matters how long the test takes between two looks.
    let (short, long) = (Duration::from_secs(1_000), Duration::from_secs(1_800));
    let crawl = Crawl::start(polite(short), &["http://a.test/1", "http://a.test/2"]).await;
    let worker = crawl.worker().await;
    let page = crawl.claim(&worker).await.remove(0);
    assert!((1_010_000..=1_030_100).contains(&planned(&crawl).await), "1000 s and 3 % after the first");
    // Another one comes, for which that is too fast, and the page asks its host once more.
    let patient = crawl.another(polite(long), &["http://a.test/3"]).await;
    assert_eq!(dispatched(&crawl, patient).await, 0);
    assert!((1_810_000..=1_854_100).contains(&planned(&crawl).await));
    let again = worker.next_start(&page, LEASE).await.unwrap() - std::time::Instant::now();
    assert!((1_800_000..=1_854_200).contains(&again.as_millis()), "{again:?}");
    assert!((3_640_000..=3_708_100).contains(&planned(&crawl).await), "1800 s and 3 % after that");
    // It goes, and the next start is the shorter pace after the last one.
    crawl.store.cancel_execution(patient, CancelMode::Graceful, None).await.unwrap();
    assert_eq!(dispatched(&crawl, crawl.execution).await, 0);
    let next = planned(&crawl).await;
    assert!(
        (2_800_000..=2_884_100).contains(&next),
        "{next} ms from now, of which 1854 s are to the last one"
    );
}

#[tokio::test]
async fn the_first_page_after_a_month_is_recorded() {
    let crawl = Crawl::start(polite(BRIEF), &["http://a.test/1"]).await;
    let worker = crawl.worker().await;
    crawl
        .change("UPDATE hosts SET recent_starts = ARRAY[now() - interval '30 days'], recent_delays_ms = ARRAY[300]")
        .await;
    let page = crawl.claim(&worker).await.remove(0);
    let mut done = finished(&page, &small_table(), &[]);
    done.outcome.contact = HostContact { started_in: Some(Duration::ZERO), ..HostContact::default() };
    assert_eq!(worker.record(&[done]).await.unwrap().len(), 1);
    let kept = "SELECT min_interval_ms::int8 FROM hosts";
    assert_eq!(crawl.number(kept).await, i64::from(i32::MAX), "as long as can be told");
}
