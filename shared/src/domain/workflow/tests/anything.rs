//! Documents with anything in place of anything.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Every pointer of a document.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(elements) => {
            elements
                .iter()
                .enumerate()
                .for_each(|(n, element)| pointers(element, &format!("{at}/{n}"), found));
        }
        Value::Object(members) => {
            members.iter().for_each(|(key, member)| pointers(member, &format!("{at}/{key}"), found));
        }
        _ => {}
    }
}

fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        Just(json!(-1)),
        Just(json!(1e18)),
        Just(json!("")),
        Just(json!([])),
        Just(json!({})),
        Just(json!(["extract_book_title"])),
        Just(json!({"type": "regex"})),
        "\\PC{0,8}".prop_map(Value::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_document_with_anything_replaced_is_either_sound_or_has_problems_that_point_into_it(
        changes in prop::collection::vec((any::<prop::sample::Index>(), odd_value()), 1..4),
    ) {
        let mut document = books();
        for (place, value) in changes {
            let mut places = Vec::new();
            pointers(&document, "", &mut places);
            *document.pointer_mut(&places[place.index(places.len())]).unwrap() = value;
        }
        match parse_document(&document) {
            Ok(definition) => {
                prop_assert!(!definition.workflow.start_urls.is_empty() && !definition.workflow.phases.is_empty());
                for phase in &definition.workflow.phases {
                    for (index, node) in phase.nodes.iter().enumerate() {
                        prop_assert!(node.dependencies.iter().all(|needed| *needed < index));
                    }
                }
            }
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    // What is missing is pointed at where it should be: at most two levels below what is there.
                    let up = |pointer: &str| pointer.rsplit_once('/').map_or(String::new(), |(up, _)| up.to_owned());
                    let grandparent = up(&up(&problem.pointer));
                    prop_assert!(document.pointer(&grandparent).is_some(), "{:?}", problem);
                }
            }
        }
    }
}
