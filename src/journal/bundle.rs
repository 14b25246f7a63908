//! Bundles: what one commit wrote, for all of its ids, one entry behind the other.
//!
//! A report that is drained soon costs its share of one bundle, which is written once and never moved. A bundle goes
//! when all its entries are settled and all bundles before it are gone. Bundles beyond `journal.recent_bytes` are
//! sorted: what is not settled of them moves into a run (`sorting.rs`). Where they lie on disk is the business of
//! `store/recent.rs`.
//!
//! ```text
//! bundle        values one behind the other: settlements, then entries (`entry.rs`)
//! settlements   header with "FBS" (`seal.rs`) | body
//! body          bincode 2, standard: list of (id, position): all entries of the id up to this one are settled
//! ```
//!
//! Settlements are of entries in earlier bundles, or in runs; those of runs are kept until the runs' manifest has them.
//! They are not waited for: without them, entries that were settled shortly before a crash are drained again, which
//! changes nothing in the sink.

use std::collections::VecDeque;
use std::ops::Range;

use super::entry::{Appender, ENCODING, ENTRY};
use super::error::Damage;
use super::positions::MAX_FOUND;
use super::seal::{HEADER_BYTES, Magic, Seal};
use super::store::Store;
use crate::report::{Id, Position};

/// A bundle is closed before it outgrows this, unless it is a single entry.
pub(super) const BUNDLE_BYTES: usize = 64 * 1024;
/// Settlements.
const SETTLED: Magic = *b"FBS";
/// What bundles consist of.
pub(super) const KINDS: [Magic; 2] = [ENTRY, SETTLED];
/// Ids in one list of settlements, so that it stays far below the longest body.
const IDS_A_LIST: usize = 512;

/// Where an entry lies among the bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// The number of the bundle.
    pub(super) bundle: u64,
    /// The position of its first record.
    pub(super) first: Position,
    /// How long its value is.
    pub(super) length: u32,
    /// Where its value begins in the bundle: below [`BUNDLE_BYTES`], where it is not the first.
    pub(super) offset: u16,
    /// How many records it has: few share an entry.
    pub(super) records: u16,
}

impl Spot {
    /// None where it is not as a commit writes it.
    pub(super) fn new(bundle: u64, first: Position, at: Range<usize>, records: usize) -> Option<Self> {
        let (length, offset) = (at.len().try_into().ok()?, at.start.try_into().ok()?);
        Some(Self { bundle, first, length, offset, records: records.try_into().ok()? })
    }

    /// The position of its last record.
    pub(super) fn last(&self) -> Position {
        Position(self.first.0 + u64::from(self.records) - 1)
    }

    /// Where the entry's value is, in its bundle.
    pub(super) fn range(&self) -> Range<usize> {
        let (start, length) = (usize::from(self.offset), self.length as usize);
        start..start + length
    }
}

/// What goes to disk with a bundle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heading {
    pub(super) number: u64,
    /// The oldest bundle that is not gone; this one, or the next, where there is none before it.
    pub(super) oldest: u64,
    /// The last position that was given out.
    pub(super) stamp: Position,
}

/// What the commit thread knows of one bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bundle {
    pub(super) number: u64,
    /// Entries that are neither settled nor in a run.
    pub(super) entries: u32,
    /// Its length; 0 once it is sorted.
    pub(super) bytes: u32,
    /// Whether it has settlements.
    pub(super) settles: bool,
}

/// All bundles, kept by the commit thread.
#[derive(Debug, Default)]
pub(super) struct Bundles {
    /// Oldest first.
    all: VecDeque<Bundle>,
    /// Settlements that no bundle has yet.
    settled: VecDeque<(Id, Position)>,
    next: u64,
    /// The oldest, as the last heading says it.
    noted: u64,
    /// Up to here the manifest of the runs has all settlements.
    swept: u64,
    /// Whether the bundle that is being written has settlements.
    settles: bool,
    bytes: u64,
    /// Entries whose places are in memory.
    entries: u64,
    /// How many were added since [`Bundles::added`].
    added: usize,
}

impl Bundles {
    /// As they were found, oldest first.
    pub(super) fn new(found: Vec<Bundle>, (next, noted): (u64, u64)) -> Self {
        let bytes = found.iter().map(|bundle| u64::from(bundle.bytes)).sum();
        let entries = found.iter().map(|bundle| u64::from(bundle.entries)).sum();
        Self { all: found.into(), next, noted, bytes, entries, ..Self::default() }
    }

    /// The number that the next bundle will have.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Bytes of all that were not sorted.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Places of entries that were not sorted, and of the bundles: each takes about as much memory as an entry's and a
    /// half.
    pub(super) fn places(&self) -> u64 {
        self.entries + 2 * self.all.len() as u64
    }

    /// The oldest that is not gone; the next, where there is none.
    fn oldest(&self) -> u64 {
        self.all.front().map_or(self.next, |oldest| oldest.number)
    }

    /// The heading of the next bundle.
    pub(super) fn heading(&self, stamp: Position) -> Heading {
        Heading { number: self.next, oldest: self.oldest(), stamp }
    }

    /// The heading of an empty bundle that says which are gone since the last one, if there are any.
    pub(super) fn mark(&mut self, stamp: Position) -> Option<Heading> {
        if self.noted == self.oldest() {
            return None;
        }
        let number = self.next;
        if self.all.is_empty() {
            // It says of itself that it is gone.
            self.next += 1;
            self.noted = self.next;
        } else {
            self.add(0, 0);
        }
        Some(Heading { number, oldest: self.noted, stamp })
    }

    /// Takes in the bundle that was just written.
    pub(super) fn add(&mut self, entries: u32, bytes: usize) {
        let bytes = u32::try_from(bytes).expect("a bundle is at most MAX_VALUE_BYTES");
        let settles = std::mem::take(&mut self.settles);
        self.all.push_back(Bundle { number: self.next, entries, bytes, settles });
        self.noted = self.oldest();
        self.next += 1;
        self.bytes += u64::from(bytes);
        self.entries += u64::from(entries);
        self.added += 1;
    }

    /// How many were added since this was asked last.
    pub(super) fn added(&mut self) -> usize {
        std::mem::take(&mut self.added)
    }

    /// Notes that all entries of these ids up to these positions are settled.
    pub(super) fn settled(&mut self, ids: Vec<(Id, Position)>) {
        self.settled.extend(ids);
    }

    /// Notes that an entry of the bundle is settled.
    pub(super) fn leave(&mut self, number: u64) {
        if let Ok(at) = self.all.binary_search_by_key(&number, |bundle| bundle.number)
            && self.all[at].entries > 0
        {
            self.all[at].entries -= 1;
            self.entries -= 1;
        }
    }

    /// Notes that all bundles up to `through` are in runs as far as they are not settled, and that their manifest has
    /// all settlements of those up to `swept`.
    pub(super) fn sorted(&mut self, through: u64, swept: u64) {
        for bundle in self.all.iter_mut().take_while(|bundle| bundle.number <= through) {
            self.bytes -= u64::from(std::mem::take(&mut bundle.bytes));
            self.entries -= u64::from(std::mem::take(&mut bundle.entries));
        }
        self.swept = swept;
    }

    /// Removes up to `most` of the oldest bundles, as far as nothing is left of them; whether there were any. Where
    /// nobody `holds_settlements`, those of what is gone are not kept.
    pub(super) fn remove_oldest(&mut self, most: usize, holds_settlements: bool, store: &Store) -> bool {
        let holds = holds_settlements && cfg!(not(forebay_plant = "forget_settlements_of_runs"));
        let (before, swept) = (self.all.len(), self.swept);
        let is_over = |bundle: &&Bundle| bundle.entries == 0 && !(holds && bundle.settles && bundle.number > swept);
        while let Some(oldest) = self.all.front().filter(is_over) {
            if before - self.all.len() == most {
                return true;
            }
            store.remove_bundle(oldest.number);
            self.bytes -= u64::from(oldest.bytes);
            self.all.pop_front();
        }
        if self.all.is_empty() && !holds {
            self.settled.clear();
        }
        self.all.len() < before
    }

    /// Whether there are settlements that no bundle has yet.
    pub(super) fn has_settlements(&self) -> bool {
        !self.settled.is_empty()
    }

    /// Appends the settlements that no bundle has yet to `value`, as many as leave room for an entry.
    pub(super) fn write_settlements(&mut self, seal: &Seal, value: &mut Vec<u8>) {
        self.settles = !self.settled.is_empty();
        while !self.settled.is_empty() && value.len() < BUNDLE_BYTES / 2 {
            let body: Vec<_> =
                self.settled.iter().take(IDS_A_LIST).map(|(id, through)| (id.as_str(), through.0)).collect();
            seal.frame(SETTLED, value, |value| {
                bincode::serde::encode_into_writer(&body, Appender(value), ENCODING)
                    .expect("writing to memory cannot fail");
            });
            self.settled.drain(..self.settled.len().min(IDS_A_LIST));
        }
    }
}

/// Whether a value of a bundle is settlements.
pub(super) fn is_settlements(value: &[u8]) -> bool {
    value[1..4] == SETTLED
}

/// Reads settlements whose header and checksum were looked at.
///
/// # Errors
/// [`Damage::Content`].
pub(super) fn decode_settlements(seal: &Seal, value: &[u8]) -> Result<Vec<(Id, Position)>, Damage> {
    let value = seal.open(value);
    let (list, used): (Vec<(&str, u64)>, usize) =
        bincode::serde::borrow_decode_from_slice(&value[HEADER_BYTES..], ENCODING).map_err(|_| Damage::Content)?;
    if used + HEADER_BYTES != value.len() {
        return Err(Damage::Content);
    }
    let settled = |(id, through)| match Id::new(id) {
        Ok(id) if through <= MAX_FOUND => Ok((id, Position(through))),
        _ => Err(Damage::Content),
    };
    list.into_iter().map(settled).collect()
}
