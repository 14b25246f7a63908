//! A journal that no node has open: what of it is whole, and all that can be read.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::bundle::{self, KINDS, is_settlements};
use super::entry::{self, ENTRY, Entry};
use super::error::{Damage, JournalError};
use super::identity::{Identity, Known};
use super::lock::Lock;
use super::log::{self, Hole};
use super::seal::{HEADER_BYTES, MAX_BODY_BYTES, Seal, body_length};
use super::set_aside::SetAside;
use super::store::{self, Store};
use super::unreadable::{self, Parts};
use super::value::Value;
use super::{dead_letters, dead_letters::LETTER, files, guarded, pauses, place};
use crate::report::{Id, Position};

/// How much of a file is read at a time; more than any value has.
const CHUNK_BYTES: usize = 4 << 20;
/// What the storage may keep in memory while a journal is examined.
const CACHE_BYTES: u64 = 64 << 20;

/// What was found in a journal's folder.
#[derive(Debug, Default)]
pub struct Examined {
    /// Parts of the log that cannot be read. The next start salvages what is whole, and keeps the files.
    pub holes: Vec<Hole>,
    /// Why the storage could not read the files, where it could not.
    pub unreadable: Option<String>,
    /// Values that are damaged, by the name of their tree and their key, with the reason.
    pub damaged: Vec<(String, Damage)>,
    /// Paused ids. Damaged files that had to be searched say nothing of pauses.
    pub paused: usize,
    /// What was set aside earlier.
    pub set_aside: Vec<SetAside>,
}

impl Examined {
    /// Whether nothing is damaged now.
    pub fn is_whole(&self) -> bool {
        self.holes.is_empty() && self.unreadable.is_none() && self.damaged.is_empty()
    }

    /// Whether the values are those that the files' bytes have, drained ones among them: the storage could not tell.
    pub fn is_searched(&self) -> bool {
        !self.holes.is_empty() || self.unreadable.is_some()
    }
}

/// Examines the journal in `dir` and gives every readable value to `each`, as the storage has them, or, where the files
/// are damaged, as they are found in their bytes. Removes nothing.
///
/// # Errors
/// When there is no journal, a node has it open, a file cannot be read, or `each` fails.
pub fn examine(dir: &Path, mut each: impl FnMut(Value) -> Result<(), JournalError>) -> Result<Examined, JournalError> {
    let failed = |action| move |source| JournalError::Folder { path: dir.to_owned(), action, source };
    let Some(_lock) = Lock::of_existing(dir)? else {
        let source = io::Error::new(io::ErrorKind::NotFound, "there is no journal in it");
        return Err(failed("look into")(source));
    };
    place::finish_moves(dir).map_err(|error| error.or_read_only(dir))?;
    // Held while the log is read: a process of an earlier version has no other lock.
    let locked = log::lock(dir)?;
    let identity = match store::known(dir)? {
        Known::Sealed(identity) => Some(identity),
        Known::New | Known::Unsealed => None,
    };
    let seal = identity.as_ref().map_or_else(Seal::none, |identity| Seal::of(&identity.secret));
    let mut examined = Examined { holes: log::inspect(dir, &seal)?, ..Examined::default() };
    let small = unreadable::small_files(dir).map_err(failed("read the small files of"))?;
    examined.damaged.extend(small.into_iter().map(|file| (file.name, Damage::Unreadable)));
    if examined.holes.is_empty() {
        drop(locked);
        match guarded(|| check_trees(dir, identity.as_ref(), &mut examined)) {
            Ok(store) => return read_trees(&store, each).map(|()| examined),
            Err(error) => {
                let why = unreadable::as_damage(dir, error).map_err(|error| error.or_read_only(dir))?;
                examined.unreadable = Some(why.to_string());
            }
        }
    }
    let mut found = HashSet::new();
    search(dir, &seal, |value| if found.insert(value.key(&seal)) { each(value) } else { Ok(()) })?;
    Ok(examined)
}

/// Opens the trees as a start does, and reads all of them once.
fn check_trees(dir: &Path, identity: Option<&Identity>, examined: &mut Examined) -> Result<Store, JournalError> {
    let store = Store::open(dir, CACHE_BYTES, identity)?;
    each_value(&store, |place, value| {
        if let Err(damage) = value {
            examined.damaged.push((place.to_owned(), damage));
        }
        Ok(())
    })?;
    for pair in store.scan_paused() {
        let (key, value) = pair?;
        match pauses::decode(store.seal(), &key, &value) {
            Ok(_) => examined.paused += 1,
            Err(damage) => examined.damaged.push((format!("paused/{}", pauses::named(store.seal(), &key)), damage)),
        }
    }
    for pair in store.damaged_after(&[]) {
        let (key, value) = pair?;
        examined.set_aside.push(SetAside::decode(store.seal(), &key, &value));
    }
    Ok(store)
}

fn read_trees(store: &Store, mut each: impl FnMut(Value) -> Result<(), JournalError>) -> Result<(), JournalError> {
    each_value(store, |_, value| value.map_or(Ok(()), &mut each))
}

/// All entries that are not settled, and all dead letters, with the name of their tree and their key.
pub(super) fn each_value(
    store: &Store,
    mut each: impl FnMut(&str, Result<Value, Damage>) -> Result<(), JournalError>,
) -> Result<(), JournalError> {
    let seal = store.seal();
    // By id: what is settled.
    let mut done: HashMap<Id, Position> = store.settled_in_runs().into_iter().collect();
    for bundle in store.bundles() {
        let whole = entry::whole_values(seal, &bundle?.1, KINDS).filter_map(Result::ok).collect::<Vec<_>>();
        for (_, part) in whole.iter().filter(|(_, part)| is_settlements(part)) {
            for (id, through) in bundle::decode_settlements(seal, part).unwrap_or_default() {
                let done = done.entry(id).or_insert(Position(0));
                *done = through.max(*done);
            }
        }
    }
    store.each_sorted(|block| {
        let (id, _, last) = block.records();
        let done = done.entry(id).or_insert(Position(0));
        if block.is_dead() || last <= *done {
            *done = last.max(*done);
            return Ok(());
        }
        for part in block.entries(seal, &block.read()?) {
            match part {
                Ok((entry, _)) if entry.last() <= *done => {}
                part => each(&block.name(), part.map(|(entry, _)| Value::Entry(entry)))?,
            }
        }
        // What is in a bundle, too, is this.
        *done = last;
        Ok(())
    })?;
    store.each_earlier(|name, key, value| {
        let place = match entry::decode_key(seal, &key) {
            Some((id, first)) => format!("{name}/{id}/{}", first.0),
            None => format!("{name}/{}", key.escape_ascii()),
        };
        for part in entry::decode_together(seal, &key, &value) {
            let entry = part.map(|(entry, _)| entry);
            if let Ok(entry) = &entry {
                let done = done.entry(entry.id).or_insert(Position(0));
                *done = entry.last().max(*done);
            }
            each(&place, entry.map(Value::Entry))?;
        }
        Ok(())
    })?;
    for bundle in store.bundles() {
        let (number, bundle) = bundle?;
        for part in entry::whole_values(seal, &bundle, KINDS) {
            let entry = match part {
                Ok((_, part)) if is_settlements(&part) => match bundle::decode_settlements(seal, &part) {
                    Ok(_) => continue,
                    Err(damage) => Err(damage),
                },
                Ok((_, part)) => entry::decode_whole(seal, &part),
                Err(damage) => Err(damage),
            };
            let is_done = |entry: &Entry| done.get(&entry.id).is_some_and(|done| entry.last() <= *done);
            if !entry.as_ref().is_ok_and(is_done) {
                each(&format!("recent/{number}"), entry.map(Value::Entry))?;
            }
        }
    }
    for pair in store.scan_dead() {
        let (key, value) = pair?;
        let named = dead_letters::named(seal, &key).map(|key| key.to_string());
        each(
            &format!("dead/{}", named.unwrap_or_else(|| key.escape_ascii().to_string())),
            Value::decode_under(seal, &key, &value),
        )?;
    }
    Ok(())
}

/// Gives every value that has this seal and is whole in the files' bytes to `each`: also those that were settled long
/// ago, and some of them twice.
pub(super) fn search(
    dir: &Path,
    seal: &Seal,
    mut each: impl FnMut(Value) -> Result<(), JournalError>,
) -> Result<(), JournalError> {
    let folder = |source| JournalError::Folder { path: dir.to_owned(), action: "search", source };
    let mut paths = vec![dir.join(files::DB)];
    // Bundles, and pages that sled kept in files of their own.
    for folder in [files::RECENT, files::RUNS, files::BLOBS] {
        let found = fs::read_dir(dir.join(folder)).into_iter().flatten();
        paths.extend(found.filter_map(Result::ok).map(|file| file.path()));
    }
    for file in paths {
        match File::open(&file) {
            Ok(file) => search_file(file, seal, &mut each).map_err(folder)??,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(folder(error)),
        }
    }
    Ok(())
}

/// Searches a file from its first byte to its last; what the disk does not give back has no value in it.
fn search_file(
    file: File,
    seal: &Seal,
    each: &mut impl FnMut(Value) -> Result<(), JournalError>,
) -> io::Result<Result<(), JournalError>> {
    let (mut bytes, mut at) = (Vec::new(), 0);
    let length = file.metadata()?.len();
    loop {
        let begun = bytes.len();
        bytes.resize(begun + CHUNK_BYTES.min((length - at) as usize), 0);
        let read = unreadable::read_at(&file, &mut bytes[begun..], at, &mut Parts::new())?;
        bytes.truncate(begun + read);
        at += read as u64;
        let is_last = read == 0;
        match search_bytes(&bytes, is_last, seal, each) {
            Ok(searched) => bytes.drain(..searched),
            Err(error) => return Ok(Err(error)),
        };
        if is_last {
            return Ok(Ok(()));
        }
    }
}

/// Finds every value that is whole in `bytes`; returns up to where they were searched. What begins behind that may go
/// on in the next chunk, if there is one.
fn search_bytes(
    bytes: &[u8],
    is_last: bool,
    seal: &Seal,
    each: &mut impl FnMut(Value) -> Result<(), JournalError>,
) -> Result<usize, JournalError> {
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(HEADER_BYTES).position(|header| is_header(seal, header)) {
        at += found;
        let length = HEADER_BYTES + body_length(&bytes[at..]);
        match bytes.get(at..at + length) {
            Some(value) => match Value::decode(seal, &Bytes::copy_from_slice(value)) {
                Ok(value) => {
                    each(value)?;
                    at += length;
                }
                Err(_) => at += 1,
            },
            None if is_last => at += 1,
            None => return Ok(at),
        }
    }
    Ok(bytes.len().saturating_sub(HEADER_BYTES - 1).max(at))
}

/// Whether a value may begin here.
fn is_header(seal: &Seal, bytes: &[u8]) -> bool {
    [ENTRY, LETTER].iter().any(|&kind| seal.is_header_of(kind, bytes)) && body_length(bytes) <= MAX_BODY_BYTES
}
