//! The robots files that the fleet shares.

use std::time::Duration;

use crawlify_shared::store::hot::{FetchedRobots, HotStore, StoredRobots};
use harness::crawl::{Crawl, NO_LIMITS};

const ORIGIN: &str = "https://shop.test";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SOON: Duration = Duration::from_secs(30);

async fn crawl() -> (Crawl, HotStore, HotStore) {
    let crawl = Crawl::start(NO_LIMITS, &["http://shop.test/"]).await;
    let workers = (crawl.worker().await, crawl.worker().await);
    (crawl, workers.0, workers.1)
}

fn file(body: Option<&str>) -> FetchedRobots {
    let body = body.map(|body| body.as_bytes().to_vec());
    FetchedRobots::Answer { status: 200, body, crawl_delay: Duration::ZERO }
}

async fn known(worker: &HotStore) -> StoredRobots {
    worker.robots_file(ORIGIN).await.unwrap().unwrap()
}

#[tokio::test]
async fn one_worker_fetches_a_file_and_all_of_them_have_it() {
    let (crawl, first, second) = crawl().await;
    assert_eq!(first.robots_file(ORIGIN).await.unwrap(), None);
    assert!(first.reserve_robots_fetch(ORIGIN, SOON).await.unwrap());
    assert!(!second.reserve_robots_fetch(ORIGIN, SOON).await.unwrap());
    assert_eq!(second.robots_file(ORIGIN).await.unwrap(), None, "it is being fetched");
    first.store_robots_file(ORIGIN, &file(Some("a\0b")), DAY).await.unwrap();
    let stored = known(&second).await;
    assert_eq!((stored.body.as_deref(), stored.unreachable_for), (Some(&b"a\0b"[..]), None));
    assert!(stored.fresh_for > DAY / 2 && !second.reserve_robots_fetch(ORIGIN, SOON).await.unwrap());
    crawl.change("UPDATE robots_files SET expires_at = now()").await;
    assert!(known(&second).await.fresh_for.is_zero());
    assert!(second.reserve_robots_fetch(ORIGIN, SOON).await.unwrap());
    // The one that wanted to fetch it is gone.
    crawl.change("UPDATE robots_files SET fetching_until = now()").await;
    assert!(first.reserve_robots_fetch(ORIGIN, SOON).await.unwrap());
}

#[tokio::test]
async fn a_file_that_cannot_be_had_any_more_stays_and_is_tried_more_and_more_rarely() {
    let (crawl, worker, _) = crawl().await;
    let unreachable = FetchedRobots::Unreachable { reason: "HTTP status 503".to_owned(), back_off: None };
    worker.store_robots_file(ORIGIN, &file(Some("a")), DAY).await.unwrap();
    let stored = worker.store_robots_file(ORIGIN, &unreachable, DAY).await.unwrap();
    assert_eq!((stored.body.as_deref(), stored.error.as_deref()), (Some(&b"a"[..]), Some("HTTP status 503")));
    assert!(stored.unreachable_for.is_some() && stored.fresh_for <= Duration::from_secs(10));
    for (since, least, most) in [("1 minute", 25, 31), ("1 hour", 1790, 1801), ("20 days", 3590, 3600)] {
        sqlx::query("UPDATE robots_files SET unreachable_since = now() - $1::text::interval")
            .bind(since)
            .execute(&crawl.pool)
            .await
            .unwrap();
        let fresh_for =
            worker.store_robots_file(ORIGIN, &unreachable, DAY).await.unwrap().fresh_for.as_secs();
        assert!((least..=most).contains(&fresh_for), "{since}: {fresh_for}");
    }
    assert!(known(&worker).await.unreachable_for.unwrap() > 19 * DAY, "the first failure counts");
    let stored = worker.store_robots_file(ORIGIN, &file(None), DAY).await.unwrap();
    assert_eq!((stored.body, stored.unreachable_for, stored.error), (None, None, None));
}

#[tokio::test]
async fn failures_in_a_row_add_up_and_those_with_a_long_pause_between_them_do_not() {
    let (crawl, worker, _) = crawl().await;
    let unreachable = FetchedRobots::Unreachable { reason: "HTTP status 503".to_owned(), back_off: None };
    let passes = async |hours: i32| {
        sqlx::query(
            "UPDATE robots_files SET unreachable_since = unreachable_since - make_interval(hours => $1),
                 expires_at = expires_at - make_interval(hours => $1)",
        )
        .bind(hours)
        .execute(&crawl.pool)
        .await
        .unwrap();
    };
    let fails = async || worker.store_robots_file(ORIGIN, &unreachable, DAY).await.unwrap();
    assert!(fails().await.unreachable_for.unwrap() < DAY / 2);
    // A crawl a day, which now and then begins late.
    for day in 1..=30 {
        passes(24 + day % 6).await;
        assert!(fails().await.unreachable_for.unwrap() >= DAY * u32::try_from(day).unwrap(), "day {day}");
    }
    // Once every second day, or once a month, is not again and again.
    for hours in [48, 30 * 24] {
        passes(hours).await;
        let stored = fails().await;
        assert!(stored.unreachable_for.unwrap() < DAY / 2, "nobody asked for {hours} hours");
        assert!(stored.fresh_for <= Duration::from_secs(10), "it is tried again as after a first failure");
    }
    passes(24).await;
    assert!((DAY..2 * DAY).contains(&fails().await.unreachable_for.unwrap()));
    // A host that wants to be left alone for a day cannot be asked meanwhile.
    let rests = FetchedRobots::Unreachable { reason: "HTTP status 503".to_owned(), back_off: Some(DAY) };
    worker.store_robots_file(ORIGIN, &rests, DAY).await.unwrap();
    passes(48).await;
    assert!(fails().await.unreachable_for.unwrap() >= 3 * DAY);
}

#[tokio::test]
async fn a_hosts_pace_is_written_and_taken_back_and_old_files_are_forgotten() {
    let (crawl, worker, _) = crawl().await;
    let delays = "SELECT sum(crawl_delay_ms)::int8 FROM hosts";
    for (delay, stored) in [(0, 0), (2500, 2500), (0, 0)] {
        worker.set_crawl_delay("shop.test", Duration::from_millis(delay)).await.unwrap();
        assert_eq!(crawl.number(delays).await, stored);
    }
    for (delay, stored) in [(700, 700), (300, 700), (900, 900)] {
        worker.raise_crawl_delay("shop.test", Duration::from_millis(delay)).await.unwrap();
        assert_eq!(crawl.number(delays).await, stored, "another crawl's wish is no reason to be faster");
    }
    worker.store_robots_file(ORIGIN, &file(None), DAY).await.unwrap();
    worker.store_robots_file("http://old.test", &file(None), DAY).await.unwrap();
    crawl
        .change("UPDATE robots_files SET expires_at = now() - interval '61 days' WHERE origin = 'http://old.test'")
        .await;
    assert_eq!(worker.forget_robots_files().await.unwrap(), 1);
    assert_eq!(crawl.texts("SELECT origin FROM robots_files").await, [ORIGIN]);
}

#[tokio::test]
async fn a_host_that_says_how_long_it_wants_to_be_left_alone_is_asked_for_its_file_no_sooner() {
    let (crawl, worker, _) = crawl().await;
    let unreachable = |seconds| FetchedRobots::Unreachable {
        reason: "HTTP status 429".to_owned(),
        back_off: Some(Duration::from_secs(seconds)),
    };
    // The first time, and again.
    for (seconds, least) in [(120, 118), (7_200, 7_190), (1, 8)] {
        let fresh_for =
            worker.store_robots_file(ORIGIN, &unreachable(seconds), DAY).await.unwrap().fresh_for.as_secs();
        assert!((least..=seconds.max(10)).contains(&fresh_for), "{seconds}: {fresh_for}");
    }
    let rest = "SELECT EXTRACT(EPOCH FROM least(backoff_until, next_start_at) - now())::int8 FROM hosts";
    for (seconds, expected) in [(60, 60), (120, 120), (10, 120)] {
        worker.leave_alone("shop.test", Duration::from_secs(seconds)).await.unwrap();
        let rest = crawl.number(rest).await;
        assert!((expected - 3..=expected).contains(&rest), "{seconds}: {rest}");
    }
    assert!(crawl.queue().await.is_empty(), "none of its pages is dispatched");
}
