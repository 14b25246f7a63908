//! When a flusher acts. Pure: it is given the time.

use std::time::Duration;

use tokio::time::Instant;

use crate::journal::Backlog;

/// When a flusher acts.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Reports at which it acts at once.
    pub batch: u64,
    /// Time after the oldest was accepted at which it acts with fewer.
    pub tick: Duration,
}

/// What a flusher does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Hand the backlog over.
    Act,
    /// Wait for more, but not longer than this.
    WaitUntil(Instant),
    /// The id is paused.
    Hold,
    /// Nothing is left.
    Quiet,
}

impl Policy {
    /// What to do with this backlog; in a hurry (a shutdown), nothing waits for the tick.
    pub(super) fn decide(&self, backlog: Backlog, hurry: bool, now: Instant) -> Decision {
        if backlog.reports == 0 && backlog.markers == 0 {
            return Decision::Quiet;
        }
        if backlog.paused && !(hurry && cfg!(forebay_plant = "shutdown_drains_paused")) {
            return Decision::Hold;
        }
        let due = backlog.oldest.map_or(now, |oldest| oldest + self.tick);
        if hurry || backlog.urgent || self.is_full(backlog) || due <= now {
            Decision::Act
        } else {
            Decision::WaitUntil(due)
        }
    }

    /// Whether the backlog is reason to act before the tick.
    pub(super) fn is_full(&self, backlog: Backlog) -> bool {
        backlog.reports >= self.batch || backlog.markers > 0 || backlog.behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { batch: 10, tick: Duration::from_secs(10) };

    fn backlog(reports: u64, markers: u64, oldest: Instant) -> Backlog {
        Backlog { reports, markers, bytes: 0, behind: false, oldest: Some(oldest), paused: false, urgent: false }
    }

    #[test]
    fn the_tenth_report_is_not_kept_waiting_and_the_ninth_waits_for_the_tick() {
        let start = Instant::now();
        assert_eq!(POLICY.decide(backlog(10, 0, start), false, start), Decision::Act);
        let due = start + POLICY.tick;
        assert_eq!(POLICY.decide(backlog(9, 0, start), false, start), Decision::WaitUntil(due));
        assert_eq!(POLICY.decide(backlog(1, 0, start), false, due), Decision::Act);
    }

    #[test]
    fn what_a_batch_left_behind_waits_for_nothing() {
        let start = Instant::now();
        let left = Backlog { behind: true, ..backlog(1, 0, start) };
        assert_eq!(POLICY.decide(left, false, start), Decision::Act);
    }

    #[test]
    fn what_is_paused_waits_whatever_there_is() {
        let start = Instant::now();
        let held = Backlog { paused: true, urgent: true, behind: true, ..backlog(10, 1, start) };
        assert_eq!(POLICY.decide(held, true, start + POLICY.tick), Decision::Hold);
        assert_eq!(POLICY.decide(Backlog { reports: 0, markers: 0, ..held }, false, start), Decision::Quiet);
    }

    #[test]
    fn what_an_operator_wants_now_waits_for_nothing() {
        let start = Instant::now();
        let wanted = Backlog { urgent: true, ..backlog(1, 0, start) };
        assert_eq!(POLICY.decide(wanted, false, start), Decision::Act);
    }

    #[test]
    fn a_marker_or_a_shutdown_waits_for_nothing() {
        let start = Instant::now();
        assert_eq!(POLICY.decide(backlog(0, 1, start), false, start), Decision::Act);
        assert_eq!(POLICY.decide(backlog(1, 0, start), true, start), Decision::Act);
        assert_eq!(POLICY.decide(backlog(0, 0, start), true, start), Decision::Quiet);
    }
}
