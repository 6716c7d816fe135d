//! The URLs that an execution did not visit, and why.

use crawlify_shared::store::skips::SkipCount;
use serde::Serialize;
use utoipa::ToSchema;

/// How many URLs were skipped for a reason.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct SkipCountEntry {
    /// `robots` or `limit`.
    reason: String,
    urls: i64,
}

impl From<SkipCount> for SkipCountEntry {
    fn from(count: SkipCount) -> Self {
        Self { reason: count.reason, urls: count.count }
    }
}
