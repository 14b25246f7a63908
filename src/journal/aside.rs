//! Reports that an operator set aside: dead letters whose entries are not settled yet, and must not be stored.
//!
//! An entry cannot be settled in parts, so that a report which is set aside lies in the journal until all of its entry
//! is settled. Meanwhile it is left out of what is read. What says so after a restart is its dead letter.

use std::collections::HashSet;
use std::sync::Arc;

use super::dead_letters::DeadLetter;
use super::entry::Entry;
use super::error::JournalError;
use super::queue::Buried;
use super::read::Settlement;
use super::store::Store;
use super::stream::{State, Stream};
use super::{Journal, dead_letters};
use crate::report::{Body, Id, LetterKey, LetterKind, Number, Position, Report};

/// What sets few ids apart from the many.
#[derive(Debug, Default)]
pub(super) struct Apart {
    /// Nothing of it is drained, until the [`Hold`] goes.
    held: bool,
    /// What is up to here may be in the sink: it was sent, and its batch was put back or given back.
    tried_through: Position,
    /// Rows and dead letters that came of tries whose batch was put back.
    stored: u64,
    dead: u64,
    /// Reports that are dead letters and not settled, with the numbers of their letters.
    aside: Vec<(Position, Number)>,
}

/// Keeps an id from being drained; what is with a drainer already may end there.
pub struct Hold {
    stream: Arc<Stream>,
}

/// A report is known by this among what is found at open: of one number, each commit has another time.
type Trait = (Id, Number, u64);

/// What was set aside and may not be settled, as the dead letters of a journal say.
#[derive(Debug, Default)]
pub(super) struct SetAside {
    traits: HashSet<Trait>,
    ids: HashSet<Id>,
}

impl Hold {
    /// The id.
    pub fn id(&self) -> Id {
        self.stream.id
    }

    /// Whether a report of it waits; none where it was let go since, and what came then is of another stream.
    pub fn has_reports(&self, journal: &Journal) -> Option<bool> {
        let is_its_own = journal.stream(&self.stream.id).is_none_or(|stream| Arc::ptr_eq(&stream, &self.stream));
        is_its_own.then(|| self.stream.lock().reports > 0)
    }

    /// Whether a drainer has a batch of it yet.
    pub fn is_taken(&self) -> bool {
        self.stream.lock().taken
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.stream.lock().apart().held = false;
        self.stream.hasten();
        // Also where nothing is left of it, so that it is let go.
        self.stream.lock().wake();
    }
}

impl Journal {
    /// Keeps an id from being drained; `None` where it has no backlog, or is held already.
    pub fn hold(&self, id: &Id) -> Option<Hold> {
        let stream = self.stream(id)?;
        let was_held = std::mem::replace(&mut stream.lock().apart().held, true);
        (!was_held).then_some(Hold { stream })
    }

    /// Makes a dead letter of a report that waits, of an id that is held and with no drainer. Durable when it returns,
    /// with whether the letter is new; `None` when the journal failed or stopped instead.
    pub async fn bury_aside(&self, hold: &Hold, position: Position, letter: DeadLetter) -> Option<Buried> {
        let number = letter.report.number;
        let buried = self.bury(vec![letter]).await?;
        {
            let mut state = hold.stream.lock();
            state.apart().aside.push((position, number));
            state.reports -= 1;
        }
        self.shared.metrics.audit.settled(0, buried.known, buried.new);
        Some(buried)
    }

    /// Settles the backlog of an id of which nothing else is left, and which no drainer has.
    pub(super) fn settle_what_is_aside(&self, stream: &Arc<Stream>) {
        let is_all = {
            let state = stream.lock();
            state.is_drained() && state.has_aside()
        };
        if !is_all {
            return;
        }
        match self.read(stream, usize::MAX, usize::MAX) {
            Ok(taken) if taken.batch.records.is_empty() => {
                self.settle([(Arc::clone(stream), taken.receipt, Settlement::default())]);
            }
            Ok(_) => stream.lock().give_back(),
            Err(error) => tracing::error!(%error, id = %stream.id, "what is set aside cannot be read"),
        }
    }

    /// Whether a report is set aside and its entry not settled: without its letter it would come back after a restart.
    pub fn is_aside(&self, key: &LetterKey) -> bool {
        let Some(stream) = self.stream(&key.id) else { return false };
        let state = stream.lock();
        state.apart.as_ref().is_some_and(|apart| apart.aside.iter().any(|(_, number)| *number == key.number))
    }
}

impl State {
    pub(super) fn apart(&mut self) -> &mut Apart {
        self.apart.get_or_insert_default()
    }

    /// Whether a [`Hold`] keeps it from being drained.
    pub fn is_held(&self) -> bool {
        self.apart.as_ref().is_some_and(|apart| apart.held)
    }

    /// Notes that a batch was given back, and up to where the sink may have it.
    pub fn give_back_tried(&mut self, through: Option<Position>) {
        self.taken = false;
        self.note_tried(through);
        // Whatever had it drained has it drained again.
        self.urgent = true;
    }

    /// Notes up to where the sink may have what is not settled, though its batch is with no drainer any more.
    pub fn note_tried(&mut self, through: Option<Position>) {
        if let Some(through) = through {
            let tried = &mut self.apart().tried_through;
            *tried = through.max(*tried);
        }
    }

    /// Notes what came of a try whose batch is put back: how many reports of it are new rows, and new dead letters.
    pub fn note_parts(&mut self, stored: u64, dead: u64) {
        if stored + dead > 0 {
            let apart = self.apart();
            apart.stored += stored;
            apart.dead += dead;
        }
    }

    /// What became of a batch, where earlier tries of it are known: what they left was found as duplicates.
    pub(super) fn with_parts(&self, settlement: Settlement) -> Settlement {
        let Some(apart) = &self.apart else { return settlement };
        let stored = apart.stored.min(settlement.duplicates);
        let dead = apart.dead.min(settlement.duplicates - stored);
        Settlement {
            stored: settlement.stored + stored,
            duplicates: settlement.duplicates - stored - dead,
            dead: settlement.dead + dead,
            ..settlement
        }
    }

    /// What is up to here was tried before.
    pub(super) fn tried_through(&self) -> Position {
        self.apart.as_ref().map_or(Position(0), |apart| apart.tried_through)
    }

    /// Whether reports are set aside and their entries not settled.
    pub(super) fn has_aside(&self) -> bool {
        self.apart.as_ref().is_some_and(|apart| !apart.aside.is_empty())
    }

    /// The reports that are set aside, by position.
    pub(super) fn aside(&self) -> Vec<Position> {
        let positions = |apart: &Apart| apart.aside.iter().map(|(position, _)| *position).collect();
        self.apart.as_deref().map(positions).unwrap_or_default()
    }

    /// Forgets what is settled.
    pub(super) fn forget_aside(&mut self, through: Position) {
        let Some(apart) = &mut self.apart else { return };
        // A batch that was put back is read again from its beginning, and settled whole.
        (apart.stored, apart.dead) = (0, 0);
        apart.aside.retain(|(position, _)| *position > through);
        if apart.aside.is_empty() && !apart.held && apart.tried_through <= through {
            self.apart = None;
        }
    }

    /// Notes what was found to be set aside at open.
    pub(super) fn recover_aside(&mut self, aside: Vec<(Position, Number)>) {
        if !aside.is_empty() {
            self.apart().aside = aside;
        }
    }
}

impl SetAside {
    /// Reads the dead letters.
    pub(super) fn find(store: &Store) -> Result<Self, JournalError> {
        let mut found = Self::default();
        for pair in store.scan_dead() {
            let (key, value) = pair?;
            if let Ok(letter) = dead_letters::decode(store.seal(), &key, &value)
                && letter.kind == LetterKind::SetAside
            {
                found.traits.insert((letter.id, letter.report.number, letter.report.accepted_at));
                found.ids.insert(letter.id);
            }
        }
        Ok(found)
    }

    /// Whether some of this id are.
    pub(super) fn has(&self, id: &Id) -> bool {
        self.ids.contains(id)
    }

    /// Which reports of an entry are.
    pub(super) fn of(&self, entry: &Entry) -> Vec<(Position, Number)> {
        if !self.has(&entry.id) {
            return Vec::new();
        }
        let is_one = |report: &Report| self.traits.contains(&(entry.id, report.number, report.accepted_at));
        let aside = entry.records.iter().filter_map(|record| match &record.body {
            Body::Report(report) if is_one(report) => Some((record.position, report.number)),
            Body::Report(_) | Body::Marker(..) => None,
        });
        aside.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tries_left_counts_as_what_it_is_and_never_as_more_than_is_found() {
        let stream = Stream::new(Id::new("a").expect("an id"));
        let mut state = stream.lock();
        state.note_parts(3, 1);
        state.note_parts(2, 0);
        let found = |duplicates| Settlement { stored: 1, duplicates, dead: 1, total: None };
        for (duplicates, counted) in [(0, [1, 0, 1]), (4, [5, 0, 1]), (6, [6, 0, 2]), (9, [6, 3, 2])] {
            let Settlement { stored, duplicates, dead, .. } = state.with_parts(found(duplicates));
            assert_eq!([stored, duplicates, dead], counted);
        }
        state.forget_aside(Position(1));
        assert_eq!(state.with_parts(found(9)), found(9));
    }
}
