//! The end of a crawl in this process: the pages in hand end, the items are written, the summary is made, and the system stops.
//! One that cannot go on is summed up as it is. Neither that one nor one that is to stop waits for a database that has
//! fallen silent.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::skip::SkipReason;
use crawlify_shared::store::control::CancelMode;
use crawlify_shared::store::executions::ExecutionStatus;
use crawlify_shared::store::summary::Summary;
use crawlify_shared::store::{Store, StoreError};
use tokio::task::JoinSet;

use crate::exit::{Code, Failure};
use crate::export::Export;
use crate::progress::ProgressDisplay;
use crate::stopping::DRAIN_DEADLINE;
use crate::summary::{ErrorGroup, NodeTiming, OutputFile, RenderRow, Renders, RunSummary, SkipRow, render};
use crate::system::{Foundation, System, default_data_dir};

/// How long the finisher may take after a cancellation.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);
/// A database that does not answer the simplest question for so long has fallen silent.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What a crawl came to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Code,
    /// The summary, for people, and behind it what broke.
    pub(crate) text: String,
}

/// What is written and said of a crawl.
type SummedUp = (Option<OutputFile>, Summary);

/// Ends a crawl that is over (`false`), is to stop (`true`), or cannot go on, and then the system.
pub(crate) async fn finish(
    system: System,
    execution: ExecutionId,
    ending: Result<bool, Failure>,
    mut display: ProgressDisplay,
    export: Option<Export>,
    data_dir: Option<PathBuf>,
) -> Result<Ended, Failure> {
    let interrupted = matches!(ending, Ok(true));
    let cut_short = cut_short(&ending);
    let (summed_up, broken) = match ending {
        Ok(true) => (interrupt(&system, execution, &mut display, export).await, None),
        Ok(false) => {
            // Whatever the worker still has to say about its pages is in the store then.
            system.drain().await;
            (sum_up(&system.foundation.store, execution, export).await, None)
        }
        Err(failure) => (salvage(&system, execution, &mut display, export).await, Some(failure)),
    };
    let look_further = look_further(&system.foundation, execution, data_dir.as_deref());
    let open_pages = open_pages(&system.foundation, data_dir.as_deref());
    display.finish();
    let stopped = system.stop().await;
    let failure = broken.or(stopped.err());
    let (output, summary) = match (summed_up, &failure) {
        (Ok(summed_up), _) => summed_up,
        // A broken loop comes first: the other may come of it.
        (Err(other), Some(first)) => return Err(Failure::new(first.code, format!("{first}\n{other}"))),
        (Err(only), None) => return Err(only),
    };
    let code = code(&summary, interrupted);
    // Those of one that was cancelled are nobody's any more.
    let are_open = !summary.status.has_ended() && summary.pages.pending + summary.pages.processing > 0;
    let summary = render(&run_summary(summary, cut_short, output, look_further));
    Ok(match failure {
        None => Ended { code, text: summary },
        Some(failure) if !are_open => Ended { code: failure.code, text: format!("{summary}\n{failure}") },
        Some(failure) => Ended { code: failure.code, text: format!("{summary}\n{failure}\n{open_pages}") },
    })
}

/// Why a crawl ends before its pages have.
fn cut_short(ending: &Result<bool, Failure>) -> Option<&'static str> {
    match ending {
        Ok(true) => Some("interrupted"),
        Ok(false) => None,
        Err(failure) if failure.code == Code::Fault => Some("a part of Crawlify broke"),
        Err(_) => Some("it could not go on"),
    }
}

/// Cancels the execution while the worker ends its pages, and sums up.
async fn interrupt(
    system: &System,
    execution: ExecutionId,
    display: &mut ProgressDisplay,
    export: Option<Export>,
) -> Result<SummedUp, Failure> {
    let (store, patience) = (&system.foundation.store, DRAIN_DEADLINE.as_secs());
    display
        .note(&format!("stopping: pages in hand may end, at most {patience} s; Ctrl-C again stops at once"));
    let cancel = async {
        let cancelled = store.cancel_execution(execution, CancelMode::Graceful, None).await;
        cancelled.map(drop).map_err(|error| unanswered(&error))
    };
    let (cancelled, ()) = tokio::join!(unless_silent(store, cancel), system.drain());
    if system.hurry.is_cancelled() {
        return Err(at_once());
    }
    cancelled?;
    let rest = async {
        settle(store, execution).await?;
        sum_up(store, execution, export).await
    };
    unless_silent(store, rest).await
}

/// Sums up what there is of a crawl that cannot go on. Nobody may be left who would settle it: it stays as it is.
async fn salvage(
    system: &System,
    execution: ExecutionId,
    display: &mut ProgressDisplay,
    export: Option<Export>,
) -> Result<SummedUp, Failure> {
    let (store, patience) = (&system.foundation.store, DRAIN_DEADLINE.as_secs());
    display.note(&format!(
        "the crawl cannot go on: pages in hand may end, at most {patience} s; Ctrl-C stops at once"
    ));
    system.drain().await;
    if system.hurry.is_cancelled() {
        return Err(at_once());
    }
    unless_silent(store, sum_up(store, execution, export)).await
}

/// What is said of an end at once.
pub(crate) fn at_once() -> Failure {
    Failure::new(Code::Interrupted, "stopped at once; nothing was summed up")
}

pub(crate) fn unanswered(error: &StoreError) -> Failure {
    Failure::of(Code::Unreachable, error)
}

/// What the database answers, however long that takes, as long as it answers others meanwhile. One that has fallen silent does not
/// end any question by itself.
async fn unless_silent<T>(
    store: &Store,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    // In a task of its own: whoever writes to a pipe that nobody reads must not take that for the database's silence.
    let mut asking = JoinSet::new();
    asking.spawn(silence(store.clone()));
    tokio::select! {
        answer = answer => answer,
        _ = asking.join_next() => {
            Err(Failure::new(Code::Unreachable, "the database does not answer; nothing was summed up"))
        }
    }
}

/// Returns when the database leaves a question unanswered.
async fn silence(store: Store) {
    while let Ok(Ok(())) = tokio::time::timeout(SILENT_AFTER, store.ping()).await {
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Waits until the finisher has ended what a cancelled execution left over; the worker holds nothing any more.
async fn settle(store: &Store, execution: ExecutionId) -> Result<(), Failure> {
    let deadline = Instant::now() + SETTLE_WITHIN;
    while Instant::now() < deadline {
        let counts = store.page_counts(execution).await.map_err(|error| unanswered(&error))?;
        if counts.pending + counts.processing == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Writes the items, and asks what there is to say.
async fn sum_up(store: &Store, execution: ExecutionId, export: Option<Export>) -> Result<SummedUp, Failure> {
    let output = match export {
        Some(export) => export.write(store, execution).await?,
        None => None,
    };
    let summary = store.summary(execution).await.map_err(|error| unanswered(&error))?;
    let summary = summary.ok_or_else(|| Failure::new(Code::Unreachable, "the execution is gone"))?;
    Ok((output, summary))
}

fn code(summary: &Summary, interrupted: bool) -> Code {
    match summary.status {
        _ if interrupted => Code::Interrupted,
        ExecutionStatus::Completed if summary.pages.failed == 0 => Code::Ok,
        ExecutionStatus::Completed => Code::Partial,
        _ => Code::ExecutionFailed,
    }
}

fn look_further(foundation: &Foundation, execution: ExecutionId, data_dir: Option<&Path>) -> Vec<String> {
    const QUERY: &str = "SELECT node_id, status, count(*) FROM node_executions WHERE execution_id = ";
    let query = format!("{QUERY}'{execution}' GROUP BY 1, 2 ORDER BY 1");
    match (&foundation.postgres, data_dir) {
        (None, _) => vec![format!("psql \"{}\" -c \"{query}\"", foundation.database_url)],
        (Some(postgres), Some(folder)) => {
            vec![
                format!("{}      # starts the kept database again, with the REST API", up(folder)),
                format!("psql \"{}\" -c \"{query}\"      # while it runs", postgres.url()),
            ]
        }
        (Some(_), None) => {
            vec!["the private database is gone; run with --keep to look into it afterwards".to_owned()]
        }
    }
}

/// What becomes of the pages that a crawl leaves open which could not go on.
fn open_pages(foundation: &Foundation, data_dir: Option<&Path>) -> String {
    match (&foundation.postgres, data_dir) {
        (None, _) => {
            "its open pages stay in the database: `crawlify up` with its `--database-url`, or a coordinator \
                      and a worker, go on with them"
                .to_owned()
        }
        (Some(_), Some(folder)) => format!("its open pages were kept: `{}` goes on with them", up(folder)),
        (Some(_), None) => "its open pages are gone with the private database; with --keep they stay, and \
                            `crawlify up` goes on with them"
            .to_owned(),
    }
}

/// The command that starts a kept database again.
fn up(folder: &Path) -> String {
    let is_usual = default_data_dir().is_ok_and(|usual| usual == folder);
    let folder = if is_usual { String::new() } else { format!(" --data-dir {}", folder.display()) };
    format!("crawlify up{folder}")
}

fn run_summary(
    summary: Summary,
    cut_short: Option<&str>,
    output: Option<OutputFile>,
    look_further: Vec<String>,
) -> RunSummary {
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let pages = &summary.pages;
    let skipped_for = |reason: SkipReason| summary.skips.iter().any(|skip| skip.reason == reason.as_str());
    let reason = match summary.status {
        ExecutionStatus::Completed if skipped_for(SkipReason::TimeBudget) => "its time was over".to_owned(),
        ExecutionStatus::Completed if skipped_for(SkipReason::ByteBudget) => {
            "its bytes were used up".to_owned()
        }
        ExecutionStatus::Completed if skipped_for(SkipReason::Limit) => {
            "the page limit was reached".to_owned()
        }
        ExecutionStatus::Completed => "every page has ended".to_owned(),
        ExecutionStatus::Failed => "no page could be loaded".to_owned(),
        other => format!("the execution is {}", other.as_str()),
    };
    RunSummary {
        status: summary.status.as_str().to_owned(),
        finish_reason: cut_short.map_or(reason, str::to_owned),
        duration: (summary.completed_at.unwrap_or_else(chrono::Utc::now) - summary.started_at)
            .to_std()
            .unwrap_or_default(),
        pages: vec![
            ("completed".to_owned(), count(pages.completed)),
            ("failed".to_owned(), count(pages.failed)),
            ("skipped".to_owned(), count(pages.skipped)),
            ("cancelled".to_owned(), count(pages.cancelled)),
            ("open".to_owned(), count(pages.pending + pages.processing)),
        ],
        skips: summary
            .skips
            .into_iter()
            .map(|skip| SkipRow {
                reason: skip.reason,
                urls: count(skip.count),
                sample_url: skip.sample_url,
                sample_detail: skip.sample_detail,
            })
            .collect(),
        items: count(summary.totals.items),
        attempts: summary
            .attempts
            .iter()
            .map(|attempt| (u32::try_from(attempt.attempt).unwrap_or(0), count(attempt.pages)))
            .collect(),
        nodes: summary
            .nodes
            .iter()
            .map(|node| NodeTiming {
                node_id: node.node_id.clone(),
                node_type: node.node_type.clone(),
                runs: count(node.completed + node.failed),
                failed: count(node.failed),
                mean: node.mean,
                p95: node.p95,
            })
            .collect(),
        renders: Renders {
            static_pages: count(summary.totals.static_pages),
            full_pages: count(pages.completed + pages.failed - summary.totals.static_pages),
            decisions: summary
                .render
                .into_iter()
                .map(|decision| RenderRow {
                    phase: decision.phase,
                    shape: decision.shape,
                    mode: decision.mode.as_str().to_owned(),
                    static_pages: decision.static_pages,
                    full_pages: decision.full_pages,
                    disagreed: decision.disagreed,
                    reason: decision.reason,
                })
                .collect(),
        },
        errors: summary
            .page_errors
            .into_iter()
            .chain(summary.node_errors)
            .map(|group| ErrorGroup {
                class: group.error_class,
                message: group.message,
                count: count(group.count),
                sample_url: group.sample_url,
            })
            .collect(),
        output,
        look_further,
    }
}
