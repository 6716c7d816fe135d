//! How pages were loaded, in an answer about an execution.

use crawlify_shared::domain::page::RenderDecision;
use serde::Serialize;
use utoipa::ToSchema;

/// How pages of one shape are loaded for one phase. Figures count attempts: a page that was given back or tried again
/// may count twice, and a page counts for each phase that runs on it.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct RenderEntry {
    phase: String,
    /// What the URLs of pages made from one template have in common.
    shape: String,
    /// `static` or `full`; of several workers that differ, `full`. A page whose other phase needs a tab is loaded in one all
    /// the same.
    mode: &'static str,
    /// A sentence on why.
    reason: String,
    /// Pages that were read as they came.
    static_pages: u64,
    /// Pages that were loaded in a tab.
    full_pages: u64,
    /// Pages that were loaded both ways.
    compared: u64,
    /// How often that, or pages that could not be read as they came, spoke against reading them so.
    disagreed: u64,
}

impl From<RenderDecision> for RenderEntry {
    fn from(decision: RenderDecision) -> Self {
        Self {
            phase: decision.phase,
            shape: decision.shape,
            mode: decision.mode.as_str(),
            reason: decision.reason,
            static_pages: decision.static_pages,
            full_pages: decision.full_pages,
            compared: decision.compared,
            disagreed: decision.disagreed,
        }
    }
}
