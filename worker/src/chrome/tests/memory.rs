//! Pages that use far too much memory.

use std::time::Duration;

use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_shared::domain::workflow::WaitUntil;
use tokio::time::Instant;

use super::bench::{Bench, eventually, is_running, one, options, read_all, session, soon};
use crate::chrome::ChromeOptions;
use crate::chrome::driver::Driver;

#[tokio::test]
async fn a_document_that_is_unpacked_without_end_ends_alone() {
    let bench = Bench::with(ChromeOptions { page_memory: 150 << 20, ..options() }).await;
    let browser = bench.driver.browser_pid();
    // Of another execution, and of the same one.
    let neighbour = session(&[]);
    let mut other = bench.driver.open(&neighbour, soon()).await.unwrap();
    bench.load(&mut other, "/").await.unwrap();
    let mut beside = bench.open().await;
    bench.load(&mut beside, "/plain").await.unwrap();
    let mut tab = bench.open().await;
    let deadline = Instant::now() + Duration::from_secs(200);
    let loaded = tab.navigate(&bench.url("/bomb"), WaitUntil::Load, None, deadline).await;
    assert_eq!(loaded.unwrap_err().failure.class, ErrorClass::TabCrash);
    assert!(Instant::now() < deadline, "it was ended before its deadline");
    assert_eq!(one(&mut other, read_all("h1")).await.unwrap()[0], " The  Shop ");
    assert_eq!(one(&mut beside, read_all("h1")).await.unwrap()[0], "plain");
    drop(tab);
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
    assert_eq!(bench.driver.browser_pid(), browser);
}

#[tokio::test]
async fn a_document_that_is_unpacked_without_end_takes_its_browser_down_before_the_machine() {
    let bench = Bench::with(ChromeOptions { browser_memory: 220 << 20, ..options() }).await;
    let first = bench.driver.browser_pid().unwrap();
    let mut tab = bench.open().await;
    let deadline = Instant::now() + Duration::from_secs(200);
    let loaded = tab.navigate(&bench.url("/bomb"), WaitUntil::Load, None, deadline).await;
    assert_eq!(loaded.unwrap_err().failure.class, ErrorClass::BrowserLost);
    eventually("the browser is gone", || !is_running(first)).await;
    drop(tab);
    bench.driver.ready().await;
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
}

#[tokio::test]
async fn a_browser_that_uses_too_much_memory_is_replaced() {
    let ping_every = Duration::from_millis(200);
    let bench = Bench::with(ChromeOptions { browser_memory: 430 << 20, ping_every, ..options() }).await;
    let first = bench.driver.browser_pid().unwrap();
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
    tokio::time::sleep(4 * ping_every).await;
    assert_eq!(bench.driver.browser_pid(), Some(first), "it uses little so far");
    let mut hungry = bench.open().await;
    bench.load(&mut hungry, "/hungry").await.unwrap();
    eventually("the browser is replaced", || bench.driver.browser_pid().is_some_and(|pid| pid != first))
        .await;
    drop(hungry);
    eventually("the old browser is gone", || !is_running(first)).await;
}
