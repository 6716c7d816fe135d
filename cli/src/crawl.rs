//! One crawl from start to end in this process: what `run` and `demo` share.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crawlify_shared::domain::id::{ExecutionId, WorkflowId};
use crawlify_shared::domain::skip::SkipReason;
use crawlify_shared::domain::workflow::Definition;
use crawlify_shared::signals::StopSignals;
use crawlify_shared::store::control::CancelMode;
use crawlify_shared::store::executions::{ExecutionStatus, StartExecution};
use crawlify_shared::store::start::Beginning;
use crawlify_shared::store::summary::Summary;
use crawlify_shared::store::workflows::{WorkflowStatus, WorkflowText};
use crawlify_shared::store::{Store, StoreError};

use crate::args::CrawlArgs;
use crate::egress::{notes_on, open_egress, private_start_urls};
use crate::exit::{Code, Failure};
use crate::export::Export;
use crate::progress::{ProgressDisplay, ProgressSnapshot};
use crate::summary::{ErrorGroup, NodeTiming, OutputFile, RenderRow, Renders, RunSummary, SkipRow, render};
use crate::system::{DRAIN_DEADLINE, Foundation, System, default_data_dir};

/// How often the progress is read.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// How long the finisher may take after a cancellation.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// What a crawl came to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Code,
    /// The summary, for people.
    pub(crate) text: String,
}

/// Runs a workflow to its end, or to Ctrl-C.
pub(crate) async fn crawl(definition: &Definition, args: &CrawlArgs) -> Result<Ended, Failure> {
    let signals = &mut StopSignals::listen()
        .map_err(|error| Failure::new(Code::Configuration, format!("cannot listen to signals: {error}")))?;
    let export = args.output.as_deref().map(Export::open).transpose()?;
    let data_dir = match (&args.data_dir, args.keep) {
        (_, false) => None,
        (Some(folder), true) => Some(folder.clone()),
        (None, true) => Some(default_data_dir()?),
    };
    let mut display = ProgressDisplay::on_stderr();
    display.note("starting Postgres and Chrome ...");
    let workflow = &definition.workflow;
    let named = private_start_urls(workflow.start_urls.iter().chain(&workflow.sitemaps.urls)).await;
    for note in notes_on(&named, &args.egress) {
        display.note(&note);
    }
    let egress = open_egress(&args.egress, named)?;
    let foundation = tokio::select! {
        laid = Foundation::lay(&args.servers, data_dir.clone(), args.slots, egress) => laid?,
        () = signals.next() => return Err(Failure::new(Code::Interrupted, "interrupted before the start")),
    };
    for part in describe(&foundation) {
        display.note(&part);
    }
    let execution = match begin(&foundation.store, definition).await {
        Ok(execution) => execution,
        Err(error) => {
            foundation.clear().await;
            return Err(Failure::of(Code::Unreachable, &error));
        }
    };
    let system = match foundation.run(None, Some(execution)).await {
        Ok(system) => system,
        Err((foundation, failure)) => {
            foundation.clear().await;
            return Err(failure);
        }
    };
    let ending = tokio::select! {
        watched = watch(&system, execution, &mut display) => watched.map(|()| false),
        () = signals.next() => Ok(true),
    };
    // A second signal ends it at once: what was started dies with its owner.
    let finished = finish(system, execution, ending, display, export, data_dir);
    tokio::select! {
        ended = finished => ended,
        () = signals.next() => Err(Failure::new(Code::Interrupted, "stopped at once; nothing was summed up")),
    }
}

/// The parts, as the user sees them at the start.
pub(crate) fn describe(foundation: &Foundation) -> Vec<String> {
    let postgres = match &foundation.postgres {
        Some(postgres) => postgres.description(),
        None => format!("Postgres at {}", foundation.database_url),
    };
    let broker = if foundation.broker_is_private { "broker in-process" } else { "broker RabbitMQ" };
    let slots = foundation.slots;
    let plural = if slots == 1 { "" } else { "s" };
    vec![postgres, format!("{broker} · {} · 1 worker, {slots} slot{plural}", foundation.driver.description())]
}

async fn begin(store: &Store, definition: &Definition) -> Result<ExecutionId, StoreError> {
    let text = WorkflowText {
        name: &definition.name,
        description: &definition.description,
        config: &definition.config,
    };
    let row = store.create_workflow(text, WorkflowStatus::Active).await?;
    let beginning = Beginning::of(row.version, &definition.workflow);
    let started = store.start_execution(WorkflowId(row.id), &beginning).await?;
    match started {
        StartExecution::Started(execution) | StartExecution::Repeated(execution) => Ok(execution),
        StartExecution::NotActive(_) | StartExecution::NotFound => {
            Err(StoreError::Unusable("the workflow that was just made is not there".into()))
        }
    }
}

/// Shows the progress until the execution has ended.
async fn watch(
    system: &System,
    execution: ExecutionId,
    display: &mut ProgressDisplay,
) -> Result<(), StoreError> {
    let store = &system.foundation.store;
    let begun = Instant::now();
    let mut errors = LastError::default();
    loop {
        let looked = Instant::now();
        match look(store, execution, begun).await {
            Ok((mut snapshot, ended)) => {
                snapshot.last_error = errors.of(store, execution, &snapshot).await?;
                display.update(&snapshot);
                if ended {
                    return Ok(());
                }
            }
            Err(error) if error.is_transient() => {
                display.note("the database does not answer; waiting for it")
            }
            Err(error) => return Err(error),
        }
        // On a huge frontier looking takes long; it may take a twentieth of the time.
        tokio::time::sleep(LOOK_EVERY.max(looked.elapsed() * 20)).await;
    }
}

async fn look(
    store: &Store,
    execution: ExecutionId,
    begun: Instant,
) -> Result<(ProgressSnapshot, bool), StoreError> {
    let status = store.execution(execution).await?.map(|row| row.status);
    let counts = store.page_counts(execution).await?;
    let totals = store.totals(execution).await?;
    let count = |pages: i64| u64::try_from(pages).unwrap_or(0);
    let done = count(counts.completed + counts.failed + counts.skipped + counts.cancelled);
    let snapshot = ProgressSnapshot {
        pages_done: done,
        pages_known: done + count(counts.pending + counts.processing),
        pages_processing: count(counts.processing),
        items: count(totals.items),
        failed: count(counts.failed),
        elapsed: begun.elapsed(),
        frontier_growing: counts.pending + counts.processing > 0,
        last_error: None,
    };
    Ok((snapshot, status.is_none_or(ExecutionStatus::has_ended)))
}

/// The most frequent failure so far, asked for only when there is a new one: grouping them takes longer than counting.
#[derive(Debug, Default)]
struct LastError {
    failed: u64,
    text: Option<String>,
}

impl LastError {
    async fn of(
        &mut self,
        store: &Store,
        execution: ExecutionId,
        snapshot: &ProgressSnapshot,
    ) -> Result<Option<String>, StoreError> {
        if snapshot.failed > self.failed {
            self.failed = snapshot.failed;
            let summary = store.summary(execution).await?;
            self.text = summary.and_then(|summary| summary.page_errors.into_iter().next()).map(|group| {
                format!("{} × {} {}", group.count, group.message, group.sample_url.unwrap_or_default())
            });
        }
        Ok(self.text.clone())
    }
}

/// Writes the items, sums up, and ends the system.
async fn finish(
    system: System,
    execution: ExecutionId,
    ending: Result<bool, StoreError>,
    mut display: ProgressDisplay,
    export: Option<Export>,
    data_dir: Option<PathBuf>,
) -> Result<Ended, Failure> {
    let store = system.foundation.store.clone();
    let interrupted = matches!(ending, Ok(true));
    let outcome = async {
        ending.map_err(|error| Failure::of(Code::Unreachable, &error))?;
        if interrupted {
            let patience = DRAIN_DEADLINE.as_secs();
            display.note(&format!(
                "stopping: pages in hand may end, at most {patience} s; Ctrl-C again stops at once"
            ));
            store
                .cancel_execution(execution, CancelMode::Graceful, None)
                .await
                .map_err(|error| Failure::of(Code::Unreachable, &error))?;
        }
        // Whatever the worker still has to say about its pages is in the store then.
        system.drain().await;
        if interrupted {
            settle(&store, execution).await?;
        }
        let output = match export {
            Some(export) => export.write(&store, execution).await?,
            None => None,
        };
        let summary =
            store.summary(execution).await.map_err(|error| Failure::of(Code::Unreachable, &error))?;
        Ok::<_, Failure>((output, summary))
    }
    .await;
    let look_further = look_further(&system.foundation, execution, data_dir.as_deref());
    display.finish();
    system.stop().await;
    let (output, summary) = outcome?;
    let summary = summary.ok_or_else(|| Failure::new(Code::Unreachable, "the execution is gone"))?;
    let code = code(&summary, interrupted);
    Ok(Ended { code, text: render(&run_summary(summary, interrupted, output, look_further)) })
}

/// Waits until the finisher has ended what a cancelled execution left over; the worker holds nothing any more.
async fn settle(store: &Store, execution: ExecutionId) -> Result<(), Failure> {
    let deadline = Instant::now() + SETTLE_WITHIN;
    while Instant::now() < deadline {
        let counts =
            store.page_counts(execution).await.map_err(|error| Failure::of(Code::Unreachable, &error))?;
        if counts.pending + counts.processing == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
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
            let is_usual = default_data_dir().is_ok_and(|usual| usual == folder);
            let folder = if is_usual { String::new() } else { format!(" --data-dir {}", folder.display()) };
            vec![
                format!("crawlify up{folder}      # starts the kept database again, with the REST API"),
                format!("psql \"{}\" -c \"{query}\"      # while it runs", postgres.url()),
            ]
        }
        (Some(_), None) => {
            vec!["the private database is gone; run with --keep to look into it afterwards".to_owned()]
        }
    }
}

fn run_summary(
    summary: Summary,
    interrupted: bool,
    output: Option<OutputFile>,
    look_further: Vec<String>,
) -> RunSummary {
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let pages = &summary.pages;
    let skipped_for = |reason: SkipReason| summary.skips.iter().any(|skip| skip.reason == reason.as_str());
    let finish_reason = match summary.status {
        _ if interrupted => "interrupted".to_owned(),
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
        finish_reason,
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
