//! Keeping apart: our script from the page's, one execution from another.

use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::target::GetBrowserContextsParams;
use crawlify_shared::domain::workflow::{ElementState, Isolation};
use serde_json::json;

use super::bench::{
    Bench, css, eventually, is_running, options, read_all, run, session, soon, step, wait_for,
};
use crate::chrome::ChromeOptions;
use crate::chrome::browser::Browser;
use crate::chrome::driver::{DomOp, Session};

#[tokio::test]
async fn a_hostile_page_cannot_disturb_what_is_read_from_it() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    let document = bench.load(&mut tab, "/hostile").await.unwrap();
    assert_eq!(document.status, Some(200));
    let before = chrono::Utc::now();
    let steps =
        [wait_for(".never", ElementState::Visible, 300), read_all("h1"), step(DomOp::Links(css("a")))];
    let results = run(&mut tab, steps, soon()).await.unwrap();
    assert_eq!(
        results[0].output.clone().unwrap_err().message,
        "selector \".never\" was not visible within 300 ms"
    );
    assert_eq!(results[1].output, Ok(json!(["victim"])));
    assert_eq!(results[2].output, Ok(json!(["/a", "/b"])));
    assert!(results[1].started_at - before >= chrono::TimeDelta::milliseconds(250));
}

#[tokio::test]
async fn executions_share_no_cookies_and_their_own_pages_do() {
    let bench = Bench::start().await;
    let (first, second) = (session(&[]), session(&[]));
    bench.texts(&first, "/cookie", "h1").await;
    assert!(has_cookie(&bench.texts(&first, "/headers", "li").await));
    assert!(!has_cookie(&bench.texts(&second, "/headers", "li").await));
}

fn has_cookie(lines: &[String]) -> bool {
    lines.iter().any(|line| line == "cookie: who=me")
}

#[tokio::test]
async fn an_execution_keeps_its_cookies_however_many_others_want_tabs() {
    let bench = Bench::with(ChromeOptions { idle_tabs: 1, ..options() }).await;
    let executions = [session(&[]), session(&[]), session(&[])];
    bench.texts(&executions[0], "/cookie", "h1").await;
    for execution in executions.iter().cycle().take(9) {
        let lines = bench.texts(execution, "/headers", "li").await;
        let is_first = execution.execution_id == executions[0].execution_id;
        assert_eq!(has_cookie(&lines), is_first, "{lines:?}");
    }
}

#[tokio::test]
async fn an_execution_keeps_its_cookies_when_its_browser_is_replaced() {
    let bench = Bench::with(ChromeOptions { pages_per_browser: 2, ..options() }).await;
    let (first, other) = (session(&[]), session(&[]));
    bench.texts(&first, "/cookie", "h1").await;
    for _ in 0..2 {
        let pid = bench.driver.browser_pid();
        bench.texts(&other, "/plain", "h1").await;
        bench.texts(&other, "/plain", "h1").await;
        eventually("the browser is replaced", || ![None, pid].contains(&bench.driver.browser_pid())).await;
    }
    // Nobody asked for them in between: they were handed over twice.
    assert!(has_cookie(&bench.texts(&first, "/headers", "li").await));
    assert!(!has_cookie(&bench.texts(&other, "/headers", "li").await));
}

#[tokio::test]
async fn what_the_last_page_of_a_browser_logs_in_to_is_known_to_the_next_one() {
    let bench = Bench::with(ChromeOptions { pages_per_browser: 2, ..options() }).await;
    let mut last = bench.open().await;
    bench.load(&mut last, "/plain").await.unwrap();
    let first = bench.driver.browser_pid().unwrap();
    bench.texts(&bench.session, "/plain", "h1").await;
    eventually("the browser is replaced", || bench.driver.browser_pid().is_some_and(|pid| pid != first))
        .await;
    assert!(!has_cookie(&bench.texts(&bench.session, "/headers", "li").await));
    bench.load(&mut last, "/cookie").await.unwrap();
    last.release().await;
    // Once it has handed over what it has. A page loaded meanwhile would have the next browser replaced too.
    eventually("the old browser is gone", || !is_running(first)).await;
    assert!(has_cookie(&bench.texts(&bench.session, "/headers", "li").await), "the cookie is lost");
}

#[tokio::test]
async fn an_execution_without_a_page_keeps_its_cookies_and_nothing_else() {
    let bench = Bench::start().await;
    let first = bench.driver.current_browser().unwrap();
    bench.texts(&bench.session, "/cookie", "h1").await;
    first.tabs.park_unused(Duration::from_secs(60), soon()).await;
    assert_eq!(contexts(&first).await, 1, "its page has just ended");
    first.tabs.park_unused(Duration::ZERO, soon()).await;
    assert_eq!(contexts(&first).await, 0);
    assert!(has_cookie(&bench.texts(&bench.session, "/headers", "li").await));
    // What a lost browser did not have any more is not lost with it.
    first.tabs.park_unused(Duration::ZERO, soon()).await;
    first.launched.kill();
    let pid = Some(first.launched.id());
    eventually("the browser is replaced", || ![None, pid].contains(&bench.driver.browser_pid())).await;
    assert!(has_cookie(&bench.texts(&bench.session, "/headers", "li").await));
}

#[tokio::test]
async fn a_page_that_is_on_its_way_keeps_its_context() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/cookie").await.unwrap();
    let browser = bench.driver.current_browser().unwrap();
    browser.tabs.park_unused(Duration::ZERO, soon()).await;
    bench.load(&mut tab, "/plain").await.unwrap();
    assert_eq!(contexts(&browser).await, 1);
}

#[tokio::test]
async fn pages_that_are_kept_apart_share_no_cookies_and_leave_nothing_open() {
    let bench = Bench::start().await;
    let apart = Session { isolation: Isolation::Page, ..session(&[]) };
    bench.texts(&apart, "/cookie", "h1").await;
    let lines = bench.texts(&apart, "/headers", "li").await;
    assert!(!lines.iter().any(|line| line.starts_with("cookie")), "{lines:?}");
    let browser = bench.driver.current_browser().unwrap();
    let deadline = soon();
    loop {
        let left = contexts(&browser).await;
        if left == 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{left} contexts are left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many contexts there are.
async fn contexts(browser: &Browser) -> usize {
    let asked = browser.launched.connection.call(None, &GetBrowserContextsParams {}, soon()).await;
    asked.unwrap().browser_context_ids.len()
}

#[tokio::test]
async fn the_headers_of_a_session_are_sent_and_those_of_others_are_not() {
    let bench = Bench::start().await;
    let named = session(&[("User-Agent", "Crawlify/1"), ("X-Shop", "blue"), ("Accept-Language", "de")]);
    for _ in 0..2 {
        // The second time in a tab that was used before.
        let lines = bench.texts(&named, "/headers", "li").await;
        for line in ["user-agent: Crawlify/1", "x-shop: blue", "accept-language: de"] {
            assert_eq!(lines.iter().filter(|found| *found == line).count(), 1, "{line} in {lines:?}");
        }
    }
    let partly = bench.texts(&session(&[("X-Shop", "red")]), "/headers", "li").await;
    assert!(partly.iter().any(|line| line == "x-shop: red"));
    assert!(partly.iter().any(|line| line.starts_with("user-agent: Mozilla/5.0")), "{partly:?}");
    let plain = bench.texts(&session(&[]), "/headers", "li").await;
    assert!(plain.iter().any(|line| line.starts_with("user-agent: Mozilla/5.0")), "{plain:?}");
    assert!(!plain.iter().any(|line| line.starts_with("x-shop")));
}
