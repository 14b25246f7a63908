//! What to do with files that the storage cannot open: every entry and dead letter that is whole in their bytes goes
//! into a new journal, the files are moved aside, and the node goes on.
//!
//! The log of the storage has entries that were settled long ago, too. They are drained again and found in the sink:
//! duplicates, not rows. A dead letter that was discarded may come back, which is why the log says what happened.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::commit::now_micros;
use super::error::JournalError;
use super::identity::Identity;
use super::lanes::Lane;
use super::positions::MAX_FOUND;
use super::seal::Seal;
use super::store::{Store, recent};
use super::value::Value;
use super::{log, offline};
use crate::config;
use crate::report::Position;

/// Entries between two syncs of the new journal.
const SYNC_EVERY: u64 = 10_000;
/// What a journal is called whose values are all in the one that took its place, until it is removed.
const REPLACED: &str = "replaced";
/// An hour, in microseconds: above any position that the damaged journal gave out under a clock that was right.
const MARGIN: u64 = 3_600_000_000;

/// What becomes of files that others took the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Old {
    /// They are kept as `….damaged-N`.
    Kept,
    /// All of them is in the new ones.
    Removed,
}

/// Makes a new journal of what is whole in the damaged one, whose values have the seal `from`, and puts it in its
/// place. It has the identity `into`: that of the damaged one, where that has one.
///
/// The new journal is made beside the old one, and takes its place only when it is whole and synced. A crash at any
/// instant leaves either the damaged journal where it was, so that the next start begins again, or a new one that
/// [`finish_interrupted`] puts there.
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
    let mut salvaged = Copied::new(settings, into)?;
    offline::search(dir, from, |value| salvaged.take_over(value))?;
    // Positions go on above all that was found, and above the clock: the last stamp may be among what is damaged.
    let given_out = log::synced(dir, from).max(recent::stamp(dir, from)).max(now_micros()).max(salvaged.highest);
    let (entries, dead_letters) = salvaged.finish(Position((given_out + MARGIN).min(MAX_FOUND)))?;
    take_place(dir, Old::Kept)?;
    tracing::error!(
        entries,
        dead_letters,
        "what is whole of the damaged journal goes on; settled reports among it are stored no second time, and ids that \
         were paused are drained"
    );
    Ok(())
}

/// Puts the new journal that was made beside the old one in its place.
///
/// # Errors
/// When the old one can be neither moved nor removed, or the new one not moved.
pub(super) fn take_place(dir: &Path, old: Old) -> Result<(), JournalError> {
    let folder = |action| move |source| JournalError::Folder { path: dir.to_owned(), action, source };
    let aside = match old {
        Old::Kept => (1..).map(|n| beside(dir, &format!("damaged-{n}"))).find(|path| !path.exists()),
        Old::Removed => Some(beside(dir, REPLACED)),
    };
    let aside = aside.expect("some number is free");
    fs::rename(dir, &aside).map_err(folder("move aside the files of"))?;
    finish_interrupted(dir)?;
    if old == Old::Kept {
        tracing::error!(damaged = %aside.display(), "the damaged journal is kept there");
    }
    Ok(())
}

/// Puts a journal that was made beside an old one in its place, or removes one that was not finished; and removes what
/// another took the place of.
///
/// # Errors
/// When it can be neither moved nor removed.
pub(super) fn finish_interrupted(dir: &Path) -> Result<(), JournalError> {
    let (new, replaced) = (beside(dir, "salvaging"), beside(dir, REPLACED));
    let folder = |action| move |source| JournalError::Folder { path: dir.to_owned(), action, source };
    if new.exists() {
        if dir.exists() {
            fs::remove_dir_all(&new).map_err(folder("remove what a salvage left beside"))?;
        } else {
            let moved = fs::rename(&new, dir).and_then(|()| File::open(dir.canonicalize()?.join(".."))?.sync_all());
            moved.map_err(folder("put the salvaged journal in the place of"))?;
        }
    }
    if dir.exists() && replaced.exists() {
        fs::remove_dir_all(&replaced).map_err(folder("remove what was replaced beside"))?;
    }
    Ok(())
}

/// A path beside the journal's folder, named after it.
fn beside(dir: &Path, what: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(format!(".{what}"));
    PathBuf::from(name)
}

/// A new journal beside another, whose values it takes over.
pub(super) struct Copied {
    store: Store,
    lanes: Lane,
    entries: u64,
    dead: u64,
    highest: u64,
    value: Vec<u8>,
}

impl Copied {
    pub(super) fn new(settings: &config::Journal, identity: &Identity) -> Result<Self, JournalError> {
        let new = beside(&settings.dir, "salvaging");
        let store = Store::open(&new, settings.lanes, settings.cache_bytes, Some(identity))?;
        store.keep_identity(identity)?;
        Ok(Self { store, lanes: settings.lanes, entries: 0, dead: 0, highest: 0, value: Vec::new() })
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
                let lane = crc32fast::hash(entry.id.as_bytes()) % u32::from(self.lanes);
                self.store.insert(lane as Lane, &key, &self.value)?;
                self.highest = self.highest.max(entry.last().0);
                self.entries += 1;
            }
            Value::DeadLetter(_) => {
                self.store.keep_dead(&key, &self.value)?;
                self.dead += 1;
            }
        }
        if (self.entries + self.dead).is_multiple_of(SYNC_EVERY) {
            self.store.sync_trees(Position(self.highest))?;
        }
        Ok(())
    }

    /// Makes all of it durable, and that positions go on above `stamp` and what was taken over; how many entries and
    /// dead letters it were.
    pub(super) fn finish(self, stamp: Position) -> Result<(u64, u64), JournalError> {
        self.store.sync_trees(Position(self.highest.max(stamp.0)))?;
        Ok((self.entries, self.dead))
    }
}
