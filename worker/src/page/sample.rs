//! A page as a claim gives it, and turns for it, for tests of what is done with one.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use crawlify_shared::config::SecretUrl;
use crawlify_shared::domain::fault::Faults;
use crawlify_shared::domain::id::{ExecutionId, PageId, WorkerId};
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::page_url::{HostUnit, PageUrl};
use crawlify_shared::store::hot::HotStore;
use prometheus::Registry;

use super::host_turns::HostTurns;
use crate::metrics::Metrics;

/// The first attempt of a page of depth 0.
pub(crate) fn claimed_page(url: &str) -> ClaimedPage {
    let url = PageUrl::parse(url).expect("the test's URL is one");
    ClaimedPage {
        page_id: PageId::generate(),
        execution_id: ExecutionId::generate(),
        host: url.host().to_owned(),
        url,
        depth: 0,
        priority: 100,
        attempt: 1,
        epoch: 0,
        faults: Faults::default(),
        created_at: Utc::now(),
        claimed_at: Utc::now(),
        claimed_here: Instant::now(),
        start_in: Duration::ZERO,
        host_unit: HostUnit::Host,
        host_delay: Duration::ZERO,
        is_sitemap: false,
    }
}

/// The turns of a worker whose store nobody asks.
pub(crate) fn host_turns() -> HostTurns {
    host_turns_by("postgres://127.0.0.1:1/none")
}

/// The turns of a worker whose store takes every connection and says nothing, as long as it is kept.
pub(crate) fn silent_host_turns() -> (HostTurns, TcpListener) {
    let store = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = store.local_addr().expect("it listens");
    (host_turns_by(&format!("postgres://nobody@{address}/none")), store)
}

fn host_turns_by(url: &str) -> HostTurns {
    let store = HotStore::connect(&SecretUrl::new(url), WorkerId::generate()).expect("the URL is one");
    let metrics = Metrics::register(&Registry::new(), 1).expect("they are the only ones");
    HostTurns::new(store, Duration::ZERO, Arc::new(metrics))
}
