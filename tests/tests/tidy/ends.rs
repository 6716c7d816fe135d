//! Holds the tests to asking for the invariants where crawls come to their end, as `docs/FAULTS.md` says that they do. It
//! looks at files: that one of them asks at all, not that each of its tests does.

use super::source::Source;
use super::sources;

/// What starts programs that crawl: their commands, in quotes.
const COMMANDS: [&str; 4] = ["\"run\"", "\"demo\"", "\"up\"", "\"worker\""];
/// What asks: the checkers themselves, and the end of a fleet.
const ASKS: [&str; 4] = ["assert_is_sound(", "assert_sound(", "assert_ended_are_sound(", ".close(["];
/// What asks of a crawl of `worker::Running`.
const ENDS_RUNNING: [&str; 2] = [".end().await", ".stop().await"];

/// Files that crawl and do not ask, each with the reason.
const EXCEPTIONS: [(&str, &str); 6] = [
    ("tests/tests/cluster/late_servers.rs", "its workers have no pages, and its pages no worker"),
    ("tests/tests/crashes/mod.rs", "it makes the fleets that the files beside it close"),
    ("tests/tests/frontier/many_workers.rs", "its one crawl that ends is recounted there"),
    ("tests/tests/spine/process.rs", "it starts the members of a fleet whose crawl `verdict` judges"),
    ("tests/tests/storm.rs", "the storm asks itself, and tells what is broken"),
    ("tests/tests/worker/readiness.rs", "its worker has no pages"),
];

#[test]
fn every_file_of_tests_whose_crawls_come_to_their_end_asks_for_the_invariants() {
    let sources = sources();
    let silent: Vec<&str> =
        sources.iter().filter(|source| is_silent(source)).map(|source| source.path.as_str()).collect();
    // Both in the order of their paths: one that asks by now is no exception any more.
    assert_eq!(silent, EXCEPTIONS.map(|(path, _)| path), "these crawl and do not ask, unlike the exceptions");
}

/// Whether a file of tests starts what crawls, and asks nowhere.
fn is_silent(source: &Source) -> bool {
    let has = |parts: &[&str]| parts.iter().any(|part| source.code.contains(part));
    let starts_programs =
        source.has_word("CRAWLIFY") && COMMANDS.iter().any(|command| source.text.contains(command));
    let starts_others = source.has_word("harness::fleet") || source.has_word("crawlify_worker::start");
    let starts_running = source.has_word("Running::start") || source.has_word("Running::of");
    source.path.starts_with("tests/tests/")
        && !has(&ASKS)
        && (starts_programs || starts_others || (starts_running && !has(&ENDS_RUNNING)))
}

#[test]
fn a_file_that_crawls_and_does_not_ask_is_found() {
    let run = "let mut command = crawlify(CRAWLIFY, &scratch); command.arg(\"run\");";
    let says_only = format!("{run} // recorded.assert_is_sound().await;");
    let asks = format!("{run} recorded.assert_is_sound().await;");
    for (code, expected) in [
        (run, true),
        (says_only.as_str(), true),
        (asks.as_str(), false),
        ("let mut command = crawlify(CRAWLIFY, &scratch); command.arg(\"coordinator\");", false),
        ("use harness::fleet::Fleet;", true),
        ("use harness::fleet::Fleet; fleet.close([worker], execution, None).await;", false),
        ("crawlify_worker::start(config, broker, driver, registry, stop).await;", true),
        ("let running = Running::start(&shop(), driver, TIMES).await;", true),
        ("Running::start(&shop(), driver, TIMES).await.end().await;", false),
    ] {
        assert_eq!(is_silent(&Source::new("tests/tests/planted.rs", code)), expected, "{code}");
    }
    assert!(!is_silent(&Source::new("tests/src/planted.rs", run)), "the harness is asked, and does not ask");
}
