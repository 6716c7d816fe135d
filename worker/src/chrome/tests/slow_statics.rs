//! Pages that would keep a tab of the static lane busy for hours: what can be read at once is read, and a tab that
//! hangs is closed.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Read, Selector};
use serde_json::json;
use tokio::time::Instant;

use super::bench::{Bench, css, options, read, read_all};
use crate::chrome::ChromeOptions;
use crate::chrome::driver::{DomProgram, Driver, Static};
use crate::chrome::memory;

/// The site of these tests: a megabyte of what looks like the beginning of a `noscript`.
pub(super) fn answer(path: &str) -> Response {
    let megabyte = |text: &str| text.repeat((1 << 20) / text.len());
    match path.trim_start_matches("/noscript/") {
        "without-end" => Html(format!("<h1>x</h1>{}", megabyte("<noscript>"))).into_response(),
        "without-end-of-tag" => Html(format!("<h1>x</h1>{}", megabyte("<noscript "))).into_response(),
        "in-tag" => {
            Html(format!("<h1>x</h1><noscript{}>y</noscript>", megabyte(" <noscript"))).into_response()
        }
        _ => {
            let comment = megabyte("<noscript");
            let page = format!(
                "<html xmlns='http://www.w3.org/1999/xhtml'><body><h1>x</h1><!--{comment}--></body></html>"
            );
            ([(header::CONTENT_TYPE, "application/xhtml+xml")], page).into_response()
        }
    }
}

/// As good as nothing on a small page, and without end on a huge one.
fn slow() -> DomProgram {
    let slow = Selector::Xpath("//p[count(//p[count(//p) > 1]) > 1]".to_owned());
    DomProgram::new(vec![read_all("h1"), read(slow, Read::Text, true, Vec::new())])
}

/// One tab of the static lane, whose page may take what memory it likes: the slow program leaves some behind, gigabytes within the
/// time of a page on a fast machine, and is not to be ended for that.
fn one_tab() -> ChromeOptions {
    let unbounded = u64::MAX / 2;
    ChromeOptions { static_tabs: 1, page_memory: unbounded, browser_memory: unbounded, ..options() }
}

async fn read_within(bench: &Bench, url: &PageUrl, program: &DomProgram, patience: Duration) -> Static {
    bench.driver.read_static(&bench.session, url, program, true, Instant::now() + patience).await
}

/// How long each process of pages has had a processor, in hundredths of a second.
fn processor_times(bench: &Bench) -> HashMap<i32, u64> {
    let of_process = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // What comes before may have spaces of its own: it is the name of the program.
        let (_, fields) = stat.rsplit_once(") ")?;
        let times = fields.split_whitespace().skip(11).take(2);
        Some((pid, times.map(|time| time.parse::<u64>().unwrap()).sum::<u64>()))
    };
    let processes = memory::processes(bench.driver.browser_pid().unwrap());
    processes
        .iter()
        .filter(|process| process.is_of_pages())
        .filter_map(|process| of_process(process.pid))
        .collect()
}

/// Whether a page has a processor for a tenth of a second or more, of one second.
async fn is_busy(bench: &Bench) -> bool {
    let before = processor_times(bench);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = processor_times(bench);
    after.iter().any(|(pid, time)| *time >= before.get(pid).copied().unwrap_or_default() + 10)
}

#[tokio::test]
async fn a_megabyte_of_noscript_takes_a_moment() {
    let bench = Bench::start().await;
    let html = read(css("body"), Read::Html, true, Vec::new());
    let program = DomProgram::new(vec![read_all("h1"), html]);
    for (path, is_read) in
        [("without-end", false), ("without-end-of-tag", false), ("in-tag", true), ("in-comment", true)]
    {
        let url = bench.url(&format!("/noscript/{path}"));
        match read_within(&bench, &url, &program, Duration::from_secs(10)).await {
            Static::NeedsFull(reason) => {
                assert!(!is_read && reason.contains("`noscript`"), "{path}: {reason}");
            }
            Static::Read { results, .. } => {
                assert!(is_read, "{path}");
                assert_eq!(results[0].as_ref().unwrap().output, Ok(json!(["x"])), "{path}");
                let html = results[1].as_ref().unwrap().output.clone().unwrap();
                assert!(html[0].as_str().unwrap().starts_with("<h1"), "{path}");
            }
            Static::Lost(reason) => panic!("{path}: {reason}"),
        }
    }
}

#[tokio::test]
async fn a_page_that_hangs_uses_no_processor_once_its_time_is_over() {
    let bench = Bench::with(one_tab()).await;
    let (huge, small) = (bench.url("/static/huge"), bench.url("/static/base"));
    let program = slow();
    let first = read_within(&bench, &small, &program, Duration::from_secs(20)).await;
    assert!(matches!(first, Static::Read { .. }), "{first:?}");
    let (hung, was_busy) =
        tokio::join!(read_within(&bench, &huge, &program, Duration::from_secs(6)), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            // It may not run at all for a second.
            is_busy(&bench).await || is_busy(&bench).await
        });
    let ended = Instant::now();
    let is_closing = bench.driver.current_browser().unwrap().tabs.opener().is_closing();
    assert!(was_busy, "it did not hang");
    let Static::NeedsFull(reason) = hung else { panic!("{hung:?}") };
    assert!(reason.contains("all of its time"), "{reason}");
    while is_busy(&bench).await {
        assert!(ended.elapsed() < Duration::from_secs(10), "it goes on");
    }
    assert!(is_closing, "its tab may live, as far as anybody knows");
    let after = read_within(&bench, &small, &program, Duration::from_secs(20)).await;
    assert!(matches!(after, Static::Read { .. }), "{after:?}");
}

#[tokio::test]
async fn a_page_that_hangs_takes_its_neighbours_to_tabs_of_their_own_and_not_the_pages_after_them() {
    let bench = Bench::with(one_tab()).await;
    let (huge, small) = (bench.url("/static/huge"), bench.url("/static/base"));
    let program = slow();
    let read = |url, patience| read_within(&bench, url, &program, patience);
    let read_small = read(&small, Duration::from_secs(20)).await;
    assert!(matches!(read_small, Static::Read { .. }), "{read_small:?}");
    let begun = Instant::now();
    let neighbours = async {
        // By then it hangs, even where the machine does not run for a second.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        futures_util::future::join_all((0..7).map(|_| read(&small, Duration::from_secs(60)))).await
    };
    let (hung, neighbours) = tokio::join!(read(&huge, Duration::from_secs(6)), neighbours);
    assert!(matches!(hung, Static::NeedsFull(_)), "it is to be loaded in a tab: {hung:?}");
    for lost in &neighbours {
        assert!(matches!(lost, Static::Lost(_)), "which says nothing of the page: {lost:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "they waited {:?}", begun.elapsed());
    let after = read(&small, Duration::from_secs(20)).await;
    assert!(matches!(after, Static::Read { .. }), "{after:?}");
}

#[tokio::test]
async fn where_the_time_of_an_earlier_page_is_over_first_that_page_counts_instead_of_the_one_that_hangs() {
    let bench = Bench::with(one_tab()).await;
    let (huge, small, silent) = (bench.url("/static/huge"), bench.url("/static/base"), bench.url("/silent"));
    let program = slow();
    let read = |url, patience| read_within(&bench, url, &program, patience);
    let read_small = read(&small, Duration::from_secs(20)).await;
    assert!(matches!(read_small, Static::Read { .. }), "{read_small:?}");
    let (earlier, hung) =
        tokio::join!(read(&silent, Duration::from_secs(5)), read(&huge, Duration::from_secs(30)));
    let Static::NeedsFull(reason) = earlier else { panic!("{earlier:?}") };
    assert!(reason.contains("all of its time"), "{reason}");
    assert!(matches!(hung, Static::Lost(_)), "{hung:?}");
}
