//! The journal's files, and what makes them durable: the trees, of which no other file speaks to sled, the bundles
//! (`store/recent.rs`) and the runs (`store/runs`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use super::bundle::{Heading, Spot};
use super::claims::{self, Claims};
use super::error::JournalError;
use super::files;
use super::identity::{self, Identity, Known};
use super::log::{self, SEGMENT_BYTES, Synced};
use super::private;
use super::seal::Seal;
use crate::panics::{Panicked, contain};
use crate::report::Position;
use recent::Recent;
use runs::Runs;

pub(super) mod recent;
pub(super) mod runs;
mod sorted;

pub(super) use sorted::SortedBlock;

/// The most that a value may have, so that no leaf outgrows a quarter of a segment. A leaf has at most 20 entries: 16,
/// one that splits it, three of a merged neighbour.
pub(super) const MAX_VALUE_BYTES: usize = 100 * 1024;
const _: () = assert!(20 * (MAX_VALUE_BYTES + 96) < SEGMENT_BYTES / 4);

const STAMP_KEY: &[u8] = b"stamp";

/// The journal's files, open.
pub(super) struct Store {
    dir: PathBuf,
    /// What all values in them are sealed with.
    seal: Seal,
    /// A handle of our own to sled's file: `flush` writes it, and only `sync_data` makes it durable.
    file: File,
    synced: Synced,
    recent: Recent,
    runs: Runs,
    /// `None` once it is closed.
    trees: Option<Trees>,
    /// Whether a tree was changed since it was synced.
    trees_changed: AtomicBool,
}

struct Trees {
    db: sled::Db,
    meta: sled::Tree,
    /// Dead letters by id, source and seq.
    dead: sled::Tree,
    /// What is damaged, as it was found, by where it was.
    damaged: sled::Tree,
    /// Paused ids.
    paused: sled::Tree,
}

impl Store {
    /// Opens the files, making what is missing, and syncs all names that sled made but did not sync. Without an
    /// identity they are those of version 1.
    pub(super) fn open(dir: &Path, cache_bytes: u64, identity: Option<&Identity>) -> Result<Self, JournalError> {
        let seal = identity.map_or_else(Seal::none, |identity| Seal::of(&identity.secret));
        let folder = |action| move |source| JournalError::Folder { path: dir.to_owned(), action, source };
        private::make_folder(dir).map_err(folder("make the folder"))?;
        files::remove_half_made(dir).map_err(folder("remove half-made files"))?;
        let config = config()?.path(dir).segment_size(SEGMENT_BYTES).cache_capacity(cache_bytes).flush_every_ms(None);
        let db = config.open().map_err(|e| open_error(dir, e))?;
        // Behind sled's lock: it writes, too.
        let recent = Recent::open(dir, log::synced_bundle(dir, &seal), &seal, identity)?;
        let runs = Runs::open(dir, &seal, identity)?;
        let tree = |name: &str| db.open_tree(name).map_err(JournalError::storage("open a tree"));
        let trees =
            Trees { meta: tree("meta")?, dead: tree("dead")?, damaged: tree("damaged")?, paused: tree("paused")?, db };
        if identity.is_none() {
            take_over_bundles(&trees.db, &recent)?;
        }
        let store = Self {
            file: File::options().write(true).open(dir.join(files::DB)).map_err(folder("open the file db of"))?,
            synced: Synced::open(dir, &seal).map_err(folder("open the file synced of"))?,
            dir: dir.to_owned(),
            seal,
            recent,
            runs,
            trees: Some(trees),
            trees_changed: AtomicBool::new(true),
        };
        store.flush()?;
        private::protect(dir)?;
        files::sync_names(dir).map_err(folder("sync the names in"))?;
        Ok(store)
    }

    /// What all values are sealed with.
    pub(super) fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Keeps who the journal is, durably.
    pub(super) fn keep_identity(&self, identity: &Identity) -> Result<(), JournalError> {
        let kept = identity.write(&self.dir).and_then(|()| self.synced.keep_identity(&identity.encode()));
        kept.map_err(self.identity_failed("write the file"))
    }

    /// What is known of the journal's claims in the sink.
    pub(super) fn claims(&self) -> Result<Option<Claims>, JournalError> {
        claims::read(&self.dir).map_err(self.identity_failed("read the claims beside the file"))
    }

    /// Keeps the claims, durably.
    pub(super) fn keep_claims(&self, claims: Claims) -> Result<(), JournalError> {
        claims::write(&self.dir, claims).map_err(self.identity_failed("write the claims beside the file"))
    }

    /// A random number.
    pub(super) fn random(&self) -> Result<u64, JournalError> {
        identity::random().map_err(self.identity_failed("choose a random number for the file"))
    }

    fn identity_failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> JournalError {
        let path = self.dir.join(files::IDENTITY);
        move |source| JournalError::Folder { path, action, source }
    }

    /// Entries that wait for long.
    pub(super) fn runs(&self) -> &Runs {
        &self.runs
    }

    /// Whether entries wait in trees, as they did before there were runs.
    pub(super) fn has_earlier_entries(&self) -> Result<bool, JournalError> {
        let lanes: Result<Vec<_>, _> = self.lanes().collect();
        Ok(lanes?.iter().any(|(_, tree)| !tree.is_empty()))
    }

    /// Gives each value that waits there to `each`, with the name of its tree and its key, in order of key within it.
    pub(super) fn each_earlier(
        &self,
        mut each: impl FnMut(&str, Vec<u8>, Bytes) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        for lane in self.lanes() {
            let (name, tree) = lane?;
            for pair in tree.iter().map(owned) {
                let (key, value) = pair?;
                each(&name, key, value)?;
            }
        }
        Ok(())
    }

    /// Removes the trees that they wait in, durably.
    pub(super) fn remove_earlier_entries(&self) -> Result<(), JournalError> {
        for lane in self.lanes() {
            self.trees().db.drop_tree(lane?.0).map_err(JournalError::storage("drop a tree"))?;
        }
        self.flush()
    }

    fn lanes(&self) -> impl Iterator<Item = Result<(String, sled::Tree), JournalError>> {
        let db = &self.trees().db;
        let names = db.tree_names().into_iter().filter_map(|name| Some(std::str::from_utf8(&name).ok()?.to_owned()));
        names.filter(|name| name.starts_with("lane-")).map(|name| {
            let tree = db.open_tree(&name).map_err(JournalError::storage("open a tree"))?;
            Ok((name, tree))
        })
    }

    /// Writes a bundle. Durable after the next [`Store::sync_bundles`].
    pub(super) fn add_bundle(&self, heading: Heading, value: &[u8]) -> Result<(), JournalError> {
        debug_assert!(value.len() <= MAX_VALUE_BYTES);
        self.recent.add(heading, value)
    }

    /// The bundle with this number, unless it was removed.
    pub(super) fn bundle(&self, number: u64) -> Result<Option<Bytes>, JournalError> {
        self.recent.read_whole(number)
    }

    /// The entry at this place, unless its bundle was removed.
    pub(super) fn entry_at(&self, spot: &Spot) -> Result<Option<Bytes>, JournalError> {
        self.recent.read(spot.bundle, spot.range())
    }

    /// The numbers of the bundles from `from` through `through` that are not removed, in order.
    pub(super) fn bundle_numbers(&self, from: u64, through: u64) -> Vec<u64> {
        self.recent.numbers_in(from, through)
    }

    /// Removes a bundle. The heading of the next one says so.
    pub(super) fn remove_bundle(&self, number: u64) {
        self.recent.remove(number);
    }

    /// All bundles with their numbers, in order of number.
    pub(super) fn bundles(&self) -> impl DoubleEndedIterator<Item = Result<(u64, Bytes), JournalError>> {
        let bundle = |number| self.bundle(number).transpose().map(|bundle| bundle.map(|bundle| (number, bundle)));
        self.recent.numbers().into_iter().filter_map(bundle)
    }

    /// The number of the next bundle, and the oldest that is not gone, as far as the last heading says.
    pub(super) fn next_and_oldest_bundle(&self) -> (u64, u64) {
        self.recent.next_and_oldest()
    }

    /// What was set aside, in order of key, that behind `after`.
    pub(super) fn damaged_after(
        &self,
        after: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Bytes), JournalError>> + use<> {
        self.trees().damaged.range::<&[u8], _>((Bound::Excluded(after), Bound::Unbounded)).map(owned)
    }

    /// All dead letters, in order of key.
    pub(super) fn scan_dead(&self) -> impl Iterator<Item = Result<(Vec<u8>, Bytes), JournalError>> + use<> {
        self.trees().dead.iter().map(owned)
    }

    /// All pauses, in order of key.
    pub(super) fn scan_paused(&self) -> impl Iterator<Item = Result<(Vec<u8>, Bytes), JournalError>> + use<> {
        self.trees().paused.iter().map(owned)
    }

    /// Keeps the pause with this key, or removes it where `value` is none. Durable after [`Store::sync_trees`].
    pub(super) fn set_paused(&self, key: &[u8], value: Option<&Vec<u8>>) -> Result<(), JournalError> {
        let changed = match value {
            Some(value) => self.changed().paused.insert(key, value.as_slice()),
            None => self.changed().paused.remove(key),
        };
        changed.map(drop).map_err(JournalError::storage("pause or resume an id"))
    }

    /// Keeps a dead letter unless its key is there already; true when it is new. Durable after the next
    /// [`Store::sync_trees`].
    pub(super) fn keep_dead(&self, key: &[u8], value: &[u8]) -> Result<bool, JournalError> {
        debug_assert!(value.len() <= MAX_VALUE_BYTES);
        let known = self.trees().dead.contains_key(key).map_err(JournalError::storage("read the dead letters"))?;
        if !known {
            self.changed().dead.insert(key, value).map_err(JournalError::storage("write a dead letter"))?;
        }
        Ok(!known)
    }

    /// Dead letters in order of key, those behind `after`.
    pub(super) fn dead_after(
        &self,
        after: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Bytes), JournalError>> + use<> {
        self.trees().dead.range::<&[u8], _>((Bound::Excluded(after), Bound::Unbounded)).map(owned)
    }

    /// The dead letter with this key.
    pub(super) fn dead_letter(&self, key: &[u8]) -> Result<Option<Bytes>, JournalError> {
        let value = self.trees().dead.get(key).map_err(JournalError::storage("read a dead letter"))?;
        Ok(value.map(Bytes::from_owner))
    }

    /// Puts another value in the place of a dead letter's, or removes it where `value` is none; the length of the old
    /// one, if it was there. Durable after the next [`Store::sync_trees`].
    pub(super) fn change_dead(&self, key: &[u8], value: Option<&[u8]>) -> Result<Option<usize>, JournalError> {
        let old = match value {
            Some(value) => self.changed().dead.insert(key, value),
            None => self.changed().dead.remove(key),
        };
        Ok(old.map_err(JournalError::storage("change a dead letter"))?.map(|old| old.len()))
    }

    /// Whether something was set aside under this name.
    pub(super) fn is_set_aside(&self, name: &[u8]) -> Result<bool, JournalError> {
        self.trees().damaged.contains_key(name).map_err(JournalError::storage("read what was set aside"))
    }

    /// Copies a value that is damaged into the set-aside tree, under this name.
    pub(super) fn set_aside(&self, name: &[u8], value: &[u8]) -> Result<(), JournalError> {
        let kept = self.changed().damaged.insert(name, value);
        kept.map(drop).map_err(JournalError::storage("set a damaged entry aside"))
    }

    /// The last position that was given out; 0 in a new journal.
    pub(super) fn stamp(&self) -> Result<u64, JournalError> {
        let value = self.trees().meta.get(STAMP_KEY).map_err(JournalError::storage("read the last position"))?;
        let stamp = value.and_then(|value| log::stamped(&self.seal, &value)).unwrap_or(0);
        Ok(stamp.max(log::synced(&self.dir, &self.seal)).max(self.recent.stamp()))
    }

    /// Makes durable all bundles that were written before, and notes it, so that the next start misses what is gone.
    ///
    /// # Errors
    /// Final, as of [`Store::sync_trees`].
    pub(super) fn sync_bundles(&self) -> Result<(), JournalError> {
        let last = self.recent.sync()?;
        self.noted(self.synced.note_bundle(last))
    }

    /// Whether a tree was changed since the last [`Store::sync_trees`].
    pub(super) fn trees_are_changed(&self) -> bool {
        self.trees_changed.load(Ordering::Relaxed)
    }

    /// Makes durable all that was done to trees before, and notes it. `stamp` is a position that no sync had before.
    ///
    /// # Errors
    /// Final: what the system dropped after a failed sync a second one would not bring back.
    pub(super) fn sync_trees(&self, stamp: Position) -> Result<(), JournalError> {
        let written = self.changed().meta.insert(STAMP_KEY, log::stamp(&self.seal, stamp.0));
        written.map_err(JournalError::storage("write the last position"))?;
        self.flush()?;
        self.noted(self.synced.note(stamp.0))
    }

    /// sled's `flush` hands its buffer to the system (`sync_file_range`, which leaves out the file's length and the
    /// disk's own cache); `sync_data` on the file does the rest.
    fn flush(&self) -> Result<(), JournalError> {
        self.trees().db.flush().map_err(JournalError::storage("flush"))?;
        if cfg!(not(forebay_plant = "sync_by_sled_alone")) {
            self.file.sync_data().map_err(|source| JournalError::Sync { path: self.dir.join(files::DB), source })?;
        }
        self.trees_changed.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn noted(&self, noted: io::Result<()>) -> Result<(), JournalError> {
        let path = || self.dir.join(files::SYNCED);
        noted.map_err(|source| JournalError::Folder { path: path(), action: "write", source })
    }

    /// Bytes that are free on the journal's disk.
    pub(super) fn free_disk(&self) -> Result<u64, JournalError> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|e| JournalError::Folder {
            path: self.dir.clone(),
            action: "ask for the free space of",
            source: e.into(),
        })?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Bytes that the journal's files take on disk.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        self.trees().db.size_on_disk().unwrap_or(0) + self.recent.bytes_on_disk() + self.runs.bytes_on_disk()
    }

    /// Closes the files.
    ///
    /// # Errors
    /// When the storage cannot end as it wants to. All that [`Store::sync_trees`] made durable stays so.
    pub(super) fn close(mut self) -> Result<(), JournalError> {
        self.close_trees()
    }

    /// sled writes and syncs once more when its last handle goes, and panics where that fails.
    fn close_trees(&mut self) -> Result<(), JournalError> {
        let trees = self.trees.take();
        if let Err(error) = private::protect(&self.dir) {
            tracing::warn!(%error, "others may read a part of the journal");
        }
        let closed = contain(|| drop(trees));
        closed.map_err(|Panicked(said)| JournalError::Close { path: self.dir.clone(), said })
    }

    /// The trees, of which one is about to change.
    fn changed(&self) -> &Trees {
        self.trees_changed.store(true, Ordering::Relaxed);
        self.trees()
    }

    fn trees(&self) -> &Trees {
        self.trees.as_ref().expect("only a store that is dropped has none")
    }

    /// Puts a value where those waited before there were runs.
    #[cfg(test)]
    pub(super) fn put_earlier(&self, lane: &str, key: &[u8], value: &[u8]) {
        let tree = self.trees().db.open_tree(lane).expect("a sound log");
        tree.insert(key, value).expect("a sound log");
    }

    /// Puts these bytes in the place of a bundle, which is as long.
    #[cfg(test)]
    pub(super) fn spoil_bundle(&self, number: u64, value: &[u8]) {
        self.recent.spoil(number, value);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.close_trees() {
            tracing::error!(%error, "the journal is not closed as it should be");
        }
    }
}

/// What is known of who the journal in `dir` is.
pub(super) fn known(dir: &Path) -> Result<Known, JournalError> {
    let path = || dir.join(files::IDENTITY);
    Known::of(dir).map_err(|source| JournalError::Folder { path: path(), action: "read the file", source })
}

pub(super) fn owned(pair: sled::Result<(sled::IVec, sled::IVec)>) -> Result<(Vec<u8>, Bytes), JournalError> {
    let (key, value) = pair.map_err(JournalError::storage("read entries"))?;
    Ok((key.to_vec(), Bytes::from_owner(value)))
}

/// Bundles were in trees of sled before they had files of their own: what is left there moves into them.
fn take_over_bundles(db: &sled::Db, recent: &Recent) -> Result<(), JournalError> {
    let names: Vec<_> = db.tree_names().into_iter().filter(|name| name.starts_with(b"recent-")).collect();
    let mut bundles = BTreeMap::new();
    for name in &names {
        for pair in db.open_tree(name).map_err(JournalError::storage("open a tree"))?.iter().map(owned) {
            let (key, value) = pair?;
            let number = key.try_into().map(u64::from_be_bytes);
            bundles.insert(number.map_err(|_| JournalError::Damaged("a bundle has no number".to_owned()))?, value);
        }
    }
    let (next, _) = recent.next_and_oldest();
    let oldest = bundles.keys().next().copied().unwrap_or(0);
    let rest = bundles.split_off(&next);
    for number in bundles.into_keys().filter(|&number| !recent.numbers().contains(&number)) {
        tracing::error!(number, "a bundle of an older version is dropped: its number is given out already");
    }
    for (number, value) in rest {
        let heading = Heading { number, oldest, stamp: Position(recent.stamp()) };
        recent.add(heading, &value)?;
    }
    recent.sync()?;
    for name in names {
        db.drop_tree(name).map_err(JournalError::storage("drop a tree"))?;
    }
    Ok(())
}

/// sled's settings, which take the time.
pub(super) fn config() -> Result<sled::Config, JournalError> {
    if SystemTime::now() < SystemTime::UNIX_EPOCH && cfg!(not(forebay_plant = "blame_the_files")) {
        return Err(JournalError::Clock);
    }
    Ok(sled::Config::new())
}

pub(super) fn open_error(dir: &Path, error: sled::Error) -> JournalError {
    match &error {
        sled::Error::Io(e) if e.kind() == io::ErrorKind::WouldBlock || e.to_string().contains("lock") => {
            JournalError::InUse { path: dir.to_owned() }
        }
        _ => JournalError::Storage { action: "be opened", source: error },
    }
}
