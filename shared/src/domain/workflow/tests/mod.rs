//! Whole documents: what they become, and what is said of those that are wrong.

use serde_json::{Value, json};

mod anything;
mod documents;
mod nodes;
mod robots;
mod spending;

use super::*;

const BOOKS: &str = include_str!("../testdata/books_toscrape_full_site.json");

fn books() -> Value {
    serde_json::from_str(BOOKS).unwrap()
}

/// A document with the given discovery and extraction nodes, and nothing to warn of besides.
fn document(discovery: Value, extraction: Value) -> Value {
    json!({"name": "test", "config": {
        "start_urls": ["https://shop.example/"], "max_depth": 2, "wait_until": "load",
        "politeness": {"robots": "ignore"},
        "url_discovery": discovery, "data_extraction": extraction,
    }})
}

/// An `extract` node that is right, with some members replaced.
fn extract(id: &str, changes: Value) -> Value {
    let mut node = json!({"id": id, "type": "extract", "params": {"selector": "h1"}, "output_key": id});
    for (key, value) in changes.as_object().unwrap() {
        node[key.as_str()] = value.clone();
    }
    node
}

fn parsed(document: &Value) -> Workflow {
    parse_document(document).unwrap_or_else(|problems| panic!("{problems:#?}")).workflow
}

/// `code pointer` of each problem.
fn problems(document: &Value) -> Vec<String> {
    let problems = parse_document(document).expect_err("the document has problems");
    for problem in &problems {
        assert!(problem.message.len() > 10, "{problem:?} is no sentence");
    }
    problems.iter().map(|problem| format!("{} {}", problem.code, problem.pointer)).collect()
}

fn warnings(document: &Value) -> Vec<String> {
    parsed(document).warnings.iter().map(|warning| format!("{} {}", warning.code, warning.pointer)).collect()
}

fn message_of(document: &Value, code: &str) -> String {
    let problems = parse_document(document).expect_err("the document has problems");
    problems.into_iter().find(|problem| problem.code == code).expect(code).message
}

fn ids(phase: &Phase) -> Vec<&str> {
    phase.nodes.iter().map(|node| node.id.as_str()).collect()
}
