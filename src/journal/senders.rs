//! Who is told what becomes of reports that are durable: who waits for a `done` to be drained, and who wants to know of
//! dead letters.

use std::sync::{Arc, Weak};

use super::Journal;
use super::append::{Content, Dead, Outlet, ReplyTo};
use super::stream::DoneWaiter;
use crate::report::{Id, Marker, Position};

/// Stretches of reports of one id whose senders are remembered. Past it the oldest is forgotten: its sender is not
/// told,
/// and the dead letter is listed all the same.
const MAX_STRETCHES: usize = 64;

/// The senders of an id's reports that want to know of dead letters, in order of position.
#[derive(Debug, Default)]
pub(super) struct Senders(Vec<Stretch>);

/// Reports of one id that one sender appended, with nothing of the id in between.
struct Stretch {
    first: Position,
    through: Position,
    outlet: Weak<dyn Outlet>,
}

impl std::fmt::Debug for Stretch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..={}", self.first.0, self.through.0)
    }
}

impl Senders {
    /// Notes who appended the record at `position`, which follows that at `before` in its id.
    fn note(&mut self, before: Position, position: Position, outlet: &Arc<dyn Outlet>) {
        let is_same = |stretch: &&mut Stretch| {
            stretch.through == before && Weak::as_ptr(&stretch.outlet).cast::<()>() == Arc::as_ptr(outlet).cast::<()>()
        };
        match self.0.last_mut().filter(is_same) {
            Some(stretch) => stretch.through = position,
            None => {
                if self.0.len() == MAX_STRETCHES {
                    self.0.remove(0);
                }
                self.0.push(Stretch { first: position, through: position, outlet: Arc::downgrade(outlet) });
            }
        }
    }

    /// Forgets those of what is settled; whether none is left.
    pub(super) fn settled(&mut self, through: Position) -> bool {
        self.0.retain(|stretch| stretch.through > through);
        self.0.is_empty()
    }

    /// Who appended the record at `position`.
    fn of(&self, position: Position) -> Option<Arc<dyn Outlet>> {
        let stretch = self.0.iter().find(|stretch| (stretch.first..=stretch.through).contains(&position))?;
        stretch.outlet.upgrade()
    }
}

/// Records of one cycle whose senders want to know of dead letters: the group, the place in it, and the sender.
pub(super) type Wanted = Vec<(usize, usize, Arc<dyn Outlet>)>;

/// Notes the senders of one group's records, of which the first is at `first`; `synced` is the last that the id had
/// before.
pub(super) fn note_senders(
    senders: &mut Option<Box<Senders>>,
    wanted: impl Iterator<Item = (usize, Arc<dyn Outlet>)>,
    first: Position,
    synced: Position,
) {
    for (index, outlet) in wanted {
        let before = if index == 0 { synced } else { Position(first.0 + index as u64 - 1) };
        senders.get_or_insert_default().note(before, Position(first.0 + index as u64), &outlet);
    }
}

/// Who waits for a `done` that is durable, where the content is one.
pub(super) fn done_waiter(content: &Content, position: Position, to: &ReplyTo) -> Option<DoneWaiter> {
    let is_done = matches!(content, Content::Marker(Marker::Done));
    is_done.then(|| DoneWaiter { position, outlet: Arc::downgrade(&to.outlet), ticket: to.ticket })
}

impl Journal {
    /// Tells who sent the report at `position`, where it asked for that and is still there, that it is a dead letter.
    pub fn tell_dead(&self, id: &Id, position: Position, dead: Dead) {
        let stream = self.stream(id);
        let sender = stream.and_then(|stream| stream.lock().senders.as_ref()?.of(position));
        if let Some(sender) = sender {
            sender.dead(dead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::append::{Answer, Drained};
    use super::*;

    struct Nobody;

    impl Outlet for Nobody {
        fn answer(&self, _: &mut dyn Iterator<Item = (u64, Answer)>, _: bool) {}
        fn drained(&self, _: u64, _: Drained) {}
    }

    #[test]
    fn a_sender_is_remembered_for_its_own_records_until_they_are_settled() {
        let [one, two] = [(); 2].map(|()| Arc::new(Nobody) as Arc<dyn Outlet>);
        let mut senders = None;
        let note = |senders: &mut _, index, outlet: &Arc<dyn Outlet>, first, synced| {
            let wanted = std::iter::once((index, Arc::clone(outlet)));
            note_senders(senders, wanted, Position(first), Position(synced));
        };
        note(&mut senders, 0, &one, 10, 0);
        note(&mut senders, 1, &one, 10, 0);
        // Somebody else's is between.
        note(&mut senders, 0, &one, 20, 15);
        note(&mut senders, 1, &two, 20, 15);
        let mut senders = senders.expect("there are some");
        assert_eq!(format!("{:?}", senders.0), "[10..=11, 20..=20, 21..=21]");
        let is = |found: Option<Arc<dyn Outlet>>, wanted: &Arc<dyn Outlet>| {
            found.is_some_and(|found| Arc::as_ptr(&found).cast::<()>() == Arc::as_ptr(wanted).cast::<()>())
        };
        assert!(is(senders.of(Position(11)), &one) && is(senders.of(Position(21)), &two));
        assert!(senders.of(Position(15)).is_none());
        assert!(!senders.settled(Position(20)) && senders.of(Position(20)).is_none());
        drop(two);
        assert!(senders.of(Position(21)).is_none(), "who is gone is not held");
        assert!(senders.settled(Position(21)));
    }

    #[test]
    fn the_oldest_senders_are_forgotten_first() {
        let one = Arc::new(Nobody) as Arc<dyn Outlet>;
        let mut senders = Senders::default();
        (0..=MAX_STRETCHES as u64).for_each(|n| senders.note(Position(0), Position(10 * n + 5), &one));
        assert_eq!(senders.0.len(), MAX_STRETCHES);
        assert!(senders.of(Position(5)).is_none() && senders.of(Position(15)).is_some());
    }
}
