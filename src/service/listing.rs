//! Pages of a long list that changes while it is read: which order, where to go on, and the first few of very many.

use std::fmt;
use std::str::FromStr;

use crate::report::Id;

/// The order of a list of streams; equals are in order of id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The longest backlog first.
    #[default]
    Backlog,
    /// The oldest report first.
    Oldest,
    /// By id.
    Id,
}

/// A place in a list: what follows it has a higher rank, or the same and a higher id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What is sorted by, so that lower is first.
    pub rank: u64,
    /// The id.
    pub id: Id,
}

/// Where a page ended, in its order. As text `order~rank~id`; opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The order of its list.
    pub order: Order,
    /// The last of the page.
    pub place: Place,
}

/// The text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not what `next` of an earlier page had")]
pub struct CursorError;

impl Order {
    /// `backlog`, `oldest` or `id`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Oldest => "oldest",
            Self::Id => "id",
        }
    }
}

impl FromStr for Order {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Backlog, Self::Oldest, Self::Id].into_iter().find(|order| order.name() == text).ok_or(())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}~{}", self.order.name(), self.place.rank, self.place.id)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let mut parts = text.splitn(3, '~');
        let mut part = || parts.next().ok_or(CursorError);
        let order = part()?.parse().map_err(|()| CursorError)?;
        let rank = part()?.parse().map_err(|_| CursorError)?;
        let id = Id::new(part()?).map_err(|_| CursorError)?;
        Ok(Self { order, place: Place { rank, id } })
    }
}

/// The first `limit` of all that are pushed, in the room of twice as many.
#[derive(Debug)]
pub struct First<T> {
    limit: usize,
    kept: Vec<T>,
}

impl<T: Ord> First<T> {
    /// Keeps `limit`, which is at least one.
    pub fn new(limit: usize) -> Self {
        Self { limit, kept: Vec::new() }
    }

    /// Takes one more into account.
    pub fn push(&mut self, item: T) {
        self.kept.push(item);
        if self.kept.len() >= 2 * self.limit {
            self.kept.select_nth_unstable(self.limit - 1);
            self.kept.truncate(self.limit);
        }
    }

    /// Those that are first, in order.
    pub fn into_sorted(mut self) -> Vec<T> {
        self.kept.sort_unstable();
        self.kept.truncate(self.limit);
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place((rank, id): (u64, u32)) -> Place {
        Place { rank, id: Id::new(&id.to_string()).expect("digits") }
    }

    proptest! {
        #[test]
        fn the_first_are_those_that_sorting_all_would_give(
            mut items in proptest::collection::vec(0_u16..500, 0..400),
            limit in 1_usize..60,
        ) {
            let mut first = First::new(limit);
            items.iter().for_each(|&item| first.push(item));
            let first = first.into_sorted();
            items.sort_unstable();
            items.truncate(limit);
            prop_assert_eq!(first, items);
        }

        #[test]
        fn pages_put_together_are_the_whole_list(
            places in proptest::collection::btree_set((0_u64..20, 0_u32..200), 0..200),
            limit in 1_usize..30,
        ) {
            let mut whole: Vec<Place> = places.into_iter().map(place).collect();
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let mut page = First::new(limit);
                whole.iter().filter(|place| after.is_none_or(|after| **place > after)).for_each(|&p| page.push(p));
                let page = page.into_sorted();
                let Some(&last) = page.last() else { break };
                found.extend(page);
                let cursor = Cursor { order: Order::Oldest, place: last };
                prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
                after = Some(last);
            }
            whole.sort_unstable();
            prop_assert_eq!(found, whole);
        }

        #[test]
        fn no_text_makes_a_cursor_that_reads_back_otherwise(text in "[a-z~0-9.]{0,40}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
            }
        }
    }
}
