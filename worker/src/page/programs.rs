//! The programs of the executions that this worker has seen lately, each compiled once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::workflow::parse_config;
use crawlify_shared::store::hot::HotStore;

use crate::program::Program;

/// How many are kept.
const KEPT: usize = 64;

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

    /// The program of an execution; waits while the store is down.
    ///
    /// # Errors
    /// The execution is unknown, or its workflow is one that this version cannot run: the page fails with this.
    pub(crate) async fn get(&self, execution: ExecutionId) -> Result<Arc<Program>, Failure> {
        if let Some(program) = self.find(execution) {
            return Ok(program);
        }
        let config = loop {
            match self.store.workflow_config(execution).await {
                Ok(config) => break config,
                Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(500)).await,
                Err(error) => return Err(Failure::new(ErrorClass::Internal, error.to_string())),
            }
        };
        let config = config.ok_or_else(|| Failure::new(ErrorClass::Internal, "the execution is unknown"))?;
        let workflow = parse_config(&config).map_err(|problems| {
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
