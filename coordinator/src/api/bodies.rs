//! How much of request bodies is held at once, of all requests together: each body has its own limit, and a thousand
//! connections may bring one each. Knows nothing of what is in them.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::ApiError;

/// Bytes of bodies that are held at once: six of the largest workflows, which is more than people send in a moment, and
/// little beside what a coordinator needs for anything else.
pub(super) const MAX_HELD_BYTES: usize = 64 << 20;
/// The first bytes of each body count for nothing, so that large bodies never keep small ones from being read. All
/// connections that are served at once, 1024, have 64 MiB of them.
pub(super) const UNCOUNTED_BYTES: usize = 64 << 10;

/// The bodies of all requests.
#[derive(Clone, Debug)]
pub struct Bodies {
    /// A permit for each byte that may still be held.
    free: Arc<Semaphore>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(MAX_HELD_BYTES)) }
    }
}

impl Bodies {
    /// Begins a body, of which nothing is held yet.
    pub(super) fn begin(&self) -> Held {
        Held { free: Arc::clone(&self.free), bytes: 0, counted: None }
    }
}

/// What is held of one body. Dropped when its request was answered, as what was read from it lives that long.
#[derive(Debug)]
pub(super) struct Held {
    free: Arc<Semaphore>,
    bytes: usize,
    counted: Option<OwnedSemaphorePermit>,
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
}

fn no_room() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too_many_bodies",
        "so many large bodies are on their way at the moment that there is no room for this one; try again in a few seconds",
    )
}

#[cfg(test)]
mod tests {
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
}
