//! A look at an id's backlog that takes nothing of it.

use super::Journal;
use super::commit::SHARED_ENTRY_BYTES;
use super::entry::{self, RECORD_OVERHEAD_BYTES};
use super::error::JournalError;
use crate::report::{Body, Id, Position, Report};

/// The most records that an entry can have, whatever the settings were when it was written.
const MAX_ENTRY_RECORDS: u64 = (SHARED_ENTRY_BYTES / RECORD_OVERHEAD_BYTES) as u64;
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
        let mut peeked = Peeked::default();
        let Some(stream) = self.shared.index.stream(id) else { return Ok(peeked) };
        let (lanes, settled, through) = {
            let state = stream.lock();
            let lanes: Vec<_> = state.older_lanes.iter().copied().chain([state.lane]).collect();
            (lanes, state.settled, state.synced)
        };
        let after = after.unwrap_or(Position(0)).max(settled);
        // The entry that `after` lies in begins before it.
        let from = Position(after.0.saturating_sub(MAX_ENTRY_RECORDS).max(settled.0) + 1);
        let (mut looked_at, mut bytes, mut last) = (0, 0, after);
        for lane in lanes {
            for pair in self.shared.store.range(lane, id, from, through) {
                let (key, value) = pair?;
                let Some(Ok(entry)) = entry::decode_key(&key).map(|key| entry::decode(key, &value)) else { continue };
                for record in entry.records {
                    if record.position <= after || record.position > through {
                        continue;
                    }
                    let data_bytes = match &record.body {
                        Body::Report(report) => Some(report.data.as_ref().map_or(0, bytes::Bytes::len)),
                        Body::Marker(..) => None,
                    };
                    let found = peeked.reports.len();
                    let is_full = |more: usize| found >= limit || (found > 0 && bytes + more > max_bytes);
                    if looked_at >= MAX_LOOKED_AT || data_bytes.is_some_and(is_full) {
                        peeked.next = Some(last);
                        return Ok(peeked);
                    }
                    looked_at += 1;
                    last = record.position;
                    if let Body::Report(report) = record.body {
                        bytes += data_bytes.unwrap_or(0);
                        peeked.reports.push((record.position, report));
                    }
                }
            }
        }
        Ok(peeked)
    }
}
