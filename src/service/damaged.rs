//! What an operator sees of damage: what the journal set aside, and what is known of it.

use super::DeadLetters;
use crate::journal::{JournalError, SetAside};

impl DeadLetters {
    /// Up to `limit` of what was set aside as damaged, behind the one with the key `after`.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn damaged(&self, after: Option<String>, limit: usize) -> Result<Vec<SetAside>, JournalError> {
        self.reading(move |journal| journal.set_aside(after.as_deref(), limit)).await
    }
}
