//! A command that was sent to the browser and is not answered yet.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection::{Answer, CallError, Connection};

/// A command that was sent. Dropping it forgets the answer, so that the map of waiting calls does not grow.
pub(super) struct Pending<R> {
    connection: Connection,
    id: u64,
    answer: oneshot::Receiver<Answer>,
    response: PhantomData<fn() -> R>,
}

impl<R> Pending<R> {
    pub(super) fn new(connection: &Connection, id: u64, answer: oneshot::Receiver<Answer>) -> Self {
        Self { connection: connection.clone(), id, answer, response: PhantomData }
    }
}

impl<R: DeserializeOwned> Pending<R> {
    /// Waits for the answer, at the latest until the deadline.
    pub(super) async fn answer(mut self, deadline: Instant) -> Result<R, CallError> {
        tokio::select! {
            biased;
            () = self.connection.lost() => Err(CallError::Lost),
            answer = tokio::time::timeout_at(deadline, &mut self.answer) => {
                let raw = answer.map_err(|_| CallError::Timeout)?.map_err(|_| CallError::Lost)?;
                Ok(serde_json::from_str(raw.map_err(CallError::Refused)?.get())?)
            }
        }
    }
}

impl<R> std::fmt::Debug for Pending<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<R> Drop for Pending<R> {
    fn drop(&mut self) {
        self.connection.forget(self.id);
    }
}
