//! One try to store, for who waits for its answer and says what became of it: an operator's retry of dead letters.

use super::super::{Sink, StoreError, Stored};
use super::{Failure, Writer};
use crate::report::Batch;

impl<S: Sink> Writer<S> {
    /// Another writer over the same connections: it takes turns with all others of them.
    pub fn another(&self) -> Self {
        Self::of(self.sink.clone(), self.health.clone(), self.pool.clone())
    }

    /// Stores all batches in one transaction, whatever the sink's health is said to be.
    ///
    /// # Errors
    /// What the sink says. Only a connection that was idle, and of which the server knows no more, is made good.
    pub async fn store_once(&self, batches: &[Batch]) -> Result<Vec<Stored>, StoreError> {
        let mut is_new = false;
        loop {
            let mut slot = self.pool.slot(is_new).await;
            match self.try_once(&mut slot, batches, false).await {
                Ok(stored) => return Ok(stored),
                // The server allows fewer connections than there are slots: one of the others comes free.
                Err(_) if slot.is_given_up() => {}
                Err(Failure { error: StoreError::Failed(_), stale: true, kept: false, .. }) if !is_new => is_new = true,
                Err(failure) => return Err(failure.error),
            }
        }
    }
}
