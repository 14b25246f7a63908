//! What one transaction takes of the batches at hand, and its parts, where it cannot be stored whole.

use std::ops::Range;

use super::writer::{Outcome, Refused};
use super::{Stored, Taken};
use crate::report::{Batch, Body};

/// What one transaction takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Whole batches.
    Batches(Range<usize>),
    /// Some records of one batch.
    Records(usize, Range<usize>),
    /// Reports of one batch that cannot be stored.
    Refused(usize, Vec<Refused>),
}

impl Piece {
    /// The batch and the record that it begins with.
    pub(super) fn first(&self) -> (usize, usize) {
        match self {
            Self::Batches(range) => (range.start, 0),
            Self::Records(batch, range) => (*batch, range.start),
            Self::Refused(batch, refused) => (*batch, refused.first().map_or(0, |refused| refused.index)),
        }
    }

    /// The earlier and the later half; `None` where one record stands alone.
    pub(super) fn split(&self, batches: &[Batch]) -> Option<(Self, Self)> {
        match self {
            Self::Batches(range) if range.len() > 1 => self.split_batches(),
            Self::Batches(range) => Self::Records(range.start, 0..batches[range.start].records.len()).split(batches),
            Self::Records(batch, range) if range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                Some((Self::Records(*batch, range.start..middle), Self::Records(*batch, middle..range.end)))
            }
            Self::Records(..) | Self::Refused(..) => None,
        }
    }

    /// The earlier and the later half of its batches; `None` where it is one or a part of one.
    pub(super) fn split_batches(&self) -> Option<(Self, Self)> {
        match self {
            Self::Batches(range) if range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                Some((Self::Batches(range.start..middle), Self::Batches(middle..range.end)))
            }
            _ => None,
        }
    }

    /// Its parts, in order: what can be stored, and what cannot because its key is `taken`.
    pub(super) fn without(&self, taken: Vec<Taken>, batches: &[Batch]) -> Vec<Self> {
        if taken.is_empty() {
            return vec![self.clone()];
        }
        let (first, begin) = self.first();
        let mut parts = Vec::new();
        let mut rest = match self {
            Self::Batches(range) => range.clone(),
            Self::Records(batch, _) | Self::Refused(batch, _) => *batch..*batch,
        };
        let mut taken = taken.into_iter().peekable();
        while let Some(batch) = taken.peek().map(|next| first + next.batch) {
            parts.extend((rest.start < batch).then_some(Self::Batches(rest.start..batch)));
            rest.start = batch + 1;
            let mut records = match self {
                Self::Records(_, range) => range.clone(),
                _ => 0..batches[batch].records.len(),
            };
            while let Some(Taken { index, holder, .. }) = taken.next_if(|next| first + next.batch == batch) {
                let index = begin + index;
                parts.extend((records.start < index).then_some(Self::Records(batch, records.start..index)));
                records.start = index + 1;
                let refused = Refused::by(index, holder);
                match parts.last_mut() {
                    Some(Self::Refused(of, run)) if *of == batch => run.push(refused),
                    _ => parts.push(Self::Refused(batch, vec![refused])),
                }
            }
            parts.extend((!records.is_empty()).then_some(Self::Records(batch, records)));
        }
        parts.extend((!rest.is_empty()).then_some(Self::Batches(rest)));
        parts
    }

    /// Whether it begins with a marker.
    pub(super) fn is_marker(&self, batches: &[Batch]) -> bool {
        let (batch, index) = self.first();
        matches!(batches[batch].records[index].body, Body::Marker(..))
    }

    /// Enters what was stored into the outcomes of its batches.
    pub(super) fn settle(self, stored: Vec<Stored>, batches: &[Batch], outcomes: &mut [Outcome]) {
        let (range, part) = match self {
            Self::Batches(range) => (range, None),
            Self::Records(batch, records) => (batch..batch + 1, Some(records.end)),
            Self::Refused(batch, _) => (batch..batch + 1, None),
        };
        let pairs = outcomes[range.clone()].iter_mut().zip(&batches[range]);
        for ((outcome, batch), stored) in pairs.zip(stored) {
            outcome.settled = part.unwrap_or(batch.records.len());
            outcome.inserted += stored.inserted;
            outcome.duplicates += stored.duplicates;
            outcome.total = stored.total.or(outcome.total);
        }
    }
}

/// Some records of a batch.
pub(super) fn part(batch: &Batch, records: Range<usize>, is_gapless: bool) -> Batch {
    Batch { records: batch.records[records].to_vec(), is_gapless: batch.is_gapless && is_gapless, ..*batch }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::{Holder, Id, Marker, Position, Record};

    fn batches(lengths: &[usize]) -> Vec<Batch> {
        let record = |at| Record { position: Position(at as u64 + 1), body: Body::Marker(Marker::Done, 1) };
        let id = |n: usize| Id::new(&n.to_string()).expect("an id");
        lengths.iter().enumerate().map(|(n, length)| Batch::new(id(n), (0..*length).map(record).collect())).collect()
    }

    /// Every record of a piece, with whether it is refused.
    fn records(pieces: &[Piece], batches: &[Batch]) -> Vec<(usize, usize, bool)> {
        let of = |piece: &Piece| match piece {
            Piece::Batches(range) => range
                .clone()
                .flat_map(|batch| (0..batches[batch].records.len()).map(move |index| (batch, index, false)))
                .collect::<Vec<_>>(),
            Piece::Records(batch, range) => range.clone().map(|index| (*batch, index, false)).collect(),
            Piece::Refused(batch, refused) => refused.iter().map(|refused| (*batch, refused.index, true)).collect(),
        };
        pieces.iter().flat_map(of).collect()
    }

    proptest! {
        /// Each record is in one part, in order, and exactly what is taken is refused.
        #[test]
        fn the_parts_without_what_is_taken_are_all_the_rest_in_order(
            lengths in proptest::collection::vec(1_usize..6, 1..6),
            chosen in proptest::collection::vec(any::<bool>(), 30),
            one in any::<bool>(),
        ) {
            let batches = batches(&lengths);
            let piece = if one { Piece::Records(0, 1..lengths[0]) } else { Piece::Batches(0..lengths.len()) };
            let all = records(std::slice::from_ref(&piece), &batches);
            let chosen = all.iter().zip(&chosen).filter(|(_, chosen)| **chosen);
            let taken: Vec<_> = chosen.map(|(record, _)| *record).collect();
            let shift = usize::from(one);
            let named = taken.iter().map(|(batch, index, _)| {
                Taken { batch: *batch, index: index - shift, holder: Holder::default() }
            });
            let parts = piece.without(named.collect(), &batches);
            let is_taken = |batch, index| taken.contains(&(batch, index, false));
            let refused = |&(batch, index, _): &(usize, usize, bool)| (batch, index, is_taken(batch, index));
            let expected: Vec<_> = all.iter().map(refused).collect();
            prop_assert_eq!(records(&parts, &batches), expected);
        }
    }
}
