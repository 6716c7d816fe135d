//! The programs of the executions that this worker has seen lately, each compiled once. That the database cannot be read is
//! never a page's fault, nor is it that this worker's version cannot run a workflow: a newer one may.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::{ErrorClass, Failure, PageEnd};
use crawlify_shared::domain::workflow::{Problem, parse_config};
use crawlify_shared::store::StoreError;
use crawlify_shared::store::hot::HotStore;
use crawlify_shared::telemetry::chain;
use serde_json::Value;
use tokio::time::Instant;

use crate::program::Program;

/// How many are kept.
const KEPT: usize = 64;
/// A page waits no longer than this for its workflow, so that its lease still covers all that comes after.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How many executions are remembered that this version cannot run.
const REFUSED: usize = 1_024;
/// How long at least a page of such an execution is left to others.
const LEAST_PUT_OFF: Duration = Duration::from_secs(1);
/// How long at most. Where none can run it, so much time passes between two looks at it.
const LONGEST_PUT_OFF: Duration = Duration::from_secs(30);

/// A small cache; an execution's workflow version never changes.
#[derive(Debug)]
pub(crate) struct Programs {
    store: HotStore,
    /// Newest last. Locked for moments only, never across a wait.
    kept: Mutex<Vec<(ExecutionId, Arc<Program>)>>,
    /// Executions that this version cannot run, and since when that is known. Newest last; locked as the others.
    refused: Mutex<Vec<(ExecutionId, Instant)>>,
}

impl Programs {
    pub(crate) fn new(store: HotStore) -> Self {
        Self { store, kept: Mutex::new(Vec::new()), refused: Mutex::new(Vec::new()) }
    }

    /// The program of an execution; waits for a while if the database cannot be read.
    ///
    /// # Errors
    /// How the page ends without it: it goes back unharmed after the wait, and is left to others for a while if the
    /// workflow is one that this version cannot run. If the execution is unknown, it fails.
    pub(crate) async fn get(&self, execution: ExecutionId) -> Result<Arc<Program>, PageEnd> {
        if let Some(program) = self.find(execution) {
            return Ok(program);
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
        let workflow = parse_config(config).map_err(|problems| self.refuse(execution, &problems))?;
        let program = Arc::new(Program::compile(workflow));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((execution, Arc::clone(&program)));
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
        Ok(program)
    }

    /// The page goes back uncharged, for as long as it has been known that this worker cannot run its workflow: in an
    /// upgrade one that can has it soon, and where there is none it is looked at more and more rarely.
    fn refuse(&self, execution: ExecutionId, problems: &[Problem]) -> PageEnd {
        let (version, problem) = (env!("CARGO_PKG_VERSION"), problems.first());
        let problem =
            problem.map(|problem| format!("{}: {}", problem.pointer, problem.message)).unwrap_or_default();
        let known_for = self.refused_for(execution);
        if known_for.is_none() {
            tracing::warn!(
                execution.id = %execution,
                version,
                problem,
                "this worker's version cannot run the workflow, and leaves its pages to others: upgrade this worker"
            );
        }
        let message = format!(
            "waiting for a newer worker: one of version {version} cannot run the workflow ({problem})"
        );
        PageEnd::PutOff(
            Failure::new(ErrorClass::Internal, message),
            known_for.unwrap_or_default().clamp(LEAST_PUT_OFF, LONGEST_PUT_OFF),
        )
    }

    /// How long an execution has been known as one that this version cannot run; `None` if it was not until now.
    fn refused_for(&self, execution: ExecutionId) -> Option<Duration> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, since)) = refused.iter().rev().find(|(id, _)| *id == execution) {
            return Some(since.elapsed());
        }
        refused.push((execution, Instant::now()));
        let surplus = refused.len().saturating_sub(REFUSED);
        refused.drain(..surplus);
        None
    }

    fn find(&self, execution: ExecutionId) -> Option<Arc<Program>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().find(|(id, _)| *id == execution).map(|(_, program)| Arc::clone(program))
    }
}

#[cfg(test)]
mod tests {
    use crawlify_shared::config::SecretUrl;
    use crawlify_shared::domain::id::WorkerId;
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_workflow_of_a_newer_version_has_its_pages_put_off_uncharged_for_longer_and_longer() {
        let nowhere = SecretUrl::new("postgres://nobody@127.0.0.1:1/nothing");
        let programs = Programs::new(HotStore::connect(&nowhere, WorkerId::generate()).unwrap());
        let newer = json!({
            "start_urls": ["http://shop.test/"],
            "url_discovery": [{"id": "a", "type": "of_a_newer_version", "params": {}}],
            "data_extraction": [{"id": "b", "type": "wait", "params": {"duration": 1}}],
        });
        let (execution, other) = (ExecutionId::generate(), ExecutionId::generate());
        let put_off = |execution| match programs.compile(execution, &newer) {
            Err(PageEnd::PutOff(failure, delay)) => {
                assert!(failure.message.contains("/url_discovery/0/type"), "{}", failure.message);
                delay.as_secs()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!([put_off(execution), put_off(execution)], [1, 1]);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!([put_off(execution), put_off(other)], [7, 1]);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!([put_off(execution), put_off(other)], [30, 30]);
    }
}
