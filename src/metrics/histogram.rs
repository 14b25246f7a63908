//! How often a measure fell between which bounds.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a histogram is of.
pub trait Measure {
    /// The greatest value of each bucket but the last, which has no bound.
    const BOUNDS: &'static [u64];

    /// A value in the metric's base unit.
    fn base(value: u64) -> f64;
}

/// Times, kept in nanoseconds.
#[derive(Debug, Default)]
pub struct Time;

/// Numbers of reports or rows.
#[derive(Debug, Default)]
pub struct Size;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;

impl Measure for Time {
    /// From what a sync takes at the least to `sink.timeout`.
    const BOUNDS: &'static [u64] = &[
        100 * MICROSECOND,
        250 * MICROSECOND,
        500 * MICROSECOND,
        MILLISECOND,
        2_500 * MICROSECOND,
        5 * MILLISECOND,
        10 * MILLISECOND,
        25 * MILLISECOND,
        50 * MILLISECOND,
        100 * MILLISECOND,
        250 * MILLISECOND,
        500 * MILLISECOND,
        SECOND,
        2_500 * MILLISECOND,
        5 * SECOND,
        10 * SECOND,
        30 * SECOND,
    ];

    fn base(nanoseconds: u64) -> f64 {
        Duration::from_nanos(nanoseconds).as_secs_f64()
    }
}

impl Measure for Size {
    const BOUNDS: &'static [u64] = &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

    fn base(number: u64) -> f64 {
        number as f64
    }
}

/// Room for the buckets of any measure.
const MOST_BUCKETS: usize = Time::BOUNDS.len() + 1;
const _: () = assert!(Size::BOUNDS.len() < MOST_BUCKETS);

/// A histogram that many may add to.
#[derive(Debug, Default)]
pub struct Histogram<M> {
    buckets: [AtomicU64; MOST_BUCKETS],
    sum: AtomicU64,
    measure: PhantomData<M>,
}

/// Times that are not in a histogram yet: who has many at once adds them up here first.
#[derive(Debug, Default)]
pub struct Tally {
    buckets: [u64; MOST_BUCKETS],
    sum: u64,
}

impl Tally {
    /// Notes a time.
    pub fn observe(&mut self, time: Duration) {
        let nanoseconds = nanoseconds(time);
        self.buckets[bucket::<Time>(nanoseconds)] += 1;
        self.sum = self.sum.saturating_add(nanoseconds);
    }
}

impl Histogram<Time> {
    /// Notes a time.
    pub fn observe(&self, time: Duration) {
        self.put(nanoseconds(time));
    }

    /// Notes all times of a tally.
    pub fn add(&self, tally: &Tally) {
        for (bucket, &count) in self.buckets.iter().zip(&tally.buckets).filter(|(_, count)| **count > 0) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.sum.fetch_add(tally.sum, Ordering::Relaxed);
    }
}

impl Histogram<Size> {
    /// Notes a size.
    pub fn observe(&self, size: u64) {
        self.put(size);
    }
}

impl<M: Measure> Histogram<M> {
    fn put(&self, value: u64) {
        self.buckets[bucket::<M>(value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// The sum of all values, and how many are in each bucket (not in those below it), by its bound.
    pub(super) fn read(&self) -> (f64, Vec<(f64, u64)>) {
        let bounds = M::BOUNDS.iter().map(|&bound| M::base(bound)).chain([f64::INFINITY]);
        let buckets = bounds.zip(&self.buckets).map(|(bound, count)| (bound, count.load(Ordering::Relaxed)));
        (M::base(self.sum.load(Ordering::Relaxed)), buckets.collect())
    }
}

/// The first bucket whose bound the value does not pass.
fn bucket<M: Measure>(value: u64) -> usize {
    M::BOUNDS.partition_point(|&bound| bound < value)
}

/// A time of more than 584 years is not measured.
fn nanoseconds(time: Duration) -> u64 {
    time.as_secs().saturating_mul(SECOND).saturating_add(u64::from(time.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_whose_bound_it_does_not_pass() {
        let sizes = Histogram::<Size>::default();
        for size in [0, 1, 2, 3, 5, 10_000, 10_001, 1_000_000] {
            sizes.observe(size);
        }
        let (sum, buckets) = sizes.read();
        assert_eq!(sum, 1_020_012.0);
        assert_eq!(buckets[..4], [(1.0, 2), (2.0, 1), (5.0, 2), (10.0, 0)]);
        assert_eq!(buckets[12..], [(10_000.0, 1), (f64::INFINITY, 2)]);
    }

    #[test]
    fn a_tally_adds_what_each_of_its_times_would_have_added() {
        let (one_by_one, at_once) = (Histogram::<Time>::default(), Histogram::<Time>::default());
        let mut tally = Tally::default();
        for micros in [0, 99, 100, 101, 2_000, 31_000_000] {
            one_by_one.observe(Duration::from_micros(micros));
            tally.observe(Duration::from_micros(micros));
        }
        at_once.add(&tally);
        assert_eq!(at_once.read(), one_by_one.read());
        assert_eq!(at_once.read().1[..2], [(0.0001, 3), (0.00025, 1)]);
    }
}
