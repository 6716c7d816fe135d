//! What a person does wrong: files, workflows, options.

use harness::scratch::Scratch;

use super::{ended, write};

/// Five mistakes, each of another kind.
const FIVE_MISTAKES: &str = r#"{
  "name": "five mistakes",
  "config": {
    "start_urls": ["ftp://shop.test/"],
    "url_discovery": [
      {"id": "links", "type": "extract_link", "params": {"selector": "a"}}
    ],
    "data_extraction": [
      {"id": "title", "type": "extract", "params": {"selector": "h1[", "type": "text"}, "output_key": "title"},
      {"id": "title", "type": "extract", "params": {"selector": "h2", "type": "text"}, "output_key": "sub"},
      {"id": "price", "type": "extract", "params": {"selector": "b", "type": "text"}, "output_key": "price", "dependencies": ["titel"]}
    ]
  }
}
"#;

const FIVE_PLACES: [&str; 5] = [
    "4:20 /config/start_urls/0",
    "6:31 /config/url_discovery/0/type",
    "/config/data_extraction/0/params/selector",
    "10:14 /config/data_extraction/1/id",
    "/config/data_extraction/2/dependencies/0",
];

#[tokio::test]
async fn a_missing_file_is_named() {
    let scratch = Scratch::create();
    for command in ["run", "validate"] {
        let ended = ended(&scratch, &[command, "/no/such/workflow.json"]).await.with_code(4);
        assert_eq!(
            ended.stderr,
            "cannot read /no/such/workflow.json: No such file or directory (os error 2)\n"
        );
        assert_eq!(ended.stdout, "");
    }
}

#[tokio::test]
async fn a_file_that_is_not_json_is_shown_with_the_place() {
    let scratch = Scratch::create();
    let file = write(&scratch, "broken.json", "{\"name\": \"x\",\n \"config\": {\"start_urls\": [}\n}\n");
    let ended = ended(&scratch, &["run", &file]).await.with_code(2);
    let ended =
        ended.saying(&["1 problem", "2:28", "this is not JSON", "2 | \"config\": {\"start_urls\": [}"]);
    assert!(!ended.stderr.contains("starting Postgres"), "nothing is started for a bad file");
}

#[tokio::test]
async fn all_mistakes_of_a_workflow_are_told_at_once() {
    let scratch = Scratch::create();
    let file = write(&scratch, "five.json", FIVE_MISTAKES);
    let _ = ended(&scratch, &["run", &file]).await.with_code(2).saying(&["5 problems"]).saying(&FIVE_PLACES);
}

#[tokio::test]
async fn validate_reports_on_every_file_and_fails_if_one_is_bad() {
    let scratch = Scratch::create();
    let bad = write(&scratch, "five.json", FIVE_MISTAKES);
    let good = write(&scratch, "demo.json", crawlify_cli::demo_site::WORKFLOW);
    let ended_well = ended(&scratch, &["validate", &good]).await.with_code(0);
    assert!(ended_well.stdout.starts_with(&format!("{good}: valid")), "{}", ended_well.stdout);
    let ended_badly = ended(&scratch, &["validate", &bad, &good]).await.with_code(2);
    assert!(ended_badly.stdout.contains(&format!("{good}: valid")), "{}", ended_badly.stdout);
    for place in FIVE_PLACES {
        assert!(ended_badly.stdout.contains(place), "{place}: {}", ended_badly.stdout);
    }
    assert_eq!(ended_badly.stderr, "", "what was asked for goes to stdout");
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused_before_anything_starts() {
    let scratch = Scratch::create();
    let file = write(&scratch, "demo.json", crawlify_cli::demo_site::WORKFLOW);
    for (arguments, said) in [
        (&["run", &file, "--start-url", "shop"][..], "invalid value 'shop' for '--start-url <URL>'"),
        (
            &["run", &file, "--start-url", "ftp://shop.test/"],
            "--start-url: `ftp://shop.test/` cannot be crawled",
        ),
        (
            &["run", &file, "--start-url", "https://me:hunter2@shop.test:99999/"],
            "--start-url: a URL that is not shown, as it may carry a password, cannot be crawled",
        ),
        (&["run", &file, "--max-pages", "0"], "--max-pages"),
        (&["run", &file, "--data-dir", "/tmp"], "--keep"),
        (&["run", &file, "-o", "/no/such/folder/items.jsonl"], "there is no folder /no/such/folder"),
        (&["run", &file, "-o", "/tmp"], "cannot write /tmp: it is a folder"),
        (&["run", &file, "--render", "quick"], "[possible values: full, static, auto]"),
        (&["run", &file, "--block", "image,picture"], "--block: `picture` is neither a kind of resource"),
        (&["run"], "<FILE>"),
    ] {
        let ended = ended(&scratch, arguments).await.with_code(2).saying(&[said]);
        assert!(!ended.stderr.contains("starting Postgres"), "{}", ended.stderr);
        assert!(!ended.stderr.contains(".partial"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
    assert_eq!(scratch.leftovers(), [""; 0]);
}
