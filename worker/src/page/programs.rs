//! The programs of the executions that this worker has seen lately, each compiled once. That the database cannot be read is
//! never a page's fault.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageEnd};
use crawlify_shared::domain::workflow::parse_config;
use crawlify_shared::store::StoreError;
use crawlify_shared::store::hot::HotStore;
use crawlify_shared::telemetry::chain;
use serde_json::Value;

use crate::program::Program;

/// How many are kept.
const KEPT: usize = 64;
/// A page waits no longer than this for its workflow, so that its lease still covers all that comes after.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A small cache; an execution's workflow version never changes.
#[derive(Debug)]
pub(crate) struct Programs {
    store: HotStore,
    /// Newest last. Locked for moments only, never across a wait.
    kept: Mutex<Vec<(ExecutionId, Arc<Program>)>>,
}

impl Programs {
    pub(crate) fn new(store: HotStore) -> Self {
        Self { store, kept: Mutex::new(Vec::new()) }
    }

    /// The program of an execution; waits for a while if the database cannot be read.
    ///
    /// # Errors
    /// How the page ends without it: it goes back unharmed after the wait. If the execution is unknown, or its workflow is one
    /// that this version cannot run, it fails.
    pub(crate) async fn get(&self, execution: ExecutionId) -> Result<Arc<Program>, PageEnd> {
        if let Some(program) = self.find(execution) {
            return Ok(program);
        }
        let config = tokio::time::timeout(PATIENCE, self.read(execution)).await;
        let config = config.map_err(|_elapsed| PageEnd::Released)?;
        config.and_then(|config| self.compile(execution, &config)).map_err(PageEnd::Failed)
    }

    /// Waits until there is an answer, also where only a person can bring that about: it is the same for claims and records.
    async fn read(&self, execution: ExecutionId) -> Result<Value, Failure> {
        loop {
            match self.store.workflow_config(execution).await {
                Ok(config) => {
                    return config
                        .ok_or_else(|| Failure::new(ErrorClass::Internal, "the execution is unknown"));
                }
                Err(error @ StoreError::BadData(_)) => {
                    return Err(Failure::new(ErrorClass::Internal, error.to_string()));
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!(error = %chain(&error), "cannot read a workflow, will go on");
                }
                Err(error) => {
                    tracing::error!(
                        error = %chain(&error),
                        "cannot read a workflow: the database needs somebody"
                    );
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn compile(&self, execution: ExecutionId, config: &Value) -> Result<Arc<Program>, Failure> {
        let workflow = parse_config(config).map_err(|problems| {
            let first = problems.first().map(|problem| format!("{}: {}", problem.pointer, problem.message));
            Failure::new(
                ErrorClass::Internal,
                format!("this worker's version cannot run the workflow: {}", first.unwrap_or_default()),
            )
        })?;
        let program = Arc::new(Program::compile(workflow));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((execution, Arc::clone(&program)));
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
        Ok(program)
    }

    fn find(&self, execution: ExecutionId) -> Option<Arc<Program>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().find(|(id, _)| *id == execution).map(|(_, program)| Arc::clone(program))
    }
}
