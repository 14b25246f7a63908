//! What is known in memory of one id with backlog. Ids without backlog are not known at all.

use std::collections::VecDeque;
use std::sync::Weak;
use std::task::Waker;

use tokio::time::Instant;

use super::append::Outlet;
use super::aside::Apart;
use super::bundle::Spot;
use super::progress::Progress;
use super::senders::Senders;
use crate::report::{Id, Position};
use crate::sync::{Mutex, MutexGuard};

/// One id that has backlog, or is about to.
pub struct Stream {
    /// The id.
    pub id: Id,
    state: Mutex<State>,
}

/// What changes of a stream.
#[derive(Debug)]
pub struct State {
    /// Where its entries are that no run has yet, oldest first; all of them are younger than those in runs.
    pub(super) recent: VecDeque<Spot>,
    /// Entries up to here are in runs, as far as they are not settled.
    pub(super) sorted: Position,
    /// Reports that are durable and not settled.
    pub(super) reports: u64,
    /// Markers that are durable and not settled.
    pub(super) markers: u64,
    /// Bytes of the entries of both.
    pub(super) bytes: u64,
    /// All up to here is settled.
    pub(super) settled: Position,
    /// All up to here is durable; what is above may be on disk and not synced.
    pub(super) synced: Position,
    /// An entry was set aside, and what it had is still counted.
    pub(super) damaged: bool,
    /// A batch was read, and may be on its way to the sink.
    pub(super) taken: bool,
    /// Appends that a commit is working on.
    pub(super) in_commit: u32,
    /// Its place among the groups of the commit that works on it.
    pub(super) group: Option<u32>,
    /// A batch was taken and did not have all.
    pub(super) behind: bool,
    /// When the oldest record that is not settled was accepted.
    pub(super) oldest: Option<Instant>,
    /// When the first record was accepted that came after the batch was taken.
    pub(super) oldest_after_taken: Option<Instant>,
    /// Who waits for a `done` marker to be in the sink, in order of position.
    pub(super) done: Vec<DoneWaiter>,
    /// Who sent what waits, where they want to know of dead letters. Boxed: most do not.
    pub(super) senders: Option<Box<Senders>>,
    /// Whether the id has a flusher, and what that waits for.
    pub flusher: Flusher,
    /// Wakes the flusher, where it waits.
    pub waker: Option<Waker>,
    /// Nothing of it is drained until it is resumed.
    pub(super) paused: bool,
    /// What is durable now is drained without waiting for batch or tick.
    pub urgent: bool,
    /// Boxed: of most ids there is nothing to tell.
    pub(super) progress: Option<Box<Progress>>,
    /// Boxed likewise.
    pub(super) apart: Option<Box<Apart>>,
}

/// The state of an id's flusher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flusher {
    /// The id has none: it has no backlog, but appends on their way.
    None,
    /// It waits for a batch, a marker or the tick, and wants to be woken by the first two.
    Waiting,
    /// It works, or the id is with the drainers, and will be looked at again by itself.
    Working,
    /// The id is paused: it waits for the resume alone.
    Held,
}

/// A connection that waits until a `done` marker is in the sink.
pub(super) struct DoneWaiter {
    pub(super) position: Position,
    pub(super) outlet: Weak<dyn Outlet>,
    pub(super) ticket: u64,
}

impl std::fmt::Debug for DoneWaiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DoneWaiter").field("position", &self.position).finish_non_exhaustive()
    }
}

/// What a flusher decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Reports that are durable and not settled.
    pub reports: u64,
    /// Markers likewise.
    pub markers: u64,
    /// Bytes of the entries of both.
    pub bytes: u64,
    /// The last batch did not have all that there was.
    pub behind: bool,
    /// When the oldest of both was accepted.
    pub oldest: Option<Instant>,
    /// Nothing of it is to be drained: it is paused, or held.
    pub paused: bool,
    /// An operator wants it drained now.
    pub urgent: bool,
}

/// What one commit adds to a stream.
pub(super) struct Committed {
    pub(super) reports: u64,
    pub(super) markers: u64,
    pub(super) bytes: u64,
}

impl Committed {
    fn appends(&self) -> u32 {
        u32::try_from(self.reports + self.markers).expect("what may wait for one commit is bounded by its bytes")
    }
}

impl Stream {
    pub(super) fn new(id: Id) -> Self {
        let state = State {
            recent: VecDeque::new(),
            sorted: Position(0),
            reports: 0,
            markers: 0,
            bytes: 0,
            settled: Position(0),
            synced: Position(0),
            damaged: false,
            taken: false,
            in_commit: 0,
            group: None,
            behind: false,
            oldest: None,
            oldest_after_taken: None,
            done: Vec::new(),
            senders: None,
            flusher: Flusher::None,
            waker: None,
            paused: false,
            urgent: false,
            progress: None,
            apart: None,
        };
        Self { id, state: Mutex::new(state) }
    }

    /// The stream's state. Held for moments, never over a wait or a read of the disk.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of a stream's state panics: it only counts")
    }

    /// Lets the id's flusher act on all that is durable now, without waiting for batch, tick or the next attempt.
    pub fn hasten(&self) {
        let mut state = self.lock();
        if !state.is_quiet() && !state.paused && !state.is_held() {
            state.urgent = true;
            state.wake();
        }
    }

    /// A resume hastens the id, so that its flusher, which waits for that alone, looks again.
    pub(super) fn set_paused(&self, paused: bool) {
        let was_paused = std::mem::replace(&mut self.lock().paused, paused);
        if was_paused && !paused {
            self.hasten();
        }
    }
}

impl State {
    /// What a flusher decides by.
    pub fn backlog(&self) -> Backlog {
        let Self { reports, markers, bytes, behind, oldest, urgent, .. } = *self;
        let paused = self.paused || self.is_held();
        Backlog { reports, markers, bytes, behind, oldest, paused, urgent }
    }

    /// Lets the flusher look at the stream again.
    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Records that are durable, or on their way there, and not settled.
    pub(super) fn occupancy(&self) -> u64 {
        self.reports + self.markers + u64::from(self.in_commit)
    }

    /// Whether nothing of the id is left to store, nor on its way.
    pub(super) fn is_quiet(&self) -> bool {
        let nothing_comes = self.in_commit == 0 || cfg!(forebay_plant = "leave_in_commit");
        self.is_drained() && nothing_comes
    }

    /// Whether nothing that is durable is left to store.
    pub(super) fn is_drained(&self) -> bool {
        self.reports == 0 && self.markers == 0
    }

    /// Notes that the batch that was read is not on its way to the sink after all.
    pub fn give_back(&mut self) {
        self.taken = false;
    }

    /// Forgets the places of entries in bundles up to this one: they are in runs.
    pub(super) fn forget_places(&mut self, bundle: u64) {
        let sorted = self.recent.partition_point(|spot| spot.bundle <= bundle);
        if let Some(last) = self.recent.drain(..sorted).next_back() {
            self.sorted = last.last();
        }
        if self.recent.is_empty() {
            self.recent = VecDeque::new();
        }
    }

    /// Adds the places of entries that are durable in bundles.
    pub(super) fn add_recent(&mut self, spots: &[Spot]) {
        if self.recent.capacity() == 0 {
            // Most ids are drained before there are more.
            self.recent.reserve_exact(spots.len());
        }
        self.recent.extend(spots);
    }

    /// Notes that the records `first..=through` are durable.
    pub(super) fn committed(&mut self, added: &Committed, first: Position, through: Position, now: Instant) {
        if self.synced == Position(0) {
            // The id may have been here before, with entries that are settled and not yet noted as such.
            self.settled = Position(first.0 - 1);
        }
        self.in_commit -= added.appends();
        self.group = None;
        self.reports += added.reports;
        self.markers += added.markers;
        self.bytes += added.bytes;
        self.synced = through;
        self.oldest.get_or_insert(now);
        self.oldest_after_taken.get_or_insert(now);
    }
}
