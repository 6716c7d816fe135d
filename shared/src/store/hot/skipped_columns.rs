//! The columns of links that are not followed. Most pages have none.

use std::borrow::Cow;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::record_columns::gives;
use crate::domain::id::PageId;
use crate::domain::page::FinishedPage;
use crate::domain::skip::MAX_DETAIL_BYTES;
use crate::domain::storable::storable_text;

/// One array a column.
#[derive(Default)]
pub(super) struct SkippedColumns<'a> {
    id: Vec<Uuid>,
    execution: Vec<Uuid>,
    url: Vec<&'a str>,
    hash: Vec<Vec<u8>>,
    reason: Vec<&'static str>,
    detail: Vec<Cow<'a, str>>,
    parent: Vec<Uuid>,
    discovered_by: Vec<&'a str>,
}

impl<'a> SkippedColumns<'a> {
    /// Adds those of a page.
    pub(super) fn add(&mut self, finished: &'a FinishedPage) {
        let FinishedPage { page, outcome, .. } = finished;
        for link in outcome.discovered.iter().filter(|link| gives(finished, link)) {
            let Some(skip) = &link.skipped else { continue };
            self.id.push(PageId::generate().0);
            self.execution.push(page.execution_id.0);
            self.url.push(link.url.as_str());
            self.hash.push(link.url.hash().to_vec());
            self.reason.push(skip.reason.as_str());
            self.detail.push(storable_text(&skip.detail, MAX_DETAIL_BYTES));
            self.parent.push(page.page_id.0);
            self.discovered_by.push(&link.discovered_by);
        }
    }

    /// In the order of the statement's numbers.
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 8] {
        [
            &self.id,
            &self.execution,
            &self.url,
            &self.hash,
            &self.reason,
            &self.detail,
            &self.parent,
            &self.discovered_by,
        ]
    }
}
