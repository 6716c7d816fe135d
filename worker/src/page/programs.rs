//! The programs of the executions that this worker has seen lately, each compiled once. That the database cannot be read is
//! never a page's fault, nor is it that this worker's version cannot run a workflow: a newer one may.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crawlify_shared::broker::PageMessage;
use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageEnd};
use crawlify_shared::domain::workflow::parse_config;
use crawlify_shared::store::StoreError;
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use crawlify_shared::telemetry::chain;
use serde_json::Value;

use super::refusals::{Refusal, Refusals, Rest};
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
    refusals: Refusals,
}

impl Programs {
    pub(crate) fn new(store: HotStore, refusals: Refusals) -> Self {
        Self { store, kept: Mutex::default(), refusals }
    }

    /// Whether pages of an execution are to be left to others before they are claimed.
    pub(crate) fn rest(&self, execution: ExecutionId) -> Option<Rest> {
        match self.refusals.of(execution)? {
            Refusal::Rest(rest) => Some(rest),
            Refusal::End(_) => None,
        }
    }

    /// Leaves the page of a message to others, unless somebody has it.
    ///
    /// # Errors
    /// As the store; then the message must go back.
    pub(crate) async fn leave_to_others(&self, message: &PageMessage, rest: &Rest) -> Result<(), StoreError> {
        let page = ClaimRequest { page_id: message.page_id, epoch: message.epoch };
        self.store.leave_to_others(&[page], rest.time, &rest.why).await
    }

    /// The program of an execution; waits for a while if the database cannot be read.
    ///
    /// # Errors
    /// How the page ends without it: it goes back unharmed after the wait, and is left to others for a while if the
    /// workflow is one that this version cannot run. If no worker can, or the execution is unknown, it fails.
    pub(crate) async fn get(&self, execution: ExecutionId) -> Result<Arc<Program>, PageEnd> {
        if let Some(program) = self.find(execution) {
            return Ok(program);
        }
        if let Some(refusal) = self.refusals.of(execution) {
            return Err(refusal.into());
        }
        let config = tokio::time::timeout(PATIENCE, self.read(execution)).await;
        let config = config.map_err(|_elapsed| PageEnd::Released)?;
        self.compile(execution, &config.map_err(PageEnd::Failed)?)
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

    fn compile(&self, execution: ExecutionId, config: &Value) -> Result<Arc<Program>, PageEnd> {
        let workflow = parse_config(config).map_err(|problems| self.refusals.note(execution, &problems))?;
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
