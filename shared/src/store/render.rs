//! How pages of an execution are loaded, and why: what its workers have come to, merged.

use super::{Store, StoreError};
use crate::domain::id::ExecutionId;
use crate::domain::outcome::Rendered;
use crate::domain::page::RenderDecision;

/// How many decisions are answered at the most: those that concern the most pages.
pub const RENDER_DECISIONS: i64 = 500;

impl Store {
    /// What the workers of an execution have come to, by phase and shape; those that concern the most pages first.
    /// Empty where every page is to be rendered.
    ///
    /// Workers decide each for itself, and their figures are added up. Where they differ, `full` is shown, with the
    /// reason of the worker that said so last. The figures count attempts: a page that was given back or tried again
    /// may count twice. [`Totals::static_pages`](super::summary::Totals::static_pages) is exact.
    ///
    /// # Errors
    /// The database's.
    pub async fn render_decisions(&self, execution: ExecutionId) -> Result<Vec<RenderDecision>, StoreError> {
        // Index: render_decisions_pkey. There are at most some hundred rows for each worker.
        let rows = sqlx::query!(
            r#"
            SELECT phase, shape,
                (ARRAY_AGG(mode ORDER BY mode = 'full' DESC))[1] AS "mode!",
                (ARRAY_AGG(reason ORDER BY mode = 'full' DESC, updated_at DESC))[1] AS "reason!",
                SUM(static_pages)::bigint AS "static_pages!", SUM(full_pages)::bigint AS "full_pages!",
                SUM(compared)::bigint AS "compared!", SUM(disagreed)::bigint AS "disagreed!"
            FROM render_decisions
            WHERE execution_id = $1
            GROUP BY phase, shape
            ORDER BY SUM(static_pages + full_pages) DESC, shape, phase
            LIMIT $2
            "#,
            execution.0,
            RENDER_DECISIONS,
        )
        .fetch_all(&self.pool)
        .await?;
        let count = |figure: i64| u64::try_from(figure).unwrap_or(0);
        let decisions = rows.into_iter().map(|row| RenderDecision {
            phase: row.phase,
            shape: row.shape,
            mode: if row.mode == Rendered::Static.as_str() { Rendered::Static } else { Rendered::Full },
            reason: row.reason,
            static_pages: count(row.static_pages),
            full_pages: count(row.full_pages),
            compared: count(row.compared),
            disagreed: count(row.disagreed),
        });
        Ok(decisions.collect())
    }
}
