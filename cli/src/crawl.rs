//! One crawl in this process, from its start to the moment at which it is over or is to stop: what `run` and `demo` share. Its
//! end is `finish`.

use std::io::Write;
use std::pin::pin;
use std::time::{Duration, Instant};

use crawlify_shared::domain::id::{ExecutionId, WorkflowId};
use crawlify_shared::domain::workflow::Definition;
use crawlify_shared::signals::{HURRIED, StopSignals};
use crawlify_shared::store::executions::{ExecutionStatus, StartExecution};
use crawlify_shared::store::start::Beginning;
use crawlify_shared::store::workflows::{WorkflowStatus, WorkflowText};
use crawlify_shared::store::{Store, StoreError};

use crate::args::CrawlArgs;
use crate::egress::{notes_on, open_egress, private_start_urls};
use crate::exit::{Code, Failure};
use crate::export::Export;
use crate::finish::{Ended, at_once, finish, unanswered};
use crate::progress::{ProgressDisplay, ProgressSnapshot};
use crate::system::{Foundation, System, default_data_dir};

/// How often the progress is read.
const LOOK_EVERY: Duration = Duration::from_millis(400);

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
        watched = watch(&system, execution, &mut display) => {
            watched.map(|()| false).map_err(|error| unanswered(&error))
        }
        () = signals.next() => Ok(true),
        failure = system.broken() => Err(failure),
    };
    let hurry = system.hurry.clone();
    let is_over = matches!(ending, Ok(false));
    let mut finished = pin!(finish(system, execution, ending, display, export, data_dir));
    if is_over {
        // Nobody has been told yet that a signal costs the items.
        tokio::select! {
            ended = &mut finished => return ended,
            () = signals.next() => {
                // Nobody is left to tell when stderr is closed.
                let _ = writeln!(std::io::stderr(), "the crawl is over, its items are being written; Ctrl-C again stops at once");
            }
        }
    }
    tokio::select! {
        ended = &mut finished => return ended,
        () = signals.next() => hurry.cancel(),
    }
    // What has not ended by then dies with its owner.
    tokio::time::timeout(HURRIED, finished).await.unwrap_or_else(|_| Err(at_once()))
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
