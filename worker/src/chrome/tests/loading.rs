//! Loading pages: what came, or why nothing did.

use std::time::Duration;

use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{ElementState, WaitUntil};
use serde_json::json;
use tokio::time::Instant;

use super::bench::{Bench, once_within, one, options, read_all, soon, wait_for};
use super::tls_site::self_signed_site;
use crate::chrome::ChromeOptions;
use crate::chrome::driver::Driver;
use crate::egress::{Egress, EgressOptions};
use crate::held_port::held;

#[tokio::test]
async fn a_document_says_where_it_is_and_what_its_status_was() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    let document = bench.load(&mut tab, "/moved").await.unwrap();
    assert_eq!(document.final_url.path(), "/deep/based");
    assert_eq!(document.base_url.path(), "/other/");
    assert_eq!(document.status, Some(200));
    assert_eq!(document.bytes, "<base href='/other/'><h1>based</h1>".len() as u64);
    for (path, status) in
        [("/missing", 404), ("/missing-empty", 404), ("/broken-empty", 500), ("/password", 401)]
    {
        let document = bench.load(&mut tab, path).await.unwrap();
        assert_eq!((document.status, document.final_url.path()), (Some(status), path));
    }
    let other = Bench::start().await;
    let document = bench.load(&mut tab, &format!("/other-port?{}", other.site.port())).await.unwrap();
    assert_eq!((document.status, document.final_url.port()), (Some(200), Some(other.site.port())));
}

#[tokio::test]
async fn a_host_that_sends_pages_to_one_that_is_gone_is_told_from_it() {
    let guarded = Bench::start().await;
    let bare = Bench::with(ChromeOptions { egress: None, ..options() }).await;
    let gone = PageUrl::parse("http://gone.test/").unwrap();
    for bench in [guarded, bare] {
        let mut tab = bench.open().await;
        let failure = bench.load(&mut tab, "/to-a-host-that-is-gone").await.unwrap_err().failure;
        assert_eq!((failure.class, failure.is_elsewhere), (ErrorClass::Dns, true), "{failure:?}");
        let failure = tab.navigate(&gone, WaitUntil::Load, None, soon()).await.unwrap_err().failure;
        assert_eq!((failure.class, failure.is_elsewhere), (ErrorClass::Dns, false), "{failure:?}");
    }
}

#[tokio::test]
async fn what_is_no_page_fails_within_a_second_and_the_tab_goes_on() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    let closed = held("127.0.0.1:0");
    let closed_port = closed.local_addr().unwrap();
    let elsewhere = |url: &str| PageUrl::parse(url).unwrap();
    for (url, class) in [
        (elsewhere("http://no-such-host.test/"), ErrorClass::Dns),
        (elsewhere(&format!("http://{closed_port}/")), ErrorClass::Connect),
        (elsewhere(&format!("https://{}/", bench.site)), ErrorClass::Tls),
        (bench.url("/nothing"), ErrorClass::NotAPage),
        (bench.url("/download"), ErrorClass::NotAPage),
        (bench.url("/loop"), ErrorClass::NotAPage),
    ] {
        once_within(Duration::from_secs(1), async || {
            let began = Instant::now();
            let error = tab.navigate(&url, WaitUntil::Load, None, soon()).await.unwrap_err();
            let took = began.elapsed();
            assert_eq!(error.failure.class, class, "{url} after {took:?}: {}", error.failure.message);
            assert!(error.tab_usable);
            took
        })
        .await;
        bench.load(&mut tab, "/plain").await.unwrap();
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_an_error() {
    let (url, _server) = self_signed_site().await;
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    let error = tab.navigate(&url, WaitUntil::Load, None, soon()).await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::Tls, "{error}");
    // That it is for its certificate: a browser that is told not to look loads it.
    let mut careless = options();
    careless.extra_flags.push("--ignore-certificate-errors".to_owned());
    let bench = Bench::with(careless).await;
    let mut tab = bench.open().await;
    tab.navigate(&url, WaitUntil::Load, None, soon()).await.unwrap();
    assert_eq!(one(&mut tab, read_all("h1")).await.unwrap(), json!(["deep"]));
}

#[tokio::test]
async fn a_document_that_is_too_large_fails_for_good_and_the_tab_goes_on() {
    let egress =
        EgressOptions { document_bytes: 1 << 20, ..EgressOptions::allowing(&["127.0.0.1"]).unwrap() };
    let egress = Some(Egress::start(egress).unwrap());
    let bench = Bench::with(ChromeOptions { egress, ..options() }).await;
    let mut tab = bench.open().await;
    for path in ["/long", "/flood"] {
        let error = bench.load(&mut tab, path).await.unwrap_err();
        assert_eq!(error.failure.class, ErrorClass::TooLarge, "{path}: {}", error.failure.message);
        assert!(error.tab_usable && !error.failure.class.is_transient());
        bench.load(&mut tab, "/plain").await.unwrap();
    }
}

#[tokio::test]
async fn a_document_with_too_many_elements_fails_for_good_and_the_tab_goes_on() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    let error = bench.load(&mut tab, "/many-elements").await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::TooLarge, "{}", error.failure.message);
    assert!(error.tab_usable && error.failure.message.contains("500000 elements"));
    bench.load(&mut tab, "/plain").await.unwrap();
}

#[tokio::test]
async fn all_that_a_page_loads_is_counted_once_behind_the_guard() {
    let bench = Bench::start().await;
    let execution = bench.session.execution_id;
    assert_eq!(bench.driver.take_received(execution), None, "it has no tabs");
    let mut tab = bench.open().await;
    let document = bench.load(&mut tab, "/with-parts").await.unwrap();
    // The document, a script, a style and a picture, each with a head of more than 100 bytes.
    let received = bench.driver.take_received(execution).unwrap();
    assert!(received > document.bytes + 400, "{received} of a document of {}", document.bytes);
    assert_eq!(bench.driver.take_received(execution), Some(0));
    let bare = Bench::with(ChromeOptions { egress: None, ..options() }).await;
    let mut tab = bare.open().await;
    assert!(bare.load(&mut tab, "/plain").await.unwrap().bytes > 0);
    assert_eq!(bare.driver.take_received(bare.session.execution_id), None, "nobody counts");
}

#[tokio::test]
async fn a_load_that_does_not_end_ends_at_its_deadline() {
    let bench = Bench::start().await;
    for path in ["/endless", "/silent", "/busy", "/slow-picture"] {
        once_within(Duration::from_secs(2), async || {
            let mut tab = bench.open().await;
            let began = Instant::now();
            let deadline = began + Duration::from_millis(1500);
            let error = tab.navigate(&bench.url(path), WaitUntil::Load, None, deadline).await.unwrap_err();
            let took = began.elapsed();
            assert_eq!(error.failure.class, ErrorClass::NavTimeout, "{path} after {took:?}: {error}");
            assert!(!error.tab_usable);
            took
        })
        .await;
    }
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
}

#[tokio::test]
async fn a_navigation_waits_for_what_it_is_told_to() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    tab.navigate(&bench.url("/slow-picture"), WaitUntil::DomContentLoaded, None, soon()).await.unwrap();
    assert_eq!(one(&mut tab, read_all("h1")).await.unwrap()[0], "seen");
    tab.navigate(&bench.url("/late-fetch"), WaitUntil::NetworkIdle, None, soon()).await.unwrap();
    assert_eq!(one(&mut tab, read_all("h1")).await.unwrap()[0], "1");
}

#[tokio::test]
async fn redirects_by_script_and_refresh_are_followed() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    for (path, arrives) in [
        ("/script-redirect", "/plain"),
        ("/load-redirect", "/plain"),
        ("/refresh", "/plain"),
        ("/script-download", "/script-download"),
    ] {
        let document = bench.load(&mut tab, path).await.unwrap();
        assert_eq!(document.final_url.path(), arrives, "{path}");
        assert_eq!(one(&mut tab, read_all("h1")).await.unwrap().as_array().unwrap().len(), 1);
    }
    let error = bench.load(&mut tab, "/redirects-for-ever").await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::NotAPage, "{}", error.failure.message);
}

#[tokio::test]
async fn pages_see_a_whole_window_though_little_of_it_is_painted() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    // The second load shows that it is so on every page of the tab.
    for _ in 0..2 {
        bench.load(&mut tab, "/window").await.unwrap();
        one(&mut tab, wait_for("b", ElementState::Attached, 5000)).await.unwrap();
        assert_eq!(
            one(&mut tab, read_all("p")).await.unwrap(),
            json!([
                "inner 1366x768",
                "outer 1366x768",
                "screen 1366x768",
                "visual 1366x768",
                "ratio 1",
                "visible",
                "rgb(1, 2, 3)",
                "in true",
                "below false",
                "near true, far false"
            ])
        );
        bench.load(&mut tab, "/plain").await.unwrap();
    }
}

#[tokio::test]
async fn what_is_asked_for_beside_a_page_is_counted_and_not_what_only_rewrites_its_address() {
    let (bench, other) = (Bench::start().await, Bench::start().await);
    let mut tab = bench.open().await;
    let elsewhere = format!("/other-port?{}", other.site.port());
    for (path, beside) in [
        ("/plain", 0),
        ("/moved", 1),
        ("/chain/4", 4),
        ("/script-redirect", 1),
        ("/refresh", 1),
        ("/script-to-chain", 3),
        // Of redirects to another origin no page is told.
        (elsewhere.as_str(), 1),
        ("/renames", 0),
    ] {
        bench.load(&mut tab, path).await.unwrap();
        assert_eq!(tab.asked_beside(), beside, "{path}");
    }
    let renamed = tab.look_again(soon()).await.unwrap().unwrap();
    assert_eq!(renamed.final_url.path(), "/other/2", "though its address is another one");
    // Which ends only where it has gone too far.
    bench.load(&mut tab, "/redirects-for-ever").await.unwrap_err();
    assert!(tab.asked_beside() >= 20, "{}", tab.asked_beside());
}
