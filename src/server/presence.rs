//! Which ids report over which connections, for the markers that a connection leaves behind.

use std::collections::{HashMap, hash_map};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
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
    standing: Arc<Standing>,
}

/// What is known of an id that connections stand for.
#[derive(Debug, Default)]
struct Standing {
    /// What was kept last of the id is a report.
    open: AtomicBool,
    /// `done` messages that are appended and not answered. Those of other connections and of requests may still be
    /// under way when the last connection leaves; a marker would follow them.
    dones: AtomicU32,
}

impl Standing {
    /// Whether a marker is owed when nobody stands for the id any more.
    fn owes_marker(&self) -> bool {
        self.open.load(Ordering::Acquire) && self.dones.load(Ordering::Acquire) == 0
    }
}

/// What an append that is not answered means for its id, once it is kept. Dropped for one that is refused.
#[derive(Debug)]
pub(super) struct Stake {
    standing: Arc<Standing>,
    done: bool,
}

impl Stake {
    fn new(standing: &Arc<Standing>, done: bool) -> Self {
        if done {
            standing.dones.fetch_add(1, Ordering::AcqRel);
        }
        Self { standing: Arc::clone(standing), done }
    }

    /// The append is durable.
    pub(super) fn kept(self) {
        let open = !self.done;
        if self.standing.open.load(Ordering::Relaxed) != open {
            self.standing.open.store(open, Ordering::Release);
        }
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        if self.done {
            self.standing.dones.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Presence {
    fn streams(&self) -> MutexGuard<'_, HashMap<Id, Seat>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stake of an append that comes from outside of the connections that stand for its id: `None` where none does.
    pub(super) fn stake(&self, id: &Id, done: bool) -> Option<Stake> {
        self.streams().get(id).map(|seat| Stake::new(&seat.standing, done))
    }
}

/// The ids of one connection.
pub(super) struct Attendance {
    presence: Arc<Presence>,
    /// Those that it may report for; the value is there once it did.
    ids: HashMap<Id, Option<Arc<Standing>>>,
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

    /// A report of the id is about to be appended. The connection stands for the id from here on, kept or not: no other
    /// may leave a marker while a report is under way.
    pub(super) fn reported(&mut self, id: &Id) -> Stake {
        if let Some(Some(standing)) = self.ids.get(id) {
            return Stake::new(standing, false);
        }
        let mut streams = self.presence.streams();
        let seat = streams.entry(*id).or_insert_with(|| Seat { connections: 0, standing: Arc::default() });
        seat.connections += 1;
        self.ids.insert(*id, Some(Arc::clone(&seat.standing)));
        Stake::new(&seat.standing, false)
    }

    /// A `done` of the id is about to be appended. It need not be an id of this connection.
    pub(super) fn done(&self, id: &Id) -> Option<Stake> {
        match self.ids.get(id) {
            Some(Some(standing)) => Some(Stake::new(standing, true)),
            _ => self.presence.stake(id, true),
        }
    }

    /// The connection is over and appends no more; its stakes are resolved. `mark` gets the ids that are owed a marker,
    /// some at a time, and must append at once: while it runs no id comes back, so that a marker never follows a report
    /// of a later connection.
    pub(super) fn leave(self, mut mark: impl FnMut(&[Id])) {
        let reported: Vec<Id> = self.ids.iter().filter_map(|(id, seat)| seat.is_some().then_some(*id)).collect();
        let mut owed = Vec::new();
        for chunk in reported.chunks(LEAVE_CHUNK) {
            owed.clear();
            let mut streams = self.presence.streams();
            for id in chunk {
                let hash_map::Entry::Occupied(mut seat) = streams.entry(*id) else { continue };
                seat.get_mut().connections -= 1;
                if seat.get().connections == 0 && seat.remove().standing.owes_marker() {
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

    fn kept_done(attendance: &Attendance, id: &Id) {
        attendance.done(id).expect("somebody stands for the id").kept();
    }

    #[test]
    fn ids_that_reported_and_are_not_done_are_marked() {
        let presence = Arc::default();
        let mut one = attend(&presence);
        for name in ["a", "b", "c"] {
            assert!(one.admit(&id(name)));
        }
        one.reported(&id("a")).kept();
        one.reported(&id("b")).kept();
        kept_done(&one, &id("b"));
        assert_eq!(marks(one), [id("a")]);
        assert!(presence.streams().is_empty());
    }

    #[test]
    fn only_the_last_connection_of_an_id_marks_it() {
        let presence = Arc::default();
        let (mut one, mut two) = (attend(&presence), attend(&presence));
        one.reported(&id("a")).kept();
        one.reported(&id("a")).kept();
        two.reported(&id("a")).kept();
        assert_eq!(marks(one), []);
        assert_eq!(marks(two), [id("a")]);
    }

    #[test]
    fn a_later_report_opens_a_done_id_again() {
        let presence = Arc::default();
        let (mut one, two) = (attend(&presence), attend(&presence));
        one.reported(&id("a")).kept();
        kept_done(&two, &id("a"));
        one.reported(&id("a")).kept();
        assert_eq!(marks(one), [id("a")]);
        let mut three = attend(&presence);
        three.reported(&id("a")).kept();
        kept_done(&two, &id("a"));
        assert_eq!(marks(three), []);
        assert_eq!(marks(two), []);
    }

    /// The id once counted as done before the answer was there.
    #[test]
    fn a_done_that_is_refused_takes_no_marker_away() {
        let mut one = attend(&Arc::default());
        one.reported(&id("a")).kept();
        drop(one.done(&id("a")));
        assert_eq!(marks(one), [id("a")]);
    }

    /// The marker once took the place of `done`.
    #[test]
    fn a_report_that_is_refused_opens_nothing() {
        let mut one = attend(&Arc::default());
        one.reported(&id("a")).kept();
        kept_done(&one, &id("a"));
        drop(one.reported(&id("a")));
        assert_eq!(marks(one), []);
    }

    #[test]
    fn an_id_of_refused_reports_alone_is_not_marked() {
        let presence = Arc::default();
        let (mut one, mut two) = (attend(&presence), attend(&presence));
        drop(one.reported(&id("a")));
        drop(two.reported(&id("a")));
        assert_eq!(marks(one), []);
        assert_eq!(marks(two), []);
        assert!(presence.streams().is_empty());
    }

    /// As when a page sends its last word over `POST /reports` while its connection closes.
    #[test]
    fn a_done_from_elsewhere_that_is_under_way_counts_as_kept() {
        let presence: Arc<Presence> = Arc::default();
        let mut one = attend(&presence);
        one.reported(&id("a")).kept();
        let under_way = presence.stake(&id("a"), true);
        assert_eq!(marks(one), []);
        drop(under_way);
        assert!(presence.stake(&id("a"), true).is_none());
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
            one.reported(&id(&number.to_string())).kept();
        }
        let mut chunks = Vec::new();
        one.leave(|ids| chunks.push(ids.len()));
        assert_eq!(chunks, [LEAVE_CHUNK, 1]);
    }
}
