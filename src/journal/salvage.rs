//! What to do with files that the storage cannot open: every entry and dead letter that is whole in their bytes goes
//! into a new journal, the files are moved aside, and the node goes on.
//!
//! The log of the storage has entries that were settled long ago, too. They are drained again and found in the sink:
//! duplicates, not rows. A dead letter that was discarded may come back, which is why the log says what happened.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::commit::now_micros;
use super::error::JournalError;
use super::lanes::Lane;
use super::store::{Store, recent};
use super::value::Value;
use super::{log, offline};
use crate::config;
use crate::report::Position;

/// Entries between two syncs of the new journal.
const SYNC_EVERY: u64 = 10_000;
/// An hour, in microseconds: above any position that the damaged journal gave out under a clock that was right.
const MARGIN: u64 = 3_600_000_000;

/// Makes a new journal of what is whole in the damaged one, and puts it in its place.
///
/// The new journal is made beside the old one, and takes its place only when it is whole and synced. A crash at any
/// instant leaves either the damaged journal where it was, so that the next start begins again, or a new one that
/// [`finish_interrupted`] puts there.
///
/// # Errors
/// When files cannot be read or moved, or the new journal cannot be written. The damaged files are still there then.
pub(super) fn salvage(settings: &config::Journal, why: &JournalError) -> Result<(), JournalError> {
    let dir = &settings.dir;
    let folder = |action| move |source| JournalError::Folder { path: dir.clone(), action, source };
    tracing::error!(error = %why, "the journal is damaged; its files are searched for reports");
    let new = beside(dir, "salvaging");
    let store = Store::open(&new, settings.lanes, settings.cache_bytes)?;
    let mut salvaged = Salvaged {
        store,
        lanes: settings.lanes,
        entries: 0,
        dead: 0,
        highest: 0,
        given_out: log::synced(dir).max(recent::stamp(dir)),
    };
    offline::search(dir, |value, bytes| salvaged.take_over(value, bytes))?;
    salvaged.finish()?;
    let aside = (1..).map(|n| beside(dir, &format!("damaged-{n}"))).find(|path| !path.exists());
    let aside = aside.expect("some number is free");
    fs::rename(dir, &aside).map_err(folder("move aside the damaged"))?;
    finish_interrupted(dir)?;
    tracing::error!(damaged = %aside.display(), "the damaged journal is kept there, and what is whole of it goes on");
    Ok(())
}

/// Puts a salvaged journal in its place, or removes one that was not finished.
///
/// # Errors
/// When it can be neither moved nor removed.
pub(super) fn finish_interrupted(dir: &Path) -> Result<(), JournalError> {
    let new = beside(dir, "salvaging");
    let folder = |action| move |source| JournalError::Folder { path: dir.to_owned(), action, source };
    if !new.exists() {
        return Ok(());
    }
    if dir.exists() {
        return fs::remove_dir_all(&new).map_err(folder("remove what a salvage left beside"));
    }
    let moved = fs::rename(&new, dir).and_then(|()| File::open(dir.canonicalize()?.join(".."))?.sync_all());
    moved.map_err(folder("put the salvaged journal in the place of"))
}

/// A path beside the journal's folder, named after it.
fn beside(dir: &Path, what: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(format!(".{what}"));
    PathBuf::from(name)
}

struct Salvaged {
    store: Store,
    lanes: Lane,
    entries: u64,
    dead: u64,
    highest: u64,
    /// The last position that the damaged one gave out, as far as it is known.
    given_out: u64,
}

impl Salvaged {
    fn take_over(&mut self, value: Value, bytes: &Bytes) -> Result<(), JournalError> {
        match &value {
            Value::Entry(entry) => {
                let lane = crc32fast::hash(entry.id.as_bytes()) % u32::from(self.lanes);
                self.store.insert(lane as Lane, &value.key(), bytes)?;
                self.highest = self.highest.max(entry.last().0);
                self.entries += 1;
            }
            Value::DeadLetter(_) => {
                self.store.keep_dead(&value.key(), bytes)?;
                self.dead += 1;
            }
        }
        if (self.entries + self.dead).is_multiple_of(SYNC_EVERY) {
            self.store.sync_trees(Position(self.highest))?;
        }
        Ok(())
    }

    /// Positions go on above all that was found, and above the clock: the last stamp may be among what is damaged.
    fn finish(self) -> Result<(), JournalError> {
        self.store.sync_trees(Position(self.highest.max(self.given_out).max(now_micros()) + MARGIN))?;
        let Self { entries, dead, .. } = self;
        tracing::error!(
            entries,
            dead_letters = dead,
            "what is whole of the damaged journal goes on; settled reports among it are stored no second time, and ids that \
             were paused are drained"
        );
        Ok(())
    }
}
