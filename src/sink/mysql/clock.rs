//! How far the server's clock is from this machine's: nodes that share a sink are each held against it.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Instant;

use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::{MysqlConnection, read, within};
use crate::sink::SinkError;
use crate::sink::health::now;

/// Past this many microseconds it is warned of.
const TOLERATED: u64 = 1_000_000;

/// Whatever the session's time zone, this is of the epoch.
const ASK: &str = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)";

/// What is not known.
const UNKNOWN: i64 = i64::MIN;

/// By how many microseconds the server's clock is ahead, as far as is known.
pub(super) struct Skew {
    micros: AtomicI64,
    is_warned_of: AtomicBool,
}

impl Default for Skew {
    fn default() -> Self {
        Self { micros: AtomicI64::new(UNKNOWN), is_warned_of: AtomicBool::new(false) }
    }
}

impl Skew {
    /// In seconds; none where it is not known.
    pub(super) fn seconds(&self) -> Option<f64> {
        let micros = self.micros.load(Ordering::Relaxed);
        (micros != UNKNOWN).then_some(micros as f64 / 1e6)
    }

    /// Notes what was measured, give or take `error`; warns once for as long as it is more than tolerated.
    fn note(&self, micros: i64, error: u64) {
        self.micros.store(micros, Ordering::Relaxed);
        let is_much = micros.unsigned_abs() > TOLERATED.saturating_add(error);
        if is_much && !self.is_warned_of.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                ahead_s = micros as f64 / 1e6,
                "the clock of the sink and of this machine differ by over a second; where nodes differ so among each other, \
                 the state of an id that reports to several of them may be that of the one whose clock is ahead: have \
                 all clocks set by NTP",
            );
        } else if !is_much {
            self.is_warned_of.store(false, Ordering::Relaxed);
        }
    }
}

/// Asks the server for its time, and takes it for that of the middle of the wait.
pub(super) async fn measure(connection: &mut MysqlConnection) -> Result<(), SinkError> {
    let (asked_at, began) = (now(), Instant::now());
    let row = connection.conn.query_first::<Row, _>(ASK);
    let row = within(connection.timeout, "asking for the server's time", row).await?;
    let half = u64::try_from(began.elapsed().as_micros() / 2).unwrap_or(u64::MAX);
    if let Some(theirs) = row.and_then(|row| read::integer(&row, 0)) {
        let ours = asked_at.saturating_add(half);
        let ahead = i64::try_from(i128::from(theirs) - i128::from(ours)).unwrap_or(i64::MAX);
        connection.shared.skew.note(ahead, half);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_shown_and_a_slow_answer_is_no_skew() {
        let skew = Skew::default();
        assert_eq!(skew.seconds(), None);
        skew.note(-1_500_000, 600_000);
        assert_eq!((skew.seconds(), skew.is_warned_of.load(Ordering::Relaxed)), (Some(-1.5), false));
        skew.note(-1_500_000, 10);
        assert!(skew.is_warned_of.load(Ordering::Relaxed));
        skew.note(10, 10);
        assert!(!skew.is_warned_of.load(Ordering::Relaxed));
    }
}
