//! What all connections of a load count together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio_util::sync::CancellationToken;

/// The longest latency that is told from longer ones, in microseconds: an hour.
const MAX_MICROS: u64 = 3_600_000_000;

/// Digits of a latency that are kept.
const DIGITS: u8 = 3;

/// Names of errors that are counted each; a node has far fewer.
const MAX_ERRORS: usize = 64;

/// Characters of an error's name.
const MAX_NAME: usize = 64;

/// Counters of reports, unless they say otherwise.
pub struct Shared {
    /// Sent a first time.
    pub sent: AtomicU64,
    /// Due by the end of a load with a rate, and never sent: the node was too slow.
    pub unsent: AtomicU64,
    /// Sent again.
    pub resent: AtomicU64,
    /// Acknowledged.
    pub acked: AtomicU64,
    /// Connections that were made anew.
    pub reconnects: AtomicU64,
    /// Connections that gave up.
    pub gave_up: AtomicU64,
    /// Bytes of messages.
    pub bytes_sent: AtomicU64,
    /// Bytes of replies.
    pub bytes_received: AtomicU64,
    /// Nothing new is sent once this is cancelled.
    pub stop: CancellationToken,
    /// When the first report was due.
    pub start: Instant,
    /// Microseconds from there to the last ack.
    last_ack: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
    broke_off: Mutex<Option<String>>,
    /// One for each thread, so that they don't wait for each other.
    latencies: Vec<Mutex<Histogram<u64>>>,
}

impl Shared {
    /// All at zero; the load begins now.
    pub fn new(threads: usize, stop: CancellationToken) -> Self {
        let histogram = || Histogram::new_with_bounds(1, MAX_MICROS, DIGITS).expect("the bounds are in order");
        Self {
            sent: AtomicU64::default(),
            unsent: AtomicU64::default(),
            resent: AtomicU64::default(),
            acked: AtomicU64::default(),
            reconnects: AtomicU64::default(),
            gave_up: AtomicU64::default(),
            bytes_sent: AtomicU64::default(),
            bytes_received: AtomicU64::default(),
            stop,
            start: Instant::now(),
            last_ack: AtomicU64::default(),
            errors: Mutex::default(),
            broke_off: Mutex::default(),
            latencies: (0..threads).map(|_| Mutex::new(histogram())).collect(),
        }
    }

    /// Counts acks that came now, for reports that were due then.
    pub fn acks(&self, connection: u64, due: impl ExactSizeIterator<Item = Instant>) {
        let now = Instant::now();
        self.acked.fetch_add(due.len() as u64, Ordering::Relaxed);
        self.last_ack.fetch_max(micros(now - self.start), Ordering::Relaxed);
        let own = &self.latencies[connection as usize % self.latencies.len()];
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        due.for_each(|due| own.saturating_record(micros(now.saturating_duration_since(due)).max(1)));
    }

    /// Counts an error reply.
    pub fn error(&self, name: &str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = errors.get_mut(name) {
            *count += 1;
        } else {
            let name: String = name.chars().take(MAX_NAME).flat_map(char::escape_debug).collect();
            let name = if errors.len() < MAX_ERRORS { name } else { "others".to_owned() };
            *errors.entry(name).or_default() += 1;
        }
    }

    /// The node said what it never should, or the client cannot go on: ends the load.
    pub fn broken(&self, what: String) {
        self.broke_off.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        self.stop.cancel();
    }

    /// The first such thing.
    pub fn broke_off(&self) -> Option<String> {
        self.broke_off.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Errors by name.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From the start to the last ack.
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.last_ack.load(Ordering::Relaxed))
    }

    /// All latencies, in microseconds.
    pub fn latencies(&self) -> Histogram<u64> {
        let mut all = Histogram::new_with_bounds(1, MAX_MICROS, DIGITS).expect("the bounds are in order");
        for own in &self.latencies {
            all.add(&*own.lock().unwrap_or_else(PoisonError::into_inner)).expect("all have the same bounds");
        }
        all
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}
