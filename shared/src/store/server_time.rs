//! The database's clock, and what is done when it leaps: the machine has slept, or a standby with another clock has taken over.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Store, StoreError};

/// The time of the server that answers.
#[derive(Clone, Copy, Debug)]
pub struct ServerTime {
    /// When it was started: another one, which has taken over, says another time.
    pub started_at: DateTime<Utc>,
    /// Its time now.
    pub now: DateTime<Utc>,
}

impl Store {
    /// What time it is.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn server_time(&self) -> Result<ServerTime, StoreError> {
        let time = sqlx::query_as!(
            ServerTime,
            r#"SELECT pg_postmaster_start_time() AS "started_at!", now() AS "now!""#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(time)
    }

    /// Lets no page be overdue for as long as a lease takes that begins now: the clock has leapt ahead, or may have. Several
    /// coordinators may do so for the same leap. Answers how many pages that concerned.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn renew_leases(&self, lease: Duration) -> Result<u64, StoreError> {
        // Reads url_queue_open_idx. Lock: the pages, skipping those that are being recorded or returned.
        let renewed = sqlx::query!(
            "UPDATE url_queue q SET locked_until = now() + $1::float8 * interval '1 second'
             FROM (SELECT id FROM url_queue
                   WHERE status = 'processing' AND locked_until < now() + $1::float8 * interval '1 second'
                   FOR UPDATE SKIP LOCKED) held
             WHERE q.id = held.id",
            lease.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        Ok(renewed.rows_affected())
    }

    /// Lets nobody have been heard later than now: the clock has leapt back, and a worker that has died would be lost only when
    /// it has come there again. Answers how many workers that concerned.
    ///
    /// # Errors
    /// As every statement of the store.
    pub async fn bring_heartbeats_back(&self) -> Result<u64, StoreError> {
        // Lock: the workers, skipping those that are being heard.
        let brought_back = sqlx::query!(
            "UPDATE workers w SET heartbeat_at = now()
             FROM (SELECT id FROM workers
                   WHERE status IN ('ready', 'draining') AND heartbeat_at > now()
                   FOR UPDATE SKIP LOCKED) early
             WHERE w.id = early.id",
        )
        .execute(&self.pool)
        .await?;
        Ok(brought_back.rows_affected())
    }
}
