//! Shelving: what waits for long moves out of the bundles into the lanes of its ids, so that the bundles stay few.
//!
//! An entry is in its lane before it leaves its bundle, and the bundle goes only after a sync that covers the lane.
//! After a crash in between it is in both; whoever opens the journal takes it from the lane.

use std::sync::Arc;

use super::bundle::{Bundles, KINDS, Spot, is_settlements};
use super::commit::{Committer, SHARED_ENTRY_BYTES};
use super::entry;
use super::error::JournalError;
use super::lanes::Lane;
use super::stream::Stream;

/// Bytes that one cycle moves, beyond as many as the one before added, until it stops: an ack waits for it.
pub(super) const MOVED_AT_ONCE: u64 = 512 * 1024;

impl Committer {
    /// Empties the oldest bundles while there are more than `recent_bytes` of them, and notes the bundle of each entry
    /// that is in a lane now: it is left after the next sync. `added` is what the cycle before added, in bytes.
    pub(super) fn shelve(&mut self, added: u64) -> Result<(), JournalError> {
        let mut budget = MOVED_AT_ONCE + added;
        let (most_bytes, most_places) = (self.shared.recent_bytes, self.shared.limits.max_places());
        let is_much = |bundles: &Bundles| bundles.bytes() > most_bytes || bundles.places() > most_places;
        while is_much(&self.bundles) && budget > 0 {
            let Some(oldest) = self.bundles.empty_oldest() else { break };
            if oldest.entries > 0 {
                self.dirty.get_or_insert_with(tokio::time::Instant::now);
                if !self.empty(oldest.number, &mut budget)? {
                    // It goes on with the next cycle.
                    self.bundles.refill(oldest);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Lets go the bundles of what is durable in lanes.
    pub(super) fn leave_shelved(&mut self) {
        self.shelved.drain(..).for_each(|bundle| self.bundles.leave(bundle));
    }

    /// Moves what is left of a bundle into lanes; false where the budget is spent before its end, or something of it is
    /// just being drained.
    fn empty(&mut self, number: u64, budget: &mut u64) -> Result<bool, JournalError> {
        let Some(value) = self.shared.store.bundle(number)? else { return Ok(true) };
        let shared = Arc::clone(&self.shared);
        let seal = shared.store.seal();
        for value in entry::whole_values(seal, &value, KINDS) {
            // What is damaged is found and set aside by whoever drains it.
            let Ok((_, value)) = value else { continue };
            let Some(entry) = Some(value).filter(|value| !is_settlements(value)).map(|v| entry::decode_whole(seal, &v))
            else {
                continue;
            };
            let Some(stream) = entry.ok().and_then(|entry| self.shared.index.stream(&entry.id)) else { continue };
            if *budget == 0 || !self.move_entries(&stream, number, budget)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves the entries that `stream` has in this bundle into its lane, with as many of its later ones as share their
    /// values; the former alone, one by one, while a batch of it is on its way to the sink. False where that changed
    /// meanwhile.
    fn move_entries(&mut self, stream: &Arc<Stream>, number: u64, budget: &mut u64) -> Result<bool, JournalError> {
        let (lane, taken, wanted, spots) = {
            let mut state = stream.lock();
            if state.recent.front().is_none_or(|front| front.bundle > number) {
                return Ok(true);
            }
            let taken = state.taken && cfg!(not(forebay_plant = "move_what_is_taken"));
            let lane = *state.lane.get_or_insert_with(|| self.shared.index.lease(&stream.id));
            let wanted = state.recent.partition_point(|spot| spot.bundle <= number);
            let more = if taken { 0 } else { self.shared.max_entry_records };
            (lane, taken, wanted, state.recent.iter().take(wanted + more).copied().collect::<Vec<Spot>>())
        };
        let (mut keys, mut moved) = (Vec::new(), 0);
        while moved < wanted {
            entry::encode_key(self.shared.store.seal(), &stream.id, spots[moved].first, &mut self.key);
            moved += self.gather(&spots[moved..], taken)?;
            self.shared.store.insert(lane, &self.key, &self.value)?;
            keys.push(self.key.clone());
            *budget = budget.saturating_sub(self.value.len() as u64);
        }
        let mut state = stream.lock();
        let unchanged = state.taken == taken && state.recent.front() == spots.first();
        if unchanged {
            state.recent.drain(..moved);
            if state.recent.is_empty() {
                state.recent = std::collections::VecDeque::new();
            }
            self.shelved.extend(spots[..moved].iter().map(|spot| spot.bundle));
        }
        drop(state);
        if !unchanged {
            self.take_back(lane, &keys)?;
        }
        Ok(unchanged)
    }

    /// The youngest first: what a crash leaves of it must be all of the id up to some position, or nothing.
    pub(super) fn take_back(&self, lane: Lane, keys: &[Vec<u8>]) -> Result<(), JournalError> {
        #[cfg(forebay_plant = "take_back_oldest_first")]
        return keys.iter().try_for_each(|key| self.shared.store.remove(lane, key));
        #[cfg(not(forebay_plant = "take_back_oldest_first"))]
        keys.iter().rev().try_for_each(|key| self.shared.store.remove(lane, key))
    }

    /// Puts the values of the first of `spots` into `self.value`: one, or as many as share an entry's bounds. How many
    /// it were.
    fn gather(&mut self, spots: &[Spot], alone: bool) -> Result<usize, JournalError> {
        self.value.clear();
        let (mut count, mut records) = (0, 0);
        for spot in spots {
            records += usize::from(spot.records);
            let bytes = self.value.len() + spot.length as usize;
            let fits = !alone && records <= self.shared.max_entry_records && bytes <= SHARED_ENTRY_BYTES;
            if count > 0 && !fits {
                break;
            }
            let value = self.shared.store.entry_at(spot)?;
            let lost = || JournalError::Damaged(format!("bundle {} is not whole", spot.bundle));
            self.value.extend_from_slice(&value.ok_or_else(lost)?);
            count += 1;
        }
        Ok(count)
    }
}
