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
use super::entry::{self, Entry};
use super::error::{Damage, JournalError};
use super::lanes::{Lane, Lanes};
use super::pauses;
use super::seal::Seal;
use super::set_aside::{Damaged, bundle_name};
use super::store::Store;
use super::stream::Stream;
use crate::report::{Id, Number, Position};

/// The journal as it was found.
pub(super) struct Found {
    pub(super) streams: Vec<Arc<Stream>>,
    pub(super) lanes: Lanes,
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

/// One id's entries in one lane.
struct Stretch {
    lane: Lane,
    first: Position,
    last: Position,
    reports: u64,
    markers: u64,
    bytes: u64,
    accepted_at: u64,
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
    stretches: Vec<Stretch>,
    recent: Vec<Recent>,
    /// All entries in bundles up to here are settled.
    settled: Position,
    /// Reports that are set aside.
    aside: Vec<(Position, Number)>,
}

/// Reads all lanes and bundles, builds the index, and sets damaged entries aside.
///
/// # Errors
/// When the storage cannot be read or written at all.
pub(super) fn recover(store: &Store, leasable: Lane) -> Result<Found, JournalError> {
    let mut found = Found {
        streams: Vec::new(),
        lanes: Lanes::new(leasable, store.lanes()),
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
    for lane in 0..store.lanes() {
        scan_lane(store, lane, &mut traces, &mut found)?;
    }
    scan_bundles(store, &mut traces, &mut found)?;
    let clock = Clock { wall: now_micros(), monotonic: Instant::now() };
    for (id, mut traces) in traces {
        traces.forget_settled();
        if !traces.stretches.is_empty() || !traces.recent.is_empty() {
            let stream = found.stream(id, traces, clock);
            found.streams.push(Arc::new(stream));
        }
    }
    scan_dead(store, &mut found)?;
    found.bytes += found.dead_bytes;
    Ok(found)
}

fn scan_lane(
    store: &Store,
    lane: Lane,
    traces: &mut HashMap<Id, Traces>,
    found: &mut Found,
) -> Result<(), JournalError> {
    for pair in store.scan(lane) {
        let (key, value) = pair?;
        let mut damage = None;
        for part in entry::decode_together(store.seal(), &key, &value) {
            match part {
                Ok((entry, part)) => {
                    let bytes = part.len() as u64;
                    found.highest = found.highest.max(entry.last().0);
                    let aside = found.aside.of(&entry);
                    let reports = entry.reports() - aside.len() as u64;
                    let traces = traces.entry(entry.id).or_default();
                    traces.aside.extend(aside);
                    let stretches = &mut traces.stretches;
                    match stretches.last_mut() {
                        Some(stretch) if stretch.lane == lane => stretch.extend(&entry, reports, bytes),
                        _ => stretches.push(Stretch::new(lane, &entry, reports, bytes)),
                    }
                }
                Err(found) => damage = Some(found),
            }
        }
        if let Some(damage) = damage {
            Damaged::in_lane(store.seal(), lane, key, value).say(damage).set_aside(store)?;
            found.damaged += 1;
        }
    }
    Ok(())
}

fn scan_bundles(store: &Store, traces: &mut HashMap<Id, Traces>, found: &mut Found) -> Result<(), JournalError> {
    for bundle in store.bundles() {
        let (number, value) = bundle?;
        let bytes = u32::try_from(value.len()).expect("a bundle is at most MAX_VALUE_BYTES");
        found.bundles.push(Bundle { number, entries: 0, bytes });
        let mut damage = None;
        for part in entry::whole_values(store.seal(), &value, KINDS) {
            let taken = part.and_then(|(offset, part)| take_part(store.seal(), (number, offset), &part, traces, found));
            damage = taken.err().or(damage);
        }
        if let Some(damage) = damage {
            set_bundle_aside(store, number, value, damage, found)?;
        }
    }
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
        let entry = entry::decode_whole(seal, part)?;
        let spot = Spot::new(number, entry.first, offset..offset + part.len(), entry.records.len());
        let spot = spot.ok_or(Damage::Content)?;
        found.highest = found.highest.max(entry.last().0);
        let aside = found.aside.of(&entry);
        let reports = entry.reports() - aside.len() as u64;
        let traces = traces.entry(entry.id).or_default();
        traces.aside.extend(aside);
        let recent = &mut traces.recent;
        if recent.is_empty() {
            // Of many ids there is one.
            recent.reserve_exact(1);
        }
        recent.push(Recent::new(spot, &entry, reports));
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

impl Stretch {
    /// `reports` of the entry's reports are backlog.
    fn new(lane: Lane, entry: &entry::Entry, reports: u64, bytes: u64) -> Self {
        let (first, last, accepted_at) = (entry.first, entry.first, entry.accepted_at);
        let mut stretch = Self { lane, first, last, reports: 0, markers: 0, bytes: 0, accepted_at };
        stretch.extend(entry, reports, bytes);
        stretch
    }

    fn extend(&mut self, entry: &entry::Entry, reports: u64, bytes: u64) {
        self.reports += reports;
        self.markers += entry.records.len() as u64 - entry.reports();
        self.bytes += bytes;
        self.last = entry.last();
    }
}

impl Recent {
    fn new(spot: Spot, entry: &Entry, reports: u64) -> Self {
        let markers = entry.records.len() as u64 - entry.reports();
        Self { spot, reports, markers, accepted_at: entry.accepted_at }
    }
}

impl Traces {
    /// Leaves out of the bundles what is settled, and what is in a lane already.
    fn forget_settled(&mut self) {
        let in_lanes = self.stretches.iter().map(|stretch| stretch.last).max();
        let in_lanes = in_lanes.filter(|_| cfg!(not(forebay_plant = "take_from_both")));
        let done = self.settled.max(in_lanes.unwrap_or(Position(0)));
        self.recent.retain(|recent| recent.spot.last() > done);
        let in_lane = |at: Position| self.stretches.iter().any(|stretch| (stretch.first..=stretch.last).contains(&at));
        let in_bundle = |at: Position| self.recent.iter().any(|r| (r.spot.first..=r.spot.last()).contains(&at));
        self.aside.sort_unstable();
        self.aside.dedup();
        self.aside.retain(|(at, _)| in_lane(*at) || in_bundle(*at));
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
    /// One id's stream. Its entries may lie in several lanes, of which the one with the latest takes what follows.
    fn stream(&mut self, id: Id, traces: Traces, clock: Clock) -> Stream {
        let Traces { mut stretches, recent, aside, .. } = traces;
        stretches.sort_by_key(|s| s.first);
        let stream = Stream::new(id);
        let mut state = stream.lock();
        for stretch in &stretches {
            self.lanes.hold(stretch.lane);
            state.reports += stretch.reports;
            state.markers += stretch.markers;
            state.bytes += stretch.bytes;
            state.synced = stretch.last;
        }
        if let Some((last, older)) = stretches.split_last() {
            state.lane = Some(last.lane);
            state.older_lanes = older.iter().map(|stretch| stretch.lane).collect();
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
        let oldest = stretches.first().map(|s| s.accepted_at).or(recent.first().map(|r| r.accepted_at));
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
