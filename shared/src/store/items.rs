//! Extracted items: a page of them for people, all of them for exports.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{Store, StoreError};
use crate::domain::id::ExecutionId;

/// What one page gave.
#[derive(Clone, Debug)]
pub struct ItemRow {
    /// Names it.
    pub id: Uuid,
    /// The page that it came from.
    pub page_id: Uuid,
    /// That page's URL.
    pub url: String,
    /// The name of its shape, where the workflow gives one.
    pub schema_name: Option<String>,
    /// What was extracted.
    pub data: Value,
    /// When it was extracted.
    pub extracted_at: DateTime<Utc>,
}

/// A place in the order of an execution's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemCursor {
    /// When the last item before the place was extracted.
    pub extracted_at: DateTime<Utc>,
    /// That item's id.
    pub id: Uuid,
}

impl ItemRow {
    /// The place right after this item.
    pub fn cursor(&self) -> ItemCursor {
        ItemCursor { extracted_at: self.extracted_at, id: self.id }
    }
}

impl Store {
    /// Lists an execution's items in the order of extraction, from the `offset`-th on.
    ///
    /// # Errors
    /// The database's.
    pub async fn items(
        &self,
        execution: ExecutionId,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<ItemRow>, StoreError> {
        // Index: extracted_items_execution_idx, in its order.
        let rows = sqlx::query_as!(
            ItemRow,
            "
            SELECT id, page_id, url, schema_name, data, extracted_at
            FROM extracted_items
            WHERE execution_id = $1
            ORDER BY extracted_at, id
            LIMIT $2 OFFSET $3
            ",
            execution.0,
            limit,
            offset,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Lists the items after a place, in the same order as [`Store::items`]. Reading a whole execution this way costs
    /// the same for each call, however far it has come. While an execution runs, an item may still appear before a
    /// place that was passed: only that of an ended one is complete.
    ///
    /// # Errors
    /// The database's.
    pub async fn items_after(
        &self,
        execution: ExecutionId,
        after: Option<ItemCursor>,
        limit: i64,
    ) -> Result<Vec<ItemRow>, StoreError> {
        let (after_time, after_id) = match after {
            Some(cursor) => (cursor.extracted_at, cursor.id),
            // Before every item: the nil id sorts first, and nothing was extracted before 1970.
            None => (DateTime::UNIX_EPOCH, Uuid::nil()),
        };
        // Index: extracted_items_execution_idx; the row comparison is one range of it.
        let rows = sqlx::query_as!(
            ItemRow,
            "
            SELECT id, page_id, url, schema_name, data, extracted_at
            FROM extracted_items
            WHERE execution_id = $1 AND (extracted_at, id) > ($2, $3)
            ORDER BY extracted_at, id
            LIMIT $4
            ",
            execution.0,
            after_time,
            after_id,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Counts an execution's items.
    ///
    /// # Errors
    /// The database's.
    pub async fn item_count(&self, execution: ExecutionId) -> Result<i64, StoreError> {
        // Index: extracted_items_execution_idx.
        let count = sqlx::query_scalar!(
            r#"SELECT COUNT(*) AS "count!" FROM extracted_items WHERE execution_id = $1"#,
            execution.0,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count)
    }
}
