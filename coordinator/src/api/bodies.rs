//! How much of request bodies is held at once, of all requests together: each body has its own limit, and a thousand
//! connections may bring one each. What is read from a body may be many times as large as its text, so that bytes and
//! values have bounds of their own. Knows nothing of what is in them.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use crawlify_shared::domain::bounded::MAX_VALUES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::ApiError;

/// Bytes of bodies that are held at once: six of the largest workflows, which is more than people send in a moment, and
/// little beside what a coordinator needs for anything else.
pub(super) const MAX_HELD_BYTES: usize = 64 << 20;
/// The first bytes of each body count for nothing, so that large bodies never keep small ones from being read. All
/// connections that are served at once, 1024, have 64 MiB of them.
pub(super) const UNCOUNTED_BYTES: usize = 64 << 10;
/// Values that are held at once: those of the largest document, which always finds room when the others have gone.
pub(super) const MAX_HELD_VALUES: usize = MAX_VALUES;
/// The first values of each document count for nothing either, so that small ones never wait for large ones. All
/// connections together have about as many of them as the largest document.
pub(super) const UNCOUNTED_VALUES: usize = 500;
/// How long a body that has come waits for the room of its values: with the time that it may be on its way, no longer
/// than a request may take.
const ROOM_WITHIN: Duration = Duration::from_secs(10);

/// The bodies of all requests.
#[derive(Clone, Debug)]
pub struct Bodies {
    /// A permit for each byte that may still be held.
    free: Arc<Semaphore>,
    /// A permit for each value that may still be held.
    free_values: Arc<Semaphore>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(MAX_HELD_BYTES)),
            free_values: Arc::new(Semaphore::new(MAX_HELD_VALUES)),
        }
    }
}

impl Bodies {
    /// Begins a body, of which nothing is held yet.
    pub(super) fn begin(&self) -> Held {
        Held {
            free: Arc::clone(&self.free),
            bytes: 0,
            counted: None,
            free_values: Arc::clone(&self.free_values),
            values: None,
        }
    }
}

/// What is held of one body. Dropped when its request was answered, as what was read from it lives that long.
#[derive(Debug)]
pub(super) struct Held {
    free: Arc<Semaphore>,
    bytes: usize,
    counted: Option<OwnedSemaphorePermit>,
    free_values: Arc<Semaphore>,
    values: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Holds so many bytes more. Nobody waits for room: bodies that have come halfway would wait for each other.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), ApiError> {
        let counted_before = self.bytes.saturating_sub(UNCOUNTED_BYTES);
        self.bytes += bytes;
        let more = self.bytes.saturating_sub(UNCOUNTED_BYTES) - counted_before;
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| no_room())?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(more).map_err(|_| no_room())?;
        match &mut self.counted {
            Some(counted) => counted.merge(permit),
            None => self.counted = Some(permit),
        }
        Ok(())
    }

    /// Waits for the room of all values that are read from the body, at most so many, and holds it. Asked once, before
    /// any is read: who waits has no value yet, and those who have them wait for nobody here.
    pub(super) async fn hold_values(&mut self, at_most: usize) -> Result<(), ApiError> {
        // No document is read beyond that.
        let counted = at_most.saturating_sub(UNCOUNTED_VALUES).min(MAX_HELD_VALUES);
        if counted == 0 {
            return Ok(());
        }
        let refusal = || no_room_for_values(at_most);
        let counted = u32::try_from(counted).map_err(|_| refusal())?;
        let room = Arc::clone(&self.free_values).acquire_many_owned(counted);
        let room = tokio::time::timeout(ROOM_WITHIN, room).await.map_err(|_| refusal())?;
        self.values = Some(room.map_err(|_| refusal())?);
        Ok(())
    }
}

fn no_room() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too_many_bodies",
        "so many large bodies are on their way at the moment that there is no room for this one; try again in a few seconds",
    )
}

fn no_room_for_values(at_most: usize) -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too_many_bodies",
        format!(
            "other requests have so many values in their bodies that for {} seconds there was no room for those of this one: \
             it may have {} of the {MAX_HELD_VALUES} that all have together; try again in a few seconds, or send fewer",
            ROOM_WITHIN.as_secs(),
            at_most.min(MAX_HELD_VALUES),
        ),
    )
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn free(bodies: &Bodies) -> usize {
        bodies.free.available_permits()
    }

    #[test]
    fn what_a_body_has_beyond_its_first_bytes_is_held_until_it_is_dropped() {
        let bodies = Bodies::default();
        let mut held = bodies.begin();
        held.add(UNCOUNTED_BYTES - 1).unwrap();
        held.add(1).unwrap();
        assert_eq!(free(&bodies), MAX_HELD_BYTES, "the first bytes count for nothing");
        held.add(10).unwrap();
        held.add(1 << 20).unwrap();
        assert_eq!(free(&bodies), MAX_HELD_BYTES - (1 << 20) - 10);
        drop(held);
        assert_eq!(free(&bodies), MAX_HELD_BYTES);
    }

    #[test]
    fn where_there_is_no_room_small_bodies_are_held_all_the_same() {
        let bodies = Bodies::default();
        let mut all = bodies.begin();
        all.add(MAX_HELD_BYTES + UNCOUNTED_BYTES).unwrap();
        assert_eq!(free(&bodies), 0);
        let mut other = bodies.begin();
        other.add(UNCOUNTED_BYTES).unwrap();
        assert!(other.add(1).is_err());
        drop(all);
        other.add(1).unwrap();
    }

    fn free_values(bodies: &Bodies) -> usize {
        bodies.free_values.available_permits()
    }

    #[tokio::test]
    async fn what_a_document_has_beyond_its_first_values_is_held_until_it_is_dropped() {
        let bodies = Bodies::default();
        let (mut small, mut held) = (bodies.begin(), bodies.begin());
        small.hold_values(UNCOUNTED_VALUES).await.unwrap();
        assert_eq!(free_values(&bodies), MAX_HELD_VALUES, "the first values count for nothing");
        held.hold_values(UNCOUNTED_VALUES + 10).await.unwrap();
        assert_eq!(free_values(&bodies), MAX_HELD_VALUES - 10);
        drop(held);
        assert_eq!(free_values(&bodies), MAX_HELD_VALUES);
        let mut all = bodies.begin();
        all.hold_values(usize::MAX).await.unwrap();
        assert_eq!(free_values(&bodies), 0, "one that tells of more than there may be has all of it");
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_no_room_for_values_large_documents_wait_for_a_time_and_small_ones_do_not() {
        let bodies = Bodies::default();
        let (mut all, mut small) = (bodies.begin(), bodies.begin());
        all.hold_values(usize::MAX).await.unwrap();
        small.hold_values(UNCOUNTED_VALUES).await.unwrap();
        let begun = Instant::now();
        let mut refused = bodies.begin();
        assert!(refused.hold_values(UNCOUNTED_VALUES + 1).await.is_err());
        assert_eq!(begun.elapsed().as_secs(), ROOM_WITHIN.as_secs());
        let mut waiting = bodies.begin();
        let waits = waiting.hold_values(UNCOUNTED_VALUES + 1);
        let ends = async {
            tokio::task::yield_now().await;
            drop(all);
        };
        let (has_room, ()) = tokio::join!(waits, ends);
        has_room.unwrap();
        assert_eq!(free_values(&bodies), MAX_HELD_VALUES - 1);
    }
}
