//! `crawlify explain`: what its text and its JSON say of a workflow.

use harness::scratch::Scratch;
use serde_json::{Value, json};

use super::{ended, write};

/// Two runs in the page, for a pause lies between; discovery ends at depth 2; one phase could be read as it came.
const WORKFLOW: &str = r#"{
  "name": "a shop",
  "config": {
    "start_urls": ["http://shop.test/"],
    "max_depth": 2,
    "max_pages": 50,
    "rate_limit_delay": 250,
    "budgets": {"time": 3600, "path_prefixes": [{"prefix": "/sale/", "max_pages": 5}]},
    "traps": {"days_back": false, "session_ids": 7},
    "block": ["image", "*.example.com/*"],
    "headers": {"X-Key": "planted-secret"},
    "render": {"url_discovery": "static", "data_extraction": "full"},
    "url_discovery": [
      {"id": "links", "type": "extract_links", "params": {"selector": "a.next"}}
    ],
    "data_extraction": [
      {"id": "price", "type": "extract", "params": {"selector": ".price"}, "output_key": "price", "dependencies": ["pause"]},
      {"id": "title", "type": "extract", "params": {"selector": "h1"}, "output_key": "title", "retry": {"max_retries": 2, "delay": 100}},
      {"id": "pause", "type": "wait", "params": {"duration": 300}, "dependencies": ["title"]}
    ]
  }
}
"#;

#[tokio::test]
async fn the_json_has_phases_order_and_runs() {
    let scratch = Scratch::create();
    let file = write(&scratch, "shop.json", WORKFLOW);
    let end = ended(&scratch, &["explain", &file, "--json"]).await;
    assert_eq!(end.code, 0, "{}{}", end.stdout, end.stderr);
    let plan: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!(plan["limits"], json!({"max_depth": 2, "max_pages": 50, "rate_limit_delay_ms": 250}));
    let sale = json!([{"prefix": "/sale/", "max_pages": 5}]);
    assert_eq!(plan["budgets"], json!({"time_seconds": 3600, "bytes": null, "path_prefixes": sale}));
    assert_eq!((&plan["traps"]["days_back"], &plan["traps"]["session_ids"]), (&Value::Null, &json!(7)));
    assert_eq!(plan["traps"]["similarity"], json!(0.98));
    assert_eq!(plan["loading"]["blocked_kinds"], json!(["image"]));
    assert_eq!(plan["loading"]["blocked_patterns"], json!(["*.example.com/*"]));
    assert_eq!(plan["loading"]["headers"], json!(["X-Key"]));
    let nodes: Vec<_> = plan["phases"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|phase| phase["nodes"].as_array().unwrap())
        .map(|node| (node["position"].as_u64().unwrap(), node["id"].as_str().unwrap()))
        .collect();
    assert_eq!(nodes, [(0, "links"), (1, "title"), (2, "pause"), (3, "price")]);
    assert_eq!(plan["phases"][1]["nodes"][0]["max_retries"], 2);

    let shown = |page: &Value| {
        let runs = page["runs"].as_array().unwrap().iter();
        let runs: Vec<_> = runs.map(|run| json!([run["how"], run["nodes"], run["pause_ms"]])).collect();
        json!([page["kind"], page["render"], page["calls"], runs])
    };
    let pages: Vec<_> = plan["pages"].as_array().unwrap().iter().map(shown).collect();
    let rest = [json!(["pause", [2], 300]), json!(["call", [3], null])];
    let below = json!(["below_max_depth", "full", 2, [["call", [0, 1], null], rest[0], rest[1]]]);
    let at = json!(["at_max_depth", "full", 2, [["call", [1], null], rest[0], rest[1]]]);
    assert_eq!(pages, [below, at]);
    assert!(!end.stdout.contains("planted-secret"));
}

#[tokio::test]
async fn the_text_says_what_runs_where_and_why_a_page_is_loaded() {
    let scratch = Scratch::create();
    let file = write(&scratch, "shop.json", WORKFLOW);
    let end = ended(&scratch, &["explain", &file]).await;
    assert_eq!(end.code, 0, "{}{}", end.stdout, end.stderr);
    for said in [
        "a shop",
        "links are followed to depth 2 · at most 50 pages · 250 ms between pages of a host",
        "3600 s · 5 pages below /sale/",
        "session_ids 7",
        "blocked: image, *.example.com/*",
        "headers: X-Key",
        "extract_links",
        "a.next",
        "a pause follows, and the nodes after it must see the page as it is then",
    ] {
        assert!(end.stdout.contains(said), "`{said}` is not in\n{}", end.stdout);
    }
    assert!(!end.stdout.contains("planted-secret"));
    let of = |id: &str| end.stdout.find(id).unwrap();
    assert!(of("links") < of("title") && of("title") < of("pause") && of("pause") < of("price"));
}

#[tokio::test]
async fn a_file_that_is_no_workflow_gets_the_message_of_validate() {
    let scratch = Scratch::create();
    let file = write(&scratch, "bad.json", &WORKFLOW.replace("extract_links", "extract_link"));
    let explained = ended(&scratch, &["explain", &file]).await;
    let validated = ended(&scratch, &["validate", &file]).await;
    assert_eq!(explained.code, 2);
    assert!(explained.stdout.is_empty());
    assert!(explained.stderr.contains("/config/url_discovery/0/type"), "{}", explained.stderr);
    let problem =
        |text: &str| text.lines().find(|line| line.contains("/url_discovery/0/type")).map(str::to_owned);
    assert_eq!(problem(&explained.stderr), problem(&format!("{}{}", validated.stdout, validated.stderr)));
}
