//! What to do with files that the storage cannot open: every entry and dead letter that is whole in their bytes goes
//! into a new journal, the files are moved aside, and the node goes on.
//!
//! The log of the storage has entries that were settled long ago, too. They are drained again and found in the sink:
//! duplicates, not rows. A dead letter that was discarded may come back, which is why the log says what happened.

use std::fs;
use std::io;
use std::path::Path;

use super::commit::now_micros;
use super::error::JournalError;
use super::identity::Identity;
use super::place::{self, Old};
use super::positions::MAX_FOUND;
use super::seal::Seal;
use super::store::runs::{self, Chunk, Counted};
use super::store::{Store, recent};
use super::value::Value;
use super::{earlier, files, log, offline, unreadable};
use crate::config;
use crate::report::Position;

/// Dead letters between two syncs of the new journal.
const SYNC_EVERY: u64 = 10_000;
/// An hour, in microseconds: above any position that the damaged journal gave out under a clock that was right.
const MARGIN: u64 = 3_600_000_000;

/// Makes a new journal of what is whole in the damaged one, whose values have the seal `from`, and puts it in its
/// place. It has the identity `into`: that of the damaged one, where that has one.
///
/// The new journal is made in the folder of the old one, and takes its place (`place.rs`) only when it is whole and
/// synced. A crash at any instant leaves either the damaged journal where it was, so that the next start begins again,
/// or a new one that [`finish_interrupted`] puts there.
///
/// # Errors
/// When files cannot be read or moved, or the new journal cannot be written. The damaged files are still there then.
pub(super) fn salvage(
    settings: &config::Journal,
    why: &JournalError,
    from: &Seal,
    into: &Identity,
) -> Result<(), JournalError> {
    let dir = &settings.dir;
    tracing::error!(error = %why, "the journal is damaged; its files are searched for reports");
    finish_interrupted(dir)?;
    let copied = copy(settings, from, into);
    if copied.is_err() {
        // It may have filled the disk. What cannot be removed now is removed by the next start.
        let _ = fs::remove_dir_all(dir.join(place::MAKING));
    }
    let (entries, dead_letters) = copied?;
    place::take(dir, Old::Kept)?;
    tracing::error!(
        entries,
        dead_letters,
        "what is whole of the damaged journal goes on; settled reports among it are stored no second time, and ids that \
         were paused are drained"
    );
    Ok(())
}

/// Makes a new journal of what is whole in the one in its folder; how many entries and dead letters it has.
fn copy(settings: &config::Journal, from: &Seal, into: &Identity) -> Result<(u64, u64), JournalError> {
    let dir = &settings.dir;
    let mut salvaged = Copied::new(settings, into)?;
    offline::search(dir, from, |value| salvaged.take_over(value))?;
    // Positions go on above all that was found, and above the clock: the last stamp may be among what is damaged.
    let given_out = log::synced(dir, from).max(recent::stamp(dir, from)).max(now_micros()).max(salvaged.highest);
    salvaged.finish(Position((given_out + MARGIN).min(MAX_FOUND)))
}

/// Goes on with a salvage that was cut off, of this version or of an earlier one.
///
/// # Errors
/// When files can be neither moved nor removed.
pub(super) fn finish_interrupted(dir: &Path) -> Result<(), JournalError> {
    place::finish(dir)?;
    earlier::remove_leftovers(dir).map_err(failed(dir, "remove what a salvage left beside"))
}

/// Sets small files aside of which the disk does not give back a part, and writes the identity anew; the others are
/// made as the journal goes on.
///
/// # Errors
/// When they cannot be moved or written.
pub(super) fn set_small_files_aside(dir: &Path, identity: &Identity) -> Result<(), JournalError> {
    let found = unreadable::small_files(dir).map_err(failed(dir, "read the small files of"))?;
    if found.is_empty() {
        return Ok(());
    }
    let aside = place::next_aside(dir).map_err(failed(dir, "look into"))?;
    for file in found {
        tracing::error!(file = file.name, aside, "{file}; the file is set aside, and made anew");
        place::set_file_aside(dir, &file.name, &aside).map_err(failed(dir, "set aside a file of"))?;
        if file.name == files::IDENTITY {
            identity.write(dir).map_err(failed(dir, "write the identity of"))?;
        }
    }
    Ok(())
}

fn failed(dir: &Path, action: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    move |source| JournalError::Folder { path: dir.to_owned(), action, source }
}

/// A new journal in the folder of another, whose values it takes over.
pub(super) struct Copied {
    store: Store,
    chunk: Chunk,
    runs: Vec<Counted>,
    entries: u64,
    dead: u64,
    highest: u64,
    value: Vec<u8>,
}

impl Copied {
    pub(super) fn new(settings: &config::Journal, identity: &Identity) -> Result<Self, JournalError> {
        let new = settings.dir.join(place::MAKING);
        let store = Store::open(&new, settings.cache_bytes, Some(identity))?;
        store.keep_identity(identity)?;
        let (chunk, runs, value) = (Chunk::default(), Vec::new(), Vec::new());
        Ok(Self { store, chunk, runs, entries: 0, dead: 0, highest: 0, value })
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn take_over(&mut self, value: Value) -> Result<(), JournalError> {
        let key = value.key(self.store.seal());
        self.value.clear();
        value.encode(self.store.seal(), &mut self.value);
        match &value {
            Value::Entry(entry) => {
                self.chunk.push(entry.summary(), &self.value);
                self.highest = self.highest.max(entry.last().0);
                self.entries += 1;
                if self.chunk.is_full() {
                    self.write_chunk()?;
                }
            }
            Value::DeadLetter(_) => {
                self.store.keep_dead(&key, &self.value)?;
                self.dead += 1;
                if self.dead.is_multiple_of(SYNC_EVERY) {
                    self.store.sync_trees(Position(self.highest))?;
                }
            }
        }
        Ok(())
    }

    fn write_chunk(&mut self) -> Result<(), JournalError> {
        let (run, _) = std::mem::take(&mut self.chunk).write(self.store.runs())?;
        self.runs.extend(run);
        Ok(())
    }

    /// Makes all of it durable, and that positions go on above `stamp` and what was taken over; how many entries and
    /// dead letters it were.
    pub(super) fn finish(mut self, stamp: Position) -> Result<(u64, u64), JournalError> {
        self.write_chunk()?;
        // In the order of their bytes: one run has what comes behind another's, and some of it twice.
        let removed = self.runs.iter().map(|counted| counted.run.number).collect();
        let merged = runs::merge(self.store.runs(), self.store.seal(), &self.runs, || true)?;
        self.store.runs().publish(merged.unwrap_or_default(), &removed, &[])?;
        self.store.sync_trees(Position(self.highest.max(stamp.0)))?;
        Ok((self.entries, self.dead))
    }
}
