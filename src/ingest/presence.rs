//! Which ids report over which connections, for the markers that a connection leaves behind.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::report::{Id, Position};

/// Ids that leave in one hold of the lock, so that a connection of many ids does not keep others waiting.
const LEAVE_CHUNK: usize = 256;

/// Room for so many ids is kept when the last one leaves.
const KEPT_IDS: usize = 16;

/// All ids that report over some connection.
pub(super) struct Presence {
    streams: Mutex<HashSet<ById>>,
    /// Ids that connections may report for: each counts for each connection.
    admitted: AtomicUsize,
    limit: usize,
}

/// What is known of an id that connections stand for.
#[derive(Debug)]
struct IdPresence {
    id: Id,
    /// How many stand for it; changed under the lock of all ids.
    connections: AtomicU32,
    /// The position of what was kept last of the id, and in the lowest bit whether that is a report. Answers to several
    /// connections do not come in the order of positions.
    last: AtomicU64,
    /// `done` messages that are appended and not answered. Those of other connections and of requests may still be
    /// under way when the last connection leaves; a marker would follow them.
    dones: AtomicU32,
}

/// What is known of an id, found by the id, which is nowhere but in it.
struct ById(Arc<IdPresence>);

impl Borrow<Id> for ById {
    fn borrow(&self) -> &Id {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl IdPresence {
    /// Whether a marker is owed when nobody stands for the id any more.
    fn owes_marker(&self) -> bool {
        // In this order: a `done` notes that it was kept before it is under way no more.
        self.dones.load(Ordering::Acquire) == 0 && self.last.load(Ordering::Acquire) & 1 == 1
    }
}

/// What an append that is not answered means for its id, once it is kept. Dropped for one that is refused.
#[derive(Debug)]
pub(super) struct PendingAppend {
    of_id: Arc<IdPresence>,
    done: bool,
}

impl PendingAppend {
    fn new(of_id: &Arc<IdPresence>, done: bool) -> Self {
        if done {
            of_id.dones.fetch_add(1, Ordering::AcqRel);
        }
        Self { of_id: Arc::clone(of_id), done }
    }

    /// The append is durable, at this position.
    pub(super) fn kept(self, position: Position) {
        let last = position.0 << 1 | u64::from(!self.done);
        if cfg!(forebay_plant = "last_answer_wins") {
            self.of_id.last.store(last, Ordering::Release);
        }
        self.of_id.last.fetch_max(last, Ordering::AcqRel);
    }

    /// Nobody waited for the answer: the append is taken for the latest, until another is answered.
    pub(super) fn assume_kept(self) {
        let assumed = |last: u64| Some(last & !1 | u64::from(!self.done));
        let _ = self.of_id.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, assumed);
    }
}

impl Drop for PendingAppend {
    fn drop(&mut self) {
        if self.done {
            self.of_id.dones.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Presence {
    /// No ids yet; connections may report for `limit` of them, all together.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { streams: Mutex::default(), admitted: AtomicUsize::new(0), limit })
    }

    fn streams(&self) -> MutexGuard<'_, HashSet<ById>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An append from outside of the connections that report for its id: `None` where none does.
    pub(super) fn pending(&self, id: &Id, done: bool) -> Option<PendingAppend> {
        self.streams().get(id).map(|ById(of_id)| PendingAppend::new(of_id, done))
    }

    fn admit(&self) -> bool {
        let room = |count: usize| (count < self.limit).then_some(count + 1);
        cfg!(forebay_plant = "ids_without_end")
            || self.admitted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }
}

/// Which limit of ids is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooMany {
    /// That of one connection.
    Here,
    /// That of all connections together.
    Everywhere,
}

/// The ids of one connection.
pub(super) struct Attendance {
    presence: Arc<Presence>,
    /// Those that it stands for.
    ids: HashSet<ById>,
    /// Those that it was admitted for, and perhaps stands for by now.
    admitted: HashSet<Id>,
    /// How many of both.
    count: usize,
    limit: usize,
}

impl Attendance {
    /// A connection that may report for `limit` ids.
    pub(super) fn new(presence: Arc<Presence>, limit: usize) -> Self {
        Self { presence, ids: HashSet::new(), admitted: HashSet::new(), count: 0, limit }
    }

    /// Lets the connection report for the id, within the limits.
    pub(super) fn admit(&mut self, id: &Id) -> Result<(), TooMany> {
        if self.ids.contains(id) || self.admitted.contains(id) {
            return Ok(());
        }
        if self.count >= self.limit {
            return Err(TooMany::Here);
        }
        if !self.presence.admit() {
            return Err(TooMany::Everywhere);
        }
        self.count += 1;
        self.admitted.insert(*id);
        Ok(())
    }

    /// A report of the id is about to be appended. The connection stands for the id from here on, kept or not: no other
    /// may leave a marker while a report is under way.
    pub(super) fn reported(&mut self, id: &Id) -> PendingAppend {
        if let Some(ById(of_id)) = self.ids.get(id) {
            return PendingAppend::new(of_id, false);
        }
        let mut streams = self.presence.streams();
        let of_id = match streams.get(id) {
            Some(ById(of_id)) => Arc::clone(of_id),
            None => {
                let (connections, last, dones) = Default::default();
                let of_id = Arc::new(IdPresence { id: *id, connections, last, dones });
                streams.insert(ById(Arc::clone(&of_id)));
                of_id
            }
        };
        of_id.connections.fetch_add(1, Ordering::Relaxed);
        drop(streams);
        self.admitted.remove(id);
        if self.admitted.is_empty() {
            // Room for the ids of one frame.
            self.admitted.shrink_to(KEPT_IDS);
        }
        let pending = PendingAppend::new(&of_id, false);
        self.ids.insert(ById(of_id));
        pending
    }

    /// A `done` of the id is about to be appended. It need not be an id of this connection.
    pub(super) fn done(&self, id: &Id) -> Option<PendingAppend> {
        match self.ids.get(id) {
            Some(ById(of_id)) => Some(PendingAppend::new(of_id, true)),
            None => self.presence.pending(id, true),
        }
    }

    /// The connection is over and appends no more; all of its appends are answered. `mark` gets the ids that are owed
    /// a marker, some at a time, and must append at once: while it runs no id comes back, so that a marker never
    /// follows a report of a later connection.
    pub(super) fn leave(mut self, mut mark: impl FnMut(&[Id])) {
        let mut reported = std::mem::take(&mut self.ids).into_iter();
        let mut owed = Vec::new();
        while reported.len() > 0 {
            owed.clear();
            let mut streams = self.presence.streams();
            for ById(of_id) in reported.by_ref().take(LEAVE_CHUNK) {
                if of_id.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
                    streams.remove(&of_id.id);
                    if of_id.owes_marker() {
                        owed.push(of_id.id);
                    }
                }
            }
            if streams.is_empty() {
                streams.shrink_to(KEPT_IDS);
            }
            if !owed.is_empty() {
                mark(&owed);
            }
        }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.presence.admitted.fetch_sub(self.count, Ordering::Relaxed);
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

    /// Each is kept after all before it.
    fn kept(pending: PendingAppend) {
        let next = (pending.of_id.last.load(Ordering::Acquire) >> 1) + 1;
        pending.kept(Position(next));
    }

    fn kept_done(attendance: &Attendance, id: &Id) {
        kept(attendance.done(id).expect("somebody stands for the id"));
    }

    #[test]
    fn ids_that_reported_and_are_not_done_are_marked() {
        let presence = Presence::new(10_000);
        let mut one = attend(&presence);
        for name in ["a", "b", "c"] {
            assert_eq!(one.admit(&id(name)), Ok(()));
        }
        kept(one.reported(&id("a")));
        kept(one.reported(&id("b")));
        kept_done(&one, &id("b"));
        assert_eq!(marks(one), [id("a")]);
        assert!(presence.streams().is_empty());
    }

    #[test]
    fn only_the_last_connection_of_an_id_marks_it() {
        let presence = Presence::new(10_000);
        let (mut one, mut two) = (attend(&presence), attend(&presence));
        kept(one.reported(&id("a")));
        kept(one.reported(&id("a")));
        kept(two.reported(&id("a")));
        assert_eq!(marks(one), []);
        assert_eq!(marks(two), [id("a")]);
    }

    #[test]
    fn a_later_report_opens_a_done_id_again() {
        let presence = Presence::new(10_000);
        let (mut one, two) = (attend(&presence), attend(&presence));
        kept(one.reported(&id("a")));
        kept_done(&two, &id("a"));
        kept(one.reported(&id("a")));
        assert_eq!(marks(one), [id("a")]);
        let mut three = attend(&presence);
        kept(three.reported(&id("a")));
        kept_done(&two, &id("a"));
        assert_eq!(marks(three), []);
        assert_eq!(marks(two), []);
    }

    /// The id once counted as done before the answer was there.
    #[test]
    fn a_done_that_is_refused_takes_no_marker_away() {
        let mut one = attend(&Presence::new(10_000));
        kept(one.reported(&id("a")));
        drop(one.done(&id("a")));
        assert_eq!(marks(one), [id("a")]);
    }

    /// The marker once took the place of `done`.
    #[test]
    fn a_report_that_is_refused_opens_nothing() {
        let mut one = attend(&Presence::new(10_000));
        kept(one.reported(&id("a")));
        kept_done(&one, &id("a"));
        drop(one.reported(&id("a")));
        assert_eq!(marks(one), []);
    }

    #[test]
    fn an_id_of_refused_reports_alone_is_not_marked() {
        let presence = Presence::new(10_000);
        let (mut one, mut two) = (attend(&presence), attend(&presence));
        drop(one.reported(&id("a")));
        drop(two.reported(&id("a")));
        assert_eq!(marks(one), []);
        assert_eq!(marks(two), []);
        assert!(presence.streams().is_empty());
    }

    /// They are answered connection by connection. The marker once took the place of such a `done`, or was missing.
    #[test]
    fn what_was_kept_last_counts_in_whatever_order_the_answers_come() {
        for report_is_last in [false, true] {
            let presence = Presence::new(10_000);
            let (mut one, mut two) = (attend(&presence), attend(&presence));
            kept(one.reported(&id("a")));
            kept(two.reported(&id("a")));
            let (report, done) = (one.reported(&id("a")), two.done(&id("a")).expect("somebody stands for the id"));
            if report_is_last {
                report.kept(Position(11));
                done.kept(Position(10));
            } else {
                done.kept(Position(11));
                report.kept(Position(10));
            }
            assert_eq!(marks(one), []);
            assert_eq!(marks(two).len(), usize::from(report_is_last));
        }
    }

    /// As when a page sends its last word over `POST /reports` while its connection closes.
    #[test]
    fn a_done_from_elsewhere_that_is_under_way_counts_as_kept() {
        let presence = Presence::new(10_000);
        let mut one = attend(&presence);
        kept(one.reported(&id("a")));
        let under_way = presence.pending(&id("a"), true);
        assert_eq!(marks(one), []);
        drop(under_way);
        assert!(presence.pending(&id("a"), true).is_none());
    }

    #[test]
    fn a_connection_has_a_limit_of_ids() {
        let mut one = Attendance::new(Presence::new(9), 2);
        assert_eq!(
            ["a", "b", "a", "c"].map(|name| one.admit(&id(name)).err()),
            [None, None, None, Some(TooMany::Here)]
        );
    }

    #[test]
    fn all_connections_together_have_one_too_and_give_it_back() {
        let presence = Presence::new(3);
        let (mut one, mut two) = (attend(&presence), attend(&presence));
        assert_eq!(["a", "b"].map(|name| one.admit(&id(name)).err()), [None, None]);
        kept(one.reported(&id("a")));
        assert_eq!(["a", "b"].map(|name| two.admit(&id(name)).err()), [None, Some(TooMany::Everywhere)]);
        assert_eq!(one.admit(&id("a")), Ok(()));
        marks(one);
        assert_eq!(["b", "c"].map(|name| two.admit(&id(name)).err()), [None, None]);
        drop(two);
        assert_eq!(presence.admitted.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn many_ids_leave_in_chunks() {
        let presence = Presence::new(10_000);
        let mut one = attend(&presence);
        for number in 0..LEAVE_CHUNK + 1 {
            kept(one.reported(&id(&number.to_string())));
        }
        let mut chunks = Vec::new();
        one.leave(|ids| chunks.push(ids.len()));
        assert_eq!(chunks, [LEAVE_CHUNK, 1]);
    }
}
