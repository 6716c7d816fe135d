//! Budgets and the rules of trap detection.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;

/// A document with some settings besides.
fn with(settings: Value) -> Value {
    let mut document = document(json!([]), json!([extract("title", json!({}))]));
    for (key, value) in settings.as_object().unwrap() {
        document["config"][key.as_str()] = value.clone();
    }
    document
}

#[test]
fn budgets_are_read_and_their_paths_written_as_urls_are() {
    let workflow = parsed(&with(json!({"budgets": {
        "time": 60, "bytes": 1e6,
        "path_prefixes": [{"prefix": "/a/", "max_pages": 10}, {"prefix": "/ä b/../c", "max_pages": 1}],
    }})));
    assert_eq!(workflow.budgets.time, Some(Duration::from_secs(60)));
    assert_eq!(workflow.budgets.bytes, Some(1_000_000));
    let prefixes: Vec<_> = workflow
        .budgets
        .path_prefixes
        .iter()
        .map(|budget| (budget.prefix.as_str(), budget.max_pages))
        .collect();
    assert_eq!(prefixes, [("/a/", 10), ("/c", 1)]);
    assert!(workflow.warnings.is_empty(), "{:?}", workflow.warnings);
    assert!(parsed(&with(json!({}))).budgets.is_empty());
}

#[test]
fn a_share_of_the_fleet_is_read_and_its_problems_are_told() {
    let workflow = parsed(&with(json!({"scheduling": {"weight": 3, "priority": -20}})));
    assert_eq!(workflow.share, Share { weight: 3, priority: -20 });
    assert!(workflow.warnings.is_empty(), "{:?}", workflow.warnings);
    assert_eq!(parsed(&with(json!({}))).share, Share { weight: 1, priority: 0 });
    let found = problems(&with(json!({"scheduling": {"weight": 0, "priority": 1_001}})));
    assert_eq!(found, ["out_of_range /config/scheduling/weight", "out_of_range /config/scheduling/priority"]);
}

#[test]
fn every_problem_of_budgets_is_told_at_once_with_its_place() {
    let found = problems(&with(json!({"budgets": {
        "time": 0, "bytes": "1 GB",
        "path_prefixes": [
            {"prefix": "a/", "max_pages": 1}, {"prefix": "/a/?b"}, {"max_pages": 1.5}, 7,
            {"prefix": "/x/", "max_pages": 1}, {"prefix": "/x/", "max_pages": 2},
        ],
    }})));
    assert_eq!(
        found,
        [
            "out_of_range /config/budgets/time",
            "wrong_type /config/budgets/bytes",
            "bad_value /config/budgets/path_prefixes/0/prefix",
            "bad_value /config/budgets/path_prefixes/1/prefix",
            "missing_setting /config/budgets/path_prefixes/1/max_pages",
            "missing_setting /config/budgets/path_prefixes/2/prefix",
            "wrong_type /config/budgets/path_prefixes/2/max_pages",
            "wrong_type /config/budgets/path_prefixes/3",
            "bad_value /config/budgets/path_prefixes/5/prefix",
        ]
    );
    assert_eq!(problems(&with(json!({"budgets": 5}))), ["wrong_type /config/budgets"]);
    let misspelt = with(json!({"budgets": {"times": 5}}));
    assert_eq!(warnings(&misspelt), ["unknown_setting /config/budgets/times"]);
}

#[test]
fn changes_of_budgets_tell_what_is_set_what_is_removed_and_what_stays() {
    let changes = parse_budget_changes(&json!({"time": 600, "bytes": null}), "/budgets").unwrap();
    assert_eq!(changes.time, Some(Some(Duration::from_secs(600))));
    assert_eq!((changes.bytes, changes.path_prefixes), (Some(None), None));
    let list = json!({"path_prefixes": [{"prefix": "/b c/", "max_pages": 3}]});
    let replaced = vec![PathBudget { prefix: "/b%20c/".to_owned(), max_pages: 3 }];
    let changes = parse_budget_changes(&list, "/budgets").unwrap();
    assert_eq!(changes, BudgetChanges { path_prefixes: Some(replaced), ..BudgetChanges::default() });
    for none in [json!({"path_prefixes": []}), json!({"path_prefixes": null})] {
        assert_eq!(parse_budget_changes(&none, "").unwrap().path_prefixes, Some(Vec::new()), "{none}");
    }
    assert_eq!(parse_budget_changes(&Value::Null, "/budgets").unwrap(), BudgetChanges::removal());
}

#[test]
fn every_problem_of_changed_budgets_is_told_at_once_and_what_nobody_knows_is_one() {
    let told = |changes: Value| {
        let problems = parse_budget_changes(&changes, "/budgets").unwrap_err();
        let told = problems.into_iter().map(|problem| format!("{} {}", problem.code, problem.pointer));
        told.collect::<Vec<_>>()
    };
    let bad = json!({
        "time": 0, "byte": 5,
        "path_prefixes": [{"prefix": "a/", "max_pages": 1}, {"prefix": "/a/", "max_pages": 1, "used": 3}],
    });
    assert_eq!(
        told(bad),
        [
            "out_of_range /budgets/time",
            "bad_value /budgets/path_prefixes/0/prefix",
            "unknown_member /budgets/path_prefixes/1/used",
            "unknown_member /budgets/byte",
        ]
    );
    assert_eq!(told(json!({})), ["nothing_to_change /budgets"]);
    assert_eq!(told(json!([])), ["wrong_type /budgets"]);
}

#[test]
fn traps_are_on_and_each_rule_can_be_changed_or_switched_off() {
    assert_eq!(parsed(&with(json!({}))).traps, Traps::default());
    assert_eq!(parsed(&with(json!({"traps": true}))).traps, Traps::default());
    assert_eq!(parsed(&with(json!({"traps": false}))).traps, Traps::OFF);
    let rules = json!({"days_ahead": false, "query_variants": 50, "query_strings": 900, "days_back": true});
    assert_eq!(
        parsed(&with(json!({"traps": rules}))).traps,
        Traps { days_ahead: None, query_variants: Some(50), query_strings: Some(900), ..Traps::default() }
    );
    for (given, read) in [(json!(0.9), 0.9), (json!(1), 1.0), (json!(0.5), 0.5), (Value::Null, 0.98)] {
        let rules = json!({"similarity": given});
        assert_eq!(
            parsed(&with(json!({"traps": rules}))).traps,
            Traps { similarity: read, ..Traps::default() }
        );
    }
}

#[test]
fn every_problem_of_trap_rules_is_told_at_once() {
    let rules = json!({"repeated_segments": 1, "session_ids": "many", "identical_pages": 2.5});
    assert_eq!(
        problems(&with(json!({"traps": rules}))),
        [
            "out_of_range /config/traps/repeated_segments",
            "wrong_type /config/traps/session_ids",
            "wrong_type /config/traps/identical_pages",
        ]
    );
    for (similarity, problem) in [
        (json!(0.49), "out_of_range"),
        (json!(98), "out_of_range"),
        (json!("0.9"), "wrong_type"),
        (json!(false), "wrong_type"),
    ] {
        let rules = json!({"similarity": similarity});
        assert_eq!(
            problems(&with(json!({"traps": rules}))),
            [format!("{problem} /config/traps/similarity")],
            "{similarity}"
        );
    }
    assert_eq!(problems(&with(json!({"traps": "off"}))), ["wrong_type /config/traps"]);
    assert_eq!(warnings(&with(json!({"traps": {"days": 5}}))), ["unknown_setting /config/traps/days"]);
}
