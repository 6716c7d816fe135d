//! Holds the code to what DESIGN and STYLE say of every file: headers, lengths, names, import arrows.
//!
//! It reads the checkout's text and compiles nothing. Each rule is a function from one file to its problems, so that
//! the tests at the end can plant a violation of each.

mod ends;
mod migrations;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::Source;

const PACKAGES: [&str; 5] = ["shared", "coordinator", "worker", "cli", "tests"];
const LONGEST_FILE: usize = 400;
const FORBIDDEN_NAMES: [&str; 13] = [
    "common",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "model",
    "models",
    "processor",
    "service",
    "types",
    "util",
    "utils",
];
/// The model of a workflow is what the word says there, not a heap of everything.
const ALLOWED_NAMES: [&str; 1] = ["shared/src/domain/workflow/model.rs"];
/// The only code that may run between fork and exec.
const MAY_BE_UNSAFE: [&str; 1] = ["shared/src/child.rs"];

/// Files below `within`, but not below `except`, never name one of these.
struct Arrow {
    within: &'static [&'static str],
    except: &'static [&'static str],
    /// Other crates, or paths.
    crates: &'static [&'static str],
    /// Modules of the crate `shared`.
    shared: &'static [&'static str],
}

const SQL: &[&str] = &["sqlx", "tokio_postgres", "deadpool_postgres"];
const WIRING: [&str; 3] = ["lib.rs", "main.rs", "role.rs"];

const ARROWS: [Arrow; 9] = [
    Arrow {
        within: &["shared/src/domain"],
        except: &[],
        crates: &[
            "tokio",
            "tokio_util",
            "sqlx",
            "tokio_postgres",
            "deadpool_postgres",
            "lapin",
            "chromiumoxide",
            "chromiumoxide_cdp",
            "chromiumoxide_types",
            "reqwest",
            "axum",
            "std::fs",
            "std::net",
            "std::process",
        ],
        shared: &["store", "broker", "config", "telemetry", "child"],
    },
    Arrow { within: &["shared/src/store"], except: &[], crates: &["lapin"], shared: &["broker"] },
    Arrow { within: &["shared/src/broker"], except: &[], crates: SQL, shared: &["store"] },
    Arrow {
        // A private server must be asked whether it answers, before there is anything to store.
        within: &["shared/src", "coordinator/src", "worker/src", "cli/src"],
        except: &["shared/src/store", "cli/src/private_postgres", "cli/src/doctor"],
        crates: SQL,
        shared: &[],
    },
    Arrow {
        within: &["shared/src", "coordinator/src", "worker/src", "cli/src"],
        except: &["shared/src/broker"],
        crates: &["lapin"],
        shared: &[],
    },
    Arrow {
        within: &["shared/src", "coordinator/src", "worker/src", "cli/src", "tests"],
        except: &["worker/src/chrome"],
        crates: &["chromiumoxide", "chromiumoxide_cdp", "chromiumoxide_types"],
        shared: &[],
    },
    Arrow { within: &["shared", "coordinator"], except: &[], crates: &["crawlify_worker"], shared: &[] },
    Arrow { within: &["shared", "worker"], except: &[], crates: &["crawlify_coordinator"], shared: &[] },
    Arrow {
        within: &["worker/src/program", "worker/src/chrome"],
        except: &[],
        crates: &[],
        shared: &["store", "broker"],
    },
];

/// Who may see store or broker, in the two crates where few may: files and folders below `src`.
const MAY_SEE: [(&str, &str, &[&str]); 3] = [
    ("coordinator/src", "broker", &["dispatcher"]),
    ("worker/src", "broker", &["consumer", "page", "recorder"]),
    ("worker/src", "store", &["consumer", "page", "recorder", "robots"]),
];

#[test]
fn every_file_keeps_the_rules() {
    let sources = sources();
    assert!(sources.len() >= 30, "the checkout was not found: only {} files", sources.len());
    let problems: Vec<String> = sources.iter().flat_map(problems).chain(doubled_modules(&sources)).collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn coordinator_and_worker_do_not_depend_on_each_other() {
    for (package, forbidden) in [
        ("coordinator", ["crawlify-worker", "crawlify-cli"]),
        ("worker", ["crawlify-coordinator", "crawlify-cli"]),
    ] {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("crawlify-shared"));
        for name in forbidden {
            assert!(!manifest.contains(name), "{package}/Cargo.toml names {name}");
        }
    }
}

fn problems(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    let mut add = |problem: String| problems.push(format!("{}: {problem}", source.path));
    if !source.text.starts_with("//! ") {
        add("the first line must say what the file does (`//! ...`)".to_owned());
    }
    let lines = source.text.lines().count();
    if lines > LONGEST_FILE {
        add(format!("{lines} lines: a file is one thought, of {LONGEST_FILE} lines at most"));
    }
    let names = source.path.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
    if let Some(name) = names.into_iter().find(|name| FORBIDDEN_NAMES.contains(name))
        && !ALLOWED_NAMES.contains(&source.path.as_str())
    {
        add(format!("`{name}` says nothing: name the file for what it does"));
    }
    if source.code.contains("#[ignore") {
        add("a test that does not run is no test (`#[ignore]`)".to_owned());
    }
    if source.has_word("unsafe") && !MAY_BE_UNSAFE.contains(&source.path.as_str()) {
        add(format!("`unsafe` belongs in {}", MAY_BE_UNSAFE[0]));
    }
    for seen in forbidden_sights(source) {
        add(format!("may not see `{seen}` (the import arrows of the design)"));
    }
    problems
}

/// What a file names although no arrow leads there.
fn forbidden_sights(source: &Source) -> Vec<&'static str> {
    let mut seen = Vec::new();
    for arrow in &ARROWS {
        let below = |folders: &[&str]| folders.iter().any(|folder| is_below(&source.path, folder));
        if below(arrow.within) && !below(arrow.except) {
            seen.extend(arrow.crates.iter().filter(|name| source.has_word(name)));
            seen.extend(arrow.shared.iter().filter(|module| source.names_shared_module(module)));
        }
    }
    for (folder, module, seers) in MAY_SEE {
        let Some(inside) = source.path.strip_prefix(folder).map(|path| path.trim_start_matches('/')) else {
            continue;
        };
        let first = inside.split('/').next().unwrap_or_default();
        let sees = seers.contains(&first.trim_end_matches(".rs")) || WIRING.contains(&inside);
        if !sees && source.names_shared_module(module) {
            seen.push(module);
        }
    }
    seen.dedup();
    seen
}

/// A module is either `foo.rs` or `foo/mod.rs` beside its children, never both in halves.
fn doubled_modules(sources: &[Source]) -> Vec<String> {
    let folders: Vec<&str> = sources.iter().filter_map(|source| source.path.strip_suffix(".rs")).collect();
    let doubled = folders
        .iter()
        .filter(|folder| sources.iter().any(|source| source.path.starts_with(&format!("{folder}/"))));
    doubled.map(|folder| format!("{folder}.rs: the head of a folder is its mod.rs")).collect()
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn sources() -> Vec<Source> {
    let (root, mut sources) = (root(), Vec::new());
    let mut folders: Vec<PathBuf> = PACKAGES.iter().map(|package| root.join(package)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
                sources.push(Source::new(name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    sources
}

/// The problems of a file with a good header and this code.
fn planted(path: &str, code: &str) -> Vec<String> {
    problems(&Source::new(path, &format!("//! Does something.\n\n{code}\n")))
}

#[test]
fn a_planted_violation_of_each_rule_is_found() {
    let long = "fn f() {}\n".repeat(LONGEST_FILE);
    for (path, code, expected) in [
        ("shared/src/store/util.rs", "", "`util` says nothing"),
        ("worker/src/helpers/mod.rs", "", "`helpers` says nothing"),
        ("cli/src/run.rs", long.as_str(), "lines: a file is one thought"),
        ("cli/src/run.rs", "#[test]\n#[ignore]\nfn f() {}", "does not run"),
        ("cli/src/run.rs", "#[ignore = \"slow\"]", "does not run"),
        ("cli/src/run.rs", "fn f() { unsafe { g() } }", "`unsafe` belongs"),
        ("shared/src/domain/id.rs", "use tokio::time;", "`tokio`"),
        ("shared/src/domain/id.rs", "use std::fs::File;", "`std::fs`"),
        ("shared/src/domain/id.rs", "use crate::store::Store;", "`store`"),
        ("shared/src/store/hot.rs", "use crate::broker::Broker;", "`broker`"),
        ("shared/src/broker/amqp/mod.rs", "use crate::{domain, store};", "`store`"),
        ("shared/src/broker/mod.rs", "fn f(pool: sqlx::PgPool) {}", "`sqlx`"),
        ("cli/src/up.rs", "use sqlx::PgPool;", "`sqlx`"),
        ("worker/src/recorder.rs", "use lapin::Channel;", "`lapin`"),
        ("worker/src/page.rs", "use chromiumoxide_cdp::cdp;", "`chromiumoxide_cdp`"),
        ("coordinator/src/api/mod.rs", "use crawlify_worker::start;", "`crawlify_worker`"),
        ("worker/src/page.rs", "use crawlify_coordinator::start;", "`crawlify_coordinator`"),
        ("coordinator/src/api/mod.rs", "use crawlify_shared::broker::Broker;", "`broker`"),
        ("coordinator/src/finisher.rs", "use crawlify_shared::{broker::Broker, store};", "`broker`"),
        ("worker/src/program/mod.rs", "fn f(s: crawlify_shared::store::Store) {}", "`store`"),
        ("worker/src/chrome/tabs.rs", "use crawlify_shared::broker::Delivery;", "`broker`"),
        ("worker/src/metrics.rs", "use crawlify_shared::store::Store;", "`store`"),
    ] {
        let found = planted(path, code);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{path}: {expected}: {found:?}");
    }
    assert_eq!(problems(&Source::new("cli/src/run.rs", "use std::fs;\n")).len(), 1, "no header");
    let halves = [Source::new("cli/src/run.rs", ""), Source::new("cli/src/run/output.rs", "")];
    assert_eq!(doubled_modules(&halves), ["cli/src/run.rs: the head of a folder is its mod.rs"]);
}

#[test]
fn what_is_allowed_is_not_complained_of() {
    for (path, code) in [
        ("shared/src/child.rs", "unsafe { pre_exec() }"),
        ("shared/src/domain/id.rs", "// tokio, unsafe, #[ignore]\nconst A: &str = \"use sqlx::x\";"),
        ("shared/src/domain/id.rs", "const A: &str = r#\"a \" unsafe \"#; const B: char = '\"';"),
        ("shared/src/domain/id.rs", "fn f<'a>(unsafe_code: &'a str, tokio_like: u8) {}"),
        ("shared/src/store/hot.rs", "use tokio_postgres::Client; let broker = 1;"),
        ("coordinator/src/dispatcher/mod.rs", "use crawlify_shared::{broker::Broker, store::Store};"),
        ("coordinator/src/lib.rs", "use crawlify_shared::broker::Broker;"),
        ("coordinator/src/api/mod.rs", "use crawlify_shared::store::Store;"),
        ("worker/src/page.rs", "use crawlify_shared::{broker::Delivery, store};"),
        ("worker/src/chrome/connection.rs", "use chromiumoxide_cdp::cdp;"),
        ("cli/src/up.rs", "use crawlify_coordinator::start; use crawlify_worker as worker;"),
    ] {
        assert_eq!(planted(path, code), [""; 0], "{path}: {code}");
    }
}
