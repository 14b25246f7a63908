//! Reading an id's backlog for a drainer, and settling what the sink confirmed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Journal;
use super::append::Drained;
use super::bundle::Spot;
use super::commit::now_micros;
use super::entry::{self, Entry};
use super::error::{Damage, JournalError};
use super::progress::LastBatch;
use super::queue::{Command, Settled};
use super::set_aside::Damaged;
use super::stream::{DoneWaiter, State, Stream};
use crate::report::{Batch, Id, Position};

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
    /// Where the reading began, and how many reports were set aside then.
    from: Position,
    aside: usize,
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
    recent: Vec<Spot>,
    from: Position,
    through: Position,
    /// What is up to here is in runs.
    sorted: Position,
    /// Whether there are more entries in bundles.
    is_cut: bool,
    reports: u64,
    markers: u64,
    bytes: u64,
    /// Reports that are dead letters already.
    aside: Vec<Position>,
    tried_through: Position,
}

/// How much a reading takes.
#[derive(Clone, Copy)]
struct Limits {
    records: usize,
    bytes: usize,
}

impl Taken {
    fn is_full(&self, limits: Limits) -> bool {
        self.batch.records.len() >= limits.records || self.receipt.bytes >= limits.bytes as u64
    }

    fn add(&mut self, mut entry: Entry, bytes: usize, aside: &[Position]) {
        self.receipt.through = entry.last();
        if !aside.is_empty() && cfg!(not(forebay_plant = "store_what_is_aside")) {
            entry.records.retain(|record| !aside.contains(&record.position));
        }
        let reports = entry.reports();
        self.receipt.reports += reports;
        self.receipt.markers += entry.records.len() as u64 - reports;
        self.receipt.bytes += bytes as u64;
        if self.batch.records.is_empty() {
            self.batch.records = entry.records;
        } else {
            self.batch.records.extend(entry.records);
        }
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
        let limits = Limits { records: max_records, bytes: max_bytes };
        let mut rest = Rest::of(stream, max_records);
        let tried_through = self.shared.recovered_through.max(rest.tried_through);
        let batch = Batch { tried_through, ..Batch::new(stream.id, Vec::new()) };
        let mut taken = Taken { batch, receipt: rest.empty_receipt() };
        taken.receipt.is_all = self.read_sorted(stream, &rest, limits, &mut taken)?
            && self.read_recent(stream, &mut rest, limits, &mut taken)?;
        let receipt = &mut taken.receipt;
        if receipt.is_all {
            receipt.through = rest.through;
            receipt.missing = rest.reports - receipt.reports;
            if receipt.missing > 0 && !stream.lock().damaged {
                let missing = receipt.missing;
                return Err(JournalError::Damaged(format!("{missing} reports of id {} are not found", stream.id)));
            }
            (receipt.markers, receipt.bytes) = (rest.markers, rest.bytes);
        }
        Ok(taken)
    }

    /// Reads what is in runs; false where the limits are reached before its end.
    fn read_sorted(
        &self,
        stream: &Stream,
        rest: &Rest,
        limits: Limits,
        taken: &mut Taken,
    ) -> Result<bool, JournalError> {
        if rest.from > rest.sorted {
            return Ok(true);
        }
        for block in self.shared.store.sorted(&stream.id, rest.from, rest.sorted)? {
            let (values, mut damage) = (block.read()?, None);
            for part in block.entries(self.shared.store.seal(), &values) {
                match part {
                    Ok((entry, _)) if entry.last() < rest.from => {}
                    Ok(_) if taken.is_full(limits) => return Ok(false),
                    Ok((entry, part)) => taken.add(entry, part.len(), &rest.aside),
                    Err(found) => damage = Some(found),
                }
            }
            if let Some(damage) = damage {
                let damaged = Damaged::sorted(&block, values);
                // What is left of a block is read again with each batch.
                if !self.shared.store.is_set_aside(damaged.key())? {
                    self.put_aside(stream, damaged, damage);
                }
                stream.lock().damaged = true;
            }
        }
        Ok(true)
    }

    /// Reads what is in bundles; false where the limits are reached before its end.
    fn read_recent(
        &self,
        stream: &Stream,
        rest: &mut Rest,
        limits: Limits,
        taken: &mut Taken,
    ) -> Result<bool, JournalError> {
        let (spots, mut count) = (std::mem::take(&mut rest.recent), 0);
        for &spot in &spots {
            if taken.is_full(limits) {
                break;
            }
            let value = self.find(stream, spot)?;
            taken.receipt.through = spot.last();
            match entry::decode(self.shared.store.seal(), (stream.id, spot.first), &value) {
                Ok(entry) => taken.add(entry, value.len(), &rest.aside),
                Err(damage) => {
                    self.put_aside(stream, Damaged::entry(stream.id, &spot, value), damage);
                }
            }
            count += 1;
        }
        Ok(count == spots.len() && !rest.is_cut)
    }

    /// The value of an entry that was in a bundle when its id was taken, and may be in a run by now.
    fn find(&self, stream: &Stream, spot: Spot) -> Result<Bytes, JournalError> {
        let store = &self.shared.store;
        if let Some(value) = store.entry_at(&spot)? {
            return Ok(value);
        }
        if let Some(value) = store.sorted_entry(&stream.id, spot.first)? {
            return Ok(value);
        }
        let (id, bundle) = (stream.id, spot.bundle);
        Err(JournalError::Damaged(format!("an entry of id {id} is not found (bundle {bundle})")))
    }

    /// Notes where the records of these batches ended, truncates their entries, and tells who waits for `done`.
    pub fn settle(&self, batches: impl IntoIterator<Item = (Arc<Stream>, Receipt, Settlement)>) {
        let (mut settled, mut released) = (Settled::default(), Vec::new());
        for (stream, receipt, settlement) in batches {
            let waiters = self.settle_one(&stream, receipt, settlement, &mut settled);
            if !waiters.is_empty() {
                let reports = settlement.total.unwrap_or(0);
                let drained = Drained { reports, dead: self.count_dead(&stream.id) };
                released.extend(waiters.into_iter().map(|waiter| (waiter, drained)));
            }
        }
        if !settled.ids.is_empty() {
            self.shared.queue.push(Command::Truncate(settled));
        }
        for (waiter, drained) in released {
            if let Some(outlet) = waiter.outlet.upgrade() {
                outlet.drained(waiter.ticket, drained);
            }
        }
    }

    /// Settles one batch; who waits for a `done` in it.
    fn settle_one(
        &self,
        stream: &Stream,
        receipt: Receipt,
        settlement: Settlement,
        settled: &mut Settled,
    ) -> Vec<DoneWaiter> {
        let Receipt { through, reports, markers, bytes, missing, is_all, .. } = receipt;
        let Settlement { stored, duplicates, dead, .. } = stream.lock().with_parts(settlement);
        let dead = dead + missing;
        self.shared.metrics.audit.settled(stored, duplicates, dead);
        if missing > 0 && cfg!(not(forebay_plant = "lose_unlisted")) {
            let lost = Damaged::lost(self.shared.store.seal(), stream.id, through, missing);
            self.shared.queue.push(Command::SetAside(Box::new(lost)));
        }
        self.shared.shrink(bytes);
        let mut state = stream.lock();
        state.taken = false;
        settled.take(stream.id, through, &mut state);
        state.reports -= reports + missing;
        state.markers -= markers;
        state.bytes -= bytes;
        state.settled = through;
        state.forget_aside(through);
        state.behind = !is_all;
        if is_all {
            state.oldest = state.oldest_after_taken;
            state.damaged = false;
        }
        state.note_batch(LastBatch { at: now_micros(), reports: reports + missing, stored, duplicates, dead });
        if state.senders.as_mut().is_some_and(|senders| senders.settled(through)) {
            state.senders = None;
        }
        let released = state.done.partition_point(|waiter| waiter.position <= through);
        self.shared.done_waiters.fetch_sub(released as u64, Ordering::Relaxed);
        let released = state.done.drain(..released).collect();
        if state.done.is_empty() {
            state.done = Vec::new();
        }
        drop(state);
        // Only now: a sweep that counts it finds it settled.
        if self.shared.sorting.holds_settlements() {
            self.shared.sorting.settled(bytes);
        }
        released
    }

    /// Truncates what is not settled.
    #[cfg(forebay_plant = "truncate_before_store")]
    pub fn truncate(&self, stream: &Stream, receipt: &Receipt) {
        let mut settled = Settled::default();
        settled.take(stream.id, receipt.through, &mut stream.lock());
        self.shared.queue.push(Command::Truncate(settled));
    }

    fn put_aside(&self, stream: &Stream, damaged: Damaged, damage: Damage) {
        stream.lock().damaged = true;
        self.shared.damaged.fetch_add(1, Ordering::Relaxed);
        self.shared.queue.push(Command::SetAside(Box::new(damaged.say(damage))));
    }
}

impl Receipt {
    /// Whether nothing of what was read was set aside, or settled, since it was begun.
    pub fn is_current(&self, state: &State) -> bool {
        self.from.0 == state.settled.0 + 1 && self.aside == state.aside().len()
    }
}

impl Settled {
    /// Takes the entries of an id up to `through` out of its stream.
    fn take(&mut self, id: Id, through: Position, state: &mut State) {
        self.ids.push((id, through));
        let settled = state.recent.partition_point(|spot| spot.last() <= through);
        self.in_bundles.extend(state.recent.drain(..settled).map(|spot| spot.bundle));
    }
}

impl Rest {
    /// What is durable and not settled. From now on, newer records count as accepted after the batch was taken.
    fn of(stream: &Stream, max_records: usize) -> Self {
        let mut state = stream.lock();
        state.oldest_after_taken = None;
        state.taken = true;
        Self {
            recent: state.recent.iter().take(max_records).copied().collect(),
            from: Position(state.settled.0 + 1),
            through: state.synced,
            sorted: state.sorted,
            is_cut: state.recent.len() > max_records,
            reports: state.reports,
            markers: state.markers,
            bytes: state.bytes,
            aside: state.aside(),
            tried_through: state.tried_through(),
        }
    }

    fn empty_receipt(&self) -> Receipt {
        let (from, aside) = (self.from, self.aside.len());
        Receipt { from, aside, through: self.through, is_all: true, reports: 0, markers: 0, bytes: 0, missing: 0 }
    }
}
