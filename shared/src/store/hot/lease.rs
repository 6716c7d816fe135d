//! The lease: a worker's row, whose heartbeat keeps all of the worker's pages its own.

use super::HotStore;
use crate::store::StoreError;

/// What the fleet thinks of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its pages are its own.
    Alive,
    /// It was given up, and its pages were given to others. This heartbeat brought it back, without those pages.
    WasLost,
    /// The fleet does not know it: its row is gone. It must announce itself again.
    Unknown,
}

impl HotStore {
    /// Announces the worker.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn announce(&self, name: &str, slots: usize) -> Result<(), StoreError> {
        let slots = i32::try_from(slots).unwrap_or(i32::MAX);
        let client = self.client().await?;
        client
            .execute(
                "INSERT INTO workers (id, name, slots) VALUES ($1, $2, $3)
                 ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), status = 'ready',
                     slots = excluded.slots",
                &[&self.worker.0, &name, &slots],
            )
            .await?;
        Ok(())
    }

    /// Says that the worker is alive, and how many pages it takes at once now.
    ///
    /// # Errors
    /// As every statement of the store. A worker that meets them for too long must stop its pages.
    pub async fn heartbeat(&self, slots: usize, draining: bool) -> Result<Standing, StoreError> {
        let slots = i32::try_from(slots).unwrap_or(i32::MAX);
        let status = if draining { "draining" } else { "ready" };
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "UPDATE workers w SET heartbeat_at = now(), status = $2, slots = $3
                 FROM (SELECT id, status FROM workers WHERE id = $1 FOR UPDATE) before
                 WHERE w.id = before.id
                 RETURNING before.status",
            )
            .await?;
        let row = client.query_opt(&statement, &[&self.worker.0, &status, &slots]).await?;
        Ok(match row.map(|row| row.get::<_, String>(0)).as_deref() {
            Some("ready" | "draining") => Standing::Alive,
            Some(_) => Standing::WasLost,
            None => Standing::Unknown,
        })
    }

    /// Says goodbye: whatever the worker still holds is free for others at once.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn retire(&self) -> Result<(), StoreError> {
        let client = self.client().await?;
        client.execute("UPDATE workers SET status = 'stopped' WHERE id = $1", &[&self.worker.0]).await?;
        Ok(())
    }
}
