//! What a worker has come to about reading pages as they came, for those who watch the execution. No page depends on
//! it.

use super::HotStore;
use crate::domain::id::ExecutionId;
use crate::domain::page::RenderDecision;
use crate::domain::storable::storable_text;
use crate::store::StoreError;

/// The longest reason that is stored, in bytes; pages have a part in what it says.
const MAX_REASON_BYTES: usize = 1000;
/// The longest shape and the longest phase that are stored, in bytes: the primary key must hold both.
const MAX_SHAPE_BYTES: usize = 2000;
const MAX_PHASE_BYTES: usize = 255;

impl HotStore {
    /// Stores what this worker has come to, in place of what it stored of the same phases and shapes before. Doing so
    /// again changes nothing. Decisions of an execution that is gone are passed over.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn store_render_decisions(
        &self,
        decisions: &[(ExecutionId, RenderDecision)],
    ) -> Result<(), StoreError> {
        let column = |text: fn(&RenderDecision) -> &str, most: usize| -> Vec<_> {
            decisions.iter().map(|(_, decision)| storable_text(text(decision), most)).collect()
        };
        let figures = |figure: fn(&RenderDecision) -> u64| -> Vec<i64> {
            decisions.iter().map(|(_, d)| i64::try_from(figure(d)).unwrap_or(i64::MAX)).collect()
        };
        let executions: Vec<uuid::Uuid> = decisions.iter().map(|(execution, _)| execution.0).collect();
        let modes: Vec<&str> = decisions.iter().map(|(_, decision)| decision.mode.as_str()).collect();
        let client = self.client().await?;
        // Two shapes that differ in what cannot be stored would be one row twice, which the statement must not have.
        let statement = client
            .prepare_cached(
                "INSERT INTO render_decisions (execution_id, worker_id, phase, shape, mode, reason, static_pages,
                     full_pages, compared, disagreed)
                 SELECT DISTINCT ON (e.id, d.phase, d.shape) e.id, $1, d.phase, d.shape, d.mode, d.reason,
                     d.static_pages, d.full_pages, d.compared, d.disagreed
                 FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int8[], $8::int8[],
                         $9::int8[], $10::int8[])
                     AS d (execution_id, phase, shape, mode, reason, static_pages, full_pages, compared, disagreed)
                     JOIN workflow_executions e ON e.id = d.execution_id
                 ORDER BY e.id, d.phase, d.shape
                 ON CONFLICT (execution_id, worker_id, phase, shape) DO UPDATE SET
                     mode = excluded.mode, reason = excluded.reason, static_pages = excluded.static_pages,
                     full_pages = excluded.full_pages, compared = excluded.compared,
                     disagreed = excluded.disagreed, updated_at = now()",
            )
            .await?;
        client
            .execute(
                &statement,
                &[
                    &self.worker.0,
                    &executions,
                    &column(|decision| &decision.phase, MAX_PHASE_BYTES),
                    &column(|decision| &decision.shape, MAX_SHAPE_BYTES),
                    &modes,
                    &column(|decision| &decision.reason, MAX_REASON_BYTES),
                    &figures(|decision| decision.static_pages),
                    &figures(|decision| decision.full_pages),
                    &figures(|decision| decision.compared),
                    &figures(|decision| decision.disagreed),
                ],
            )
            .await?;
        Ok(())
    }
}
