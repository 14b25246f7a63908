//! The engine without a disk: for tests and models. What a crash leaves is what [`Memory::crash`] says.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::super::error::JournalError;
use super::{Engine, Found, Kind, Outcome, Places, Settings, Synced, Writer};
use crate::report::{Id, Position};

/// Entries by id and position, values by kind and key.
#[derive(Debug, Default, Clone)]
struct Kept {
    entries: BTreeMap<(Id, Position), Bytes>,
    values: BTreeMap<(Kind, Vec<u8>), Bytes>,
    stamp: Position,
}

/// What it has, and what of it a crash would leave.
#[derive(Debug, Default)]
struct State {
    now: Kept,
    synced: Kept,
    refuses: bool,
}

/// The engine, and its writer too.
#[derive(Debug, Default, Clone)]
pub(super) struct Memory(Arc<Mutex<State>>);

/// First positions of the entries of an id.
#[derive(Debug, Default)]
pub(super) struct Positions(VecDeque<Position>);

impl Memory {
    /// What a crash leaves: all that was synced, and nothing else.
    pub(super) fn crash(&self) -> Self {
        let kept = self.state().synced.clone();
        Self(Arc::new(Mutex::new(State { now: kept.clone(), synced: kept, refuses: false })))
    }

    /// Has the next sync refuse what it is to make durable.
    pub(super) fn refuse(&self) {
        self.state().refuses = true;
    }

    /// Opens it again, and hands over what there is.
    pub(super) fn reopen(self, found: &mut dyn Found<Positions>) -> (Self, Self) {
        let kept = self.state().now.clone();
        for ((id, first), value) in kept.entries {
            found.entry(id, value).add(first);
        }
        found.stamp(kept.stamp);
        (self.clone(), self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics: it moves values")
    }
}

impl Places for Positions {
    type Location = Position;
    type Freed = Vec<Position>;

    fn add(&mut self, first: Position) {
        self.0.push_back(first);
    }

    fn settle(&mut self, through: Position) -> Vec<Position> {
        let settled = self.0.partition_point(|first| *first <= through);
        self.0.drain(..settled).collect()
    }
}

impl Engine for Memory {
    type Places = Positions;
    type Cursor = Vec<Position>;
    type Writer = Self;

    fn open(_: &Settings, found: &mut dyn Found<Positions>) -> Result<(Self, Self), JournalError> {
        Ok(Self::default().reopen(found))
    }

    fn cursor(&self, _: &Id, places: &Positions, from: Position, through: Position) -> Vec<Position> {
        places.0.iter().copied().filter(|first| (from..=through).contains(first)).collect()
    }

    fn read(
        &self,
        id: &Id,
        cursor: Vec<Position>,
        each: &mut dyn FnMut(Position, Bytes) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        for first in cursor {
            let value = self.state().now.entries.get(&(*id, first)).cloned();
            let lost = || JournalError::Damaged(format!("the entry of id {id} at {first:?} is not found"));
            if each(first, value.ok_or_else(lost)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn get(&self, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, JournalError> {
        Ok(self.state().now.values.get(&(kind, key.to_vec())).cloned())
    }

    fn list(&self, kind: Kind, after: &[u8], most: usize) -> Result<Vec<(Vec<u8>, Bytes)>, JournalError> {
        let state = self.state();
        let behind = (Bound::Excluded((kind, after.to_vec())), Bound::Unbounded);
        let of_kind = state.now.values.range(behind).take_while(|((of, _), _)| *of == kind);
        Ok(of_kind.take(most).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }
}

impl Writer for Memory {
    type Location = Position;
    type Freed = Vec<Position>;

    fn append(&mut self, id: &Id, first: Position, _: Position, value: &[u8]) -> Result<Position, JournalError> {
        self.state().now.entries.insert((*id, first), Bytes::copy_from_slice(value));
        Ok(first)
    }

    fn truncate(&mut self, id: &Id, _: Position, freed: Vec<Position>) -> Result<(), JournalError> {
        let mut state = self.state();
        for first in freed {
            state.now.entries.remove(&(*id, first));
        }
        Ok(())
    }

    fn put(&mut self, kind: Kind, key: &[u8], value: Option<&[u8]>) -> Result<Option<usize>, JournalError> {
        let mut state = self.state();
        let (key, values) = ((kind, key.to_vec()), &mut state.now.values);
        let old = match value {
            Some(value) => values.insert(key, Bytes::copy_from_slice(value)),
            None => values.remove(&key),
        };
        Ok(old.map(|old| old.len()))
    }

    fn sync(&mut self, stamp: Position) -> Result<Outcome, JournalError> {
        let mut state = self.state();
        if std::mem::take(&mut state.refuses) {
            let kept = state.synced.clone();
            let refused = std::mem::replace(&mut state.now, kept);
            state.now.entries.retain(|key, _| refused.entries.contains_key(key));
            return Ok(Outcome::Refused("it was told to".to_owned()));
        }
        state.now.stamp = stamp;
        state.synced = state.now.clone();
        Ok(Outcome::Synced(Synced(())))
    }

    fn close(self) -> Result<(), JournalError> {
        Ok(())
    }
}
