//! Many at once: workers whose links overlap, dispatchers and claims that meet, statements whose caller goes away.

use std::collections::HashSet;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use futures_util::future::{join, join_all, poll_fn};
use harness::crawl::{Crawl, LEASE, NO_LIMITS, finished, small_table};
use harness::wait::wait_for;

fn urls(folder: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("http://shop.test/{folder}/{number}")).collect()
}

async fn crawl_of(pages: usize) -> Crawl {
    let urls = urls("start", pages);
    Crawl::start(NO_LIMITS, &urls.iter().map(String::as_str).collect::<Vec<_>>()).await
}

#[tokio::test]
async fn two_workers_whose_links_overlap_never_deadlock() {
    const ROUNDS: usize = 200;
    let crawl = crawl_of(2 * ROUNDS).await;
    let (one, other) = (crawl.worker().await, crawl.worker().await);
    let mut requests = crawl.queue().await;
    let of_other = requests.split_off(ROUNDS);
    let pages = one.claim(&requests, LEASE, false).await.unwrap();
    let pages_of_other = other.claim(&of_other, LEASE, false).await.unwrap();
    // The same links in opposite orders; every third round brings new ones.
    let work = async |worker: &HotStore, pages: Vec<ClaimedPage>, backwards: bool| {
        for (round, page) in pages.iter().enumerate() {
            let mut links = urls(&format!("found/{}", round / 3), 20);
            if backwards {
                links.reverse();
            }
            let group = [finished(page, &small_table(), &links)];
            assert_eq!(worker.record(&group).await.unwrap().len(), 1, "in round {round}");
        }
    };
    join(work(&one, pages, false), work(&other, pages_of_other, true)).await;
    let found = (ROUNDS.div_ceil(3) * 20) as i64;
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE depth = 1").await, found);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn claims_and_returns_of_the_same_pages_never_deadlock() {
    const PAGES: usize = 60;
    let crawl = crawl_of(PAGES).await;
    let workers = [crawl.worker().await, crawl.worker().await];
    for round in 0..15 {
        let pages = crawl.store.reserve_pages(crawl.execution, 1_000).await.unwrap();
        assert_eq!(pages.len(), PAGES, "in round {round}");
        let forwards: Vec<_> =
            pages.iter().map(|page| ClaimRequest { page_id: page.page_id, epoch: page.epoch }).collect();
        let backwards: Vec<_> = forwards.iter().rev().copied().collect();
        let mut shuffled = pages.clone();
        shuffled.rotate_left(round * 7 % PAGES);
        let (returned, claims) = join(
            crawl.store.return_unpublished(&shuffled),
            join_all([
                workers[0].claim(&forwards, LEASE, false),
                workers[1].claim(&backwards, LEASE, false),
                workers[0].claim(&backwards, LEASE, false),
            ]),
        )
        .await;
        returned.unwrap();
        let claimed: Vec<_> = claims.into_iter().flat_map(Result::unwrap).collect();
        let distinct: HashSet<_> = claimed.iter().map(|page| page.page_id).collect();
        assert_eq!((claimed.len(), distinct.len()), (PAGES, PAGES), "in round {round}");
        crawl.change("UPDATE url_queue SET status = 'pending', epoch = epoch + 1").await;
    }
}

#[tokio::test]
async fn groups_whose_pages_link_to_each_other_never_deadlock() {
    const PAGES: usize = 60;
    let crawl = crawl_of(PAGES).await;
    for round in 0..10 {
        let workers = [crawl.worker().await, crawl.worker().await];
        let pages = crawl.claim(&workers[round % 2]).await;
        assert_eq!(pages.len(), PAGES, "in round {round}");
        // Half of them belong to the other worker, and each half links to the other.
        let (own, others) = pages.split_at(PAGES / 2);
        let ids: Vec<_> = others.iter().map(|page| page.page_id.0).collect();
        let taken = "UPDATE url_queue SET locked_by = $2 WHERE id = ANY($1)";
        let other = workers[(round + 1) % 2].worker().0;
        sqlx::query(taken).bind(&ids).bind(other).execute(&crawl.pool).await.unwrap();
        let links = |pages: &[ClaimedPage]| pages.iter().map(|page| page.url.to_string()).collect::<Vec<_>>();
        let group = |pages: &[ClaimedPage], links: &[String]| -> Vec<_> {
            pages.iter().map(|page| finished(page, &small_table(), links)).collect()
        };
        let (one, two) = (group(own, &links(others)), group(others, &links(own)));
        let (first, second) =
            join(workers[round % 2].record(&one), workers[(round + 1) % 2].record(&two)).await;
        assert_eq!(first.unwrap().len() + second.unwrap().len(), PAGES, "in round {round}");
        crawl.change("UPDATE url_queue SET status = 'pending', attempt = 0, epoch = epoch + 1").await;
    }
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_no_open_transaction() {
    const PAGES: usize = 40;
    let crawl = crawl_of(PAGES).await;
    let worker = crawl.worker().await;
    let pages = crawl.claim(&worker).await;
    for (polls, page) in pages.iter().enumerate() {
        let group = [finished(page, &small_table(), &urls("found", 30))];
        let mut record = pin!(worker.record(&group));
        let mut left = polls / 2;
        // Dropped after some number of polls: before it has a connection, before the statement is sent, after ...
        poll_fn(|context| {
            let polled = record.as_mut().poll(context);
            left = left.saturating_sub(1);
            if left == 0 || polled.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND state LIKE 'idle in transaction%'";
    let active =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'
        AND pid <> pg_backend_pid()";
    wait_for("statements ended", Duration::from_secs(10), async || crawl.number(active).await == 0).await;
    // A connection that was closed is there until its server has seen that; one that went back to the pool would stay.
    wait_for("no transaction is open", Duration::from_secs(10), async || crawl.number(idle).await == 0).await;
    // The connections work, and what was not recorded can be, once.
    let rest: Vec<_> = pages.iter().map(|page| finished(page, &small_table(), &urls("found", 30))).collect();
    for _ in 0..20 {
        worker.record(&rest).await.unwrap();
    }
    assert_eq!(crawl.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await, PAGES as i64);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn pages_of_paced_hosts_that_link_to_each_other_never_deadlock() {
    const ROUNDS: usize = 60;
    let hosts = ["a.test", "b.test"];
    let start_urls: Vec<_> =
        (0..2 * ROUNDS).map(|number| format!("http://{}/{number}", hosts[number % 2])).collect();
    let crawl = Crawl::start(NO_LIMITS, &start_urls.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (one, other) = (crawl.worker().await, crawl.worker().await);
    let requests = crawl.queue().await;
    crawl.change("UPDATE url_queue SET host_delay_ms = 1; UPDATE hosts SET delay_ms = 1").await;
    let pages = one.claim(&requests[..ROUNDS], LEASE, false).await.unwrap().into_iter();
    let pages_of_other = other.claim(&requests[ROUNDS..], LEASE, false).await.unwrap().into_iter();
    // Each group has a page of both hosts, and each page leads to the other host: to pages and to hosts that are new.
    let work = async |worker: &HotStore, pages: Vec<ClaimedPage>, name: &str| {
        for (round, group) in pages.chunks(2).enumerate() {
            let group: Vec<_> = group
                .iter()
                .map(|page| {
                    let another = if page.host == hosts[0] { hosts[1] } else { hosts[0] };
                    let links = [
                        format!("http://{another}/{name}/{round}/{}", page.host),
                        format!("http://new{round}.test/{name}/{}", page.host),
                    ];
                    let mut done = finished(page, &small_table(), &links);
                    done.outcome.contact.started_in = Some(Duration::ZERO);
                    done
                })
                .collect();
            assert_eq!(worker.record(&group).await.unwrap().len(), group.len(), "in round {round}");
        }
    };
    join(work(&one, pages.collect(), "one"), work(&other, pages_of_other.rev().collect(), "other")).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(crawl.number(deadlocks).await, 0);
    crawl.assert_counters_are_a_recount().await;
}

#[tokio::test]
async fn a_page_that_takes_a_later_turn_and_a_late_message_of_it_never_deadlock() {
    let crawl = crawl_of(2).await;
    let (holder, other) = (crawl.worker().await, crawl.worker().await);
    let requests = crawl.queue().await;
    crawl.change("UPDATE url_queue SET host_delay_ms = 1; UPDATE hosts SET delay_ms = 1").await;
    let page = holder.claim(&requests[..1], LEASE, false).await.unwrap().remove(0);
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let wait_for_waiting = async |statements: i64| {
        let is_so = async || crawl.number(waiting).await == statements;
        wait_for("statements wait for locks", Duration::from_secs(10), is_so).await;
    };
    // Somebody has the host in his hands: the turn waits for it first, and the claim, which has both pages, comes behind.
    let mut dispatcher = crawl.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM hosts FOR UPDATE").execute(&mut *dispatcher).await.unwrap();
    let late = async {
        wait_for_waiting(1).await;
        other.claim(&requests, LEASE, false).await
    };
    let letting_go = async {
        wait_for_waiting(2).await;
        dispatcher.commit().await.unwrap();
    };
    let (turn, late, ()) = tokio::join!(holder.next_start(&page, LEASE), late, letting_go);
    turn.unwrap();
    assert_eq!(late.unwrap().len(), 1, "the other page");
}
