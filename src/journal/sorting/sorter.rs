//! The thread that sorts, sweeps and merges.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::Shared;
use super::super::bundle::{BUNDLE_BYTES, KINDS, is_settlements};
use super::super::entry;
use super::super::error::{Damage, JournalError};
use super::super::queue::Command;
use super::super::set_aside::Damaged;
use super::super::store::runs::{self, Block, Chunk, Counted, MERGED_BYTES, SORTED_AT_ONCE};
use super::super::stream::State;
use super::Asked;
use crate::panics::contain;
use crate::report::{Id, Position};

/// What is settled, in bytes, before runs are swept again: this, or the part below of what they have.
const SWEPT_AFTER: u64 = 64 << 20;
const SWEPT_PART: u64 = 16;
/// What is sorted meanwhile: settlements that are not noted keep all bundles behind them on disk.
const SORTED_PART: u64 = 8;
/// Runs that lie side by side and are small, before they are merged.
const MERGED_AT_ONCE: usize = 8;
/// How long it waits after an error of the system.
const RETRY: Duration = Duration::from_secs(5);
/// How often it looks by itself.
const LOOK: Duration = Duration::from_millis(500);

/// The sorting thread's own state.
pub(in super::super) struct Sorter {
    shared: Arc<Shared>,
    /// Bundles up to this one are sorted, and settlements up to that one are noted.
    sorted: u64,
    swept: u64,
    /// Bytes that were sorted since.
    unswept: u64,
}

impl Sorter {
    pub(in super::super) fn new(shared: Arc<Shared>) -> Self {
        if !shared.store.runs().is_empty() {
            shared.sorting.holds.store(true, Ordering::SeqCst);
            // What was settled before the start, and not noted.
            shared.sorting.settled(1);
        }
        Self { shared, sorted: 0, swept: 0, unswept: 0 }
    }

    /// Runs until it is told to stop. What the system refuses is tried again: all that waits is where it was.
    pub(in super::super) fn run(mut self) {
        loop {
            let asked = self.shared.sorting.wait(LOOK);
            if asked.stop {
                return;
            }
            let error = match contain(|| self.work(asked)) {
                Ok(Ok(())) => continue,
                Ok(Err(error)) if error.is_damage() => return self.shared.fail(error),
                Ok(Err(error)) => error,
                Err(panicked) => {
                    tracing::error!(%panicked, "the sorting thread ended");
                    return self.shared.fail(JournalError::Panicked);
                }
            };
            tracing::error!(%error, "what waits cannot be sorted now; it is tried again, and stays where it is meanwhile");
            self.shared.sorting.pause(RETRY);
        }
    }

    fn work(&mut self, asked: Asked) -> Result<(), JournalError> {
        let counted = self.shared.store.runs().counted();
        if asked.much && asked.through > self.sorted {
            self.sort(asked.through)?;
        } else if !counted.is_empty() && self.is_much_settled(&counted) {
            self.sweep_all(&counted, asked.through)?;
            self.tell();
        }
        self.merge(asked.through)
    }

    fn is_much_settled(&self, counted: &[Counted]) -> bool {
        let settled = self.shared.sorting.settled.load(Ordering::Relaxed);
        let live: u64 = counted.iter().map(|counted| counted.live).sum();
        settled >= SWEPT_AFTER.max(live / SWEPT_PART) || settled > 0 && self.shared.index.streams() == 0
    }

    /// Whether so many bytes leave the disk its reserve, so that commits go on.
    fn has_room(&self, bytes: u64) -> Result<bool, JournalError> {
        Ok(self.shared.store.free_disk()? >= bytes.saturating_add(self.shared.limits.min_free_disk))
    }

    /// Makes a run of the oldest bundles up to `through`.
    fn sort(&mut self, through: u64) -> Result<(), JournalError> {
        let shared = Arc::clone(&self.shared);
        let numbers = shared.store.bundle_numbers(self.sorted + 1, through);
        let bytes = numbers.len() as u64 * BUNDLE_BYTES as u64;
        if !self.has_room(bytes.min(SORTED_AT_ONCE as u64))? {
            return Ok(());
        }
        // From here on settlements stay: what is settled while it is sorted is in the run.
        shared.sorting.holds.store(true, Ordering::SeqCst);
        let (mut chunk, mut damaged, mut last) = (Chunk::with_room(bytes), Vec::new(), self.sorted);
        for number in numbers {
            if chunk.is_full() {
                break;
            }
            last = number;
            // What is not there is settled.
            let Some(value) = shared.store.bundle(number)? else { continue };
            for part in entry::whole_values(shared.store.seal(), &value, KINDS) {
                let part = match part {
                    Ok((_, part)) if is_settlements(&part) => continue,
                    part => part.and_then(|(_, part)| Ok((entry::summarize(shared.store.seal(), &part)?, part))),
                };
                match part {
                    Ok((entry, part)) if entry.last > self.done(&entry.id) => chunk.push(entry, &part),
                    Ok(_) => {}
                    Err(damage) => damaged.push((number, value.clone(), damage)),
                }
            }
        }
        if cfg!(forebay_plant = "free_before_it_counts") {
            self.sorted = last;
            self.tell();
        }
        let (run, moved) = chunk.write(shared.store.runs())?;
        let mut counted = shared.store.runs().counted().to_vec();
        self.unswept += run.as_ref().map_or(0, Counted::bytes);
        counted.extend(run);
        let live: u64 = counted.iter().map(|counted| counted.live).sum();
        let is_settled = shared.sorting.settled.load(Ordering::Relaxed) > 0;
        if !is_settled || self.unswept >= SWEPT_AFTER.max(live / SORTED_PART) || self.is_much_settled(&counted) {
            self.sweep_all(&counted, through)?;
        } else {
            shared.store.runs().publish(counted, &HashSet::new(), &shared.store.runs().settled())?;
        }
        self.sorted = last;
        if !damaged.is_empty() {
            // It looks for places that no run has, before they are forgotten.
            self.note_damage(damaged, &moved, last);
        }
        self.forget_places(&moved, last);
        self.tell();
        Ok(())
    }

    /// Up to where all of an id is settled, or in runs: a start finds bundles again that were sorted before.
    fn done(&self, id: &Id) -> Position {
        let sorted = self.shared.index.stream(id).map_or(Position(0), |stream| stream.lock().sorted);
        self.settled(id).max(sorted)
    }

    /// Up to where all of an id is settled.
    fn settled(&self, id: &Id) -> Position {
        let Some(stream) = self.shared.index.stream(id) else { return Position(u64::MAX) };
        let state = stream.lock();
        if state.is_drained() && !state.has_aside() { Position(u64::MAX) } else { state.settled }
    }

    /// From here on the entries of these blocks are read from runs.
    fn forget_places(&self, moved: &[Block], last: u64) {
        for its in moved.chunk_by(|a, b| a.id == b.id) {
            if let Some(stream) = self.shared.index.stream(&its[0].id) {
                stream.lock().forget_places(last);
            }
        }
    }

    /// Sets bundles aside of which a part cannot be read, and has its readers count what they miss.
    fn note_damage(&self, damaged: Vec<(u64, bytes::Bytes, Damage)>, moved: &[Block], last: u64) {
        let whole: HashSet<_> = moved.iter().map(|block| (block.id, block.first)).collect();
        for stream in self.shared.index.parts().flat_map(|part| part.streams) {
            let mut state = stream.lock();
            let is_lost = |state: &State| {
                let mut places = state.recent.iter().take_while(|spot| spot.bundle <= last);
                places.any(|spot| !whole.contains(&(stream.id, spot.first)))
            };
            if is_lost(&state) {
                state.damaged = true;
                state.forget_places(last);
            }
        }
        for (number, value, damage) in damaged {
            self.shared.damaged.fetch_add(1, Ordering::Relaxed);
            let damaged = Damaged::bundle(number, value).say(damage);
            self.shared.queue.push(Command::SetAside(Box::new(damaged)));
        }
    }

    /// Lets these runs count, with what of them is dead by now; those that are dead as a whole are removed. `through`
    /// is a bundle whose settlements were in the streams before.
    fn sweep_all(&mut self, counted: &[Counted], through: u64) -> Result<(), JournalError> {
        self.replace(counted, HashSet::new())?;
        (self.swept, self.unswept) = (through, 0);
        Ok(())
    }

    /// The same, in the place of those that are `removed`.
    fn replace(&self, counted: &[Counted], mut removed: HashSet<u64>) -> Result<(), JournalError> {
        let sorting = &self.shared.sorting;
        let before = sorting.settled.load(Ordering::Relaxed);
        let (mut live, mut in_part) = (Vec::new(), Vec::new());
        // The youngest first: what is settled meanwhile is older, so that an id's dead ones are its oldest.
        for counted in counted.iter().rev() {
            // Where nothing was settled, nothing of them is.
            let swept = if before == 0 { counted.clone() } else { self.sweep(counted, &mut in_part)? };
            if swept.live > 0 {
                live.push(swept);
            } else {
                removed.insert(swept.run.number);
            }
        }
        if before == 0 {
            in_part = self.shared.store.runs().settled();
        }
        in_part.sort_unstable();
        in_part.dedup();
        self.shared.store.runs().publish(live, &removed, &in_part)?;
        sorting.settled.fetch_sub(before, Ordering::Relaxed);
        Ok(())
    }

    /// Notes which blocks of a run are dead by now, and which ids have one that is settled in part.
    fn sweep(&self, counted: &Counted, in_part: &mut Vec<(Id, Position)>) -> Result<Counted, JournalError> {
        let mut known: Option<(Id, Position)> = None;
        counted.swept(|block| {
            let settled = match known {
                Some((id, settled)) if id == block.id => settled,
                _ => known.insert((block.id, self.settled(&block.id))).1,
            };
            if (block.first..block.last).contains(&settled) {
                in_part.push((block.id, settled));
            }
            block.last <= settled
        })
    }

    /// Says up to which bundle all is sorted, and up to which the settlements are noted.
    fn tell(&self) {
        let holds = !self.shared.store.runs().is_empty();
        self.shared.sorting.holds.store(holds, Ordering::SeqCst);
        self.shared.queue.push(Command::Sorted { through: self.sorted, swept: self.swept });
    }

    /// Merges those runs that are worth it, if there are such, and room for what is made of them.
    fn merge(&mut self, through: u64) -> Result<(), JournalError> {
        let (store, sorting) = (&self.shared.store, &self.shared.sorting);
        let counted = store.runs().counted();
        let Some(worth) = worth_merging(&counted) else { return Ok(()) };
        if !self.has_room(counted[worth.clone()].iter().map(|counted| counted.live).sum())? {
            return Ok(());
        }
        let merged = runs::merge(store.runs(), store.seal(), &counted[worth.clone()], || !sorting.is_stopped())?;
        let Some(merged) = merged else { return Ok(()) };
        let removed = counted[worth.clone()].iter().map(|counted| counted.run.number).collect();
        let rest = counted[..worth.start].iter().chain(&counted[worth.end..]).cloned();
        let mut counted: Vec<_> = rest.chain(merged).collect();
        counted.sort_by_key(Counted::lowest);
        self.replace(&counted, removed)?;
        (self.swept, self.unswept) = (through, 0);
        self.tell();
        Ok(())
    }
}

/// Runs side by side that are small or mostly dead, where they are many, or mostly dead together.
fn worth_merging(counted: &[Counted]) -> Option<std::ops::Range<usize>> {
    let is_dead = |data: u64, live: u64| data >= 2 * live;
    let is_worth = |one: &Counted| is_dead(one.data, one.live) || one.live < MERGED_BYTES / 4;
    for start in 0..counted.len() {
        let (mut end, mut data, mut live) = (start, 0, 0);
        while end < counted.len() && is_worth(&counted[end]) && live + counted[end].live <= MERGED_BYTES {
            (data, live) = (data + counted[end].data, live + counted[end].live);
            end += 1;
        }
        if end > start && (end - start >= MERGED_AT_ONCE || is_dead(data, live)) {
            return Some(start..end);
        }
    }
    None
}
