//! What to do with files that the storage cannot open: every entry and dead letter that is whole in their bytes goes
//! into a new journal, the files are moved aside, and the node goes on.
//!
//! The log of the storage has entries that were settled long ago, too. They are drained again and found in the sink:
//! duplicates, not rows. A dead letter that was discarded may come back, which is why the log says what happened.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::commit::now_micros;
use super::dead_letters::{self, LETTER};
use super::entry::{self, ENTRY, HEADER_BYTES, MAX_BODY_BYTES};
use super::error::JournalError;
use super::lanes::Lane;
use super::log;
use super::store::Store;
use crate::config;
use crate::report::Position;

/// How much of a file is read at a time; more than any value has.
const CHUNK_BYTES: usize = 4 << 20;
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
    let mut salvaged =
        Salvaged { store, lanes: settings.lanes, entries: 0, dead: 0, highest: 0, synced: log::synced(dir) };
    let mut files = vec![dir.join("db")];
    // Pages that the storage kept in files of their own.
    if let Ok(blobs) = fs::read_dir(dir.join("blobs")) {
        files.extend(blobs.filter_map(Result::ok).map(|blob| blob.path()));
    }
    for file in files {
        match File::open(&file) {
            Ok(file) => salvaged.search(file).map_err(folder("search"))??,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(folder("search")(error)),
        }
    }
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
    /// How far the damaged one was synced, as far as it is known.
    synced: u64,
}

impl Salvaged {
    /// Searches a file from its first byte to its last.
    fn search(&mut self, mut file: File) -> io::Result<Result<(), JournalError>> {
        let mut bytes = Vec::new();
        loop {
            let read = Read::by_ref(&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut bytes)?;
            let is_last = read == 0;
            match self.search_bytes(&bytes, is_last) {
                Ok(searched) => bytes.drain(..searched),
                Err(error) => return Ok(Err(error)),
            };
            if is_last {
                return Ok(Ok(()));
            }
        }
    }

    /// Takes over every value that is whole in `bytes`; returns up to where they were searched. What begins behind that
    /// may go on in the next chunk, if there is one.
    fn search_bytes(&mut self, bytes: &[u8], is_last: bool) -> Result<usize, JournalError> {
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(HEADER_BYTES).position(is_header) {
            at += found;
            let length = HEADER_BYTES + entry::body_length(&bytes[at..]);
            match bytes.get(at..at + length) {
                Some(value) => at += if self.take_over(value)? { length } else { 1 },
                None if is_last => at += 1,
                None => return Ok(at),
            }
        }
        Ok(bytes.len().saturating_sub(HEADER_BYTES - 1).max(at))
    }

    /// Keeps a value, if it is one.
    fn take_over(&mut self, value: &[u8]) -> Result<bool, JournalError> {
        let value = Bytes::copy_from_slice(value);
        if let Ok(entry) = entry::decode_value(&value) {
            let mut key = Vec::new();
            entry::encode_key(&entry.id, entry.first, &mut key);
            let lane = crc32fast::hash(entry.id.as_bytes()) % u32::from(self.lanes);
            self.store.insert(lane as Lane, &key, &value)?;
            self.highest = self.highest.max(entry.last().0);
            self.entries += 1;
        } else if let Ok(letter) = dead_letters::decode_value(&value) {
            self.store.keep_dead(&dead_letters::key(&letter.id, letter.report.number), &value)?;
            self.dead += 1;
        } else {
            return Ok(false);
        }
        if (self.entries + self.dead).is_multiple_of(SYNC_EVERY) {
            self.store.sync()?;
        }
        Ok(true)
    }

    /// Positions go on above all that was found, and above the clock: the last stamp may be among what is damaged.
    fn finish(self) -> Result<(), JournalError> {
        self.store.set_stamp(Position(self.highest.max(self.synced).max(now_micros()) + MARGIN))?;
        self.store.sync()?;
        let Self { entries, dead, .. } = self;
        tracing::error!(
            entries,
            dead_letters = dead,
            "what is whole of the damaged journal goes on; settled reports among it are stored no second time"
        );
        Ok(())
    }
}

/// Whether a value may begin here.
fn is_header(bytes: &[u8]) -> bool {
    (bytes[1..4] == ENTRY || bytes[1..4] == LETTER) && entry::body_length(bytes) <= MAX_BODY_BYTES
}
