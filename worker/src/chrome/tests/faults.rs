//! What goes wrong with tabs and browsers, and how little of it is lost.

use std::path::Path;
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::page::CrashParams;
use chromiumoxide_cdp::cdp::browser_protocol::target::{
    GetBrowserContextsParams, GetTargetsParams, TargetInfo,
};
use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_shared::domain::workflow::{Block, ElementState, Isolation, ResourceKind, WaitUntil};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::bench::{
    Bench, eventually, is_running, once_within, one, options, read_all, run, session, soon, wait_for,
};
use crate::chrome::driver::{Driver, Session, Tab};
use crate::chrome::{ChromeDriver, ChromeOptions, LaunchError};

/// Often, and not so often that a browser is lost that does not run for a second or two.
const PING_EVERY: Duration = Duration::from_secs(2);

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Works on until something breaks: an element that never comes.
async fn endless_run(tab: &mut Box<dyn Tab>) -> crate::chrome::driver::TabError {
    run(tab, [wait_for(".never", ElementState::Attached, 60_000)], soon()).await.unwrap_err()
}

#[tokio::test]
async fn dialogs_are_dismissed_and_a_loop_of_them_is_given_up() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/dialogs").await.unwrap();
    assert_eq!(one(&mut tab, read_all("h1")).await.unwrap()[0], "after");
    bench.load(&mut tab, "/unload").await.unwrap();
    bench.load(&mut tab, "/plain").await.unwrap();
    let error = bench.load(&mut tab, "/dialog-loop").await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::Script, "{error}");
    assert!(!error.tab_usable);
}

#[tokio::test]
async fn popups_do_not_live() {
    let bench = Bench::with(ChromeOptions { ping_every: PING_EVERY, ..options() }).await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/popups").await.unwrap();
    assert_eq!(one(&mut tab, read_all("h1")).await.unwrap()[0], "opener");
    let browser = bench.driver.current_browser().unwrap();
    let deadline = soon();
    // Those of links without an opener too, of which nobody says that they are popups.
    loop {
        let targets = browser.launched.connection.call(None, &GetTargetsParams::default(), deadline).await;
        let targets = targets.unwrap().target_infos;
        let stays = |target: &&TargetInfo| target.url.contains("/popups") || target.url == "about:blank";
        if targets.iter().filter(|target| !stays(target)).count() == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "popups stay open: {targets:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(one(&mut tab, read_all("h1")).await.unwrap()[0], "opener", "it is none itself");
}

#[tokio::test]
async fn a_page_that_is_nobodys_any_more_is_left() {
    let bench = Bench::start().await;
    assert_eq!(bench.texts(&bench.session, "/restless", "h1").await, ["restless"]);
    let execution = bench.session.execution_id;
    // Each of its requests is answered with more than nothing.
    let deadline = soon();
    bench.driver.take_received(execution);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if bench.driver.take_received(execution) == Some(0) {
            break;
        }
        assert!(Instant::now() < deadline, "it goes on and on");
    }
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
}

#[tokio::test]
async fn a_browser_that_is_old_is_replaced() {
    let bench = Bench::with(ChromeOptions { browser_age: Duration::from_secs(1), ..options() }).await;
    let first = bench.driver.browser_pid().unwrap();
    eventually("the browser is replaced", || bench.driver.browser_pid().is_some_and(|pid| pid != first))
        .await;
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
}

#[tokio::test]
async fn a_killed_browser_fails_its_calls_within_a_second_and_is_replaced_within_five() {
    once_within(Duration::from_secs(1), async || {
        let bench = Bench::start().await;
        let mut tab = bench.open().await;
        bench.load(&mut tab, "/plain").await.unwrap();
        let pid = bench.driver.browser_pid().unwrap();
        let killed = async {
            signal(pid, Signal::KILL);
            Instant::now()
        };
        let (error, killed_at) = tokio::join!(endless_run(&mut tab), killed);
        let noticed = killed_at.elapsed();
        assert_eq!(error.failure.class, ErrorClass::BrowserLost);
        assert!(!error.tab_usable);
        eventually("the loss is known", || bench.driver.browser_pid() != Some(pid)).await;
        bench.driver.ready().await;
        let replaced = killed_at.elapsed();
        drop(tab);
        assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
        // One second for the one, and five for the other.
        noticed.max(replaced / 5)
    })
    .await;
}

#[tokio::test]
async fn a_page_that_is_loading_fails_with_its_browser() {
    once_within(Duration::from_secs(1), async || {
        let bench = Bench::start().await;
        let mut tab = bench.open().await;
        let killed = async {
            // The document is there, its picture never comes.
            tokio::time::sleep(Duration::from_secs(1)).await;
            signal(bench.driver.browser_pid().unwrap(), Signal::KILL);
            Instant::now()
        };
        let (loaded, killed_at) = tokio::join!(bench.load(&mut tab, "/slow-picture"), killed);
        let noticed = killed_at.elapsed();
        assert_eq!(loaded.unwrap_err().failure.class, ErrorClass::BrowserLost);
        noticed
    })
    .await;
}

#[tokio::test]
async fn a_frozen_browser_is_replaced() {
    let bench = Bench::with(ChromeOptions { ping_every: PING_EVERY, ..options() }).await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/plain").await.unwrap();
    let pid = bench.driver.browser_pid().unwrap();
    signal(pid, Signal::STOP);
    let error = endless_run(&mut tab).await;
    assert_eq!(error.failure.class, ErrorClass::BrowserLost);
    eventually("the frozen browser is gone", || !is_running(pid)).await;
    bench.driver.ready().await;
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
}

/// A tab of the bench's own session, and the name of its line.
async fn open_named(bench: &Bench) -> (Box<dyn Tab>, String) {
    let browser = bench.driver.current_browser().unwrap();
    let (attached, lease) = browser.tabs.take(&bench.session, soon()).await.unwrap();
    let on = attached.session.clone();
    (Box::new(crate::chrome::tab::ChromeTab::new(attached, lease, browser)), on)
}

#[tokio::test]
async fn a_crashed_tab_fails_at_once_and_its_neighbour_does_not() {
    let bench = Bench::start().await;
    let browser = bench.driver.current_browser().unwrap();
    let neighbour = session(&[]);
    let mut other = bench.driver.open(&neighbour, soon()).await.unwrap();
    bench.load(&mut other, "/").await.unwrap();
    once_within(Duration::from_secs(1), async || {
        let (mut tab, on) = open_named(&bench).await;
        bench.load(&mut tab, "/plain").await.unwrap();
        let crash = async {
            browser.launched.connection.send(Some(&on), &CrashParams {});
            Instant::now()
        };
        let (error, crashed_at) = tokio::join!(endless_run(&mut tab), crash);
        let noticed = crashed_at.elapsed();
        assert_eq!(error.failure.class, ErrorClass::TabCrash);
        assert!(!error.tab_usable);
        assert_eq!(one(&mut other, read_all("h1")).await.unwrap()[0], " The  Shop ");
        tab.release().await;
        noticed
    })
    .await;
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
}

#[tokio::test]
async fn a_tab_that_is_busy_or_crashes_harms_no_other_of_its_execution_and_site() {
    let bench = Bench::start().await;
    let mut other = bench.open().await;
    bench.load(&mut other, "/").await.unwrap();
    let mut busy = bench.open().await;
    let busy_until = Instant::now() + Duration::from_secs(8);
    let loading = bench.url("/busy");
    let works = async {
        // By then the script has the thread that it runs in.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(one(&mut other, read_all("h1")).await.unwrap()[0], " The  Shop ");
        bench.load(&mut other, "/plain").await.unwrap();
        assert!(Instant::now() < busy_until, "it had to wait for the busy one");
    };
    let (loaded, ()) = tokio::join!(busy.navigate(&loading, WaitUntil::Load, None, busy_until), works);
    assert_eq!(loaded.unwrap_err().failure.class, ErrorClass::NavTimeout);
    drop(busy);
    let (mut crashing, on) = open_named(&bench).await;
    bench.load(&mut crashing, "/plain").await.unwrap();
    let browser = bench.driver.current_browser().unwrap();
    let crash = async { browser.launched.connection.send(Some(&on), &CrashParams {}) };
    let (error, ()) = tokio::join!(endless_run(&mut crashing), crash);
    assert_eq!(error.failure.class, ErrorClass::TabCrash);
    assert_eq!(one(&mut other, read_all("h1")).await.unwrap()[0], "plain");
    bench.load(&mut other, "/").await.unwrap();
}

#[tokio::test]
async fn tabs_that_are_given_up_while_they_open_leave_nothing_behind() {
    let bench = Bench::start().await;
    let browser = bench.driver.current_browser().unwrap();
    let apart = Session { isolation: Isolation::Page, ..session(&[("x-crawl", "1")]) };
    let before = browser.tabs.opener().attached();
    let (mut given_up, mut opened) = (0, 0);
    // Longer from one to the next, so that each is given up a little later in its opening.
    for patience in (0..).map(|number| number * Duration::from_micros(500)) {
        match tokio::time::timeout(patience, browser.tabs.take(&apart, soon())).await {
            Err(_elapsed) => given_up += 1,
            Ok(taken) => {
                browser.tabs.discard(&taken.unwrap().0);
                opened += 1;
            }
        }
        if opened == 3 {
            break;
        }
    }
    assert!(given_up > 5, "only {given_up} were given up");
    assert_eq!(browser.tabs.opener().attached(), before, "after {given_up} that were given up");
    let left = || async {
        let contexts = browser.launched.connection.call(None, &GetBrowserContextsParams {}, soon()).await;
        contexts.unwrap().browser_context_ids.len()
    };
    let deadline = soon();
    while left().await > 0 {
        assert!(Instant::now() < deadline, "their contexts stay, with the targets in them");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_browser_that_did_its_work_is_replaced_without_a_failure() {
    let bench = Bench::with(ChromeOptions { pages_per_browser: 3, ..options() }).await;
    let first = bench.driver.browser_pid().unwrap();
    let mut held = bench.open().await;
    bench.load(&mut held, "/plain").await.unwrap();
    let deadline = soon();
    while bench.driver.browser_pid() == Some(first) {
        assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
        assert!(Instant::now() < deadline, "the browser was not replaced");
    }
    assert!(bench.driver.is_ready() && is_running(first));
    assert_eq!(one(&mut held, read_all("h1")).await.unwrap()[0], "plain", "the old one serves its pages");
    held.release().await;
    eventually("the old browser is gone", || !is_running(first)).await;
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
}

#[tokio::test]
async fn a_retired_browser_that_freezes_fails_the_pages_that_it_has() {
    let options = ChromeOptions { pages_per_browser: 2, ping_every: PING_EVERY, ..options() };
    let bench = Bench::with(options).await;
    let first = bench.driver.browser_pid().unwrap();
    let mut held = bench.open().await;
    bench.load(&mut held, "/plain").await.unwrap();
    bench.texts(&bench.session, "/plain", "h1").await;
    eventually("the browser is replaced", || bench.driver.browser_pid().is_some_and(|pid| pid != first))
        .await;
    signal(first, Signal::STOP);
    let error = endless_run(&mut held).await;
    assert_eq!(error.failure.class, ErrorClass::BrowserLost);
    eventually("the frozen browser is gone", || !is_running(first)).await;
    assert_eq!(bench.texts(&bench.session, "/plain", "h1").await, ["plain"]);
}

#[tokio::test]
async fn what_is_blocked_is_not_asked_for_and_the_page_itself_always_is() {
    let bench = Bench::start().await;
    let patterns = vec!["*/blocked*".to_owned(), "*".to_owned() + "with-parts*"];
    let block = Block { kinds: vec![ResourceKind::Image, ResourceKind::Stylesheet], patterns };
    let session = Session { block, ..session(&[]) };
    let parts = bench.texts(&session, "/with-parts", "li").await;
    assert_eq!(parts, ["script", "no image", "no style", "no fetch"]);
    let parts = bench.texts(&bench.session, "/with-parts", "li").await;
    assert_eq!(parts, ["script", "image", "style", "fetch"]);
    let kinds = vec![ResourceKind::Script, ResourceKind::Image, ResourceKind::Stylesheet];
    let block = Block { kinds, patterns: Vec::new() };
    let session = Session { block, ..bench.session.clone() };
    assert_eq!(bench.texts(&session, "/about/Node.js", "h1").await, ["plain"], "whatever its name is");
}

#[tokio::test]
async fn kinds_are_blocked_by_name_until_a_name_does_not_tell() {
    let bench = Bench::start().await;
    let block = Block { kinds: vec![ResourceKind::Image, ResourceKind::Stylesheet], patterns: Vec::new() };
    let blocked = Session { block: block.clone(), ..session(&[]) };
    for _ in 0..2 {
        let mut parts = bench.texts(&blocked, "/named", "li").await;
        parts.sort();
        assert_eq!(parts, ["asked", "inline", "no /B.PNG?x=1", "no /a.jpg", "no /part.css?y=2"]);
    }
    // The one that teaches is loaded, and no other.
    assert_eq!(bench.texts(&blocked, "/nameless", "li").await, ["/picture"]);
    for _ in 0..2 {
        assert_eq!(bench.texts(&blocked, "/nameless", "li").await, ["no /picture"]);
        assert_eq!(bench.texts(&blocked, "/named", "li").await.len(), 5);
    }
    // Where no page learns from another, nothing is loaded even once.
    let apart = Session { block, isolation: Isolation::Page, ..session(&[]) };
    assert_eq!(bench.texts(&apart, "/nameless", "li").await, ["no /picture"]);
    assert_eq!(bench.texts(&bench.session, "/nameless", "li").await, ["/picture"]);
}

#[tokio::test]
async fn idle_tabs_are_bounded() {
    let bench = Bench::with(ChromeOptions { idle_tabs: 3, ..options() }).await;
    for _ in 0..8 {
        assert_eq!(bench.texts(&session(&[]), "/plain", "h1").await, ["plain"]);
    }
    let (browser, deadline) = (bench.driver.current_browser().unwrap(), soon());
    let connection = &browser.launched.connection;
    // Those that were told to close may take a moment.
    loop {
        let contexts = connection.call(None, &GetBrowserContextsParams {}, deadline).await.unwrap();
        let targets = connection.call(None, &GetTargetsParams::default(), deadline).await.unwrap();
        // The browser's own first page is in none of these.
        let is_tab = |target: &&TargetInfo| {
            let context = target.browser_context_id.as_ref();
            target.r#type == "page" && context.is_some_and(|id| contexts.browser_context_ids.contains(id))
        };
        let tabs = targets.target_infos.iter().filter(is_tab).count();
        if tabs == 3 {
            break;
        }
        assert!(Instant::now() < deadline, "{tabs} tabs are open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn closing_leaves_no_process_and_no_profile_and_tabs_fail() {
    let parent = tempfile::tempdir().unwrap();
    let pass = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(parent.path(), pass).unwrap();
    let options = ChromeOptions { profile_parent: Some(parent.path().to_owned()), ..options() };
    let bench = Bench::with(options).await;
    let mut tab = bench.open().await;
    let pid = bench.driver.browser_pid().unwrap();
    assert!(bench.driver.description().starts_with("Chromium "), "{}", bench.driver.description());
    bench.driver.close().await;
    assert!(!is_running(pid) && !bench.driver.is_ready());
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    let error = bench.load(&mut tab, "/plain").await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::BrowserLost);
    let error = bench.driver.open(&bench.session, soon()).await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::BrowserLost);
}

#[tokio::test]
async fn renderers_are_confined_as_the_description_says() {
    let bench = Bench::start().await;
    let mut tab = bench.open().await;
    bench.load(&mut tab, "/plain").await.unwrap();
    let group = bench.driver.browser_pid().unwrap().to_string();
    let is_sandboxed = bench.driver.description().contains("sandbox on");
    // One that has just begun, for a page to come, confines itself in a moment.
    eventually("all renderers are confined as it is said", || {
        let mut are_filtered = Vec::new();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let about = |file: &str| std::fs::read_to_string(process.path().join(file)).unwrap_or_default();
            let stat = about("stat");
            // After the name in brackets: state, parent, group.
            let its_group = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(2));
            if its_group == Some(group.as_str()) && about("cmdline").contains("--type=renderer") {
                are_filtered.push(about("status").lines().any(|line| line == "Seccomp:\t2"));
            }
        }
        !are_filtered.is_empty() && are_filtered.iter().all(|is_filtered| *is_filtered == is_sandboxed)
    })
    .await;
}

#[tokio::test]
async fn a_program_that_does_not_start_is_an_error_of_the_start() {
    let start = |program: &str| {
        ChromeDriver::start(ChromeOptions { program: Some(Path::new(program).to_owned()), ..options() })
    };
    let error = start("/bin/false").await.unwrap_err();
    assert!(matches!(&error, LaunchError::DoesNotStart { .. }), "{error}");
    let error = start("/no/such/chrome").await.unwrap_err();
    assert!(matches!(&error, LaunchError::NoBrowser(_)), "{error}");
}
