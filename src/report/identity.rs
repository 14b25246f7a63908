//! Who writes to a sink: a node, with its journal, since one of its starts.

use std::fmt;

/// The name of a journal: chosen at random when it is made, and anew when it was restored from an older copy. Positions
/// mean something within one journal alone, so whatever a sink remembers of them it remembers by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JournalId(pub u64);

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who writes to a sink as a `node_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The node that numbers reports without a `seq`.
    pub node_id: u16,
    /// Its journal.
    pub journal: JournalId,
    /// How often this journal was opened, this time among them.
    pub start: u64,
    /// Random for each start: tells two processes apart that started from copies of one journal.
    pub nonce: u64,
}
