//! What is said of which workflow.

use crawlify_shared::domain::workflow::parse_config;
use serde_json::{Value, json};

use super::*;

fn explained(changes: Value) -> Explanation {
    let mut config = json!({
        "start_urls": ["http://shop.test/"], "max_depth": 2,
        "url_discovery": [
            {"id": "links", "type": "extract_links", "params": {"selector": "a"}},
            {"id": "ours", "type": "filter_urls", "params": {"pattern": "shop"}, "dependencies": ["links"]}
        ],
        "data_extraction": [
            {"id": "pause", "type": "wait", "params": {"duration": 250}},
            {"id": "title", "type": "extract", "params": {"selector": "h1"}, "output_key": "title"}
        ]
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key.as_str()] = value.clone();
    }
    explain(parse_config(&config).unwrap_or_else(|problems| panic!("{problems:?}")))
}

fn runs(page: &ExplainedPage) -> Vec<(&str, &[u16], &[u16])> {
    page.runs.iter().map(|run| (run.how, &run.nodes[..], &run.judged_outside[..])).collect()
}

#[test]
fn a_pause_splits_the_calls_and_filters_are_judged_outside() {
    let explained = explained(json!({}));
    let [most, deepest] = &explained.pages[..] else { panic!("{:?}", explained.pages) };
    assert_eq!((most.kind, deepest.kind), ("below_max_depth", "at_max_depth"));
    assert_eq!(
        runs(most),
        [("call", &[0][..], &[1][..]), ("pause", &[2][..], &[][..]), ("call", &[3][..], &[][..])]
    );
    assert_eq!((most.calls, most.runs[1].pause_ms), (2, Some(250)));
    assert_eq!((runs(deepest).len(), deepest.calls), (2, 1));
    assert!(most.static_run.is_none(), "pages are loaded in a tab");
}

#[test]
fn a_page_that_is_read_as_it_came_needs_one_call() {
    let explained = explained(json!({"render": "auto"}));
    let page = &explained.pages[0];
    let run = page.static_run.as_ref().unwrap();
    assert_eq!((page.render, &run.nodes[..], &run.judged_outside[..]), ("auto", &[0, 3][..], &[1, 2][..]));
}

#[test]
fn why_a_page_is_loaded_otherwise_than_a_phase_asks_is_said() {
    let mixed = explained(json!({"render": {"data_extraction": "static"}}));
    assert_eq!(mixed.pages[0].render, "full");
    assert!(mixed.pages[0].render_reason.as_ref().unwrap().contains("`url_discovery`"));
    assert_eq!((mixed.pages[1].render, &mixed.pages[1].render_reason), ("static", &None));
    let acts = explained(json!({"render": "static", "data_extraction": [
        {"id": "more", "type": "click", "params": {"selector": "button"}},
        {"id": "title", "type": "extract", "params": {"selector": "h1"}, "output_key": "title"}
    ]}));
    assert_eq!(acts.pages[0].render, "full");
    assert!(acts.pages[0].render_reason.as_ref().unwrap().contains("`more` does something to the page"));
    assert_eq!(runs(&acts.pages[1]), [("act", &[2][..], &[][..]), ("call", &[3][..], &[][..])],);
    let rare = explained(json!({"render": "auto", "rate_limit_delay": 1000}));
    assert!(rare.pages[0].render_reason.as_ref().unwrap().contains("without trials"));
    let alone = explained(json!({"render": "static", "isolation": "page"}));
    assert_eq!(alone.pages[0].render_reason.as_deref(), Some("`isolation` is `page`"));
}

#[test]
fn pages_are_of_one_kind_where_depth_makes_no_difference() {
    let without_discovery = explained(json!({"url_discovery": []}));
    assert_eq!(without_discovery.pages.iter().map(|page| page.kind).collect::<Vec<_>>(), ["every"]);
    let flat = explained(json!({"max_depth": 0}));
    assert_eq!(flat.pages.iter().map(|page| page.kind).collect::<Vec<_>>(), ["at_max_depth"]);
    let nothing = explained(json!({"data_extraction": []}));
    assert_eq!(nothing.pages[1].render_reason.as_deref(), Some("no node runs on it"));
}
