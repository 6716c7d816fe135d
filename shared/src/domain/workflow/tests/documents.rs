//! The books workflow, syntax, limits, settings, dependencies, bounds.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::domain::transform::apply_all;

#[test]
fn the_books_workflow_is_accepted_unchanged() {
    let definition = parse_text(BOOKS).unwrap();
    assert_eq!(definition.name, "Books to Scrape - Full Site Crawler");
    assert_eq!(definition.config, books()["config"]);
    assert_eq!(definition.status, None);
    let workflow = definition.workflow;
    assert_eq!(workflow.name, definition.name);
    assert_eq!(
        workflow.limits,
        Limits {
            max_depth: Some(4),
            max_pages: Some(2000),
            rate_limit_delay: Duration::from_secs(1),
            ..Limits::default()
        }
    );
    assert_eq!(workflow.start_urls[0].as_str(), "http://books.toscrape.com/");
    assert_eq!(workflow.headers.len(), 2);
    assert_eq!(workflow.headers[0].0, "User-Agent");
    let [discovery, extraction] = workflow.phases.as_slice() else { panic!("two phases") };
    assert_eq!((discovery.id.as_str(), discovery.kind), ("url_discovery", PhaseKind::Discovery));
    assert_eq!((extraction.id.as_str(), extraction.kind), ("data_extraction", PhaseKind::Extraction));
    assert_eq!(
        ids(discovery),
        [
            "wait_for_page_load",
            "extract_category_links",
            "extract_book_links",
            "extract_pagination_next",
            "filter_discovered_urls"
        ]
    );
    assert_eq!(extraction.nodes.len(), 15);
    assert_eq!(ids(extraction)[..3], ["wait_for_book_details", "extract_book_title", "extract_book_price"]);
    assert_eq!(ids(extraction)[14], "extract_category");
    assert!(extraction.nodes[1..].iter().all(|node| node.dependencies == [0]));
    assert_eq!(discovery.nodes[4].dependencies, [1, 2, 3]);
    let optional: Vec<bool> = extraction.nodes.iter().map(|node| node.optional).collect();
    assert_eq!(optional.iter().filter(|optional| **optional).count(), 8);
}

#[test]
fn the_nodes_of_the_books_workflow_mean_what_they_say() {
    let workflow = parse_text(BOOKS).unwrap().workflow;
    let node = |phase: usize, id: &str| {
        workflow.phases[phase].nodes.iter().find(|node| node.id == id).unwrap().clone()
    };
    let Action::WaitFor(wait) = node(0, "wait_for_page_load").action else { panic!() };
    assert_eq!((wait.timeout, wait.state), (Duration::from_secs(10), ElementState::Visible));
    let Action::FilterUrls(filter) = node(0, "filter_discovered_urls").action else { panic!() };
    assert!(filter.same_domain && filter.include.is_empty());
    assert_eq!(filter.exclude.len(), 5);
    let price = node(1, "extract_book_price");
    let Action::Extract(extract) = &price.action else { panic!() };
    assert_eq!(apply_all(&extract.transforms, json!(" £51.77\n")), json!("51.77"));
    assert_eq!(price.output_key.as_deref(), Some("price"));
    assert_eq!(price.params["selector"], "p.price_color");
    let Action::Extract(extract) = node(1, "extract_rating").action else { panic!() };
    assert_eq!(extract.read, Read::Attribute("class".into()));
    assert_eq!(apply_all(&extract.transforms, json!("star-rating Three")), json!("Three"));
    assert_eq!(extract.default_value, Some(json!("Not Rated")));
}

#[test]
fn the_books_workflow_is_told_what_differs_from_before() {
    assert_eq!(
        warnings(&books()),
        [
            "robots_not_obeyed /config/politeness/robots",
            "left_to_browser /config/headers/Accept",
            "wait_until_load /config/wait_until",
            "setting_not_applied /config/storage",
            "discovery_keys_saved /config/url_discovery"
        ]
    );
}

#[test]
fn a_stored_configuration_parses_alone_with_pointers_of_its_own() {
    let workflow = parse_config(&books()["config"]).unwrap();
    assert_eq!(workflow.phases.iter().map(|phase| phase.nodes.len()).sum::<usize>(), 20);
    assert_eq!(workflow.warnings[1].pointer, "/headers/Accept");
    let problems = parse_config(&json!({"start_urls": []})).unwrap_err();
    assert_eq!(problems[0].pointer, "/start_urls");
    assert_eq!(problems[1].pointer, "");
}

#[test]
fn a_document_may_be_yaml_and_so_may_a_configuration_within_json() {
    let config = "start_urls: [https://shop.example/]\ndata_extraction:\n  - id: t\n    type: extract\n    output_key: t\n    params:\n      selector: h1\n      transform: trim\n";
    let indented: String = config.lines().map(|line| format!("  {line}\n")).collect();
    let definition = parse_text(&format!("# a crawl\nname: yaml\nconfig:\n{indented}")).unwrap();
    assert_eq!(ids(&definition.workflow.phases[0]), ["t"]);
    let definition = parse_document(&json!({"name": "n", "config": config})).unwrap();
    assert_eq!(definition.config["start_urls"], json!(["https://shop.example/"]));
    assert_eq!(parse_config(&json!(config)).unwrap().phases.len(), 1);
    assert_eq!(problems(&json!({"name": "n", "config": "{"})), ["syntax /config"]);
}

#[test]
fn settings_beside_the_name_are_a_configuration_too() {
    let mut document = document(json!([]), json!([extract("t", json!({}))]));
    let config = document["config"].take();
    let members = document.as_object_mut().unwrap();
    members.remove("config");
    members.extend(config.as_object().unwrap().clone());
    assert_eq!(parse_document(&document).unwrap().config, config);
    document["start_urls"] = json!(["nowhere"]);
    assert_eq!(problems(&document), ["bad_start_url /start_urls/0"]);
}

#[test]
fn a_syntax_error_is_one_problem_with_its_line_and_column() {
    for text in ["{\n \"name\": \"x\",\n}", "", "this is not json", "[1, 2", "name: [\n", "\u{feff}{"] {
        let problems = parse_text(text).unwrap_err();
        assert_eq!(
            (problems.len(), problems[0].code.as_str(), problems[0].pointer.as_str()),
            (1, "syntax", ""),
            "{text}"
        );
        assert!(
            problems[0].message.contains("line") && problems[0].message.contains("column"),
            "{problems:?}"
        );
    }
    assert!(parse_text("{\n \"name\": \"x\",\n}").unwrap_err()[0].message.contains("line 3 column 1"));
    assert_eq!(parse_text("[]").unwrap_err()[0].code, "wrong_type");
}

#[test]
fn all_problems_are_told_at_once_each_with_its_pointer() {
    let mut document = document(
        json!([
            {"id": "a", "type": "wait_for", "params": {"selector": "a["}},
            {"type": "extract_lnks"},
            {"id": "a", "type": "screenshot", "params": {"selector": "a"}},
            {"id": "f", "type": "filter_urls", "params": {"exclude_patterns": ["ok", "(?=no)"]}, "dependencies": ["aa", "t"]},
        ]),
        json!([extract(
            "t",
            json!({"params": {"selector": "h1", "transform": [{"type": "regex", "params": {"pattern": "("}}, "trimm"]}})
        )]),
    );
    document["config"]["start_urls"] = json!(["www.shop.example", "mailto:a@b.example", 7]);
    document["config"]["max_depth"] = json!("3");
    document["status"] = json!("activ");
    document["name"] = json!(" ");
    assert_eq!(
        problems(&document),
        [
            "missing_name /name",
            "bad_status /status",
            "wrong_type /config/start_urls/2",
            "bad_start_url /config/start_urls/0",
            "bad_start_url /config/start_urls/1",
            "wrong_type /config/max_depth",
            "bad_selector /config/url_discovery/0/params/selector",
            "missing_id /config/url_discovery/1/id",
            "unknown_node_type /config/url_discovery/1/type",
            "unsupported_node_type /config/url_discovery/2/type",
            "duplicate_id /config/url_discovery/2/id",
            "bad_regex /config/url_discovery/3/params/exclude_patterns/1",
            "unknown_dependency /config/url_discovery/3/dependencies/0",
            "unknown_dependency /config/url_discovery/3/dependencies/1",
            "bad_regex /config/data_extraction/0/params/transform/0/params/pattern",
            "unknown_transform /config/data_extraction/0/params/transform/1",
        ]
    );
    let messages: Vec<String> =
        parse_document(&document).unwrap_err().into_iter().map(|p| p.message).collect();
    for part in [
        "https://",
        "did you mean `active`",
        "did you mean `extract_links`",
        "already that of node 0",
        "did you mean `a`",
        "a node of `data_extraction`",
        "lookahead",
        "did you mean `trim`",
    ] {
        assert!(messages.iter().any(|message| message.contains(part)), "{part}: {messages:#?}");
    }
}

#[test]
fn cycles_name_their_members_and_a_node_cannot_need_itself() {
    let node = |id: &str, needs: Value| extract(id, json!({"dependencies": needs}));
    let nodes = json!([
        node("behind", json!(["c"])),
        node("a", json!(["c"])),
        node("b", json!(["a"])),
        node("c", json!(["b", "free"])),
        node("x", json!(["y"])),
        node("y", json!(["x"])),
        node("self", json!(["self"])),
        node("free", json!([])),
    ]);
    let document = document(json!([]), nodes);
    assert_eq!(
        problems(&document),
        [
            "self_dependency /config/data_extraction/6/dependencies/0",
            "dependency_cycle /config/data_extraction/1/dependencies",
            "dependency_cycle /config/data_extraction/4/dependencies",
        ]
    );
    assert!(message_of(&document, "dependency_cycle").ends_with("a -> c -> b -> a"));
}

#[test]
fn nodes_are_ordered_and_their_dependencies_renumbered() {
    let node = |id: &str, needs: Value| extract(id, json!({"dependencies": needs}));
    let nodes = json!([
        node("a", json!(["c", "b", "c"])),
        node("b", json!([])),
        node("c", json!(null)),
        node("d", json!(["b"]))
    ]);
    let workflow = parsed(&document(json!(null), nodes));
    assert_eq!(workflow.phases.len(), 1);
    assert_eq!(ids(&workflow.phases[0]), ["b", "c", "a", "d"]);
    let dependencies: Vec<_> =
        workflow.phases[0].nodes.iter().map(|node| node.dependencies.clone()).collect();
    assert_eq!(dependencies, [vec![], vec![], vec![0, 1], vec![0]]);
}

#[test]
fn limits_have_the_defaults_that_were_documented() {
    let with = |key: &str, value: Value| {
        let mut document = document(json!([]), json!([extract("t", json!({}))]));
        document["config"][key] = value;
        document
    };
    let limits = |key: &str, value: Value| parsed(&with(key, value)).limits;
    assert_eq!(limits("max_depth", json!(null)).max_depth, Some(3));
    assert_eq!(warnings(&with("max_depth", json!(null))), ["default_max_depth /config/max_depth"]);
    assert_eq!(limits("max_depth", json!(0)).max_depth, Some(0));
    assert_eq!(warnings(&with("max_depth", json!(0))), ["no_discovery /config/max_depth"]);
    assert_eq!(limits("max_depth", json!(5.0)).max_depth, Some(5));
    assert_eq!(limits("max_pages", json!(1)).max_pages, Some(1));
    assert_eq!(limits("max_pages", json!(0)).max_pages, None);
    assert_eq!(limits("rate_limit_delay", json!(250)).rate_limit_delay, Duration::from_millis(250));
    for (key, value, code) in [
        ("max_depth", json!(-1), "out_of_range"),
        ("max_depth", json!(1e300), "out_of_range"),
        ("max_depth", json!(1.5), "wrong_type"),
        ("max_pages", json!(true), "wrong_type"),
        ("rate_limit_delay", json!("1000"), "wrong_type"),
        ("rate_limit_delay", json!(u64::MAX), "out_of_range"),
        ("wait_until", json!("networkidel"), "bad_value"),
        ("start_urls", json!("https://shop.example/"), "wrong_type"),
        ("start_urls", json!([]), "no_start_url"),
        ("start_urls", json!(null), "no_start_url"),
        ("phases", json!([]), "unsupported_format"),
        ("url_discovery", json!({}), "wrong_type"),
    ] {
        assert_eq!(problems(&with(key, value.clone())), [format!("{code} /config/{key}")], "{value}");
    }
}

#[test]
fn every_setting_without_effect_is_listed() {
    let mut document = document(
        json!([{"id": "l", "type": "extract_links", "params": {"limit": 5}}, {"id": "f", "type": "filter_urls", "when": 1}]),
        json!([extract("t", json!({"output_key": null})), {"id": "w", "type": "wait", "output_key": "w"}]),
    );
    document["config"]["cookies"] = json!([{"name": "a"}]);
    document["config"]["proxy_config"] = json!({"enabled": false});
    document["config"]["storage"] = json!({"type": "database", "table_name": ""});
    document["config"]["authentication"] = json!({"type": "basic"});
    document["config"]["headers"] = json!({"Host": "x", "Accept": "y"});
    document["config"]["max_page"] = json!(1);
    document["browser_profile_id"] = json!("p");
    document["shape"] = json!("odd");
    let mut found = warnings(&document);
    found.sort();
    assert_eq!(
        found,
        [
            "filter_keeps_all /config/url_discovery/1/params",
            "filter_without_links /config/url_discovery/1/dependencies",
            "no_duration /config/data_extraction/1/params/duration",
            "not_saved /config/data_extraction/0/output_key",
            "output_key_unused /config/data_extraction/1/output_key",
            "setting_not_applied /browser_profile_id",
            "setting_not_applied /config/authentication",
            "setting_not_applied /config/cookies",
            "setting_not_applied /config/headers/Host",
            "unknown_setting /config/max_page",
            "unknown_setting /config/url_discovery/0/params/limit",
            "unknown_setting /config/url_discovery/1/when",
            "unknown_setting /shape",
        ]
    );
    let workflow = parsed(&document);
    assert_eq!(*workflow.headers, [("Accept".to_owned(), "y".to_owned())]);
    let unknown = workflow.warnings.iter().find(|warning| warning.pointer == "/config/max_page").unwrap();
    assert!(unknown.message.contains("did you mean `max_pages`"), "{}", unknown.message);
}

#[test]
fn headers_cannot_smuggle_and_their_values_stay_secret() {
    let mut document = document(json!([]), json!([extract("t", json!({}))]));
    document["config"]["headers"] =
        json!({"A b": "1", "X": "secret\r\nY: 1", "Z": 3, "Accept": "a", "accept": "b", "": "e", "a/~": "f"});
    assert_eq!(
        problems(&document),
        [
            "bad_header /config/headers/A b",
            "bad_header /config/headers/X",
            "wrong_type /config/headers/Z",
            "bad_header /config/headers/accept",
            "bad_header /config/headers/",
            "bad_header /config/headers/a~1~0",
        ]
    );
    assert!(!format!("{:?}", parse_document(&document).unwrap_err()).contains("secret"));
}

#[test]
fn documents_are_bounded() {
    let nodes: Vec<Value> = (0..=MAX_NODES).map(|n| extract(&format!("n{n}"), json!({}))).collect();
    assert_eq!(problems(&document(json!([]), json!(nodes))), ["too_many_nodes /config"]);
    assert_eq!(parsed(&document(json!([]), json!(nodes[1..]))).phases[0].nodes.len(), MAX_NODES);
    assert_eq!(problems(&document(json!([]), json!([]))), ["no_nodes /config"]);
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let mut deep_document = document(json!([]), json!([extract("t", json!({}))]));
    deep_document["config"]["x"] = deep;
    assert!(problems(&deep_document)[0].starts_with("too_deep /config/x/0/0"));
    let nul = document(json!([]), json!([extract("t", json!({"name": "a\u{0}"}))]));
    assert_eq!(problems(&nul), ["nul_character /config/data_extraction/0/name"]);
    let mut long_key = document(json!([]), json!([extract("t", json!({}))]));
    long_key["config"]["x"] = json!([{ "k".repeat(1_025): 1 }]);
    assert_eq!(problems(&long_key), ["key_too_long /config/x/0"]);
    let many: Vec<Value> = (0..1000).map(Value::from).collect();
    let mut document = document(json!([]), json!([]));
    document["config"]["start_urls"] = json!(many);
    let found = problems(&document);
    assert_eq!(found.len(), 101);
    assert_eq!(found[100], "too_many_problems ");
    assert!(parse_text(&"[".repeat(1_000_000)).is_err());
}

#[test]
fn phases_are_refused_as_a_later_format() {
    let document =
        json!({"name": "n", "config": {"start_urls": ["https://a.example/"], "phases": [{"id": "p"}]}});
    assert_eq!(problems(&document), ["unsupported_format /config/phases"]);
}

#[test]
fn how_pages_are_loaded_is_for_all_phases_or_each() {
    let mut document = document(json!([]), json!([extract("title", json!({}))]));
    assert_eq!(parsed(&document).phases[0].render, Render::Full);
    assert!(parsed(&document).block.is_empty());
    document["config"]["render"] = json!("auto");
    document["config"]["block"] = json!(["image", "font", "image", "*.ads.example/*"]);
    document["config"]["isolation"] = json!("page");
    let workflow = parsed(&document);
    assert_eq!(workflow.phases[0].render, Render::Auto);
    assert_eq!(workflow.block.kinds, [ResourceKind::Image, ResourceKind::Font]);
    assert_eq!(workflow.block.patterns, ["*.ads.example/*"]);
    assert_eq!(workflow.isolation, Isolation::Page);
    assert_eq!(warnings(&document), ["setting_not_applied /config/render"], "isolated pages are rendered");
    document["config"]["render"] = json!({"data_extraction": "static"});
    assert_eq!(parsed(&document).phases[0].render, Render::Static);
}

#[test]
fn what_is_wrong_with_loading_is_said_with_its_place() {
    let mut document = document(json!([]), json!([extract("title", json!({}))]));
    document["config"]["render"] = json!("statik");
    document["config"]["block"] = json!(["images", "a b.png", 3]);
    document["config"]["isolation"] = json!("tab");
    assert_eq!(
        problems(&document),
        [
            "wrong_type /config/block/2",
            "bad_value /config/block/0",
            "bad_value /config/block/1",
            "bad_value /config/isolation",
            "bad_value /config/render",
        ]
    );
    assert!(message_of(&document, "bad_value").contains("did you mean `image`"));
    document["config"]["render"] = json!({"extraction": "full", "url_discovery": 1});
    let problems = problems(&document);
    assert!(problems.contains(&"bad_value /config/render/extraction".to_owned()), "{problems:?}");
    assert!(problems.contains(&"wrong_type /config/render/url_discovery".to_owned()), "{problems:?}");
}
