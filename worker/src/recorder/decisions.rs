//! What the worker has come to about reading pages as they came goes into the store, every few seconds while it
//! changes. No page waits for it, and nothing is lost while the store is down: what was not written is written later.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::page::RenderDecision;
use crawlify_shared::store::StoreError;
use crawlify_shared::store::hot::HotStore;
use crawlify_shared::telemetry::chain;
use tokio_util::sync::CancellationToken;

use crate::render::Renders;

/// How old what is stored may become.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// How long the last write may take, its repetitions included; nobody waits longer for figures.
const LAST_WRITE_WITHIN: Duration = Duration::from_secs(5);
/// The pause between its repetitions.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Writes what changes until `stop`, and once more then: whoever stops it does so after the last page.
pub(crate) async fn write_decisions(store: HotStore, renders: Arc<Renders>, stop: CancellationToken) {
    let mut changes = Changes::default();
    while tokio::time::timeout(WRITE_EVERY, stop.cancelled()).await.is_err() {
        changes.take(&renders);
        // What a stop interrupts is written once more.
        if let Some(Err(error)) = stop.run_until_cancelled(changes.write(&store)).await {
            tracing::warn!(error = %chain(&error), "cannot store render decisions, will go on");
        }
    }
    changes.take(&renders);
    let last = async {
        while let Err(error) = changes.write(&store).await {
            tracing::warn!(error = %chain(&error), "cannot store the last render decisions yet");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    };
    if tokio::time::timeout(LAST_WRITE_WITHIN, last).await.is_err() {
        tracing::error!("the last render decisions were not stored");
    }
}

/// What is not written yet, by execution, phase and shape. A later decision replaces an earlier one: each holds all
/// figures of its worker.
#[derive(Debug, Default)]
struct Changes {
    open: HashMap<(ExecutionId, String, String), RenderDecision>,
}

impl Changes {
    fn take(&mut self, renders: &Renders) {
        for (execution, decisions) in renders.take_changes() {
            for decision in decisions {
                self.open.insert((execution, decision.phase.clone(), decision.shape.clone()), decision);
            }
        }
    }

    async fn write(&mut self, store: &HotStore) -> Result<(), StoreError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let decisions: Vec<_> =
            self.open.iter().map(|((execution, ..), decision)| (*execution, decision.clone())).collect();
        store.store_render_decisions(&decisions).await?;
        self.open.clear();
        Ok(())
    }
}
