//! What is found at open: the backlog of every id, the dead letters, and entries that are damaged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::aside::SetAside;
use super::bundle::{self, Bundle, KINDS, Spot};
use super::commit::now_micros;
use super::dead_letters;
use super::entry;
use super::error::{Damage, JournalError};
use super::pauses;
use super::seal::Seal;
use super::set_aside::{Damaged, bundle_name};
use super::store::{SortedBlock, Store};
use super::stream::Stream;
use crate::report::{Id, Number, Position};

/// The journal as it was found.
pub(super) struct Found {
    pub(super) streams: Vec<Arc<Stream>>,
    pub(super) bundles: Vec<Bundle>,
    pub(super) paused: HashSet<Id>,
    /// Reports of all streams.
    pub(super) reports: u64,
    pub(super) dead: u64,
    /// Bytes of entries and dead letters.
    pub(super) bytes: u64,
    /// Bytes of the dead letters among them.
    pub(super) dead_bytes: u64,
    /// Entries that were set aside now.
    pub(super) damaged: u64,
    /// The highest position of any entry.
    pub(super) highest: u64,
    /// What is no backlog, though its entries are there.
    aside: SetAside,
}

/// One id's entries in runs.
#[derive(Default)]
struct Sorted {
    /// The last record of what was there at any time.
    last: Position,
    reports: u64,
    markers: u64,
    bytes: u64,
    /// When the oldest of them was accepted.
    accepted_at: Option<u64>,
}

/// One entry in a bundle.
struct Recent {
    spot: Spot,
    reports: u64,
    markers: u64,
    accepted_at: u64,
}

/// What was found of one id.
#[derive(Default)]
struct Traces {
    sorted: Sorted,
    recent: Vec<Recent>,
    /// All entries up to here are settled.
    settled: Position,
    /// Reports that are set aside.
    aside: Vec<(Position, Number)>,
}

/// Reads all bundles and what the runs say of themselves, builds the index, and sets damaged entries aside.
///
/// # Errors
/// When the storage cannot be read or written at all.
pub(super) fn recover(store: &Store) -> Result<Found, JournalError> {
    let mut found = Found {
        streams: Vec::new(),
        bundles: Vec::new(),
        paused: pauses::recover(store)?,
        reports: 0,
        dead: 0,
        bytes: 0,
        dead_bytes: 0,
        damaged: 0,
        highest: 0,
        aside: SetAside::find(store)?,
    };
    let mut traces: HashMap<Id, Traces> = HashMap::new();
    scan_bundles(store, &mut traces, &mut found)?;
    for (id, through) in store.settled_in_runs() {
        let settled = &mut traces.entry(id).or_default().settled;
        *settled = through.max(*settled);
    }
    store.each_sorted(|block| scan_block(store, block, &mut traces, &mut found))?;
    let clock = Clock { wall: now_micros(), monotonic: Instant::now() };
    for (id, mut traces) in traces {
        traces.forget_settled();
        if traces.sorted.accepted_at.is_some() || !traces.recent.is_empty() {
            let stream = found.stream(id, traces, clock);
            found.streams.push(Arc::new(stream));
        }
    }
    scan_dead(store, &mut found)?;
    found.bytes += found.dead_bytes;
    Ok(found)
}

/// Counts what a block says that it has, or, where a part of it is settled or set aside, what is left of it.
fn scan_block(
    store: &Store,
    block: &SortedBlock,
    traces: &mut HashMap<Id, Traces>,
    found: &mut Found,
) -> Result<(), JournalError> {
    let (id, first, last) = block.records();
    found.highest = found.highest.max(last.0);
    let traces = traces.entry(id).or_default();
    traces.sorted.last = last.max(traces.sorted.last);
    if block.is_dead() {
        // So is all of the id before it.
        traces.settled = last.max(traces.settled);
    }
    let settled = traces.settled;
    if last <= settled {
        return Ok(());
    }
    if first > settled && !found.aside.has(&id) {
        let (reports, markers, bytes) = block.counts();
        traces.sorted.add(reports, markers, bytes, block.accepted_at());
        return Ok(());
    }
    for (entry, part) in block.entries(store.seal(), &block.read()?).filter_map(Result::ok) {
        if entry.last() > settled {
            let aside = found.aside.of(&entry);
            let reports = entry.reports() - aside.len() as u64;
            let markers = entry.records.len() as u64 - entry.reports();
            traces.aside.extend(aside);
            traces.sorted.add(reports, markers, part.len() as u64, entry.accepted_at);
        }
    }
    Ok(())
}

fn scan_bundles(store: &Store, traces: &mut HashMap<Id, Traces>, found: &mut Found) -> Result<(), JournalError> {
    // A start has just read them in order, so that the last ones are in the system's cache.
    for bundle in store.bundles().rev() {
        let (number, value) = bundle?;
        let bytes = u32::try_from(value.len()).expect("a bundle is at most MAX_VALUE_BYTES");
        let (mut damage, mut settles) = (None, false);
        for part in entry::whole_values(store.seal(), &value, KINDS) {
            settles |= part.as_ref().is_ok_and(|(_, part)| bundle::is_settlements(part));
            let taken = part.and_then(|(offset, part)| take_part(store.seal(), (number, offset), &part, traces, found));
            damage = taken.err().or(damage);
        }
        found.bundles.push(Bundle { number, entries: 0, bytes, settles });
        if let Some(damage) = damage {
            set_bundle_aside(store, number, value, damage, found)?;
        }
    }
    found.bundles.reverse();
    Ok(())
}

/// Takes in an entry, or settlements.
fn take_part(
    seal: &Seal,
    (number, offset): (u64, usize),
    part: &Bytes,
    traces: &mut HashMap<Id, Traces>,
    found: &mut Found,
) -> Result<(), Damage> {
    if bundle::is_settlements(part) {
        for (id, through) in bundle::decode_settlements(seal, part)? {
            found.highest = found.highest.max(through.0);
            let settled = &mut traces.entry(id).or_default().settled;
            *settled = through.max(*settled);
        }
    } else {
        let entry = entry::summarize(seal, part)?;
        let records = (entry.reports + entry.markers) as usize;
        let spot = Spot::new(number, entry.first, offset..offset + part.len(), records).ok_or(Damage::Content)?;
        found.highest = found.highest.max(entry.last.0);
        let mut reports = u64::from(entry.reports);
        let traces = traces.entry(entry.id).or_default();
        if found.aside.has(&entry.id) {
            let aside = found.aside.of(&entry::decode_whole(seal, part)?);
            reports -= aside.len() as u64;
            traces.aside.extend(aside);
        }
        let recent = &mut traces.recent;
        if recent.is_empty() {
            // Of many ids there is one.
            recent.reserve_exact(1);
        }
        let (markers, accepted_at) = (entry.markers.into(), entry.accepted_at);
        recent.push(Recent { spot, reports, markers, accepted_at });
    }
    Ok(())
}

/// Sets a bundle aside of which a part is damaged, when it is seen first: it stays until its other parts are settled.
fn set_bundle_aside(
    store: &Store,
    number: u64,
    value: Bytes,
    damage: Damage,
    found: &mut Found,
) -> Result<(), JournalError> {
    if !store.is_set_aside(bundle_name(number).as_bytes())? {
        Damaged::bundle(number, value).say(damage).set_aside(store)?;
        found.damaged += 1;
    }
    Ok(())
}

fn scan_dead(store: &Store, found: &mut Found) -> Result<(), JournalError> {
    for pair in store.scan_dead() {
        let (key, value) = pair?;
        // A damaged one is a report too, which somebody may discard.
        found.dead += 1;
        found.dead_bytes += (key.len() + value.len()) as u64;
        if let Err(damage) = dead_letters::decode(store.seal(), &key, &value) {
            let named = dead_letters::named(store.seal(), &key).map(|key| key.to_string());
            let key = named.unwrap_or_else(|| key.escape_ascii().to_string());
            tracing::error!(key, %damage, "a dead letter is damaged; it can only be discarded");
        }
    }
    Ok(())
}

impl Sorted {
    /// Takes in what comes next in order of position.
    fn add(&mut self, reports: u64, markers: u64, bytes: u64, accepted_at: u64) {
        self.reports += reports;
        self.markers += markers;
        self.bytes += bytes;
        self.accepted_at.get_or_insert(accepted_at);
    }
}

impl Traces {
    /// Leaves out of the bundles what is settled, and what is in a run already.
    fn forget_settled(&mut self) {
        self.recent.sort_unstable_by_key(|recent| recent.spot.first);
        let sorted = if cfg!(forebay_plant = "take_from_both") { Position(0) } else { self.sorted.last };
        let done = self.settled.max(sorted);
        self.recent.retain(|recent| recent.spot.last() > done);
        let (settled, sorted) = (self.settled, self.sorted.last);
        let in_bundle = |at: Position| self.recent.iter().any(|r| (r.spot.first..=r.spot.last()).contains(&at));
        self.aside.sort_unstable();
        self.aside.dedup();
        self.aside.retain(|(at, _)| *at > settled && *at <= sorted || in_bundle(*at));
    }
}

#[derive(Clone, Copy)]
struct Clock {
    wall: u64,
    monotonic: Instant,
}

impl Clock {
    /// The monotonic time of a wall-clock time in the past; now, where the wall clock stands before it.
    fn instant(&self, wall: u64) -> Instant {
        let age = Duration::from_micros(self.wall.saturating_sub(wall));
        self.monotonic.checked_sub(age).unwrap_or(self.monotonic)
    }
}

impl Found {
    /// One id's stream.
    fn stream(&mut self, id: Id, traces: Traces, clock: Clock) -> Stream {
        let Traces { sorted, recent, aside, settled } = traces;
        let stream = Stream::new(id);
        let mut state = stream.lock();
        state.settled = settled;
        if sorted.accepted_at.is_some() {
            (state.reports, state.markers, state.bytes) = (sorted.reports, sorted.markers, sorted.bytes);
            (state.sorted, state.synced) = (sorted.last, sorted.last);
        }
        for entry in &recent {
            state.reports += entry.reports;
            state.markers += entry.markers;
            state.bytes += u64::from(entry.spot.length);
            state.synced = entry.spot.last();
            if let Ok(at) = self.bundles.binary_search_by_key(&entry.spot.bundle, |bundle| bundle.number) {
                self.bundles[at].entries += 1;
            }
        }
        let oldest = sorted.accepted_at.or(recent.first().map(|r| r.accepted_at));
        state.oldest = oldest.map(|accepted_at| clock.instant(accepted_at));
        // Not collected: the places would keep the room that more than them took.
        state.recent.reserve_exact(recent.len());
        state.recent.extend(recent.iter().map(|recent| recent.spot));
        state.recover_aside(aside);
        self.reports += state.reports;
        self.bytes += state.bytes;
        drop(state);
        stream
    }
}
