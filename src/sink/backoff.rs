//! How long to wait before asking again. The policy is pure; only [`jitter`] is not.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Delays that double from a first one to a longest one.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The first delay is `first`; none is longer than `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next delay: between half of the full one and all of it, as `random` has it, so that writers that failed
    /// together don't come back together ("equal jitter").
    pub fn delay(&mut self, random: u64) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.longest);
        let half = full / 2;
        let span = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_nanos(random % span)
    }

    /// Begins again with the first delay.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A number that another task or process will not have drawn.
pub fn jitter() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_begin_again() {
        let (first, longest) = (Duration::from_millis(20), Duration::from_secs(5));
        for random in [0, 1, 12_345, u64::MAX] {
            let mut backoff = Backoff::new(first, longest);
            let mut full = first;
            for _ in 0..20 {
                let delay = backoff.delay(random);
                assert!(delay >= full / 2 && delay <= full, "{delay:?} of {full:?}");
                full = (full * 2).min(longest);
            }
            assert_eq!(full, longest);
            backoff.reset();
            assert!(backoff.delay(random) <= first);
        }
    }
}
