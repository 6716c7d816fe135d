//! Running steps: what each gives, and how each fails.

use std::time::Duration;

use chrono::Utc;
use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_shared::domain::workflow::{ElementState, Field, Read, Selector};
use serde_json::json;

use super::bench::{Bench, css, once_within, one, read, read_all, run, soon, step, wait_for};
use crate::chrome::driver::{DomOp, DomStep};

fn field(name: &str, selector: Option<Selector>, read: Read) -> Field {
    Field { name: name.to_owned(), selector, read, transforms: Vec::new(), default_value: None }
}

#[tokio::test]
async fn all_kinds_of_steps_run_in_one_call_although_names_hide_properties() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/").await.unwrap();
    let xpath = |query: &str| Selector::Xpath(query.to_owned());
    let fields = vec![
        field("name", Some(css("a")), Read::Text),
        field("price", Some(xpath("//span[@class='price']")), Read::Text),
        field("class", None, Read::Attribute("class".to_owned())),
    ];
    let steps = [
        wait_for("h1", ElementState::Visible, 1000),
        step(DomOp::Links(css("li a"))),
        step(DomOp::Links(xpath("//li/a"))),
        read(css("h1"), Read::Text, false, Vec::new()),
        read(css(".star-rating"), Read::Attribute("class".to_owned()), false, Vec::new()),
        read(css(".star-rating"), Read::Attribute("data-surrogate".to_owned()), false, Vec::new()),
        read(css("h1"), Read::Attribute("lang".to_owned()), false, Vec::new()),
        read(css("li .price"), Read::Text, true, Vec::new()),
        read(css("li:nth-child(2)"), Read::Html, false, Vec::new()),
        read(css(".nothing"), Read::Text, false, Vec::new()),
        read(css(".nothing"), Read::Text, true, Vec::new()),
        read(css(".item"), Read::Text, true, fields),
        read(xpath("//a/@href"), Read::Text, true, Vec::new()),
        read(css("#form"), Read::Attribute("id".to_owned()), false, Vec::new()),
    ];
    let before = Utc::now();
    let results = run(&mut tab, steps, soon()).await.unwrap();
    let after = Utc::now();
    let outputs: Vec<_> = results.iter().map(|result| result.output.clone().unwrap()).collect();
    assert_eq!(
        outputs,
        [
            json!(null),
            json!(["/a", "b?x=1&y=2"]),
            json!(["/a", "b?x=1&y=2"]),
            json!(" The  Shop "),
            json!("star-rating Three"),
            json!("a\u{fffd}b"),
            json!(""),
            json!(["1.00", "3.00"]),
            json!("<a href=\"b?x=1&amp;y=2\">B</a>"),
            json!(null),
            json!([]),
            json!([
                { "name": "A", "price": "1.00", "class": "item" },
                { "name": "B", "class": "item" },
                { "name": "none", "price": "3.00", "class": "item" },
            ]),
            json!(["/a", "b?x=1&y=2", ""]),
            json!("form"),
        ]
    );
    let mut last = before;
    for result in &results {
        assert!(last <= result.started_at && result.started_at <= result.completed_at);
        last = result.started_at;
    }
    assert!(results.iter().all(|result| result.completed_at <= after));
}

#[tokio::test]
async fn waiting_sees_what_comes_and_goes_and_gives_up_in_time() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/").await.unwrap();
    let steps = [
        wait_for(".hidden", ElementState::Attached, 100),
        wait_for(".boxless", ElementState::Hidden, 100),
        wait_for(".late", ElementState::Visible, 15_000),
        wait_for("#list", ElementState::Hidden, 15_000),
        wait_for(".hidden", ElementState::Visible, 120),
        wait_for(".boxless", ElementState::Visible, 120),
        wait_for("h1", ElementState::Hidden, 120),
    ];
    let results = run(&mut tab, steps, soon()).await.unwrap();
    for result in &results[..4] {
        assert_eq!(result.output, Ok(json!(null)));
    }
    for (result, message) in results[4..].iter().zip([
        "selector \".hidden\" was not visible within 120 ms",
        "selector \".boxless\" was not visible within 120 ms",
        "selector \"h1\" was not hidden within 120 ms",
    ]) {
        let failure = result.output.clone().unwrap_err();
        assert_eq!((failure.class, failure.message.as_str()), (ErrorClass::SelectorMissing, message));
        assert!(result.completed_at - result.started_at >= chrono::TimeDelta::milliseconds(100));
    }
}

#[tokio::test]
async fn a_failed_step_is_run_again_and_may_end_the_run() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/").await.unwrap();
    let patient = DomStep {
        max_retries: 500,
        retry_delay: Duration::from_millis(20),
        ..wait_for(".late", ElementState::Attached, 10)
    };
    let hopeless = DomStep {
        max_retries: 2,
        retry_delay: Duration::from_millis(5),
        ends_group: true,
        ..wait_for(".never", ElementState::Attached, 10)
    };
    let results = run(&mut tab, [patient, hopeless, read_all("h1")], soon()).await.unwrap();
    assert_eq!(results.len(), 2);
    assert!(results[0].output.is_ok() && results[0].retries > 0);
    assert!(results[1].output.is_err());
    assert_eq!(results[1].retries, 2);
}

#[tokio::test]
async fn a_selector_that_is_wrong_is_the_scripts_failure_at_once() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/").await.unwrap();
    for (selector, message) in [
        (css("a:nonsense"), "selector \"a:nonsense\" is not valid"),
        (Selector::Xpath("//a[".to_owned()), "selector \"//a[\" is not valid"),
        (Selector::Xpath("count(//a)".to_owned()), "selector \"count(//a)\" selects no elements"),
    ] {
        let retried = DomStep {
            max_retries: 3,
            retry_delay: Duration::from_secs(60),
            ..read(selector, Read::Text, true, Vec::new())
        };
        let failure = one(&mut tab, retried).await.unwrap_err();
        assert_eq!((failure.class, failure.message.as_str()), (ErrorClass::Script, message));
    }
}

#[tokio::test]
async fn outputs_that_are_too_long_are_cut_and_marked() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/large").await.unwrap();
    let steps = [read(css("p"), Read::Text, false, Vec::new()), read_all("b"), read_all("h1")];
    let results = run(&mut tab, steps, soon()).await.unwrap();
    let [text, texts, whole] = &results[..] else { panic!("{results:?}") };
    assert_eq!(text.cut_from, Some(3 << 20));
    assert_eq!(text.output.as_ref().unwrap().as_str().unwrap().len(), crate::chrome::STEP_OUTPUT_LIMIT);
    assert_eq!(texts.cut_from, Some(3000));
    let kept = texts.output.as_ref().unwrap().as_array().unwrap().len();
    assert!((1000..1100).contains(&kept), "{kept}");
    assert_eq!((&whole.output, whole.cut_from), (&Ok(json!([])), None));
}

#[tokio::test]
async fn a_run_whose_time_is_over_says_how_far_it_came_and_its_tab_goes_on() {
    let bench = Bench::start().await;
    // It answers half a second before its deadline, in time unless the machine is busy just then.
    once_within(Duration::from_millis(1500), async || {
        let mut tab = bench.open().await;
        bench.load(&mut tab, "/plain").await.unwrap();
        let began = tokio::time::Instant::now();
        let deadline = began + Duration::from_millis(1500);
        let never = DomStep { max_retries: 9, ..wait_for(".never", ElementState::Attached, 60_000) };
        let ran = run(&mut tab, [read_all("h1"), never, read_all("h1")], deadline).await;
        let took = began.elapsed();
        let results = match ran {
            Err(error)
                if error.failure.class == ErrorClass::NavTimeout
                    && tokio::time::Instant::now() >= deadline =>
            {
                return Duration::MAX;
            }
            ran => ran.unwrap(),
        };
        assert_eq!(results.len(), 2);
        assert_eq!(results[0].output, Ok(json!(["plain"])));
        let failure = results[1].output.as_ref().unwrap_err();
        assert_eq!(failure.class, ErrorClass::NavTimeout);
        assert_eq!(failure.message, "the page's time was over while it waited for selector \".never\"");
        bench.load(&mut tab, "/plain").await.unwrap();
        took
    })
    .await;
}

#[tokio::test]
async fn a_run_whose_page_goes_away_is_lost_but_its_tab_is_not() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/leaves").await.unwrap();
    let error =
        run(&mut tab, [wait_for(".never", ElementState::Attached, 10_000)], soon()).await.unwrap_err();
    assert!(error.tab_usable && error.failure.class.is_transient(), "{error}");
    bench.load(&mut tab, "/plain").await.unwrap();
    assert_eq!(one(&mut tab, read_all("h1")).await.unwrap(), json!(["plain"]));
}

#[tokio::test]
async fn a_page_that_becomes_busy_loses_its_run_at_the_deadline() {
    let bench = Bench::start().await;
    once_within(Duration::from_millis(500), async || {
        let mut tab = bench.open().await;
        bench.load(&mut tab, "/busy-later").await.unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
        let error =
            run(&mut tab, [wait_for(".never", ElementState::Attached, 60_000)], deadline).await.unwrap_err();
        let late = deadline.elapsed();
        assert_eq!(error.failure.class, ErrorClass::NavTimeout);
        assert!(!error.tab_usable);
        late
    })
    .await;
}
