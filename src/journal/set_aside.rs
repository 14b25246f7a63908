//! What was set aside as damaged, and what is known of it.
//!
//! ```text
//! key    where it was: `runs/`, the number of the run, and where its block begins; or `recent/`, the number of the
//!        bundle, and the first position of the entry
//! value  header with "FBA" (`seal.rs`) | bincode of what is known | the bytes as they were found
//! ```
//!
//! Reports that are counted and cannot be read any more are dead in the audit. They are listed here as well: under
//! `lost/`, the id and the last position that was read over them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Journal;
use super::bundle::Spot;
use super::commit::now_micros;
use super::entry::{self, Appender, ENCODING};
use super::error::{Damage, JournalError};
use super::seal::{HEADER_BYTES, Magic, Seal, body_length};
use super::store::{SortedBlock, Store};
use crate::report::{Id, Position};

/// What a value begins with, behind its version.
const ASIDE: Magic = *b"FBA";

/// Something that is damaged and was set aside, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// What names it: opaque, for the next page of a list.
    pub key: String,
    /// Where it was.
    pub place: String,
    /// Whose records it had.
    pub id: Option<Id>,
    /// The position of the first of them.
    pub first: Option<Position>,
    /// The position of the last.
    pub last: Option<Position>,
    /// Reports that are dead in the audit by it. None where they were never counted: it was found at a start.
    pub reports: Option<u64>,
    /// Its length.
    pub bytes: u64,
    /// What is wrong with it.
    pub damage: String,
    /// When it was found, in microseconds of the epoch.
    pub at: u64,
}

#[derive(Serialize, Deserialize)]
struct AsideBody<'a> {
    place: &'a str,
    id: Option<&'a str>,
    first: Option<u64>,
    last: Option<u64>,
    reports: Option<u64>,
    damage: &'a str,
    at: u64,
}

/// A value that is damaged, or a part of it.
#[derive(Debug)]
pub(super) struct Damaged {
    /// Its key among what was set aside.
    key: Vec<u8>,
    known: SetAside,
    value: Bytes,
}

impl Damaged {
    /// A block of a run.
    pub(super) fn sorted(block: &SortedBlock, value: Bytes) -> Self {
        let name = block.name();
        let damaged = Self::new(name.clone().into_bytes(), name, value);
        let (id, first, last) = block.records();
        Self { known: SetAside { id: Some(id), first: Some(first), last: Some(last), ..damaged.known }, ..damaged }
    }

    /// A value of a tree of an earlier version, by the names of both.
    pub(super) fn in_tree(seal: &Seal, tree: &str, key: &[u8], value: Bytes) -> Self {
        let known = entry::decode_key(seal, key);
        let place = match known {
            Some((id, first)) => format!("{tree}/{id}/{}", first.0),
            None => format!("{tree}/{}", key.escape_ascii()),
        };
        let damaged = Self::new([tree.as_bytes(), b"/", key].concat(), place, value);
        let (id, first) = (known.map(|(id, _)| id), known.map(|(_, first)| first));
        Self { known: SetAside { id, first, ..damaged.known }, ..damaged }
    }

    /// A bundle.
    pub(super) fn bundle(number: u64, value: Bytes) -> Self {
        let name = bundle_name(number);
        Self::new(name.clone().into_bytes(), name, value)
    }

    /// An entry in a bundle.
    pub(super) fn entry(id: Id, spot: &Spot, value: Bytes) -> Self {
        let name = format!("{}/{}", bundle_name(spot.bundle), spot.first.0);
        let damaged = Self::new(name.clone().into_bytes(), name, value);
        let (first, last) = (Some(spot.first), Some(spot.last()));
        Self { known: SetAside { id: Some(id), first, last, ..damaged.known }, ..damaged }
    }

    /// Reports that are counted and were not found among what was read of an id through this position.
    pub(super) fn lost(seal: &Seal, id: Id, through: Position, reports: u64) -> Self {
        let mut key = Vec::new();
        entry::encode_key(seal, &id, through, &mut key);
        let damaged = Self::new([b"lost/", &key[..]].concat(), format!("lost/{id}/{}", through.0), Bytes::new());
        let known = SetAside { id: Some(id), last: Some(through), reports: Some(reports), ..damaged.known };
        Self { known, ..damaged }.because("what had them is damaged".to_owned())
    }

    fn new(key: Vec<u8>, place: String, value: Bytes) -> Self {
        let known = SetAside {
            key: hex(&key),
            place,
            id: None,
            first: None,
            last: None,
            reports: None,
            bytes: value.len() as u64,
            damage: String::new(),
            at: now_micros(),
        };
        Self { key, known, value }
    }

    /// Says so in the log.
    pub(super) fn say(self, damage: Damage) -> Self {
        let SetAside { place, id, .. } = &self.known;
        let id = id.map(tracing::field::display);
        tracing::error!(place, id, %damage, "a damaged entry was set aside");
        self.because(damage.to_string())
    }

    fn because(self, damage: String) -> Self {
        Self { known: SetAside { damage, ..self.known }, ..self }
    }

    /// What names it among what was set aside.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Copies it aside.
    pub(super) fn set_aside(&self, store: &Store) -> Result<(), JournalError> {
        let mut value = Vec::new();
        self.known.encode(store.seal(), &mut value);
        value.extend_from_slice(&self.value);
        store.set_aside(&self.key, &value)
    }
}

impl SetAside {
    fn encode(&self, seal: &Seal, value: &mut Vec<u8>) {
        let Self { place, id, first, last, reports, damage, at, .. } = self;
        let id = id.as_ref().map(Id::as_str);
        let (first, last) = (first.map(|first| first.0), last.map(|last| last.0));
        let body = AsideBody { place, id, first, last, reports: *reports, damage, at: *at };
        seal.frame(ASIDE, value, |value| {
            bincode::serde::encode_into_writer(&body, Appender(value), ENCODING)
                .expect("writing to memory cannot fail");
        });
    }

    /// Reads one; where even that is damaged, no more than its place is known.
    pub(super) fn decode(seal: &Seal, key: &[u8], value: &[u8]) -> Self {
        let mut known = Damaged::new(key.to_vec(), key.escape_ascii().to_string(), Bytes::new()).known;
        (known.at, known.bytes, known.damage) = (0, value.len() as u64, Damage::Content.to_string());
        let length = value.get(..HEADER_BYTES).map_or(0, |header| HEADER_BYTES.saturating_add(body_length(header)));
        let opened = value.get(..length).and_then(|value| seal.unframe(ASIDE, value).ok());
        let Some(opened) = opened else { return known };
        let body = bincode::serde::borrow_decode_from_slice(&opened[HEADER_BYTES..], ENCODING);
        let Ok((AsideBody { place, id, first, last, reports, damage, at }, _)) = body else { return known };
        let id = id.and_then(|id| Id::new(id).ok());
        let (first, last) = (first.map(Position), last.map(Position));
        let (place, damage, bytes) = (place.to_owned(), damage.to_owned(), (value.len() - length) as u64);
        Self { place, id, first, last, reports, bytes, damage, at, ..known }
    }
}

impl Journal {
    /// Up to `limit` of what was set aside as damaged, behind the one with the key `after`. Reads the disk.
    ///
    /// # Errors
    /// When the storage cannot be read.
    pub fn set_aside(&self, after: Option<&str>, limit: usize) -> Result<Vec<SetAside>, JournalError> {
        let store = &self.shared.store;
        let after = after.map_or_else(Vec::new, unhex);
        let found = store.damaged_after(&after).take(limit);
        found.map(|pair| pair.map(|(key, value)| SetAside::decode(store.seal(), &key, &value))).collect()
    }
}

/// What a bundle is called among what was set aside.
pub(super) fn bundle_name(number: u64) -> String {
    format!("recent/{number}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that a text in hexadecimal has, as far as it is one.
fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map_while(byte).collect()
}
