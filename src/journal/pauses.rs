//! Paused ids: reports of theirs are taken as ever and not drained, until somebody resumes them.
//!
//! ```text
//! key    shifted id (`seal.rs`)
//! value  header with "FBP" (`seal.rs`) | id (ASCII)
//! ```

use std::collections::HashSet;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::commit::Committer;
use super::error::{Damage, JournalError};
use super::queue::Command;
use super::seal::{HEADER_BYTES, Magic, Seal};
use super::store::Store;
use super::{Journal, Shared};
use crate::report::Id;

/// Ids that may be paused at a time: each is in memory for as long, with backlog or without.
pub const MAX_PAUSED_IDS: usize = 10_000;

/// What a pause's value begins with, behind its version.
const PAUSE: Magic = *b"FBP";

/// Why an id was not paused or resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PauseError {
    /// So many are that no more may be.
    #[error("{MAX_PAUSED_IDS} ids are paused, which is the most; resume one first")]
    TooMany,
    /// The journal failed or stopped instead.
    #[error("the node is stopping")]
    Stopping,
}

/// A pause or a resume that waits for its sync.
pub(super) struct Change {
    id: Id,
    paused: bool,
    done: oneshot::Sender<Result<(), PauseError>>,
    outcome: Result<(), PauseError>,
}

impl Journal {
    /// Pauses an id, or resumes it. Durable, and in force, when it returns; a batch that is on its way to the sink ends
    /// there. To ask for what is so already changes nothing.
    ///
    /// # Errors
    /// [`PauseError`]; then it is as before, or, where the node stops, not known.
    pub async fn set_paused(&self, id: Id, paused: bool) -> Result<(), PauseError> {
        let (done, changed) = oneshot::channel();
        self.shared.queue.push(Command::Pause(id, paused, done));
        changed.await.unwrap_or(Err(PauseError::Stopping))
    }

    /// Whether `id` is paused.
    pub fn is_paused(&self, id: &Id) -> bool {
        self.shared.index.is_paused(id)
    }
}

impl Committer {
    /// Writes a pause or a resume; in force after the sync.
    pub(super) fn change_pause(
        shared: &Shared,
        (id, paused): (Id, bool),
        done: oneshot::Sender<Result<(), PauseError>>,
        under_way: usize,
    ) -> Result<Change, JournalError> {
        let is_paused = shared.index.is_paused(&id);
        let is_full = paused && !is_paused && shared.index.paused() + under_way >= MAX_PAUSED_IDS;
        let outcome = if is_full { Err(PauseError::TooMany) } else { Ok(()) };
        if outcome.is_ok() && cfg!(not(forebay_plant = "pause_in_memory")) {
            keep(&shared.store, &id, paused)?;
        }
        Ok(Change { id, paused, done, outcome })
    }
}

impl Change {
    /// Puts it in force and lets its caller know.
    pub(super) fn release(self, shared: &Shared) {
        let Self { id, paused, done, outcome } = self;
        if outcome.is_ok() {
            shared.index.set_paused(&id, paused);
        }
        // Whoever asked may be gone; it holds all the same.
        let _ = done.send(outcome);
    }
}

/// Keeps that an id is paused, or is no more. Durable after the next sync of trees.
pub(super) fn keep(store: &Store, id: &Id, paused: bool) -> Result<(), JournalError> {
    let value = encode(store.seal(), id);
    store.set_paused(&stored_key(store.seal(), id), paused.then_some(&value))
}

fn encode(seal: &Seal, id: &Id) -> Vec<u8> {
    let mut value = Vec::new();
    seal.frame(PAUSE, &mut value, |value| value.extend_from_slice(id.as_bytes()));
    value
}

/// The id that a stored key names, as text.
pub(super) fn named(seal: &Seal, stored_key: &[u8]) -> String {
    let mut id = stored_key.to_vec();
    seal.unshift_id(&mut id);
    id.escape_ascii().to_string()
}

fn stored_key(seal: &Seal, id: &Id) -> Vec<u8> {
    let mut key = id.as_bytes().to_vec();
    seal.shift_id(&mut key);
    key
}

/// The ids that are paused on disk.
///
/// # Errors
/// When the storage cannot be read. A damaged pause is logged and left out.
pub(super) fn recover(store: &Store) -> Result<HashSet<Id>, JournalError> {
    let mut paused = HashSet::new();
    for pair in store.scan_paused() {
        let (key, value) = pair?;
        match decode(store.seal(), &key, &value) {
            Ok(id) => drop(paused.insert(id)),
            Err(damage) => {
                tracing::error!(key = named(store.seal(), &key), %damage, "a pause is damaged; the id is drained")
            }
        }
    }
    Ok(paused)
}

/// Reads the pause with this key.
///
/// # Errors
/// [`Damage`], whatever the bytes are.
pub(super) fn decode(seal: &Seal, key: &[u8], value: &Bytes) -> Result<Id, Damage> {
    let value = seal.unframe(PAUSE, value)?;
    let text = std::str::from_utf8(&value[HEADER_BYTES..]).ok();
    let id = text.and_then(|text| Id::new(text).ok()).ok_or(Damage::Content)?;
    if stored_key(seal, &id) == key { Ok(id) } else { Err(Damage::Key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_pause_is_none() {
        let (seal, id) = (Seal::of(&[7; 32]), Id::new("a-1").expect("an id"));
        let (mut value, key) = (encode(&seal, &id), stored_key(&seal, &id));
        let other = stored_key(&seal, &Id::new("a-2").expect("an id"));
        assert_eq!(decode(&seal, &key, &Bytes::from(value.clone())), Ok(id));
        assert_eq!(decode(&seal, &other, &Bytes::from(value.clone())), Err(Damage::Key));
        let last = value.len() - 1;
        value[last] ^= 1;
        assert_eq!(decode(&seal, &key, &Bytes::from(value)), Err(Damage::Checksum));
    }
}
