//! What a batch says about its stream: the one place that both sinks take it from, so that they cannot differ.

use crate::report::{Batch, Body, Id, Marker, Position};

/// A batch's part in the row of its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamRow<'a> {
    pub id: &'a Id,
    /// What the last record makes of the stream: `open`, `done` or `disconnected`.
    pub state: &'static str,
    /// Rows newly inserted.
    pub inserted: u64,
    /// When the first and the last record, reports and markers alike, were taken: so the row does not depend on how
    /// records were cut into batches. Microseconds of the epoch.
    pub first_at: u64,
    pub last_at: u64,
    /// The last record's.
    pub position: Position,
}

impl<'a> StreamRow<'a> {
    /// `None` for a batch without records.
    pub fn of(batch: &'a Batch, inserted: u64) -> Option<Self> {
        let last = batch.records.last()?;
        let state = match last.body {
            Body::Report(_) => "open",
            Body::Marker(Marker::Done, _) => "done",
            Body::Marker(Marker::Disconnected, _) => "disconnected",
        };
        let taken = || batch.records.iter().map(|record| taken_at(&record.body));
        let (first_at, last_at) = (taken().min()?, taken().max()?);
        Some(Self { id: &batch.id, state, inserted, first_at, last_at, position: last.position })
    }
}

/// Whether the batch has a marker: then the stream's total is wanted.
pub(super) fn has_marker(batch: &Batch) -> bool {
    batch.records.iter().any(|record| matches!(record.body, Body::Marker(..)))
}

/// How many reports the batch has.
pub(super) fn reports(batch: &Batch) -> u64 {
    batch.records.iter().filter(|record| matches!(record.body, Body::Report(_))).count() as u64
}

fn taken_at(body: &Body) -> u64 {
    match body {
        Body::Report(report) => report.accepted_at,
        Body::Marker(_, at) => *at,
    }
}
