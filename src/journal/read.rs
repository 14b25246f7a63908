//! Reading an id's backlog for its flusher, and settling what the sink confirmed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Journal;
use super::commit::now_micros;
use super::entry::{self, Entry};
use super::error::{Damage, JournalError};
use super::lanes::Lane;
use super::progress::LastBatch;
use super::queue::Command;
use super::stream::Stream;
use crate::report::{Batch, Position};

/// What was read of one id: whole entries, in order, from the oldest that is not settled.
#[derive(Debug)]
pub struct Taken {
    /// The records. Empty only where all entries that were left are damaged.
    pub batch: Batch,
    /// What [`Journal::settle`] needs to know of it.
    pub receipt: Receipt,
}

/// What was taken, for the time when it is settled. Not settled, it is taken again.
#[derive(Debug)]
pub struct Receipt {
    keys: Vec<(Lane, Vec<u8>)>,
    /// All up to here is taken.
    through: Position,
    /// No entry is left that was durable when the reading began.
    is_all: bool,
    reports: u64,
    markers: u64,
    bytes: u64,
    /// Reports that were counted and cannot be read: their entries are damaged.
    missing: u64,
}

/// Where the reports of a [`Batch`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settlement {
    /// New in the sink.
    pub stored: u64,
    /// In the sink or the dead letters before.
    pub duplicates: u64,
    /// New in the dead letters.
    pub dead: u64,
    /// All rows of the id in the sink, where the sink was asked.
    pub total: Option<u64>,
}

/// What a stream has left when a reading begins.
struct Rest {
    lanes: Vec<Lane>,
    from: Position,
    through: Position,
    reports: u64,
    markers: u64,
    bytes: u64,
}

impl Receipt {
    fn add(&mut self, lane: Lane, key: Vec<u8>, value_bytes: usize, entry: &Entry) {
        let reports = entry.reports();
        self.through = entry.last();
        self.reports += reports;
        self.markers += entry.records.len() as u64 - reports;
        self.bytes += (key.len() + value_bytes) as u64;
        self.keys.push((lane, key));
    }
}

impl Journal {
    /// Reads the oldest entries of `stream` that are not settled: whole ones, at least one, until they have
    /// `max_records` records or `max_bytes` bytes. Only what is synced is read. May read the disk.
    ///
    /// # Errors
    /// When the storage cannot be read, or does not find what it was given. A damaged entry is none:
    /// it is set aside, and reading goes on behind it.
    pub fn read(&self, stream: &Arc<Stream>, max_records: usize, max_bytes: usize) -> Result<Taken, JournalError> {
        let rest = Rest::of(stream);
        let mut batch = Batch { id: stream.id, records: Vec::new() };
        let mut receipt = rest.empty_receipt();
        'lanes: for &lane in &rest.lanes {
            for pair in self.shared.store.range(lane, &stream.id, rest.from, rest.through) {
                let (key, value) = pair?;
                if batch.records.len() >= max_records || receipt.bytes >= max_bytes as u64 {
                    receipt.is_all = false;
                    break 'lanes;
                }
                let decoded = entry::decode_key(&key).ok_or(Damage::Key).and_then(|k| entry::decode(k, &value));
                match decoded {
                    Ok(entry) => {
                        receipt.add(lane, key, value.len(), &entry);
                        batch.records.extend(entry.records);
                    }
                    Err(damage) => {
                        stream.lock().damaged = true;
                        self.set_aside(lane, key, value, damage);
                    }
                }
            }
        }
        if receipt.is_all {
            receipt.through = rest.through;
            receipt.missing = rest.reports - receipt.reports;
            if receipt.missing > 0 && !stream.lock().damaged {
                let missing = receipt.missing;
                return Err(JournalError::Damaged(format!("{missing} reports of id {} are not found", stream.id)));
            }
            (receipt.markers, receipt.bytes) = (rest.markers, rest.bytes);
        }
        Ok(Taken { batch, receipt })
    }

    /// Notes where the records of a batch ended, truncates their entries, and tells who waits for `done`.
    pub fn settle(&self, stream: &Arc<Stream>, receipt: Receipt, settlement: Settlement) {
        let released = {
            let mut state = stream.lock();
            state.reports -= receipt.reports + receipt.missing;
            state.markers -= receipt.markers;
            state.bytes -= receipt.bytes;
            state.settled = receipt.through;
            state.behind = !receipt.is_all;
            if receipt.is_all {
                state.oldest = state.oldest_after_taken;
                state.damaged = false;
            }
            state.note_batch(LastBatch {
                at: now_micros(),
                reports: receipt.reports + receipt.missing,
                stored: settlement.stored,
                duplicates: settlement.duplicates,
                dead: settlement.dead + receipt.missing,
            });
            let released = state.done.partition_point(|waiter| waiter.position <= receipt.through);
            let released: Vec<_> = state.done.drain(..released).collect();
            if state.done.is_empty() {
                state.done = Vec::new();
            }
            released
        };
        let Settlement { stored, duplicates, dead, total } = settlement;
        self.shared.counters.settled(stored, duplicates, dead + receipt.missing);
        self.shared.shrink(receipt.bytes);
        self.shared.queue.push(Command::Truncate(receipt.keys));
        for waiter in released {
            if let Some(outlet) = waiter.outlet.upgrade() {
                outlet.drained(waiter.ticket, total.unwrap_or(0));
            }
        }
    }

    /// Truncates what is not settled.
    #[cfg(forebay_plant = "truncate_before_store")]
    pub fn truncate(&self, receipt: &Receipt) {
        self.shared.queue.push(Command::Truncate(receipt.keys.clone()));
    }

    fn set_aside(&self, lane: Lane, key: Vec<u8>, value: bytes::Bytes, damage: Damage) {
        tracing::error!(lane, key = %key.escape_ascii(), %damage, "a damaged entry was set aside");
        self.shared.damaged.fetch_add(1, Ordering::Relaxed);
        self.shared.queue.push(Command::SetAside(lane, key, value));
    }
}

impl Rest {
    /// What is durable and not settled. From now on, newer records count as accepted after the batch was receipt.
    fn of(stream: &Stream) -> Self {
        let mut state = stream.lock();
        state.oldest_after_taken = None;
        let mut lanes = state.older_lanes.clone();
        lanes.push(state.lane);
        Self {
            lanes,
            from: Position(state.settled.0 + 1),
            through: if cfg!(forebay_plant = "read_before_sync") { Position(u64::MAX) } else { state.synced },
            reports: state.reports,
            markers: state.markers,
            bytes: state.bytes,
        }
    }

    fn empty_receipt(&self) -> Receipt {
        Receipt { keys: Vec::new(), through: self.through, is_all: true, reports: 0, markers: 0, bytes: 0, missing: 0 }
    }
}
