//! What waits for long, as the rooms above see it: blocks of an id.

use std::sync::Arc;

use bytes::Bytes;

use super::super::entry::Entry;
use super::super::error::{Damage, JournalError};
use super::super::seal::Seal;
use super::Store;
use super::runs::{self, Block, Run};
use crate::report::{Id, Position};

impl Store {
    /// The blocks of `id` in runs that have records from `from` through `through`, in order.
    pub(in super::super) fn sorted(
        &self,
        id: &Id,
        from: Position,
        through: Position,
    ) -> Result<Vec<SortedBlock>, JournalError> {
        let blocks = self.runs.blocks(id, from, through)?;
        Ok(blocks.into_iter().map(|(run, block)| SortedBlock { run, block, is_dead: false }).collect())
    }

    /// The value of the entry of `id` in a run that begins at `first`.
    pub(in super::super) fn sorted_entry(&self, id: &Id, first: Position) -> Result<Option<Bytes>, JournalError> {
        for block in self.sorted(id, first, first)? {
            let values = block.read()?;
            let found =
                block.entries(&self.seal, &values).filter_map(Result::ok).find(|(entry, _)| entry.first == first);
            if let Some((_, value)) = found {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Gives every block of every run to `each`, those of an id in order.
    pub(in super::super) fn each_sorted(
        &self,
        mut each: impl FnMut(&SortedBlock) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        for counted in self.runs.counted().iter() {
            counted.each_block(|is_dead, block| {
                each(&SortedBlock { run: Arc::clone(&counted.run), block: *block, is_dead })
            })?;
        }
        Ok(())
    }

    /// Ids of which a block of a run is settled in part, and up to where, as the manifest has them.
    pub(in super::super) fn settled_in_runs(&self) -> Vec<(Id, Position)> {
        self.runs.settled()
    }
}

/// A block of a run.
pub(in super::super) struct SortedBlock {
    run: Arc<Run>,
    block: Block,
    /// Whether all of it is known to be settled.
    is_dead: bool,
}

impl SortedBlock {
    /// Its bytes; zeros for what the disk does not give back.
    pub(in super::super) fn read(&self) -> Result<Bytes, JournalError> {
        self.run.read(&self.block)
    }

    /// The entries in its bytes, each with its own part of them; what is damaged is an error each.
    pub(in super::super) fn entries(
        &self,
        seal: &Seal,
        values: &Bytes,
    ) -> impl Iterator<Item = Result<(Entry, Bytes), Damage>> {
        runs::entries(seal, &self.block, values)
    }

    /// Puts these bytes where it begins.
    #[cfg(test)]
    pub(in super::super) fn spoil(&self, bytes: &[u8]) {
        self.run.spoil(&self.block, bytes);
    }

    /// Where it is.
    pub(in super::super) fn name(&self) -> String {
        format!("runs/{}/{}", self.run.number, self.block.offset)
    }

    /// Whether all of it was known to be settled when it was listed.
    pub(in super::super) fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// Its reports, markers and bytes.
    pub(in super::super) fn counts(&self) -> (u64, u64, u64) {
        let Block { reports, markers, length, .. } = self.block;
        (reports.into(), markers.into(), length.into())
    }

    /// When the commit of its first entry was made, in microseconds of the epoch.
    pub(in super::super) fn accepted_at(&self) -> u64 {
        self.block.accepted_at
    }

    /// Whose records it has, and the positions of the first and the last of them.
    pub(in super::super) fn records(&self) -> (Id, Position, Position) {
        (self.block.id, self.block.first, self.block.last)
    }
}
