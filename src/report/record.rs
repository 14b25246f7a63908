//! What the journal keeps and the sink stores: reports and markers, each with its position.

use std::net::IpAddr;

use bytes::Bytes;

use super::key::Number;

/// The journal's own number of a record: microseconds of the epoch, strictly increasing, never reused, below 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

/// A report before the journal has it: what the client said, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The client's own number (source 0); without one, the journal numbers it.
    pub seq: Option<u64>,
    /// The client's time, in microseconds of the epoch.
    pub time: Option<i64>,
    /// The client's code.
    pub code: i32,
    /// The address that the report came from.
    pub peer: Option<IpAddr>,
    /// JSON text in UTF-8, byte for byte as sent; `None` where the message had no `data`.
    pub data: Option<Bytes>,
}

/// A report as the sink stores it; with its id, one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Source and seq; with the id, the key.
    pub number: Number,
    /// The client's time, in microseconds of the epoch.
    pub time: Option<i64>,
    /// The client's code.
    pub code: i32,
    /// The address that the report came from.
    pub peer: Option<IpAddr>,
    /// JSON text in UTF-8, byte for byte as sent; `None` where the message had no `data`.
    pub data: Option<Bytes>,
    /// When the journal took it, in microseconds of the epoch by the node's wall clock.
    pub accepted_at: u64,
}

/// What ends a stream, until a later report opens it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// The client said that it is done.
    Done,
    /// The last connection that reported for the id is gone.
    Disconnected,
}

/// A report or a marker, which goes through the journal like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// One report.
    Report(Report),
    /// One marker, with the time at which the journal took it, in microseconds of the epoch.
    Marker(Marker, u64),
}

/// One record of one id, in the place that it has in the id's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number in the journal; records of one id are stored in this order.
    pub position: Position,
    /// What it is.
    pub body: Body,
}

/// Records of one id, in order of position; what a flusher hands to the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Whose records they are.
    pub id: super::id::Id,
    /// At least one, in order of position.
    pub records: Vec<Record>,
    /// The sink may have records up to here already: they were in a transaction that was committed though its batch is
    /// not settled, or of which nobody knows whether it was. All that a start finds counts as tried.
    pub tried_through: Position,
    /// Whether the sink is to remember that they are settled: all records of the id before them are in the sink or the
    /// dead letters.
    pub is_gapless: bool,
}

impl Batch {
    /// Records that nobody tried to store before, behind none that is left out.
    pub fn new(id: super::id::Id, records: Vec<Record>) -> Self {
        Self { id, records, tried_through: Position(0), is_gapless: true }
    }

    /// Whether the sink may have the record at this position already.
    pub fn is_tried(&self, position: Position) -> bool {
        position <= self.tried_through
    }
}
