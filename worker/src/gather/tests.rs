//! What becomes of what nodes gave.

use std::time::Duration;

use crawlify_shared::domain::skip::SkipReason;
use crawlify_shared::domain::workflow::parse_config;

use super::*;
use crate::page::sample::claimed_page;

fn program() -> Program {
    let workflow = parse_config(&json!({
        "start_urls": ["https://site.test/"],
        "url_discovery": [
            {"id": "links", "type": "extract_links", "params": {"selector": "a"}},
            {"id": "keep", "type": "filter_urls", "params": {"exclude_patterns": ["/no/"]}, "dependencies": ["links"]},
        ],
        "data_extraction": [
            {"id": "wait", "type": "wait_for", "params": {"selector": "h1"}, "optional": true},
            {"id": "title", "type": "extract", "params": {"selector": "h1", "transform": "trim"}, "output_key": "title"},
            {"id": "price", "type": "extract", "params": {"selector": "p"}, "output_key": "price"},
        ],
    }));
    Program::compile(workflow.unwrap())
}

/// The outputs of the steps in their order, a second each, from this time on; and what becomes of them.
fn gathered(
    outputs: Vec<(Result<Value, Failure>, Option<u64>)>,
    from: DateTime<Utc>,
) -> (PageOutcome, Result<(), TabError>) {
    let (program, page) = (program(), claimed_page("https://site.test/"));
    let url = Url::parse("https://site.test/").unwrap();
    let document = Document {
        final_url: url.clone(),
        base_url: url,
        status: Some(200),
        retry_after: None,
        answered_in: None,
        bytes: 0,
    };
    let mut gathered = Gathered::new(&page, &program, &document);
    let results = outputs.into_iter().zip(0..).map(|((output, cut_from), place)| {
        let started_at = from + Duration::from_secs(place);
        let completed_at = started_at + Duration::from_secs(1);
        Some(StepResult { started_at, completed_at, output, cut_from, retries: 0 })
    });
    let crate::program::Run::Page(run) = &program.plan(0).runs[0] else { panic!("it has no pause") };
    let taken = gathered.take(run, results.collect());
    (gathered.into_outcome(PageEnd::Completed, &document, Rendered::Full), taken)
}

fn whole(output: Value) -> (Result<Value, Failure>, Option<u64>) {
    (Ok(output), None)
}

#[test]
fn a_page_with_more_links_than_are_recorded_has_them_all_followed() {
    let links: Vec<_> = (0..20_000)
        .map(|number| format!("/a-page-with-a-long-name-that-has-many-letters/{number}"))
        .collect();
    let (outcome, taken) = gathered(
        vec![whole(json!(links)), whole(Value::Null), whole(json!("x")), whole(json!("1"))],
        Utc::now(),
    );
    taken.unwrap();
    assert_eq!(outcome.discovered.len(), 20_000);
    let NodeEnd::Completed(recorded) = &outcome.nodes[0].end else { panic!("it did not fail") };
    assert_eq!((&recorded["truncated"], &recorded["length"]), (&json!(true), &json!(20_000)));
    let bytes = recorded.to_string().len();
    assert!((MAX_OUTPUT_BYTES - 100..=MAX_OUTPUT_BYTES).contains(&bytes), "{bytes}");

    // What the page did not bring back at all is not known; the rest counts.
    let cut = (Ok(json!(["/1", "/2"])), Some(70_000));
    let (outcome, _) = gathered(vec![cut], Utc::now());
    assert_eq!(outcome.discovered.len(), 2);
    let NodeEnd::Completed(recorded) = &outcome.nodes[0].end else { panic!("it did not fail") };
    assert_eq!(recorded, &json!({"truncated": true, "length": 70_000, "value": ["/1", "/2"]}));
}

#[test]
fn a_text_that_is_too_long_is_transformed_cut_and_marked_in_the_record_and_in_the_item() {
    let cut = (Ok(json!(format!("  {}", "é".repeat(MAX_OUTPUT_BYTES)))), Some(3 << 20));
    let (outcome, _) =
        gathered(vec![whole(json!([])), whole(Value::Null), cut, whole(json!("£5"))], Utc::now());
    let item = outcome.item.unwrap();
    assert_eq!((&item["title"]["truncated"], &item["title"]["length"]), (&json!(true), &json!(3 << 20)));
    assert!(item["title"]["value"].as_str().unwrap().starts_with('é'), "it was trimmed");
    assert!(item["title"].to_string().len() > MAX_OUTPUT_BYTES - 100);
    assert_eq!(item["price"], "£5");
    let NodeEnd::Completed(recorded) = &outcome.nodes[3].end else { panic!("it did not fail") };
    assert_eq!(recorded, &item["title"]);
}

#[test]
fn a_filter_stands_between_the_nodes_around_it() {
    let from = Utc::now() - Duration::from_secs(60);
    let (outcome, _) = gathered(
        vec![whole(json!(["/yes/", "/no/"])), whole(Value::Null), whole(json!("x")), whole(json!("1"))],
        from,
    );
    assert_eq!(outcome.nodes.len(), 5);
    for pair in outcome.nodes.windows(2) {
        assert!(pair[0].started_at <= pair[0].completed_at && pair[0].completed_at <= pair[1].started_at);
    }
    assert_eq!(
        outcome.nodes[1].end,
        NodeEnd::Completed(json!({"kept": 1, "dropped": 1, "dropped_urls": ["https://site.test/no/"]}))
    );
}

#[test]
fn what_was_known_when_the_time_was_over_is_recorded_and_the_rest_is_said_not_to_have_run() {
    let over = Failure::new(ErrorClass::NavTimeout, "the page's time was over while it waited");
    let (outcome, taken) = gathered(vec![whole(json!(["/yes/"])), (Err(over.clone()), None)], Utc::now());
    assert_eq!(taken.unwrap_err().failure, over);
    let ends: Vec<_> = outcome.nodes.iter().map(|node| &node.end).collect();
    assert_eq!(ends[0], &NodeEnd::Completed(json!(["/yes/"])));
    assert!(matches!(ends[1], NodeEnd::Completed(_)), "the filter judged what was there");
    assert_eq!(ends[2], &NodeEnd::Failed(over), "although it is optional");
    for end in &ends[3..] {
        let NodeEnd::Cancelled(failure) = end else { panic!("{end:?}") };
        assert_eq!(failure.message, "not run: the page's time was over while it waited");
    }
}

#[test]
fn a_link_that_is_too_long_is_told_of_by_its_beginning() {
    let long = format!("/{}#part", "x".repeat(5_000));
    let links = json!(["/1", long, format!("/no/{}", "x".repeat(5_000)), "http://[", "mailto:a@b.test"]);
    let (outcome, _) =
        gathered(vec![whole(links), whole(Value::Null), whole(json!("x")), whole(json!("1"))], Utc::now());
    let told = outcome.discovered.iter().map(|link| {
        let skip = link.skipped.as_ref();
        (link.url.as_str().len(), skip.map(|skip| (skip.reason, skip.detail.as_str())))
    });
    let long = "the URL has 5018 bytes, and one of more than 4096 is never followed";
    let dropped = "the filter `keep` dropped it";
    let expected = [
        ("https://site.test/1".len(), None),
        (4096, Some((SkipReason::Trap, long))),
        (4096, Some((SkipReason::Scope, dropped))),
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn links_beyond_the_bound_are_told_of_by_the_first() {
    let links: Vec<_> = (0..50_010).map(|number| format!("/{number}")).collect();
    let (outcome, _) = gathered(
        vec![whole(json!(links)), whole(Value::Null), whole(json!("x")), whole(json!("1"))],
        Utc::now(),
    );
    assert_eq!(outcome.discovered.len(), 50_001);
    let last = outcome.discovered.last().unwrap();
    assert_eq!(last.url.as_str(), "https://site.test/50000");
    let skip = last.skipped.as_ref().unwrap();
    let detail = "the page has more than 50000 links: this one and the 9 after it are not followed";
    assert_eq!((skip.reason, skip.detail.as_str()), (SkipReason::Trap, detail));
    assert!(outcome.discovered[..50_000].iter().all(|link| link.skipped.is_none()));
}
