//! The connections that the writers of a sink share, and how many of them there may be.
//!
//! A writer has a slot while it works, and a connection with it: one that is idle, or a new one. A server may allow
//! fewer connections than there are slots. Where it refuses one while others of the pool are open, that slot goes, and
//! the writers take turns on those that are left; after a growing delay a slot is tried again. Where it refuses the
//! only one, that is an outage as any other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::SinkError;
use super::backoff::{Backoff, jitter};
use super::health::Health;

/// The first and the longest delay before one connection more is tried.
const MORE_FIRST: Duration = Duration::from_secs(1);
const MORE_LONGEST: Duration = Duration::from_secs(300);

/// What the writers of a sink have together.
pub(super) struct Pool<C> {
    /// The slots that nobody has.
    free: Arc<Semaphore>,
    health: Arc<Health>,
    state: Mutex<State<C>>,
}

struct State<C> {
    /// Open, and with no writer. The one that was used last is used next.
    idle: Vec<C>,
    /// Open ones, idle or not, and those that are being opened.
    open: usize,
    opening: usize,
    /// As many slots as there are writers.
    wanted: usize,
    /// While the server allows fewer.
    fewer: Option<Fewer>,
}

/// What is known of a server that allows fewer connections than are wanted.
struct Fewer {
    error: SinkError,
    /// All slots, taken or free; at least one.
    slots: usize,
    /// When a slot more is tried, and whether one is to be tried now.
    more_at: Instant,
    delays: Backoff,
    is_more_due: bool,
}

/// A place to work for one writer.
pub(super) struct PoolSlot<C> {
    pool: Arc<Pool<C>>,
    /// It is closed before somebody else has the slot.
    connection: Link<C>,
    /// None once the slot was given up.
    permit: Option<OwnedSemaphorePermit>,
}

/// What a slot has.
enum Link<C> {
    None,
    Opening,
    Open(C),
}

impl<C> Pool<C> {
    /// A pool for so many writers.
    pub(super) fn new(health: Arc<Health>, writers: usize) -> Arc<Self> {
        let state = State { idle: Vec::new(), open: 0, opening: 0, wanted: writers, fewer: None };
        Arc::new(Self { free: Arc::new(Semaphore::new(writers)), health, state: Mutex::new(state) })
    }

    /// Waits for a slot; with a connection where one is idle, unless it is to be a new one.
    pub(super) async fn slot(self: &Arc<Self>, is_new: bool) -> PoolSlot<C> {
        if self.state().wants_more() {
            self.free.add_permits(1);
        }
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed");
        let connection = self.state().take_idle(is_new).map_or(Link::None, Link::Open);
        PoolSlot { pool: Arc::clone(self), connection, permit: Some(permit) }
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> State<C> {
    /// Whether one slot more is to be tried; notes that it is.
    fn wants_more(&mut self) -> bool {
        let (now, wanted) = (Instant::now(), self.wanted);
        let Some(fewer) = self.fewer.as_mut().filter(|fewer| fewer.slots < wanted && fewer.more_at <= now) else {
            return false;
        };
        fewer.slots += 1;
        fewer.is_more_due = true;
        fewer.more_at = now + fewer.delays.delay(jitter());
        true
    }

    fn take_idle(&mut self, is_new: bool) -> Option<C> {
        let is_more_due = self.fewer.as_mut().is_some_and(|fewer| std::mem::take(&mut fewer.is_more_due));
        if is_more_due || is_new { None } else { self.idle.pop() }
    }

    /// Tells an operator, once some connection works.
    fn say_fewer(&self, health: &Health) {
        if let Some(Fewer { error, slots, .. }) = self.fewer.as_ref().filter(|_| self.open > 0) {
            health.has_fewer_connections(error, *slots, self.wanted);
        }
    }
}

impl<C> PoolSlot<C> {
    /// The connection, if it has one.
    pub(super) fn connection(&mut self) -> Option<&mut C> {
        match &mut self.connection {
            Link::Open(connection) => Some(connection),
            Link::None | Link::Opening => None,
        }
    }

    /// Opens a connection for it.
    ///
    /// # Errors
    /// Why there is none. [`PoolSlot::is_given_up`] then says whether others go on without it.
    pub(super) async fn open(&mut self, connect: impl Future<Output = Result<C, SinkError>>) -> Result<(), SinkError> {
        self.pool.state().opening += 1;
        self.connection = Link::Opening;
        let connected = connect.await;
        let pool = Arc::clone(&self.pool);
        let mut state = pool.state();
        state.opening -= 1;
        self.connection = Link::None;
        let connection = connected.inspect_err(|error| self.refused(error, &mut state))?;
        state.open += 1;
        self.connection = Link::Open(connection);
        if let Some(fewer) = &mut state.fewer {
            fewer.delays.reset();
            fewer.more_at = Instant::now() + fewer.delays.delay(jitter());
            if fewer.slots == state.wanted {
                state.fewer = None;
                pool.health.has_all_connections();
            }
        }
        state.say_fewer(&pool.health);
        Ok(())
    }

    fn refused(&mut self, error: &SinkError, state: &mut State<C>) {
        if !error.is_of_too_many_connections() || cfg!(forebay_plant = "every_connection_or_none") {
            return;
        }
        let (slots, wanted) = (state.fewer.as_ref().map_or(state.wanted, |fewer| fewer.slots), state.wanted);
        if state.open + state.opening == 0 || slots == 1 {
            // Whatever it allows later, it is more than none.
            state.fewer = None;
            self.pool.free.add_permits(wanted - slots);
            return self.pool.health.has_all_connections();
        }
        if let Some(permit) = self.permit.take() {
            permit.forget();
        }
        let fewer = state.fewer.get_or_insert_with(|| {
            let mut delays = Backoff::new(MORE_FIRST, MORE_LONGEST);
            let more_at = Instant::now() + delays.delay(jitter());
            Fewer { error: error.clone(), slots, more_at, delays, is_more_due: false }
        });
        fewer.slots -= 1;
        state.say_fewer(&self.pool.health);
    }

    /// Whether the server allows fewer connections than there are slots, and this one went.
    pub(super) fn is_given_up(&self) -> bool {
        self.permit.is_none()
    }

    /// Leaves the connection to whoever has a slot next.
    pub(super) fn keep(&mut self) {
        if let Link::Open(connection) = std::mem::replace(&mut self.connection, Link::None) {
            self.pool.state().idle.push(connection);
        }
    }
}

impl<C> Drop for PoolSlot<C> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        match self.connection {
            Link::None => {}
            Link::Opening => state.opening -= 1,
            Link::Open(_) => state.open -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tokio::sync::oneshot;
    use tokio::time::advance;

    use super::*;

    fn pool(writers: usize) -> (Arc<Pool<()>>, Arc<Health>) {
        let health: Arc<Health> = Arc::default();
        (Pool::new(Arc::clone(&health), writers), health)
    }

    fn refused() -> Result<(), SinkError> {
        Err(SinkError::mysql("connecting", 1226, "User 'app' has exceeded the 'max_user_connections' resource"))
    }

    /// A slot, if one is free.
    fn at_once(pool: &Arc<Pool<()>>) -> Option<PoolSlot<()>> {
        match pin!(pool.slot(false)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(slot) => Some(slot),
            Poll::Pending => None,
        }
    }

    /// Whether the next slot comes with a connection that was idle; it is left to others again.
    fn has_idle(pool: &Arc<Pool<()>>) -> bool {
        let mut slot = at_once(pool).expect("one is free");
        let is_idle = slot.connection().is_some();
        slot.keep();
        is_idle
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_goes_with_a_connection_that_is_refused_and_comes_back_after_a_growing_delay() {
        let (pool, health) = pool(3);
        let [mut first, mut second, mut third] =
            [pool.slot(false).await, pool.slot(false).await, pool.slot(false).await];
        first.open(ready(Ok(()))).await.expect("it works");
        second.open(ready(Ok(()))).await.expect("it works");
        third.open(ready(refused())).await.expect_err("it is refused");
        assert!(third.is_given_up());
        drop(third);
        assert!(health.status().last_error.is_some_and(|said| said.contains("2 of 3")));
        assert!(at_once(&pool).is_none(), "two slots are taken, and there is no third");
        first.keep();
        drop(first);
        for longest in [MORE_FIRST, MORE_FIRST * 2, MORE_FIRST * 4] {
            advance(longest / 2 - Duration::from_millis(1)).await;
            assert!(has_idle(&pool), "it is tried again before its time, {longest:?}");
            advance(longest / 2 + Duration::from_millis(1)).await;
            let mut more = at_once(&pool).expect("one more");
            more.open(ready(refused())).await.expect_err("it is refused");
            assert!(more.is_given_up());
        }
        advance(MORE_FIRST * 8).await;
        let mut more = at_once(&pool).expect("one more");
        more.open(ready(Ok(()))).await.expect("it works");
        assert_eq!(health.status().last_error, None);
        assert!(has_idle(&pool));
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_only_connection_is_refused_all_slots_stay() {
        let (pool, health) = pool(3);
        for _ in 0..3 {
            let mut slot = pool.slot(false).await;
            slot.open(ready(refused())).await.expect_err("it is refused");
            assert!(!slot.is_given_up());
        }
        assert_eq!(health.status().last_error, None, "that is the writer's to say");
        assert!([at_once(&pool), at_once(&pool), at_once(&pool)].iter().all(Option::is_some));
    }

    /// At the start all writers connect at once: what becomes of the others is not known when one is refused.
    #[tokio::test(start_paused = true)]
    async fn one_that_is_refused_while_others_connect_waits_for_what_becomes_of_them() {
        for works in [true, false] {
            let (pool, health) = pool(3);
            let [mut first, mut second, mut third] =
                [pool.slot(false).await, pool.slot(false).await, pool.slot(false).await];
            let (tell, told) = oneshot::channel();
            {
                let mut opening = pin!(first.open(async { told.await.expect("it is told") }));
                assert!(opening.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                for slot in [&mut second, &mut third] {
                    slot.open(ready(refused())).await.expect_err("it is refused");
                    assert!(slot.is_given_up());
                }
                assert_eq!(health.status().last_error, None, "none works yet");
                tell.send(if works { Ok(()) } else { refused() }).expect("it listens");
                assert_eq!(opening.await.is_ok(), works);
            }
            assert!(!first.is_given_up());
            assert_eq!(health.status().last_error.is_some_and(|said| said.contains("1 of 3")), works);
            drop((second, third));
            assert_eq!(
                [at_once(&pool), at_once(&pool)].iter().filter(|slot| slot.is_some()).count(),
                if works { 0 } else { 2 }
            );
        }
    }

    /// Whoever is dropped while it connects, or has a connection, leaves no trace.
    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_counts_no_more() {
        let (pool, _) = pool(2);
        let mut connected = pool.slot(false).await;
        connected.open(ready(Ok(()))).await.expect("it works");
        let mut connecting = pool.slot(false).await;
        assert!(
            pin!(connecting.open(std::future::pending())).poll(&mut Context::from_waker(Waker::noop())).is_pending()
        );
        drop((connected, connecting));
        let mut slot = pool.slot(false).await;
        slot.open(ready(refused())).await.expect_err("it is refused");
        assert!(!slot.is_given_up(), "no other is open");
    }
}
