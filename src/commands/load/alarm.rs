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

/// One timer of the kernel's.
pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
    /// What it is set to.
    set: Option<Instant>,
}

impl Alarm {
    /// A timer that is not set.
    ///
    /// # Errors
    /// Where the process may open no more files.
    #[expect(deprecated, reason = "its successor is unsafe; it is sound for an OwnedFd, which stays open and the same")]
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { timer: AsyncFd::with_interest(timer, Interest::READABLE)?, set: None })
    }

    /// Waits until then; for ever where it is `None`. May be dropped and asked again.
    pub async fn until(&mut self, due: Option<Instant>) -> io::Result<()> {
        let Some(due) = due else { return std::future::pending().await };
        if self.set != Some(due) {
            let left = due.saturating_duration_since(Instant::now());
            // Zero would unset it.
            let nanos = left.subsec_nanos().max(1);
            let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: nanos.into() };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
            timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            self.set = Some(due);
        }
        let mut ready = self.timer.readable().await?;
        // Setting it anew makes it unreadable; there is nothing to read off.
        ready.clear_ready();
        self.set = None;
        Ok(())
    }
}
