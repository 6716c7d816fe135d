//! What connections carried, kept for a test that looks for something in it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All bytes of each direction of each connection by themselves, so that a text is found that came in two pieces.
#[derive(Debug, Default)]
pub(super) struct Recording {
    /// Written by the test, read by connections.
    is_on: AtomicBool,
    /// Written by connections, read by the test.
    streams: Mutex<Vec<Vec<u8>>>,
}

impl Recording {
    pub(super) fn begin(&self) {
        self.is_on.store(true, Ordering::SeqCst);
    }

    /// Keeps what came in one direction of a connection, whose place among the others is remembered in `place`.
    pub(super) fn keep(&self, place: &mut Option<usize>, bytes: &[u8]) {
        if !self.is_on.load(Ordering::SeqCst) {
            return;
        }
        let mut streams = self.lock();
        let place = *place.get_or_insert(streams.len());
        if place == streams.len() {
            streams.push(Vec::new());
        }
        streams[place].extend_from_slice(bytes);
    }

    pub(super) fn streams(&self) -> Vec<Vec<u8>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
