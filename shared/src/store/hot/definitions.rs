//! What the records of an execution's nodes have in common, written once for each execution: records name it by number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use tokio_postgres::types::Json;

use super::HotStore;
use super::line::Line;
use crate::domain::id::ExecutionId;
use crate::domain::page::NodeTable;
use crate::store::StoreError;

/// Executions remembered at the most.
const REMEMBERED: usize = 256;

/// The numbers of definitions by execution and position. Locked for moments only, never across a wait.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    known: Mutex<HashMap<ExecutionId, Arc<[i32]>>>,
}

/// By node_definitions_key. Of an execution that is gone nothing is written, and no number answered: the guard of the
/// record then finds no page of it.
const DEFINE: &str = "
WITH execution AS (
    SELECT id FROM workflow_executions WHERE id = $1
), wanted AS (
    SELECT n.*, (n.place - 1)::int2 AS position
    FROM unnest($2::text[], $3::text[], $4::text[], $5::jsonb[]) WITH ORDINALITY
        AS n (phase, node_id, node_type, input, place)
), added AS (
    INSERT INTO node_definitions (execution_id, position, phase, node_id, node_type, input)
    SELECT e.id, w.position, w.phase, w.node_id, w.node_type, w.input FROM wanted w, execution e ORDER BY w.position
    ON CONFLICT (execution_id, position) DO NOTHING
    RETURNING id, position
)
SELECT position, id FROM added
UNION ALL SELECT d.position, d.id FROM node_definitions d WHERE d.execution_id = $1
ORDER BY 1";

impl HotStore {
    /// The numbers of an execution's definitions, by position; empty for an execution that is gone.
    pub(super) async fn definitions(
        &self,
        client: &Line,
        execution: ExecutionId,
        table: &NodeTable,
    ) -> Result<Arc<[i32]>, StoreError> {
        let wanted = table.nodes.len();
        if let Some(known) = self.definitions.get(execution).filter(|known| known.len() >= wanted) {
            return Ok(known);
        }
        let column = |of: fn(&crate::domain::page::NodeDefinition) -> &str| {
            table.nodes.iter().map(of).collect::<Vec<&str>>()
        };
        let (phases, ids) = (column(|node| &node.phase), column(|node| &node.node_id));
        let types = column(|node| node.node_type);
        let inputs: Vec<Json<&Map<String, Value>>> =
            table.nodes.iter().map(|node| Json(&node.params)).collect();
        let statement = client.prepare_cached(DEFINE).await?;
        // What another worker is adding at this moment is neither added nor seen by the first look.
        for _ in 0..2 {
            let rows = client.query(&statement, &[&execution.0, &phases, &ids, &types, &inputs]).await?;
            let numbers: Arc<[i32]> = rows.iter().map(|row| row.get(1)).collect();
            if numbers.len() >= wanted {
                self.definitions.put(execution, Arc::clone(&numbers));
                return Ok(numbers);
            }
        }
        Ok(Arc::default())
    }
}

impl Definitions {
    fn get(&self, execution: ExecutionId) -> Option<Arc<[i32]>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&execution).map(Arc::clone)
    }

    /// Knows nothing any more.
    pub(super) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn put(&self, execution: ExecutionId, numbers: Arc<[i32]>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Whatever is forgotten is asked for again.
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(execution, numbers);
    }
}
