//! What each node type reads from its params.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::domain::transform::{Transform, apply_all};

fn only_action(node: Value) -> Action {
    parsed(&document(json!([]), json!([node]))).phases[0].nodes[0].action.clone()
}

fn only_extract(params: Value) -> Extract {
    match only_action(extract("t", json!({"params": params}))) {
        Action::Extract(extract) => extract,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_done_to_a_page_has_defaults_and_bounds() {
    let act = |node_type: &str, params: Value| match only_action(
        json!({"id": "a", "type": node_type, "params": params}),
    ) {
        Action::Act(act) => act,
        other => panic!("{other:?}"),
    };
    let target =
        |timeout| Target { selector: Selector::Css("a".to_owned()), timeout: Duration::from_millis(timeout) };
    assert_eq!(act("click", json!({"selector": "a"})), Act::Click(target(30_000)));
    assert_eq!(act("hover", json!({"selector": "a", "timeout": 5})), Act::Hover(target(5)));
    for name in ["type", "input"] {
        let typed = act(name, json!({"selector": "a", "text": "two\n", "delay": 20}));
        let (text, delay) = ("two\n".to_owned(), Duration::from_millis(20));
        assert_eq!(typed, Act::Type { into: target(30_000), text, delay });
        assert_eq!(Action::Act(typed).node_type(), "type");
    }
    assert_eq!(act("scroll", json!({})), Act::Scroll(ScrollTo::Point(0, 0)));
    assert_eq!(act("scroll", json!({"y": 800})), Act::Scroll(ScrollTo::Point(0, 800)));
    assert_eq!(act("scroll", json!({"to": "bottom"})), Act::Scroll(ScrollTo::Bottom));
    for (node, problem) in [
        (json!({"type": "click"}), "missing_setting /config/data_extraction/0/params/selector"),
        (
            json!({"type": "type", "params": {"selector": "a"}}),
            "missing_setting /config/data_extraction/0/params/text",
        ),
        (
            json!({"type": "type", "params": {"selector": "a", "text": "x".repeat(10_001)}}),
            "bad_value /config/data_extraction/0/params/text",
        ),
        (json!({"type": "scroll", "params": {"to": "top"}}), "bad_value /config/data_extraction/0/params/to"),
        (json!({"type": "scroll", "params": {"y": -1}}), "out_of_range /config/data_extraction/0/params/y"),
    ] {
        let mut node = node;
        node["id"] = json!("a");
        assert_eq!(problems(&document(json!([]), json!([node]))), [problem]);
    }
}

#[test]
fn waiting_has_defaults_and_bounds() {
    let wait_for = |params: Value| match only_action(json!({"id": "w", "type": "wait_for", "params": params}))
    {
        Action::WaitFor(wait) => (wait.timeout.as_millis(), wait.state),
        other => panic!("{other:?}"),
    };
    assert_eq!(wait_for(json!({"selector": "a"})), (30_000, ElementState::Visible));
    assert_eq!(
        wait_for(json!({"selector": "a", "timeout": 0, "state": "hidden"})),
        (30_000, ElementState::Hidden)
    );
    assert_eq!(
        wait_for(json!({"selector": "a", "timeout": 5, "state": "attached"})),
        (5, ElementState::Attached)
    );
    assert_eq!(wait_for(json!({"selector": "a", "state": "detached"})), (30_000, ElementState::Visible));
    let Action::Wait(pause) = only_action(json!({"id": "w", "type": "wait", "params": {"duration": 250}}))
    else {
        panic!()
    };
    assert_eq!(pause, Duration::from_millis(250));
    for (node, problem) in [
        (json!({"type": "wait_for"}), "missing_setting /config/data_extraction/0/params/selector"),
        (json!({"type": "wait_for", "params": []}), "wrong_type /config/data_extraction/0/params"),
        (
            json!({"type": "wait", "params": {"duration": -1}}),
            "out_of_range /config/data_extraction/0/params/duration",
        ),
        (
            json!({"type": "wait", "params": {"selector": "a"}}),
            "unsupported_setting /config/data_extraction/0/params/selector",
        ),
    ] {
        let mut node = node;
        node["id"] = json!("w");
        assert_eq!(problems(&document(json!([]), json!([node]))), [problem]);
    }
}

#[test]
fn extract_reads_all_that_was_documented() {
    assert_eq!(only_extract(json!({"selector": "a"})).read, Read::Text);
    for (kind, read) in [
        ("text", Read::Text),
        ("html", Read::Html),
        ("href", Read::Attribute("href".into())),
        ("src", Read::Attribute("src".into())),
        ("innerText", Read::Text),
    ] {
        assert_eq!(only_extract(json!({"selector": "a", "type": kind})).read, read);
    }
    for kind in ["attr", "attribute"] {
        let extract = only_extract(json!({"selector": "xpath=//a", "type": kind, "attribute": "title"}));
        assert_eq!(
            (extract.read, extract.selector),
            (Read::Attribute("title".into()), Selector::Xpath("//a".into()))
        );
    }
    assert_eq!(only_extract(json!({"selector": "a"})).default_value, None);
    assert_eq!(only_extract(json!({"selector": "a", "default": 1})).default_value, Some(json!(1)));
    assert_eq!(
        only_extract(json!({"selector": "a", "default": 1, "default_value": [2]})).default_value,
        Some(json!([2]))
    );
    assert_eq!(
        only_extract(json!({"selector": "a", "default_value": null})).default_value,
        Some(json!(null))
    );
}

#[test]
fn transforms_may_be_one_name_a_list_of_names_or_objects() {
    let steps = |transform: Value| only_extract(json!({"selector": "a", "transform": transform})).transforms;
    assert!(matches!(steps(json!("trim"))[..], [Transform::Trim]));
    assert!(matches!(steps(json!({"type": "uppercase"}))[..], [Transform::Uppercase]));
    assert!(matches!(
        steps(json!(["trim", {"type": "parse_int", "params": null}]))[..],
        [Transform::Trim, Transform::ParseInt]
    ));
    let chain = steps(json!([
        {"type": "replace", "params": {"old": " ", "new": ""}},
        {"type": "split", "params": {"delimiter": ","}},
        {"type": "join", "params": {"delimiter": "/"}},
        "lowercase", "clean_html", "parse_float", "extract_price",
    ]));
    assert_eq!(chain.len(), 7);
    assert_eq!(apply_all(&chain[..3], json!("a, b")), json!("a/b"));
    let at = "/config/data_extraction/0/params/transform";
    for (transform, problem) in [
        (json!(7), format!("wrong_type {at}")),
        (json!(["regex"]), format!("missing_setting {at}/0/params/pattern")),
        (
            json!([{"type": "split", "params": {"delimiter": 1}}]),
            format!("wrong_type {at}/0/params/delimiter"),
        ),
        (json!([{"params": {}}]), format!("missing_type {at}/0/type")),
    ] {
        let node = extract("t", json!({"params": {"selector": "a", "transform": transform}}));
        assert_eq!(problems(&document(json!([]), json!([node]))), [problem]);
    }
}

#[test]
fn fields_make_objects_of_many_elements() {
    let extract_of = only_extract(json!({"selector": "li", "multiple": true, "fields": {
        "title": {"selector": "h2", "transform": "trim"},
        "link": {"type": "href", "default": "none"},
        "self": {"selector": " "},
    }}));
    assert!(extract_of.multiple);
    let names: Vec<_> =
        extract_of.fields.iter().map(|field| (field.name.as_str(), field.selector.is_some())).collect();
    assert_eq!(names, [("title", true), ("link", false), ("self", false)]);
    assert_eq!(extract_of.fields[1].default_value, Some(json!("none")));
    let at = "/config/data_extraction/0/params/fields";
    for (params, problem) in [
        (json!({"fields": {"a": {"selector": "b"}}}), format!("unsupported_setting {at}")),
        (json!({"selector": "a", "multiple": true, "fields": []}), format!("wrong_type {at}")),
        (
            json!({"selector": "a", "multiple": true, "fields": {"x/y": {"selector": "##"}}}),
            format!("bad_selector {at}/x~1y/selector"),
        ),
        (
            json!({"selector": "a", "multiple": true, "fields": {"x": {"type": "attr"}}}),
            format!("missing_setting {at}/x/attribute"),
        ),
        (
            json!({"selector": "a", "multiple": true, "fields": {"x": {"fields": {}}}}),
            format!("unsupported_setting {at}/x/fields"),
        ),
    ] {
        assert_eq!(
            problems(&document(json!([]), json!([extract("t", json!({"params": params}))]))),
            [problem]
        );
    }
    assert!(
        only_extract(json!({"selector": "a", "fields": {"x": {}}})).fields.is_empty(),
        "as in the old system"
    );
}

#[test]
fn links_default_to_all_anchors_and_retries_are_bounded() {
    let node = json!({"id": "l", "type": "extract_links", "retry": {"max_retries": 3, "delay": 100}, "optional": true});
    let workflow = parsed(&document(json!([node]), json!([])));
    let node = &workflow.phases[0].nodes[0];
    assert!(matches!(&node.action, Action::ExtractLinks(Selector::Css(query)) if query == "a"));
    assert_eq!(node.retry, Retry { max_retries: 3, delay: Duration::from_millis(100) });
    assert_eq!((node.name.as_str(), node.optional), ("l", true));
    let node = json!({"id": "l", "type": "extract_links", "retry": {"max_retries": 1000}, "params": {"selector": ""}});
    assert_eq!(
        problems(&document(json!([node]), json!([]))),
        [
            "out_of_range /config/url_discovery/0/retry/max_retries",
            "bad_selector /config/url_discovery/0/params/selector",
        ]
    );
}
