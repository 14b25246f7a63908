//! The store of the model-checked build: trees in memory, whose sync lets all other threads go on meanwhile.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use super::bundle::{Heading, Spot};
use super::claims::Claims;
use super::entry::Entry;
use super::error::{Damage, JournalError};
use super::identity::{Identity, Known};
use super::seal::Seal;
use crate::report::{Id, JournalId, Position};

pub(super) mod recent {
    pub(in super::super) const FOLDER: &str = "recent";

    pub(in super::super) fn stamp(_: &std::path::Path, _: &super::Seal) -> u64 {
        0
    }

    pub(in super::super) fn headers(_: &std::path::Path) -> std::io::Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
}

#[path = "runs/mod.rs"]
#[allow(dead_code, unused_imports, reason = "models have no runs")]
pub(super) mod runs;

pub(super) const MAX_VALUE_BYTES: usize = 100 * 1024;

pub(super) fn known(_: &Path) -> Result<Known, JournalError> {
    Ok(Known::Sealed(Identity { id: JournalId(1), starts: 0, secret: [7; 32] }))
}

type Tree = BTreeMap<Vec<u8>, Bytes>;
type Pair = Result<(Vec<u8>, Bytes), JournalError>;

#[derive(Default)]
struct Trees {
    recent: BTreeMap<u64, Bytes>,
    dead: Tree,
    damaged: Tree,
    paused: Tree,
}

/// The trees. Never waits while it is locked, so the lock is no part of the model.
pub(super) struct Store(Mutex<Trees>, Seal);

impl Store {
    pub(super) fn open(_: &Path, _: u64, _: Option<&Identity>) -> Result<Self, JournalError> {
        Ok(Self(Mutex::default(), Seal::of(&[7; 32])))
    }

    pub(super) fn keep_identity(&self, _: &Identity) -> Result<(), JournalError> {
        Ok(())
    }

    pub(super) fn claims(&self) -> Result<Option<Claims>, JournalError> {
        Ok(None)
    }

    pub(super) fn keep_claims(&self, _: Claims) -> Result<(), JournalError> {
        Ok(())
    }

    pub(super) fn random(&self) -> Result<u64, JournalError> {
        Ok(1)
    }

    pub(super) fn seal(&self) -> &Seal {
        &self.1
    }

    pub(super) fn sorted(&self, _: &Id, _: Position, _: Position) -> Result<Vec<SortedBlock>, JournalError> {
        Ok(Vec::new())
    }

    pub(super) fn sorted_entry(&self, _: &Id, _: Position) -> Result<Option<Bytes>, JournalError> {
        Ok(None)
    }

    pub(super) fn each_sorted(
        &self,
        _: impl FnMut(&SortedBlock) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        Ok(())
    }

    pub(super) fn runs(&self) -> &runs::Runs {
        unreachable!("models have no files")
    }

    pub(super) fn has_earlier_entries(&self) -> Result<bool, JournalError> {
        Ok(false)
    }

    pub(super) fn each_earlier(
        &self,
        _: impl FnMut(&str, Vec<u8>, Bytes) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        Ok(())
    }

    pub(super) fn remove_earlier_entries(&self) -> Result<(), JournalError> {
        Ok(())
    }

    pub(super) fn settled_in_runs(&self) -> Vec<(Id, Position)> {
        Vec::new()
    }

    pub(super) fn add_bundle(&self, heading: Heading, value: &[u8]) -> Result<(), JournalError> {
        self.trees().recent.insert(heading.number, Bytes::copy_from_slice(value));
        Ok(())
    }

    pub(super) fn bundle(&self, number: u64) -> Result<Option<Bytes>, JournalError> {
        Ok(self.trees().recent.get(&number).cloned())
    }

    pub(super) fn entry_at(&self, spot: &Spot) -> Result<Option<Bytes>, JournalError> {
        Ok(self.trees().recent.get(&spot.bundle).map(|bundle| bundle.slice(spot.range())))
    }

    pub(super) fn remove_bundle(&self, number: u64) {
        self.trees().recent.remove(&number);
    }

    pub(super) fn bundles(&self) -> impl DoubleEndedIterator<Item = Result<(u64, Bytes), JournalError>> + use<> {
        let bundles: Vec<_> = self.trees().recent.iter().map(|(number, value)| (*number, value.clone())).collect();
        bundles.into_iter().map(Ok)
    }

    pub(super) fn next_and_oldest_bundle(&self) -> (u64, u64) {
        (1, 1)
    }

    pub(super) fn damaged_after(&self, after: &[u8]) -> impl Iterator<Item = Pair> + use<> {
        pairs(self.trees().damaged.range::<[u8], _>((Bound::Excluded(after), Bound::Unbounded)))
    }

    pub(super) fn scan_dead(&self) -> impl Iterator<Item = Pair> + use<> {
        pairs(self.trees().dead.iter())
    }

    pub(super) fn scan_paused(&self) -> impl Iterator<Item = Pair> + use<> {
        pairs(self.trees().paused.iter())
    }

    pub(super) fn set_paused(&self, key: &[u8], value: Option<&Vec<u8>>) -> Result<(), JournalError> {
        let mut trees = self.trees();
        match value {
            Some(value) => drop(trees.paused.insert(key.to_vec(), Bytes::copy_from_slice(value))),
            None => drop(trees.paused.remove(key)),
        }
        Ok(())
    }

    pub(super) fn keep_dead(&self, key: &[u8], value: &[u8]) -> Result<bool, JournalError> {
        let mut trees = self.trees();
        let known = trees.dead.contains_key(key);
        trees.dead.entry(key.to_vec()).or_insert_with(|| Bytes::copy_from_slice(value));
        Ok(!known)
    }

    pub(super) fn dead_after(&self, after: &[u8]) -> impl Iterator<Item = Pair> + use<> {
        pairs(self.trees().dead.range::<[u8], _>((Bound::Excluded(after), Bound::Unbounded)))
    }

    pub(super) fn dead_letter(&self, key: &[u8]) -> Result<Option<Bytes>, JournalError> {
        Ok(self.trees().dead.get(key).cloned())
    }

    pub(super) fn change_dead(&self, key: &[u8], value: Option<&[u8]>) -> Result<Option<usize>, JournalError> {
        let mut trees = self.trees();
        let old = match value {
            Some(value) => trees.dead.insert(key.to_vec(), Bytes::copy_from_slice(value)),
            None => trees.dead.remove(key),
        };
        Ok(old.map(|old| old.len()))
    }

    pub(super) fn set_aside(&self, name: &[u8], value: &[u8]) -> Result<(), JournalError> {
        self.trees().damaged.insert(name.to_vec(), Bytes::copy_from_slice(value));
        Ok(())
    }

    pub(super) fn is_set_aside(&self, name: &[u8]) -> Result<bool, JournalError> {
        Ok(self.trees().damaged.contains_key(name))
    }

    pub(super) fn stamp(&self) -> Result<u64, JournalError> {
        Ok(0)
    }

    pub(super) fn trees_are_changed(&self) -> bool {
        true
    }

    pub(super) fn sync_trees(&self, _: Position) -> Result<(), JournalError> {
        crate::sync::thread::yield_now();
        Ok(())
    }

    pub(super) fn sync_bundles(&self) -> Result<(), JournalError> {
        crate::sync::thread::yield_now();
        Ok(())
    }

    pub(super) fn close(self) -> Result<(), JournalError> {
        Ok(())
    }

    pub(super) fn free_disk(&self) -> Result<u64, JournalError> {
        Ok(u64::MAX)
    }

    pub(super) fn bytes_on_disk(&self) -> u64 {
        0
    }

    fn trees(&self) -> MutexGuard<'_, Trees> {
        self.0.lock().expect("no holder panics: it only moves entries")
    }
}

fn pairs<'a>(found: impl Iterator<Item = (&'a Vec<u8>, &'a Bytes)>) -> std::vec::IntoIter<Pair> {
    found.map(|(key, value)| Ok((key.clone(), value.clone()))).collect::<Vec<_>>().into_iter()
}

/// There are none.
pub(super) enum SortedBlock {}

impl SortedBlock {
    pub(super) fn read(&self) -> Result<Bytes, JournalError> {
        match *self {}
    }

    pub(super) fn entries(&self, _: &Seal, _: &Bytes) -> std::iter::Empty<Result<(Entry, Bytes), Damage>> {
        match *self {}
    }

    pub(super) fn name(&self) -> String {
        match *self {}
    }

    pub(super) fn is_dead(&self) -> bool {
        match *self {}
    }

    pub(super) fn counts(&self) -> (u64, u64, u64) {
        match *self {}
    }

    pub(super) fn accepted_at(&self) -> u64 {
        match *self {}
    }

    pub(super) fn records(&self) -> (Id, Position, Position) {
        match *self {}
    }
}
