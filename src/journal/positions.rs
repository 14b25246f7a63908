//! Positions: microseconds of the epoch, strictly increasing, never reused.
//!
//! Each commit writes its last position behind its entries (its stamp), so it is on disk before any of its positions
//! is seen outside. At open the first position is above the last stamp, above every entry found, and not behind the
//! clock. So neither truncation to empty, nor a restart, nor a clock that steps back gives one out again.

use crate::report::{Position, key::MAX_EXACT};

/// The highest position or stamp that is believed. None that was given out comes near it: the clock is not followed
/// there, which is in the year 2250, and from it on there is room for as many as are given out until then.
pub const MAX_FOUND: u64 = MAX_EXACT - (1 << 40);

/// Gives out positions.
#[derive(Debug)]
pub struct Positions {
    last: u64,
}

impl Positions {
    /// Starts above `stamp` and above `highest_found`.
    pub fn new(stamp: u64, highest_found: u64) -> Self {
        let stamp = if cfg!(forebay_plant = "position_from_last_entry") { 0 } else { stamp };
        Self { last: stamp.max(highest_found).min(MAX_FOUND) }
    }

    /// The first of `count` positions in a row, all above any before, not behind `now` (microseconds of the epoch).
    ///
    /// A clock beyond the year 2250 is not followed: positions stay below 2^53.
    pub fn take(&mut self, count: u64, now: u64) -> Position {
        let now = if cfg!(forebay_plant = "position_from_last_entry") { 0 } else { now };
        let now = if now < MAX_FOUND { now } else { 0 };
        let first = now.max(self.last + 1);
        self.last = first + count - 1;
        Position(first)
    }

    /// The last position that was given out.
    pub fn last(&self) -> Position {
        Position(self.last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Commits and restarts in any order, under a clock that jumps either way, with entries found or drained.
        #[test]
        fn no_position_is_given_out_twice(steps in proptest::collection::vec(
            (0u64..3_000_000, 1u64..50, any::<bool>(), any::<bool>()), 1..60)) {
            let mut stored = 0;
            let mut positions = Positions::new(0, 0);
            let mut highest = 0;
            for (now, count, restart, drained) in steps {
                if restart {
                    positions = Positions::new(stored, if drained { 0 } else { highest });
                }
                let first = positions.take(count, now).0;
                prop_assert!(first > highest && first >= now);
                highest = first + count - 1;
                stored = positions.last().0;
                prop_assert!(stored >= highest);
            }
        }
    }

    #[test]
    fn positions_stay_exact_for_javascript() {
        let mut positions = Positions::new(0, 0);
        assert!(positions.take(1, u64::MAX).0 < MAX_EXACT);
        for found in [MAX_FOUND, MAX_EXACT, u64::MAX] {
            assert!(Positions::new(found, 0).take(1 << 32, u64::MAX).0 < MAX_EXACT);
            assert!(Positions::new(0, found).take(1 << 32, u64::MAX).0 < MAX_EXACT);
        }
    }
}
