//! A look at an id's backlog that takes nothing of it.

use super::Journal;
use super::bundle::Spot;
use super::entry::{self, Entry};
use super::error::JournalError;
use super::stream::Stream;
use crate::report::{Body, Id, Position, Report};

/// Records, markers among them, that one look reads at the most.
const MAX_LOOKED_AT: usize = 10_000;

/// Some of the reports that wait, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peeked {
    /// With their positions.
    pub reports: Vec<(Position, Report)>,
    /// Where to go on; none where there is nothing behind.
    pub next: Option<Position>,
}

impl Journal {
    /// Up to `limit` reports of `id` that are synced and not settled, those behind `after`, oldest first, until they
    /// have `max_bytes` bytes of data; at least one, unless only markers were found. Reads the disk.
    ///
    /// # Errors
    /// When the storage cannot be read. A damaged entry is left out; whoever drains it sets it aside.
    pub fn peek(
        &self,
        id: &Id,
        after: Option<Position>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Peeked, JournalError> {
        let mut look = Look { peeked: Peeked::default(), limit, max_bytes, looked_at: 0, bytes: 0, last: Position(0) };
        let Some(stream) = self.shared.index.stream(id) else { return Ok(look.peeked) };
        look.last = after.unwrap_or(Position(0)).max(stream.lock().settled);
        let mut missed = None;
        while let Some(spot) = self.look(&stream, &mut look)? {
            // What moves into a run meanwhile is found there; what is missed again is damaged.
            if missed.replace(spot) == Some(spot) {
                look.last = spot.last();
            }
        }
        Ok(look.peeked)
    }

    /// Goes on with a look, to its end or to an entry that is not where it was.
    fn look(&self, stream: &Stream, look: &mut Look) -> Result<Option<Spot>, JournalError> {
        let (recent, sorted, settled, through, aside) = {
            let state = stream.lock();
            let begun = state.recent.partition_point(|spot| spot.first <= look.last).saturating_sub(1);
            let recent: Vec<Spot> = state.recent.iter().skip(begun).take(MAX_LOOKED_AT + 1).copied().collect();
            (recent, state.sorted, state.settled, state.synced, state.aside())
        };
        let store = &self.shared.store;
        let from = Position(settled.max(look.last).0 + 1);
        let blocks = if from > sorted { Vec::new() } else { store.sorted(&stream.id, from, sorted)? };
        for block in blocks {
            for (entry, _) in block.entries(store.seal(), &block.read()?).filter_map(Result::ok) {
                if entry.last() > settled && !look.at(entry, through, &aside) {
                    return Ok(None);
                }
            }
        }
        for spot in recent {
            let Some(value) = store.entry_at(&spot)? else {
                return Ok(Some(spot));
            };
            if entry::decode_value(store.seal(), &value).is_ok_and(|entry| !look.at(entry, through, &aside)) {
                return Ok(None);
            }
        }
        Ok(None)
    }
}

/// A look that goes on.
struct Look {
    peeked: Peeked,
    limit: usize,
    max_bytes: usize,
    looked_at: usize,
    bytes: usize,
    /// Where it is.
    last: Position,
}

impl Look {
    /// Looks at an entry; false where the look ends within it.
    fn at(&mut self, entry: Entry, through: Position, aside: &[Position]) -> bool {
        for record in entry.records {
            if record.position <= self.last || record.position > through || aside.contains(&record.position) {
                continue;
            }
            let data_bytes = match &record.body {
                Body::Report(report) => Some(report.data.as_ref().map_or(0, bytes::Bytes::len)),
                Body::Marker(..) => None,
            };
            let found = self.peeked.reports.len();
            let is_full = |more: usize| found >= self.limit || (found > 0 && self.bytes + more > self.max_bytes);
            if self.looked_at >= MAX_LOOKED_AT || data_bytes.is_some_and(is_full) {
                self.peeked.next = Some(self.last);
                return false;
            }
            self.looked_at += 1;
            self.last = record.position;
            if let Body::Report(report) = record.body {
                self.bytes += data_bytes.unwrap_or(0);
                self.peeked.reports.push((record.position, report));
            }
        }
        true
    }
}
