//! Memory that all connections share, in bytes: taken as bytes come, given back as they go. What is short of it waits,
//! and while something waits, whoever holds a part and is slow loses it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

/// What each holder has without asking, in bytes: a client that is small is never in want because others are large.
pub(super) const FREE: usize = 16 * 1024;
/// What is taken at a time, in bytes.
const STEP: usize = 16 * 1024;
/// A transfer may always take this long.
const GRACE: Duration = Duration::from_secs(2);
/// The least bytes a second, beyond [`GRACE`], of a transfer that others wait for.
const RATE: u64 = 256 * 1024;
/// How often who waits says so.
const PRESS_EVERY: Duration = Duration::from_millis(500);

/// A bound of memory for all connections together.
#[derive(Debug)]
pub(super) struct Budget {
    room: Semaphore,
    total: usize,
    /// Somebody waits.
    pressed: Notify,
    waiting: AtomicUsize,
}

/// Counts who waits, until it is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Budget {
    /// A budget of `total` bytes, beyond what is free for each holder.
    pub(super) fn new(total: usize) -> Arc<Self> {
        let total = total.clamp(1, (u32::MAX as usize).min(Semaphore::MAX_PERMITS));
        Arc::new(Self { room: Semaphore::new(total), total, pressed: Notify::new(), waiting: AtomicUsize::new(0) })
    }

    /// The permits that a holder of `bytes` needs. One that needs more than there are is content with all of them.
    fn needed(&self, bytes: usize) -> usize {
        bytes.saturating_sub(FREE).next_multiple_of(STEP).min(self.total)
    }

    fn try_take(&self, permits: usize) -> bool {
        let permits = u32::try_from(permits).expect("there are no more than u32 holds");
        self.room.try_acquire_many(permits).map(|permit| permit.forget()).is_ok()
    }

    /// Waits for permits, and says so meanwhile.
    async fn take(&self, permits: usize) {
        let permits = u32::try_from(permits).expect("there are no more than u32 holds");
        let _waits = Waits::new(&self.waiting);
        let mut taking = std::pin::pin!(self.room.acquire_many(permits));
        loop {
            match timeout(PRESS_EVERY, taking.as_mut()).await {
                Ok(permit) => return permit.expect("the semaphore is never closed").forget(),
                Err(_) => self.pressed.notify_waiters(),
            }
        }
    }

    /// Returns once others wait and a transfer of `bytes` that began at `since` is slow; never before.
    pub(super) async fn is_wanted(&self, since: Instant, bytes: usize) {
        if cfg!(forebay_plant = "slow_ones_stay") {
            std::future::pending::<()>().await;
        }
        loop {
            self.pressed.notified().await;
            if is_slow(since, bytes) {
                return;
            }
        }
    }

    /// Whether others wait, and a transfer of `bytes` that began at `since` is slow.
    pub(super) fn is_wanted_now(&self, since: Instant, bytes: usize) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 && is_slow(since, bytes)
    }
}

fn is_slow(since: Instant, bytes: usize) -> bool {
    since.elapsed() >= GRACE + Duration::from_micros(bytes as u64 * 1_000_000 / RATE)
}

/// What one holder has of a budget; all of it is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    budget: Arc<Budget>,
    permits: usize,
}

impl Hold {
    /// Holds nothing yet.
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), permits: 0 }
    }

    /// The budget.
    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Whether it has something that others could wait for.
    pub(super) fn is_shared(&self) -> bool {
        self.permits > 0
    }

    /// Holds `bytes` in all, if there is room for them.
    pub(super) fn try_fit(&mut self, bytes: usize) -> bool {
        let more = self.missing(bytes);
        if more > 0 && !self.budget.try_take(more) {
            return false;
        }
        self.permits += more;
        true
    }

    /// The permits that are still to be taken for `bytes` in all.
    pub(super) fn missing(&self, bytes: usize) -> usize {
        match cfg!(forebay_plant = "hold_what_comes") {
            true => 0,
            false => self.budget.needed(bytes).saturating_sub(self.permits),
        }
    }

    /// Waits until it holds `bytes` in all.
    pub(super) async fn fit(&mut self, bytes: usize) {
        self.fit_permits(self.missing(bytes)).await;
    }

    /// Waits for this many permits, whatever it holds.
    pub(super) async fn fit_permits(&mut self, permits: usize) {
        if permits > 0 {
            self.budget.take(permits).await;
            self.permits += permits;
        }
    }

    /// Takes over all that `other`, of the same budget, has.
    pub(super) fn absorb(&mut self, other: &mut Self) {
        self.permits += std::mem::take(&mut other.permits);
    }

    /// Gives back what `bytes` in all do not need; a little is kept for what comes next.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let needed = self.budget.needed(bytes);
        let kept = if needed == 0 { 0 } else { needed + STEP };
        if self.permits > kept {
            self.budget.room.add_permits(self.permits - needed);
            self.permits = needed;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.budget.room.add_permits(self.permits);
    }
}

/// Permits that are being waited for apart from their [`Hold`], or what others want of a slow one.
#[derive(Default)]
pub(super) struct Taking(Option<(usize, Waiting)>);

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Taking {
    /// Waits for what `hold` misses of `bytes`, and adds it.
    pub(super) fn poll_fit(&mut self, hold: &mut Hold, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is_none() {
            if hold.try_fit(bytes) {
                return Poll::Ready(());
            }
            let (budget, permits) = (Arc::clone(&hold.budget), hold.missing(bytes));
            self.0 = Some((permits, Box::pin(async move { budget.take(permits).await })));
        }
        if let Some((permits, taking)) = &mut self.0 {
            ready!(taking.as_mut().poll(cx));
            hold.permits += *permits;
        }
        self.0 = None;
        Poll::Ready(())
    }

    /// Waits until others want what a transfer holds that began at `since`; see [`Budget::is_wanted`].
    pub(super) fn poll_wanted(&mut self, hold: &Hold, since: Instant, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        let wanted = self.0.get_or_insert_with(|| {
            let budget = Arc::clone(&hold.budget);
            (0, Box::pin(async move { budget.is_wanted(since, bytes).await }))
        });
        wanted.1.as_mut().poll(cx)
    }

    /// Waits for nothing any more.
    pub(super) fn stop(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = 4 * STEP;

    #[tokio::test]
    async fn what_is_small_is_never_in_want() {
        let budget = Budget::new(ALL);
        let (mut large, mut small) = (Hold::new(&budget), Hold::new(&budget));
        assert!(large.try_fit(FREE + ALL));
        assert!(small.try_fit(FREE) && !small.try_fit(FREE + 1));
        large.shrink_to(FREE);
        assert!(small.try_fit(FREE + 1));
        drop((large, small));
        assert_eq!(budget.room.available_permits(), ALL);
    }

    #[tokio::test]
    async fn one_that_needs_more_than_there_is_is_content_with_all() {
        let budget = Budget::new(ALL);
        let mut huge = Hold::new(&budget);
        huge.fit(100 * ALL).await;
        assert!(!Hold::new(&budget).try_fit(FREE + 1));
        huge.shrink_to(0);
        assert!(Hold::new(&budget).try_fit(FREE + ALL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_one_is_wanted_once_others_wait() {
        let budget = Budget::new(ALL);
        let mut holder = Hold::new(&budget);
        assert!(holder.try_fit(FREE + ALL));
        let (since, bytes) = (Instant::now(), RATE as usize);
        assert!(timeout(Duration::from_secs(600), budget.is_wanted(since, bytes)).await.is_err(), "nobody waits");
        let mut waiting = Hold::new(&budget);
        let since = Instant::now();
        tokio::select! {
            () = waiting.fit(FREE + 1) => panic!("there is no room"),
            () = budget.is_wanted(since, bytes) => {}
        }
        assert!(since.elapsed() >= GRACE + Duration::from_secs(1), "it was not slow yet");
    }
}
