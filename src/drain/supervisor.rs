//! Starts a flusher for each id with backlog, wakes them, and joins them at the end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::drainer::{Drainer, Handovers};
use super::policy::{Decision, Policy};
use super::task::{self, Handover, Retry};
use crate::journal::{Backlog, Drain, Flusher, Hold, Journal, JournalError, State, Stream};
use crate::report::Id;
use crate::sink::{Sink, Writer};

/// What one transaction may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Records of one id.
    pub catch_up_batch: usize,
    /// Records of all its ids.
    pub max_rows: usize,
    /// Bytes of them.
    pub max_bytes: usize,
}

/// All flushers and drainers of a node; a cheap handle.
#[derive(Clone)]
pub struct Flushers(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) policy: Policy,
    /// Nobody waits for its tick any more.
    pub(super) hurry: AtomicBool,
    /// Flushers end, whatever is left.
    pub(super) stopped: AtomicBool,
    pub(super) handovers: mpsc::UnboundedSender<Handover>,
    /// How many ids are held, and who waits for them to be given back.
    pub(super) holds: AtomicUsize,
    pub(super) recalled: Notify,
    journal: OnceLock<Journal>,
    /// Where the drainers take handovers from.
    pub(super) queue: Handovers,
    runtime: Handle,
    flushers: TaskTracker,
    drainers: TaskTracker,
    stop: CancellationToken,
}

impl Flushers {
    /// Flushers that act by `policy`, on the current runtime. None runs before [`Flushers::start`].
    pub fn new(policy: Policy) -> Self {
        // As many handovers can wait as there are ids with backlog: each id hands over once at a time.
        let (handovers, queue) = mpsc::unbounded_channel();
        Self(Arc::new(Shared {
            policy,
            hurry: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            handovers,
            holds: AtomicUsize::new(0),
            recalled: Notify::new(),
            journal: OnceLock::new(),
            queue: Handovers::new(queue),
            runtime: Handle::current(),
            flushers: TaskTracker::new(),
            drainers: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Gives the flushers their journal, and starts a drainer for each writer.
    pub fn start<S: Sink>(&self, journal: &Journal, writers: Vec<Writer<S>>, limits: Limits) {
        assert!(self.0.journal.set(journal.clone()).is_ok(), "flushers start once");
        for writer in writers {
            let drainer = Drainer::new(Arc::clone(&self.0), writer, limits);
            let drainer = self.0.runtime.spawn(self.0.stop.clone().run_until_cancelled_owned(drainer.run()));
            let journal = journal.clone();
            // Without its drainers a node would take reports until it is full, and say that it is well.
            let watch = async move {
                if drainer.await.is_err() {
                    journal.fail(JournalError::DrainerEnded);
                }
            };
            self.0.drainers.spawn_on(watch, &self.0.runtime);
        }
    }

    /// Lets every flusher act without waiting for its tick, and waits until all backlog is drained or `patience` is
    /// over. Then stops all flushers and drainers; what was not drained stays in the journal.
    ///
    /// What was appended before must be committed: an id of which an append is on its way may have no flusher yet.
    pub async fn drain_and_stop(&self, patience: Duration) {
        self.0.hurry.store(true, Ordering::Release);
        self.wake_all();
        self.0.flushers.close();
        // Over or not, the rest is the same.
        let _ = tokio::time::timeout(patience, self.0.flushers.wait()).await;
        self.0.stop.cancel();
        self.0.drainers.close();
        self.0.drainers.wait().await;
        self.0.stopped.store(true, Ordering::Release);
        self.0.queue.shut().await;
        self.wake_all();
        self.0.flushers.wait().await;
    }

    /// How long a flusher with this backlog waits for its tick; none where it waits for nothing.
    pub fn until_tick(&self, backlog: Backlog) -> Option<Duration> {
        match self.0.policy.decide(backlog, false, Instant::now()) {
            Decision::WaitUntil(due) => Some(due.saturating_duration_since(Instant::now())),
            Decision::Act | Decision::Hold | Decision::Quiet => None,
        }
    }

    /// Keeps an id from being drained, and has a drainer give it back that only waits for the sink. What is on its way
    /// at this instant ends there: [`Hold::is_taken`] says whether it has. `None` where the id has no backlog, or is
    /// held already.
    pub fn hold(&self, id: &Id) -> Option<Held> {
        let journal = self.0.journal.get()?;
        self.0.holds.fetch_add(1, Ordering::SeqCst);
        let held = Held { hold: journal.hold(id), shared: Arc::clone(&self.0) };
        self.0.recalled.notify_waiters();
        held.hold.is_some().then_some(held)
    }

    fn wake_all(&self) {
        if let Some(journal) = self.0.journal.get() {
            journal.parts().flat_map(|part| part.streams).for_each(|stream| stream.lock().wake());
        }
    }
}

/// An id that is held.
pub struct Held {
    hold: Option<Hold>,
    shared: Arc<Shared>,
}

impl Held {
    /// The hold.
    pub fn hold(&self) -> &Hold {
        self.hold.as_ref().expect("it was held when this was given out")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hold = None;
        self.shared.holds.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drain for Flushers {
    fn backlog_grew(&self, stream: &Arc<Stream>, state: &mut State) {
        match state.flusher {
            Flusher::None => match self.0.decide(state) {
                Decision::Act => self.0.hand_over(Arc::clone(stream), None),
                _ => self.0.spawn(task::Flusher::new(Arc::clone(stream), Arc::clone(&self.0), None)),
            },
            Flusher::Waiting if !self.0.policy.is_full(state.backlog()) => {}
            Flusher::Waiting => {
                state.flusher = Flusher::Working;
                state.wake();
            }
            Flusher::Working | Flusher::Held => {}
        }
    }
}

impl Shared {
    /// Decides, and notes under the same lock what the flusher wants to be woken by.
    pub(super) fn decide(&self, state: &mut State) -> Decision {
        let decision = self.policy.decide(state.backlog(), self.hurry.load(Ordering::Acquire), Instant::now());
        state.urgent &= decision != Decision::Act;
        state.flusher = match decision {
            Decision::Act | Decision::Quiet => Flusher::Working,
            Decision::Hold => Flusher::Held,
            Decision::WaitUntil(_) => Flusher::Waiting,
        };
        decision
    }

    /// Gives an id that is ready to the drainers. Where there are none any more, its backlog stays in the journal.
    pub(super) fn hand_over(&self, stream: Arc<Stream>, retry: Option<Box<Retry>>) {
        let _ = self.handovers.send(Handover { stream, retry, counted: self.flushers.token() });
    }

    /// Runs a flusher.
    pub(super) fn spawn(&self, flusher: impl Future<Output = ()> + Send + 'static) {
        self.flushers.spawn_on(flusher, &self.runtime);
    }

    pub(super) fn journal(&self) -> &Journal {
        self.journal.get().expect("a flusher asks for the journal after the start that sets it")
    }
}
