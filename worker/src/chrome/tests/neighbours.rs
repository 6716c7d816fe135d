//! Pages that misbehave, beside one of the same execution and site that does its work.

use std::cell::Cell;
use std::time::Duration;

use crawlify_shared::domain::workflow::WaitUntil;
use tokio::time::Instant;

use super::bench::{Bench, eventually, one, options, read_all, soon};
use crate::chrome::ChromeOptions;
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
        let (mut beside, mut hostile) = (bench.open().await, bench.open().await);
        let (ended, url) = (Cell::new(false), bench.url(path));
        let misbehaves = async {
            let deadline = Instant::now() + Duration::from_secs(3);
            // Some of them are loaded in the end.
            let _ = hostile.navigate(&url, WaitUntil::Load, None, deadline).await;
            assert!(Instant::now() < deadline + Duration::from_secs(1), "{path} went on after its deadline");
            ended.set(true);
        };
        let works = async {
            loop {
                bench
                    .load(&mut beside, "/plain")
                    .await
                    .unwrap_or_else(|error| panic!("beside {path}: {error}"));
                let read = one(&mut beside, read_all("h1")).await;
                assert_eq!(read.unwrap_or_else(|error| panic!("beside {path}: {error:?}"))[0], "plain");
                if ended.get() {
                    break;
                }
            }
        };
        tokio::join!(misbehaves, works);
        drop(hostile);
        beside.release().await;
    }
    assert_eq!(bench.driver.browser_pid(), browser, "it is the same browser");
}

#[tokio::test]
async fn a_page_that_has_all_connections_to_its_server_gives_them_back_to_those_that_wait() {
    let patience = Duration::from_secs(1);
    let egress = EgressOptions { patience, ..EgressOptions::allowing(&["127.0.0.1"]).unwrap() };
    let egress = Egress::start(egress).unwrap();
    let bench = Bench::with(ChromeOptions { egress: Some(egress.clone()), ..options() }).await;
    let (mut beside, mut hostile) = (bench.open().await, bench.open().await);
    let (hangs, plain) = (bench.url("/hangs"), bench.url("/plain"));
    let works = async {
        let execution = bench.session.execution_id;
        let has_asked = || egress.bytes(execution).is_some_and(|traffic| traffic.requests >= 7);
        eventually("the page and its six pictures are asked for", has_asked).await;
        beside.navigate(&plain, WaitUntil::Load, None, soon()).await
    };
    let loaded = tokio::select! {
        hung = hostile.navigate(&hangs, WaitUntil::Load, None, soon()) => panic!("it has ended: {hung:?}"),
        loaded = works => loaded,
    };
    assert_eq!(loaded.unwrap().status, Some(200));
}
