//! Pages that misbehave, beside one of the same execution and site that does its work.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::WaitUntil;
use tokio::time::Instant;

use super::bench::{Bench, eventually, once_within, one, options, read_all, soon};
use super::tls_site::{BEGUN_BYTES, self_signed_site};
use crate::chrome::ChromeOptions;
use crate::chrome::driver::{Document, TabError};
use crate::egress::{Egress, EgressOptions};

/// What they do can be told by their names.
const MISBEHAVE: [&str; 9] = [
    "/endless",
    "/flood",
    "/silent",
    "/busy",
    "/dialog-loop",
    "/popups",
    "/many-elements",
    "/redirects-for-ever",
    "/restless",
];

#[tokio::test]
async fn a_page_that_misbehaves_gives_its_place_back_at_its_deadline_and_harms_no_neighbour() {
    let bench = Bench::start().await;
    let browser = bench.driver.browser_pid();
    for path in MISBEHAVE {
        once_within(Duration::from_secs(1), async || misbehave_beside_work(&bench, path).await).await;
    }
    assert_eq!(bench.driver.browser_pid(), browser, "it is the same browser");
}

/// How long after its deadline the page gives its place back.
async fn misbehave_beside_work(bench: &Bench, path: &str) -> Duration {
    let (mut beside, mut hostile) = (bench.open().await, bench.open().await);
    let (ended, url) = (Cell::new(false), bench.url(path));
    let misbehaves = async {
        let deadline = Instant::now() + Duration::from_secs(3);
        // Some of them are loaded in the end.
        let _ = hostile.navigate(&url, WaitUntil::Load, None, deadline).await;
        ended.set(true);
        deadline.elapsed()
    };
    let works = async {
        loop {
            bench.load(&mut beside, "/plain").await.unwrap_or_else(|error| panic!("beside {path}: {error}"));
            let read = one(&mut beside, read_all("h1")).await;
            assert_eq!(read.unwrap_or_else(|error| panic!("beside {path}: {error:?}"))[0], "plain");
            if ended.get() {
                break;
            }
        }
    };
    let (late, ()) = tokio::join!(misbehaves, works);
    drop(hostile);
    beside.release().await;
    late
}

/// A browser that looks at no certificates, behind a guard that soon has requests give way.
async fn impatient() -> (Bench, Arc<Egress>) {
    let patience = Duration::from_secs(2);
    let egress = EgressOptions { patience, ..EgressOptions::allowing(&["127.0.0.1"]).unwrap() };
    let egress = Egress::start(egress).unwrap();
    let mut options = ChromeOptions { egress: Some(Arc::clone(&egress)), ..options() };
    options.extra_flags.push("--ignore-certificate-errors".to_owned());
    (Bench::with(options).await, egress)
}

/// Loads a page beside one that hangs, once that has all connections to their server.
async fn load_beside(
    bench: &Bench,
    hangs: &PageUrl,
    has_all: impl FnMut() -> bool,
    page: &PageUrl,
) -> Result<Document, TabError> {
    let (mut beside, mut hostile) = (bench.open().await, bench.open().await);
    let works = async {
        eventually("the page has all connections to its server", has_all).await;
        beside.navigate(page, WaitUntil::Load, None, soon()).await
    };
    tokio::select! {
        hung = hostile.navigate(hangs, WaitUntil::Load, None, soon()) => {
            panic!("{hangs} has ended: {hung:?}")
        }
        loaded = works => loaded,
    }
}

#[tokio::test]
async fn a_page_that_has_all_connections_to_its_server_gives_them_back_to_those_that_wait() {
    // Answers that do not begin, that stop, and that come drop by drop.
    for path in ["/hangs", "/hangs/begun", "/hangs/frames"] {
        let (bench, egress) = impatient().await;
        let execution = bench.session.execution_id;
        // The page and its six parts.
        let has_all = || egress.bytes(execution).is_some_and(|traffic| traffic.requests >= 7);
        let loaded = load_beside(&bench, &bench.url(path), has_all, &bench.url("/plain")).await;
        assert_eq!(loaded.unwrap_or_else(|error| panic!("beside {path}: {error}")).status, Some(200));
    }
}

#[tokio::test]
async fn a_page_over_https_whose_answers_stop_gives_connections_back_to_a_navigation_that_waits() {
    let (bench, egress) = impatient().await;
    let (site, _server) = self_signed_site().await;
    let execution = bench.session.execution_id;
    let begun = 6 * BEGUN_BYTES as u64;
    let has_all = || egress.bytes(execution).is_some_and(|traffic| traffic.bytes_received >= begun);
    let hangs = PageUrl::parse(&format!("{site}hangs")).unwrap();
    let loaded = load_beside(&bench, &hangs, has_all, &site).await;
    assert_eq!(loaded.unwrap().status, Some(200));
}
