//! What is found at open: the backlog of every id, the dead letters, and entries that are damaged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::commit::now_micros;
use super::dead_letters;
use super::entry;
use super::error::{Damage, JournalError};
use super::lanes::{Lane, Lanes};
use super::pauses;
use super::store::Store;
use super::stream::Stream;
use crate::report::{Id, Position};

/// The journal as it was found.
pub(super) struct Found {
    pub(super) streams: HashMap<Id, Arc<Stream>>,
    pub(super) lanes: Lanes,
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

/// Reads all lanes, builds the index, and sets damaged entries aside.
///
/// # Errors
/// When the storage cannot be read or written at all.
pub(super) fn recover(store: &Store, leasable: Lane) -> Result<Found, JournalError> {
    let mut found = Found {
        streams: HashMap::new(),
        lanes: Lanes::new(leasable, store.lanes()),
        paused: pauses::recover(store)?,
        reports: 0,
        dead: 0,
        bytes: 0,
        dead_bytes: 0,
        damaged: 0,
        highest: 0,
    };
    let mut stretches: HashMap<Id, Vec<Stretch>> = HashMap::new();
    for lane in 0..store.lanes() {
        scan_lane(store, lane, &mut stretches, &mut found)?;
    }
    let clock = Clock { wall: now_micros(), monotonic: Instant::now() };
    for (id, stretches) in stretches {
        let stream = found.stream(id, stretches, clock);
        found.streams.insert(id, Arc::new(stream));
    }
    scan_dead(store, &mut found)?;
    found.bytes += found.dead_bytes;
    Ok(found)
}

fn scan_lane(
    store: &Store,
    lane: Lane,
    stretches: &mut HashMap<Id, Vec<Stretch>>,
    found: &mut Found,
) -> Result<(), JournalError> {
    for pair in store.scan(lane) {
        let (key, value) = pair?;
        let decoded = entry::decode_key(&key).ok_or(Damage::Key).and_then(|k| entry::decode(k, &value));
        match decoded {
            Ok(entry) => {
                let bytes = (key.len() + value.len()) as u64;
                found.highest = found.highest.max(entry.last().0);
                let stretches = stretches.entry(entry.id).or_default();
                match stretches.last_mut() {
                    Some(stretch) if stretch.lane == lane => stretch.extend(&entry, bytes),
                    _ => stretches.push(Stretch::new(lane, &entry, bytes)),
                }
            }
            Err(damage) => {
                tracing::error!(lane, key = %key.escape_ascii(), %damage, "a damaged entry was set aside");
                store.set_aside(lane, &key, &value)?;
                found.damaged += 1;
            }
        }
    }
    Ok(())
}

fn scan_dead(store: &Store, found: &mut Found) -> Result<(), JournalError> {
    for pair in store.scan_dead() {
        let (key, value) = pair?;
        // A damaged one is a report too, which somebody may discard.
        found.dead += 1;
        found.dead_bytes += (key.len() + value.len()) as u64;
        if let Err(damage) = dead_letters::decode(&key, &value) {
            let named = dead_letters::named(&key).map(|key| key.to_string());
            let key = named.unwrap_or_else(|| key.escape_ascii().to_string());
            tracing::error!(key, %damage, "a dead letter is damaged; it can only be discarded");
        }
    }
    Ok(())
}

impl Stretch {
    fn new(lane: Lane, entry: &entry::Entry, bytes: u64) -> Self {
        let (first, last, accepted_at) = (entry.first, entry.first, entry.accepted_at);
        let mut stretch = Self { lane, first, last, reports: 0, markers: 0, bytes: 0, accepted_at };
        stretch.extend(entry, bytes);
        stretch
    }

    fn extend(&mut self, entry: &entry::Entry, bytes: u64) {
        let reports = entry.reports();
        self.reports += reports;
        self.markers += entry.records.len() as u64 - reports;
        self.bytes += bytes;
        self.last = entry.last();
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
    /// One id's stream. Its entries may lie in several lanes, of which the one with the latest takes its appends.
    fn stream(&mut self, id: Id, mut stretches: Vec<Stretch>, clock: Clock) -> Stream {
        stretches.sort_by_key(|s| s.first);
        let latest = stretches.last().expect("a stretch is made with its first entry");
        let stream = Stream::new(id, latest.lane);
        let mut state = stream.lock();
        state.synced = latest.last;
        state.older_lanes = stretches[..stretches.len() - 1].iter().map(|s| s.lane).collect();
        state.oldest = Some(clock.instant(stretches[0].accepted_at));
        for stretch in &stretches {
            self.lanes.hold(stretch.lane);
            state.reports += stretch.reports;
            state.markers += stretch.markers;
            state.bytes += stretch.bytes;
        }
        self.reports += state.reports;
        self.bytes += state.bytes;
        drop(state);
        stream
    }
}
