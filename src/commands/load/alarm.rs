//! A timer to the microsecond: the runtime's own counts in milliseconds, and a report that the client itself sent late
//! would be counted as one that the node was slow with.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One timer of the kernel's; made when it is first needed, so that a connection without one has one file less.
#[derive(Default)]
pub struct Alarm {
    timer: Option<AsyncFd<OwnedFd>>,
    /// What it is set to.
    set: Option<Instant>,
}

impl Alarm {
    /// Waits until then; for ever where it is `None`. May be dropped and asked again.
    ///
    /// # Errors
    /// Where the process may open no more files.
    pub async fn until(&mut self, due: Option<Instant>) -> io::Result<()> {
        let Some(due) = due else { return std::future::pending().await };
        let timer = match &self.timer {
            Some(timer) => timer,
            None => self.timer.insert(new_timer()?),
        };
        if self.set != Some(due) {
            let left = due.saturating_duration_since(Instant::now());
            // Zero would unset it.
            let nanos = left.subsec_nanos().max(1);
            let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: nanos.into() };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
            timerfd_settime(timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            self.set = Some(due);
        }
        // Setting it anew makes it unreadable; there is nothing to read off.
        timer.readable().await?.clear_ready();
        self.set = None;
        Ok(())
    }
}

#[expect(deprecated, reason = "its successor is unsafe; it is sound for an OwnedFd, which stays open and the same")]
fn new_timer() -> io::Result<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    AsyncFd::with_interest(timer, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_alarm_rings_no_sooner_than_it_is_set_to_each_time() {
        let mut alarm = Alarm::default();
        for wait in [0, 3, 1] {
            let due = Instant::now() + Duration::from_millis(wait);
            alarm.until(Some(due)).await.expect("a timer");
            assert!(Instant::now() >= due);
        }
        let past = Instant::now();
        alarm.until(Some(past)).await.expect("a timer");
    }

    #[tokio::test]
    async fn an_alarm_that_was_dropped_and_set_anew_rings_for_the_new_time() {
        let mut alarm = Alarm::default();
        let (later, soon) = (Instant::now() + Duration::from_secs(3600), Instant::now() + Duration::from_millis(2));
        {
            let waiting = std::pin::pin!(alarm.until(Some(later)));
            assert!(futures_util::FutureExt::now_or_never(waiting).is_none());
        }
        alarm.until(Some(soon)).await.expect("a timer");
        assert!(Instant::now() >= soon);
    }
}
