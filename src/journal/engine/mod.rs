//! Engines: what keeps the journal's entries and makes them durable.
//!
//! Duty: an engine appends entries, syncs them, hands them back in order, and truncates them. It speaks of ids and
//! positions. Where it has an entry is its own affair: the rooms above hold its [`Engine::Places`] of an id for it, in
//! the id's stream, and never look into them.
//!
//! # Invariants
//! 1. A reading hands out the entries from one position through another, and no other. The rooms above ask up to where
//!    entries are synced.
//! 2. A [`Synced`] is made by an engine alone, and says that all that was appended, put and truncated before is
//!    durable. An acknowledgment needs one.
//! 3. After [`Outcome::Refused`] nothing of what was appended or put since the last sync is kept, now or after a crash.
//!    What was truncated stays so, and is durable with the next sync.
//! 4. After an error of a writer nothing is appended or synced any more: a second try would not bring back what the
//!    system dropped.
//! 5. Entries of one id are handed out in the order of their positions. Positions of an id only grow.
//! 6. A truncation removes the entries of its id up to its position, and no other. Until it is synced, a crash may
//!    bring all or the youngest of them back; never one without those behind it.
//! 7. An entry that was synced and not truncated is handed out as it was appended, or as damaged; never left out.
//!
//! # What it does not know
//! Reports, markers, limits, clients and the sink. A value is bytes with a checksum of their own (`entry.rs`).
//!
//! # A replicated engine
//! An engine without a disk of its own fits, too: it keeps each commit as a message of a replicated stream.
//!
//! - [`Engine::open`] takes the lease, fences the stream (an empty message whose expected last sequence proves that
//!   nobody else writes), and reads it from its first message. Places of an id: sequence and part of each of its
//!   entries, like the locations of a log.
//! - [`Writer::append`] and [`Writer::put`] gather; [`Writer::sync`] publishes one message with the expected last
//!   sequence, and waits for its confirmation. If the servers refuse it, that is [`Outcome::Refused`]. If the outcome
//!   is unknown, the writer looks for the message before it says anything. A lost lease is the final error.
//! - [`Writer::truncate`] notes which messages nothing is left of. [`Writer::tidy`] purges up to the oldest that is
//!   needed, and appends anew, as any entry, what few ids hold it back with.
//! - Keyed values are key-value buckets; a put is durable with its own confirmation, so [`Writer::sync`] has nothing to
//!   do for it.

use std::ops::ControlFlow;
use std::path::PathBuf;

use bytes::Bytes;

use super::error::JournalError;
use super::seal::Seal;
use crate::report::{Id, Position};

mod contract;
mod memory;
mod sled;

use self::sled::Lane;

/// What an engine is opened with.
#[derive(Clone)]
pub(super) struct Settings {
    /// The journal's folder.
    pub(super) dir: PathBuf,
    /// What its values are sealed with.
    pub(super) seal: Seal,
    /// Trees that entries are spread over, where an engine has such.
    pub(super) lanes: Lane,
    /// Bytes of a cache, where an engine has one.
    pub(super) cache_bytes: u64,
}

/// Keeps entries, for all who read.
pub(super) trait Engine: Send + Sync + Sized {
    /// What is remembered of one id's entries.
    type Places: Places;
    /// What a reading needs of them.
    type Cursor: Send;
    /// The one writer, on the commit thread.
    type Writer: Writer<Location = <Self::Places as Places>::Location, Freed = <Self::Places as Places>::Freed>;

    /// Opens what `settings` name, making what is missing, and hands over what there is. Blocks.
    ///
    /// # Errors
    /// When it cannot be used; not for an entry that is damaged.
    fn open(settings: &Settings, found: &mut dyn Found<Self::Places>) -> Result<(Self, Self::Writer), JournalError>;

    /// Where a reading goes that begins at `from` and ends at `through`. Taken under the lock of the id's stream.
    fn cursor(&self, id: &Id, places: &Self::Places, from: Position, through: Position) -> Self::Cursor;

    /// Hands the entries at `cursor` to `each`, in order, until that breaks off. Not under a lock; blocks.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn read(
        &self,
        id: &Id,
        cursor: Self::Cursor,
        each: &mut dyn FnMut(Position, Bytes) -> ControlFlow<()>,
    ) -> Result<(), JournalError>;

    /// The keyed value of this kind.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn get(&self, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, JournalError>;

    /// Keyed values of a kind, in the order of their keys, up to `most` of those behind `after`.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn list(&self, kind: Kind, after: &[u8], most: usize) -> Result<Vec<(Vec<u8>, Bytes)>, JournalError>;

    /// Bytes that it takes on disk.
    fn bytes_on_disk(&self) -> u64;
}

/// Changes what an engine keeps. Durable after [`Writer::sync`], not before.
pub(super) trait Writer: Send {
    /// Where an entry is that was appended.
    type Location;
    /// What [`Places::settle`] gives back.
    type Freed;

    /// Appends an entry: a sealed value of records of one id, the first of which has the position `first`.
    ///
    /// # Errors
    /// Final.
    fn append(
        &mut self,
        id: &Id,
        first: Position,
        last: Position,
        value: &[u8],
    ) -> Result<Self::Location, JournalError>;

    /// Removes the entries of an id up to `through`, of which `freed` were its places.
    ///
    /// # Errors
    /// Final.
    fn truncate(&mut self, id: &Id, through: Position, freed: Self::Freed) -> Result<(), JournalError>;

    /// Keeps a value under a key, or removes it; the length of the one that was there before.
    ///
    /// # Errors
    /// Final.
    fn put(&mut self, kind: Kind, key: &[u8], value: Option<&[u8]>) -> Result<Option<usize>, JournalError>;

    /// Makes durable all of the above that was done before. `stamp` is the last position that was given out; no later
    /// opening finds a lower one.
    ///
    /// # Errors
    /// Final.
    fn sync(&mut self, stamp: Position) -> Result<Outcome, JournalError>;

    /// Closes it.
    ///
    /// # Errors
    /// When the storage cannot end as it wants to. All that was synced stays so.
    fn close(self) -> Result<(), JournalError>;
}

/// What an engine remembers of one id. Changed under the lock of its stream.
pub(super) trait Places: Default + Send {
    /// Where one entry is.
    type Location: Send;
    /// What is to be removed where some of them are.
    type Freed: Send;

    /// Takes in an entry that is synced.
    fn add(&mut self, location: Self::Location);

    /// Gives up all entries up to `through`.
    fn settle(&mut self, through: Position) -> Self::Freed;
}

/// Who is told of what an opening finds, of each id in the order of its positions.
pub(super) trait Found<P> {
    /// An entry.
    fn entry(&mut self, id: Id, value: Bytes) -> &mut P;

    /// Bytes under a key that is none of an entry.
    fn damaged(&mut self, name: &[u8], value: Bytes);

    /// The last position that was given out.
    fn stamp(&mut self, position: Position);
}

/// How a sync ends that is no error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All is durable.
    Synced(Synced),
    /// Nothing was kept; why, for clients and operators.
    Refused(String),
}

/// Proof that all that an engine was given before is durable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Synced(());

/// What a keyed value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A dead letter, by id, source and seq.
    Letter,
    /// A pause, by id.
    Pause,
    /// What was set aside because it is damaged, by a name for people.
    Damaged,
}
