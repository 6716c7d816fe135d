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

    /// Lets no page be overdue for as long as a lease takes that begins now, of which the clock has leapt. Several coordinators may
    /// do so for the same leap. Answers how many pages that concerned.
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
}
