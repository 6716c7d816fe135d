//! What is done to pages, and what they see of it.

use std::time::Duration;

use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_shared::domain::workflow::{ElementState, ScrollTo, Target, WaitUntil};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::bench::{Bench, css, one, options, read_all, run, soon, step, wait_for};
use crate::chrome::ChromeOptions;
use crate::chrome::driver::{Document, DomOp, DomStep, Input, Tab, TabError};
use crate::egress::{Egress, EgressOptions};

fn locate(query: &str, timeout_ms: u64, focus: bool) -> DomStep {
    let target = Target { selector: css(query), timeout: Duration::from_millis(timeout_ms) };
    step(DomOp::Locate { target, focus })
}

async fn point_of(tab: &mut Box<dyn Tab>, query: &str) -> (f64, f64) {
    let found = one(tab, locate(query, 5000, false)).await.unwrap_or_else(|failure| panic!("{failure:?}"));
    (found["x"].as_f64().unwrap(), found["y"].as_f64().unwrap())
}

async fn click(tab: &mut Box<dyn Tab>, query: &str) -> Result<Option<Document>, TabError> {
    let (x, y) = point_of(tab, query).await;
    tab.input(&Input::Click(x, y), WaitUntil::Load, soon()).await
}

/// The document that something leads to, where it is not there at once: a busy machine may leave a page a little later.
async fn followed(tab: &mut Box<dyn Tab>, at_once: Option<Document>) -> Result<Document, TabError> {
    let deadline = soon();
    let mut led_to = at_once;
    loop {
        if let Some(document) = led_to {
            return Ok(document);
        }
        assert!(Instant::now() < deadline, "it leads nowhere");
        tokio::time::sleep(Duration::from_millis(20)).await;
        led_to = tab.follow(WaitUntil::Load, soon()).await?;
    }
}

/// The document that a click leads to.
async fn click_through(tab: &mut Box<dyn Tab>, query: &str) -> Result<Document, TabError> {
    let at_once = click(tab, query).await?;
    followed(tab, at_once).await
}

/// What the page has seen that holds this text.
async fn seen(tab: &mut Box<dyn Tab>, text: &str) -> Vec<String> {
    let lines: Vec<String> = serde_json::from_value(one(tab, read_all("#log li")).await.unwrap()).unwrap();
    lines.into_iter().filter(|line| line.contains(text)).collect()
}

#[tokio::test]
async fn clicks_are_a_persons_and_reach_what_is_far_late_moving_or_labelled() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/acts").await.unwrap();
    for query in ["#lines", "#slides", "#far", "#box"] {
        assert!(click(&mut tab, query).await.unwrap().is_none(), "{query} leads nowhere");
    }
    let clicks = seen(&mut tab, "click").await;
    assert_eq!(clicks, ["click lines", "click slides", "click far", "click box"]);
    assert_eq!(seen(&mut tab, "change").await, ["change box"]);
    for query in ["#late", "#disabled"] {
        bench.load(&mut tab, "/acts").await.unwrap();
        click(&mut tab, query).await.unwrap();
        assert_eq!(seen(&mut tab, "click").await, [format!("click {}", &query[1..])]);
    }
    click(&mut tab, "#slides").await.unwrap();
    let (x, y) = point_of(&mut tab, "#slides").await;
    tab.input(&Input::Hover(x, y), WaitUntil::Load, soon()).await.unwrap();
    assert_eq!(seen(&mut tab, "mouseover slides").await.len(), 1, "it was there already");
}

#[tokio::test]
async fn what_cannot_be_clicked_on_fails_and_says_why() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/acts").await.unwrap();
    for (query, problem) in [
        ("#covered", "selector \"#covered\" was covered by `div` within 300 ms"),
        ("#through", "selector \"#through\" was covered by `body` within 300 ms"),
        ("#nothing", "selector \"#nothing\" was not there within 300 ms"),
        ("script", "selector \"script\" was not visible within 300 ms"),
    ] {
        let failure = one(&mut tab, locate(query, 300, false)).await.unwrap_err();
        assert_eq!((failure.class, failure.message.as_str()), (ErrorClass::SelectorMissing, problem));
    }
}

#[tokio::test]
async fn where_a_click_leads_the_next_nodes_run() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/acts").await.unwrap();
    let led_to = click_through(&mut tab, "#next").await.unwrap();
    assert_eq!((led_to.final_url.path(), led_to.status), ("/acts/next/", Some(200)));
    assert_eq!(one(&mut tab, read_all("h1")).await.unwrap(), json!(["the next page"]));
    bench.load(&mut tab, "/acts").await.unwrap();
    assert_eq!(click_through(&mut tab, "#gone").await.unwrap().status, Some(404));
    bench.load(&mut tab, "/acts").await.unwrap();
    assert!(click(&mut tab, "#file").await.unwrap().is_none(), "a download leaves the page where it is");
    assert_eq!(seen(&mut tab, "click file").await.len(), 1);
    let bare = click_through(&mut tab, "#bare").await.expect("an answer without a document");
    assert_eq!((bare.final_url.path(), bare.status), ("/broken-empty", Some(500)));
    bench.load(&mut tab, "/acts").await.unwrap();
    let error = click_through(&mut tab, "#nobody").await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::Dns, "{error}");
    assert!(error.tab_usable);
}

#[tokio::test]
async fn a_click_may_be_one_of_many() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/acts/list?1").await.unwrap();
    let mut at_once = 0;
    for page in 2..30 {
        let clicked = click(&mut tab, "a").await.unwrap();
        at_once += u32::from(clicked.is_some());
        let led_to = followed(&mut tab, clicked).await.unwrap();
        assert_eq!(led_to.final_url.query(), Some(page.to_string().as_str()));
        assert_eq!(tab.asked_beside(), page - 1, "each click asks for one more");
        click(&mut tab, "button").await.unwrap();
    }
    assert!(at_once > 14, "{at_once} of 28 led on at once");
}

#[tokio::test]
async fn a_page_that_is_left_late_is_followed_and_one_that_changes_its_address_is_known_by_it() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/acts").await.unwrap();
    assert!(click(&mut tab, "#later").await.unwrap().is_none(), "not at once");
    let never = wait_for(".never", ElementState::Attached, 15_000);
    let error = run(&mut tab, [never], soon()).await.unwrap_err();
    assert!(error.has_left(), "{error}");
    let led_to = tab.follow(WaitUntil::Load, soon()).await.unwrap().expect("another document");
    assert_eq!(led_to.final_url.path(), "/acts/next/");
    assert_eq!(one(&mut tab, read_all("h1")).await.unwrap(), json!(["the next page"]));

    bench.load(&mut tab, "/acts").await.unwrap();
    assert!(click(&mut tab, "#pushes").await.unwrap().is_none());
    assert_eq!(tab.asked_beside(), 0, "nothing was asked for");
    let now = tab.look_again(soon()).await.unwrap().unwrap();
    assert_eq!((now.final_url.path(), now.base_url.path()), ("/acts/pushed/", "/acts/pushed/"));
}

#[tokio::test]
async fn a_click_on_a_document_without_end_fails_at_once() {
    let egress =
        EgressOptions { document_bytes: 1 << 20, ..EgressOptions::allowing(&["127.0.0.1"]).unwrap() };
    let egress = Some(Egress::start(egress).unwrap());
    let bench = Bench::with(ChromeOptions { egress, ..options() }).await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/acts").await.unwrap();
    let error = click(&mut tab, "#flood").await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::TooLarge, "{error}");
    assert!(error.tab_usable);
    bench.load(&mut tab, "/plain").await.unwrap();
}

#[tokio::test]
async fn text_is_typed_key_by_key_and_enter_sends_a_form() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/acts").await.unwrap();
    one(&mut tab, locate("#word", 5000, true)).await.unwrap();
    let failure = one(&mut tab, locate("#under", 300, true)).await.unwrap_err();
    assert_eq!(failure.message, "selector \"#under\" did not take the focus within 300 ms");
    one(&mut tab, locate("#word", 5000, true)).await.unwrap();
    let keys = |text: &str| Input::Keys { text: text.to_owned(), delay: Duration::from_millis(1) };
    assert!(tab.input(&keys(" Ab€"), WaitUntil::Load, soon()).await.unwrap().is_none());
    assert_eq!(
        seen(&mut tab, "key").await,
        ["key   Space", "key A KeyA", "key b KeyB"],
        "the euro is on no key"
    );
    let at_once = tab.input(&keys("\n"), WaitUntil::Load, soon()).await.unwrap();
    let led_to = followed(&mut tab, at_once).await.unwrap();
    assert_eq!(led_to.final_url.query(), Some("q=old+Ab%E2%82%AC"));
}

#[tokio::test]
async fn a_window_is_scrolled_to_a_point_and_to_its_end() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/acts").await.unwrap();
    let to = one(&mut tab, step(DomOp::Scroll(ScrollTo::Point(0, 700)))).await.unwrap();
    assert_eq!(to, json!({"x": 0, "y": 700}));
    let to = one(&mut tab, step(DomOp::Scroll(ScrollTo::Bottom))).await.unwrap();
    let y = to["y"].as_u64().expect("pixels");
    assert!(y > 5000, "{y}");
    let told = super::bench::read(
        css("body"),
        crawlify_shared::domain::workflow::Read::Attribute("data-y".to_owned()),
        false,
        Vec::new(),
    );
    assert_eq!(one(&mut tab, told).await.unwrap(), Value::from(y.to_string()), "the page was told");
}
