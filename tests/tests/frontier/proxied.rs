//! What pages hear through an execution's own proxy: their host is left alone for it, and no page of others fails by it.

use std::time::Duration;

use crawlify_shared::domain::fault::{Faults, HOST_REFUSES_AFTER};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage};
use crawlify_shared::store::hot::HotStore;
use harness::crawl::{Crawl, NO_LIMITS};

use super::refusals::{LEVEL, PAUSE, PAUSE_LASTS, TIMES, claim_one, refused, start};

const FAILED: &str = "SELECT count(*) FROM url_queue WHERE status = 'failed'";

/// As the host has refused it, or the proxy that its execution has.
fn refused_by_proxy(page: &ClaimedPage, status: u16) -> FinishedPage {
    let mut refused = refused(page, status);
    refused.outcome.contact.through_own_proxy = true;
    refused
}

/// Has so many pages refused, that were not refused before, each after the pause of the one before it.
async fn refuse(crawl: &Crawl, worker: &HotStore, status: u16, times: i16) {
    for _ in 0..times {
        loop {
            let page = claim_one(crawl, worker).await;
            worker.record(&[refused_by_proxy(&page, status)]).await.unwrap();
            assert!(crawl.number(PAUSE).await >= 1, "everybody leaves it alone");
            if page.faults == Faults::default() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_every_page_has_no_page_fail_of_executions_that_do_not_use_it() {
    // Out of its quota, or its address blocked.
    for status in [503, 429] {
        let (crawl, worker) = start(NO_LIMITS, 40).await;
        crawl.another(NO_LIMITS, &["http://busy.test/direct/1", "http://busy.test/direct/2"]).await;
        refuse(&crawl, &worker, status, HOST_REFUSES_AFTER + 1).await;
        crawl.change(PAUSE_LASTS).await;
        assert_eq!(crawl.store.sweep_leftover_pages().await.unwrap(), 0);
        assert_eq!((crawl.number(TIMES).await, crawl.number(FAILED).await), (0, 0), "{status}");
        assert_eq!(crawl.number(LEVEL).await > 0, status == 429, "slower where it says so");
    }
}

#[tokio::test]
async fn pages_that_the_host_itself_refuses_count_beside_those_of_a_proxy() {
    let (crawl, worker) = start(NO_LIMITS, 40).await;
    for (is_proxied, times) in [(false, 1), (true, 1), (false, 2), (true, 2)] {
        let refuse = if is_proxied { refused_by_proxy } else { refused };
        loop {
            let page = claim_one(&crawl, &worker).await;
            worker.record(&[refuse(&page, 429)]).await.unwrap();
            if page.faults == Faults::default() {
                break;
            }
        }
        assert_eq!(crawl.number(TIMES).await, times);
    }
}

#[tokio::test]
async fn a_host_is_left_alone_for_as_long_as_it_says_through_a_proxy() {
    for (said, pause) in [(0, 1), (30, 30)] {
        let (crawl, worker) = start(NO_LIMITS, 1).await;
        let page = claim_one(&crawl, &worker).await;
        let mut refused = refused_by_proxy(&page, 503);
        refused.outcome.contact.back_off = Some(Duration::from_secs(said));
        worker.record(&[refused]).await.unwrap();
        assert_eq!((crawl.number(PAUSE).await, crawl.number(TIMES).await), (pause, 0));
    }
}
