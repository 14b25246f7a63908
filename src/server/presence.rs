//! Which ids report over which connections, for the markers that a connection leaves behind.

use std::collections::{HashMap, hash_map};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::report::Id;

/// Ids that leave in one hold of the lock, so that a connection of many ids does not keep others waiting.
const LEAVE_CHUNK: usize = 256;

/// All ids that report over some connection.
#[derive(Default)]
pub(super) struct Presence {
    streams: Mutex<HashMap<Id, Seat>>,
}

struct Seat {
    connections: usize,
    done: Arc<AtomicBool>,
}

impl Presence {
    fn streams(&self) -> MutexGuard<'_, HashMap<Id, Seat>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an id was said to be done, or open again, by whom no connection stands for (`POST /reports`).
    pub(super) fn note(&self, id: &Id, done: bool) {
        if let Some(seat) = self.streams().get(id) {
            seat.done.store(done, Ordering::Relaxed);
        }
    }
}

/// The ids of one connection.
pub(super) struct Attendance {
    presence: Arc<Presence>,
    /// Those that it may report for; the value is there once it did.
    ids: HashMap<Id, Option<Arc<AtomicBool>>>,
    limit: usize,
}

impl Attendance {
    /// A connection that may report for `limit` ids.
    pub(super) fn new(presence: Arc<Presence>, limit: usize) -> Self {
        Self { presence, ids: HashMap::new(), limit }
    }

    /// Whether the connection may report for the id: `false` past its limit.
    pub(super) fn admit(&mut self, id: &Id) -> bool {
        if self.ids.contains_key(id) {
            return true;
        }
        let room = self.ids.len() < self.limit;
        if room {
            self.ids.insert(*id, None);
        }
        room
    }

    /// A report of the id is about to be appended, which opens it again if it was done.
    pub(super) fn reported(&mut self, id: &Id) {
        if let Some(Some(done)) = self.ids.get(id) {
            if done.load(Ordering::Relaxed) {
                done.store(false, Ordering::Relaxed);
            }
            return;
        }
        let mut streams = self.presence.streams();
        let seat = streams.entry(*id).or_insert_with(|| Seat { connections: 0, done: Arc::default() });
        seat.connections += 1;
        seat.done.store(false, Ordering::Relaxed);
        self.ids.insert(*id, Some(Arc::clone(&seat.done)));
    }

    /// A `done` of the id is about to be appended. It need not be an id of this connection.
    pub(super) fn done(&mut self, id: &Id) {
        match self.ids.get(id) {
            Some(Some(done)) => done.store(true, Ordering::Relaxed),
            _ => self.presence.note(id, true),
        }
    }

    /// The connection is over and appends no more. `mark` gets the ids that are owed a marker, some at a time, and must
    /// append at once: while it runs no id comes back, so that a marker never follows a report of a later connection.
    pub(super) fn leave(self, mut mark: impl FnMut(&[Id])) {
        let reported: Vec<Id> = self.ids.iter().filter_map(|(id, done)| done.is_some().then_some(*id)).collect();
        let mut owed = Vec::new();
        for chunk in reported.chunks(LEAVE_CHUNK) {
            owed.clear();
            let mut streams = self.presence.streams();
            for id in chunk {
                let hash_map::Entry::Occupied(mut seat) = streams.entry(*id) else { continue };
                seat.get_mut().connections -= 1;
                if seat.get().connections == 0 && !seat.remove().done.load(Ordering::Relaxed) {
                    owed.push(*id);
                }
            }
            if !owed.is_empty() {
                mark(&owed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::new(text).expect("an id")
    }

    fn attend(presence: &Arc<Presence>) -> Attendance {
        Attendance::new(Arc::clone(presence), 1000)
    }

    fn marks(attendance: Attendance) -> Vec<Id> {
        let mut all = Vec::new();
        attendance.leave(|ids| all.extend_from_slice(ids));
        all.sort();
        all
    }

    #[test]
    fn ids_that_reported_and_are_not_done_are_marked() {
        let presence = Arc::default();
        let mut one = attend(&presence);
        for name in ["a", "b", "c"] {
            assert!(one.admit(&id(name)));
        }
        one.reported(&id("a"));
        one.reported(&id("b"));
        one.done(&id("b"));
        assert_eq!(marks(one), [id("a")]);
        assert!(presence.streams().is_empty());
    }

    #[test]
    fn only_the_last_connection_of_an_id_marks_it() {
        let presence = Arc::default();
        let (mut one, mut two) = (attend(&presence), attend(&presence));
        one.reported(&id("a"));
        one.reported(&id("a"));
        two.reported(&id("a"));
        assert_eq!(marks(one), []);
        assert_eq!(marks(two), [id("a")]);
    }

    #[test]
    fn a_later_report_opens_a_done_id_again() {
        let presence = Arc::default();
        let (mut one, mut two) = (attend(&presence), attend(&presence));
        one.reported(&id("a"));
        two.done(&id("a"));
        one.reported(&id("a"));
        assert_eq!(marks(one), [id("a")]);
        let mut three = attend(&presence);
        three.reported(&id("a"));
        two.done(&id("a"));
        assert_eq!(marks(three), []);
        assert_eq!(marks(two), []);
    }

    #[test]
    fn a_connection_has_a_limit_of_ids() {
        let mut one = Attendance::new(Arc::default(), 2);
        assert!(one.admit(&id("a")) && one.admit(&id("b")) && one.admit(&id("a")));
        assert!(!one.admit(&id("c")));
    }

    #[test]
    fn many_ids_leave_in_chunks() {
        let presence = Arc::default();
        let mut one = attend(&presence);
        for number in 0..LEAVE_CHUNK + 1 {
            one.reported(&id(&number.to_string()));
        }
        let mut chunks = Vec::new();
        one.leave(|ids| chunks.push(ids.len()));
        assert_eq!(chunks, [LEAVE_CHUNK, 1]);
    }
}
