//! What both sinks read from a batch, in one place, so that they cannot differ.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use crate::report::{Batch, Body, Id, JournalId, Key, Marker, Position, Record, Report};

/// The last instant of the year 9999, the largest `DATETIME(6)`, in microseconds of the epoch.
const MAX_INSTANT: u64 = 253_402_300_799_999_999;

/// A batch's part in the row of its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamRow<'a> {
    pub id: &'a Id,
    /// What the last record that says something makes of the stream: `open`, `done` or `disconnected`. A batch of
    /// reports that are all there already says nothing.
    pub state: &'static str,
    /// That record's position; 0, which changes no state, where there is none.
    pub state_position: Position,
    /// Rows newly inserted.
    pub inserted: u64,
    /// When the first and the last record, reports and markers alike, were taken: so the row does not depend on how
    /// records were cut into batches. Microseconds of the epoch.
    pub first_at: u64,
    pub last_at: u64,
    /// The last record's.
    pub position: Position,
    /// What the sink is to remember as settled: all of the id up to `position`, by this journal.
    pub settled_by: Option<JournalId>,
}

impl<'a> StreamRow<'a> {
    /// `None` for a batch without records.
    pub fn of(batch: &'a Batch, inserted: u64, journal: Option<JournalId>) -> Option<Self> {
        let last = batch.records.last()?;
        let (state, state_position) = says(batch, inserted).unwrap_or(("open", Position(0)));
        let taken = || batch.records.iter().map(|record| taken_at(&record.body));
        let (first_at, last_at) = (taken().min()?, taken().max()?);
        let settled_by = journal.filter(|_| batch.is_gapless);
        Some(Self {
            id: &batch.id,
            state,
            state_position,
            inserted,
            first_at,
            last_at,
            position: last.position,
            settled_by,
        })
    }
}

/// What the batch says of its stream, and where: with new rows its last record, else its last marker.
pub(super) fn says(batch: &Batch, inserted: u64) -> Option<(&'static str, Position)> {
    let says_something = |record: &&Record| inserted > 0 || matches!(record.body, Body::Marker(..));
    let record = batch.records.iter().rev().find(says_something)?;
    let state = match record.body {
        Body::Report(_) => "open",
        Body::Marker(Marker::Done, _) => "done",
        Body::Marker(Marker::Disconnected, _) => "disconnected",
    };
    Some((state, record.position))
}

/// The key of the batch's last report.
pub(super) fn last_key(batch: &Batch) -> Option<Key> {
    batch.records.iter().rev().find_map(|record| match &record.body {
        Body::Report(report) => Some(Key { id: batch.id, number: report.number }),
        Body::Marker(..) => None,
    })
}

/// Whether the batch has a marker: then the stream's total is wanted.
pub(super) fn has_marker(batch: &Batch) -> bool {
    batch.records.iter().any(|record| matches!(record.body, Body::Marker(..)))
}

/// How many of the records are reports.
pub(super) fn reports(records: &[Record]) -> u64 {
    records.iter().filter(|record| matches!(record.body, Body::Report(_))).count() as u64
}

fn taken_at(body: &Body) -> u64 {
    match body {
        Body::Report(report) => report.accepted_at,
        Body::Marker(_, at) => *at,
    }
}

/// Adds the reports of a batch to `rows`, in the order of their keys; of one key, the first accepted first.
pub(super) fn by_key<'a>(batch: &'a Batch, rows: &mut Vec<(&'a Id, &'a Report)>) {
    let reports = batch.records.iter().filter_map(|record| match &record.body {
        Body::Report(report) => Some((&batch.id, report)),
        Body::Marker(..) => None,
    });
    let begun = rows.len();
    rows.extend(reports);
    rows[begun..].sort_by_key(|(_, report)| report.number);
}

/// Says that reports have another number in the sink than they were acknowledged with.
pub(super) fn say_renumbered(renumbered: &[(Key, u64)]) {
    if let Some((key, seq)) = renumbered.first() {
        tracing::warn!(
            %key,
            now = seq,
            count = renumbered.len(),
            "the sink has other reports under numbers that this node gave out: the clock, or the journal, was set back; \
             these are stored under numbers behind all that are there",
        );
    }
}

/// `YYYY-MM-DD HH:MM:SS.ffffff` in UTC; past the year 9999 its last microsecond.
pub(super) fn write_instant(out: &mut Vec<u8>, micros: u64) {
    let start = out.len();
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(micros.min(MAX_INSTANT));
    write!(out, "{}", humantime::format_rfc3339_micros(time))
        .expect("a Vec takes all, and the year is within the format");
    // RFC 3339 has a `T` after the ten characters of the date, and a `Z` at its end.
    out[start + 10] = b' ';
    out.pop();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_written_to_the_microsecond_and_never_panics() {
        let written = |micros| {
            let mut out = Vec::new();
            write_instant(&mut out, micros);
            String::from_utf8(out).expect("digits")
        };
        assert_eq!(written(0), "1970-01-01 00:00:00.000000");
        assert_eq!(written(1_714_972_800_000_001), "2024-05-06 05:20:00.000001");
        assert_eq!(written(u64::MAX), "9999-12-31 23:59:59.999999");
    }
}
