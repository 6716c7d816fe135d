//! Browsers that do not start at once, and one that answers and opens no tab.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crawlify_shared::domain::outcome::ErrorClass;
use tokio::time::Instant;

use super::bench::{Bench, eventually, session};
use crate::chrome::driver::Driver;
use crate::chrome::find::find_browser;
use crate::chrome::launch::{Confinement, LaunchFailure, LaunchOptions, Launched, launch};
use crate::chrome::profile::ProfileFolders;

/// A program in whose folder each of its starts is noted.
struct Noting {
    folder: tempfile::TempDir,
}

impl Noting {
    /// Everybody may write there: where we are root it runs as somebody else.
    fn new(then: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let noting = Self { folder };
        std::fs::write(noting.starts(), "").unwrap();
        std::fs::set_permissions(noting.starts(), PermissionsExt::from_mode(0o666)).unwrap();
        let starts = noting.starts().display().to_string();
        let note =
            format!(r#"case " $* " in *" --no-sandbox "*) echo lowered;; *) echo safe;; esac >> "{starts}""#);
        let script = format!("#!/bin/sh\n{note}\n{}\n", then.replace("STARTS", &starts));
        std::fs::write(noting.program(), script).unwrap();
        std::fs::set_permissions(noting.program(), PermissionsExt::from_mode(0o755)).unwrap();
        noting
    }

    fn starts(&self) -> PathBuf {
        self.folder.path().join("starts")
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("chrome")
    }

    /// Of each start, whether it was with the sandbox.
    fn noted(&self) -> Vec<bool> {
        let starts = std::fs::read_to_string(self.starts()).unwrap();
        starts.lines().map(|start| start == "safe").collect()
    }
}

async fn launch_by(program: &Path, choices: &mut Vec<Confinement>) -> Result<Launched, LaunchFailure> {
    let profiles = ProfileFolders::create(&std::env::temp_dir()).unwrap();
    let options = LaunchOptions { program: program.to_owned(), extra_flags: Vec::new(), proxy_server: None };
    let launched = launch(&options, &profiles, choices).await;
    if let Ok(launched) = &launched {
        launched.close().await;
    }
    launched
}

#[tokio::test]
async fn a_browser_that_starts_only_the_third_time_keeps_its_confinement() {
    let real = find_browser().unwrap().path;
    // What works on this machine, and what would be tried after it.
    let mut works = Confinement::choices();
    launch_by(&real, &mut works).await.unwrap();
    let [best] = works.as_slice() else { panic!("only the way that worked is left: {works:?}") };
    let other = Confinement { sandbox: !best.sandbox, ..best.clone() };
    let mut choices = vec![best.clone(), other];
    let third = format!(r#"[ "$(wc -l < "STARTS")" -ge 3 ] || exit 1; exec "{}" "$@""#, real.display());
    let browser = Noting::new(&third);
    let launched = launch_by(&browser.program(), &mut choices).await.unwrap();
    assert_eq!(browser.noted(), [best.sandbox; 3]);
    assert_eq!((&launched.confinement, &choices), (best, &works));
}

#[tokio::test]
async fn a_way_to_start_is_left_for_a_less_safe_one_after_three_tries_and_the_last_one_is_tried_once() {
    let account = Confinement::choices().swap_remove(0).account;
    let ways = [true, false].map(|sandbox| Confinement { sandbox, account: account.clone() });
    let mut choices = ways.to_vec();
    let browser = Noting::new("exit 1");
    let failure = launch_by(&browser.program(), &mut choices).await.unwrap_err();
    assert!(matches!(failure, LaunchFailure::Ended { .. }), "{failure}");
    assert_eq!(browser.noted(), [true, true, true, false]);
    assert_eq!(choices, ways, "the next start begins with the safe one again");
}

#[tokio::test]
async fn a_browser_that_opens_no_tab_eight_times_in_a_row_is_replaced() {
    let bench = Bench::start().await;
    let first = bench.driver.browser_pid();
    // Its time is over before the browser can answer.
    let not_opened = async |times: u32| {
        for _ in 0..times {
            let over = Instant::now() - Duration::from_secs(1);
            let error = bench.driver.open(&session(&[]), over).await.unwrap_err();
            assert_eq!(error.failure.class, ErrorClass::NavTimeout, "{error}");
        }
    };
    not_opened(7).await;
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
    not_opened(7).await;
    // Longer than from one look to the next.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(bench.driver.browser_pid(), first, "one has opened in between");
    not_opened(1).await;
    eventually("the browser is replaced", || ![None, first].contains(&bench.driver.browser_pid())).await;
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
}
