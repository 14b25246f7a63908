//! What the sink remembers of an id beside its rows: up to which position each journal's records of it are settled.
//!
//! A row that a consumer removes from the sink must not come back when a journal is replayed, and the sink alone can
//! tell that it was there. The column `settled` of the streams' table is a list:
//!
//! ```text
//! settled  marks of 16 bytes one behind the other, at most 15: that of the journal that wrote last is the first
//! mark     id of the journal (u64, big-endian) | position (u64, big-endian)
//! ```
//!
//! A mark is written in the transaction that stores the records up to it. All of the id up to there is in this or an
//! earlier transaction, or durable as a dead letter. Positions of two journals say nothing of each other, so each has
//! a mark of its own. The journal that wrote longest ago is forgotten when there are more than fit.

use std::borrow::Cow;
use std::collections::HashMap;

use super::record::reports;
use crate::report::{Batch, Id, JournalId, Position};

/// The length of a mark.
pub(super) const MARK_BYTES: usize = 16;
/// How many journals are remembered of an id.
pub(super) const MAX_MARKS: usize = 15;

/// The bytes of a mark.
pub(super) fn mark(journal: JournalId, position: Position) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    let (first, second) = bytes.split_at_mut(8);
    first.copy_from_slice(&journal.0.to_be_bytes());
    second.copy_from_slice(&position.0.to_be_bytes());
    bytes
}

/// The mark of `journal` in a column, whatever that holds; [`Position`] 0 where it has none.
pub(super) fn settled_through(column: &[u8], journal: JournalId) -> Position {
    let (marks, _) = column.as_chunks::<MARK_BYTES>();
    let is_own =
        |mark: &&[u8; MARK_BYTES]| mark[..8] == journal.0.to_be_bytes() || cfg!(forebay_plant = "mark_of_any_journal");
    let own = marks.iter().find(is_own);
    own.map_or(Position(0), |mark| Position(u64::from_be_bytes(*mark[8..].first_chunk().expect("half a mark"))))
}

/// The column with this mark at its head. The statement for MySQL does the same.
pub(super) fn remember(column: &[u8], mark: [u8; MARK_BYTES]) -> Vec<u8> {
    let (marks, _) = column.as_chunks::<MARK_BYTES>();
    let others = marks.iter().filter(|other| other[..8] != mark[..8]).take(MAX_MARKS - 1);
    std::iter::once(&mark).chain(others).flatten().copied().collect()
}

/// Whether somebody may have tried to store the first record of a batch: only then its mark is looked at.
pub(super) fn may_be_settled(batch: &Batch) -> bool {
    batch.records.first().is_some_and(|first| batch.is_tried(first.position)) && cfg!(not(forebay_plant = "replay_all"))
}

/// The batches without the records that `marks` say are settled, and how many reports each has lost by that.
pub(super) fn without_settled<'a>(batches: &'a [Batch], marks: &HashMap<Id, Position>) -> (Cow<'a, [Batch]>, Vec<u64>) {
    let settled = |batch: &Batch| {
        let mark = marks.get(&batch.id).copied().unwrap_or(Position(0));
        // A dead letter that is tried again has no position, and no mark is about it.
        batch.records.partition_point(|record| record.position <= mark && record.position > Position(0))
    };
    let left_out: Vec<usize> = batches.iter().map(settled).collect();
    if left_out.iter().all(|count| *count == 0) {
        return (Cow::Borrowed(batches), vec![0; batches.len()]);
    }
    let rest = |(batch, count): (&Batch, &usize)| Batch { records: batch.records[*count..].to_vec(), ..*batch };
    let settled = |(batch, count): (&Batch, &usize)| reports(&batch.records[..*count]);
    let pairs = || batches.iter().zip(&left_out);
    (Cow::Owned(pairs().map(rest).collect()), pairs().map(settled).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a model: the journals in the order in which they wrote last.
        #[test]
        fn each_journal_has_its_own_last_mark(writes in proptest::collection::vec((0u64..20, 1u64..1000), 0..60)) {
            let mut column = Vec::new();
            let mut model: Vec<(u64, u64)> = Vec::new();
            for (journal, position) in writes {
                column = remember(&column, mark(JournalId(journal), Position(position)));
                model.retain(|(other, _)| *other != journal);
                model.insert(0, (journal, position));
                model.truncate(MAX_MARKS);
                for journal in 0..20 {
                    let known = model.iter().find(|(other, _)| *other == journal).map_or(0, |(_, position)| *position);
                    prop_assert_eq!(settled_through(&column, JournalId(journal)), Position(known));
                }
            }
        }

        #[test]
        fn a_column_that_somebody_wrote_to_never_panics(column in proptest::collection::vec(any::<u8>(), 0..300)) {
            settled_through(&column, JournalId(1));
            prop_assert!(remember(&column, mark(JournalId(1), Position(2))).len() <= MAX_MARKS * MARK_BYTES);
        }
    }
}
