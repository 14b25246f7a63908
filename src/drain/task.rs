//! The flusher of one id: what it waits for, and what it does when that came.
//!
//! It is a task only while there is something to wait for. Ready, it hands its id over and ends; the drainer that
//! stored a batch lets the id go on from there.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::policy::Decision;
use super::supervisor::Shared;
use crate::journal::{LastError, Settlement, Stream};
use crate::sink::backoff::{Backoff, jitter};
use crate::sink::{self, Burial, Outcome, StickyError};

/// The first and the longest delay before a batch that was put back is stored again.
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN_LONGEST: Duration = Duration::from_secs(10);
/// So often a batch is stored again as it is; after that, without the record over which the sink fails.
const TIMES_WHOLE: u32 = 4;

/// An id whose backlog is ready for the sink. Small: in an outage there is one for every id with backlog, and nothing
/// else of its flusher.
pub(super) struct Handover {
    pub(super) stream: Arc<Stream>,
    /// The sink failed over its batch before, so it is stored on its own.
    pub(super) retry: Option<Box<Retry>>,
    /// Whoever waits for all flushers waits for this, too.
    pub(super) counted: TaskTrackerToken,
}

/// An id whose batch was put back: the sink fails over it.
#[derive(Default)]
pub(super) struct Retry {
    /// Until it is stored, or paused, an operator sees the error as one of the sink.
    sticky: Option<Arc<StickyError>>,
    backoff: Option<Backoff>,
    /// How often it was put back.
    times: u32,
    /// Whether it was tried since the shutdown began.
    hurried: bool,
}

impl Handover {
    /// Gives an id back that was paused since; its flusher waits for the resume.
    pub(super) fn unless_paused(self, shared: &Arc<Shared>) -> Option<Self> {
        if cfg!(forebay_plant = "shutdown_drains_paused") || !self.stream.lock().backlog().paused {
            return Some(self);
        }
        self.stream.lock().give_back();
        self.go_on(shared);
        None
    }

    /// Does what is to be done now, and makes a task where there is something to wait for. Before its token goes, so
    /// that who waits for all flushers never finds none in between.
    pub(super) fn go_on(self, shared: &Arc<Shared>) {
        let decision = shared.decide(&mut self.stream.lock());
        match decision {
            _ if shared.stopped.load(Ordering::Acquire) => {}
            Decision::Act => shared.hand_over(self.stream, self.retry),
            Decision::Quiet if shared.journal().retire(&self.stream) => {}
            _ => shared.spawn(Flusher::new(self.stream, Arc::clone(shared), self.retry)),
        }
    }
}

pin_project! {
    /// Waits until its id is ready, and hands it over, or until nothing is left of it. Ends early, leaving the backlog
    /// in the journal, when flushers are stopped. Dropping it at any wait loses nothing: what is not settled is
    /// journalled.
    ///
    /// Written by hand: there is one for each id that waits, and with 16 bytes more its task would take 384 bytes
    /// instead of 256.
    pub(super) struct Flusher {
        stream: Arc<Stream>,
        shared: Arc<Shared>,
        retry: Option<Box<Retry>>,
        #[pin]
        until: Option<Sleep>,
    }
}

impl Flusher {
    pub(super) fn new(stream: Arc<Stream>, shared: Arc<Shared>, retry: Option<Box<Retry>>) -> Self {
        Self { stream, shared, retry, until: None }
    }
}

impl Future for Flusher {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let (stream, shared) = (&*this.stream, &*this.shared);
        while !shared.stopped.load(Ordering::Acquire) {
            match decide(stream, shared, context) {
                Decision::Act => {
                    shared.hand_over(Arc::clone(stream), this.retry.take());
                    return Poll::Ready(());
                }
                Decision::WaitUntil(due) => {
                    if this.until.as_ref().as_pin_ref().is_none_or(|until| until.deadline() != due) {
                        this.until.set(Some(sleep_until(due)));
                    }
                    ready!(this.until.as_mut().as_pin_mut().expect("it was just set").poll(context));
                }
                Decision::Quiet if shared.journal().retire(stream) => break,
                // It came back while it was looked at.
                Decision::Quiet => {}
                // It stays in the journal, and nobody waits for it.
                Decision::Hold if shared.hurry.load(Ordering::Acquire) => break,
                Decision::Hold => {
                    this.retry.iter_mut().for_each(|retry| retry.sticky = None);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }
}

/// Decides, and notes under the same lock whom to wake.
fn decide(stream: &Stream, shared: &Shared, context: &Context<'_>) -> Decision {
    let mut state = stream.lock();
    let decision = shared.decide(&mut state);
    #[cfg(forebay_plant = "note_too_late")]
    {
        let noted = std::mem::replace(&mut state.flusher, crate::journal::Flusher::Working);
        drop(state);
        state = stream.lock();
        state.flusher = noted;
    }
    let waits = matches!(decision, Decision::WaitUntil(_) | Decision::Hold);
    state.waker = waits.then(|| context.waker().clone());
    decision
}

/// Goes on with an id whose batch was put back, and is read again when its time comes.
pub(super) async fn resolve(
    stream: Arc<Stream>,
    shared: Arc<Shared>,
    sticky: Arc<StickyError>,
    retry: Option<Box<Retry>>,
) {
    let retry = wait_again(&stream, &shared, sticky, retry.unwrap_or_default()).await;
    shared.spawn(Flusher::new(stream, Arc::clone(&shared), Some(retry)));
}

/// Waits before a batch that was put back is stored again: its time, or until an operator or the shutdown wants it now.
/// Whatever came while the sink had the batch counts, too.
async fn wait_again(stream: &Stream, shared: &Shared, sticky: Arc<StickyError>, mut retry: Box<Retry>) -> Box<Retry> {
    let error = LastError::new(&sticky.error().message, sticky.error().code);
    let again = Instant::now() + retry.renew(sticky);
    stream.lock().put_back(error, again);
    let hurried = std::mem::replace(&mut retry.hurried, shared.hurry.load(Ordering::Acquire));
    let wanted = poll_fn(|context| {
        let mut state = stream.lock();
        // Whoever hurries or stops all says so before it wakes them. In a hurry each is tried once without waiting.
        let hurry = shared.hurry.load(Ordering::Acquire) && !hurried;
        let is_over = state.urgent || hurry || shared.stopped.load(Ordering::Acquire);
        state.waker = (!is_over).then(|| context.waker().clone());
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    });
    // Whichever it was, its time has come.
    let _ = timeout_at(again, wanted).await;
    retry.hurried |= shared.hurry.load(Ordering::Acquire);
    stream.lock().urgent = true;
    retry
}

impl Retry {
    /// How the batch is to be stored.
    pub(super) fn of(retry: Option<&Self>) -> sink::Granularity {
        match retry {
            None => sink::Granularity::Transaction,
            Some(retry) if retry.times < TIMES_WHOLE => sink::Granularity::Batch,
            Some(_) => sink::Granularity::Record,
        }
    }

    /// How long to wait before the batch is stored again.
    fn renew(&mut self, sticky: Arc<StickyError>) -> Duration {
        self.times = self.times.saturating_add(1);
        self.sticky = Some(sticky);
        self.backoff.get_or_insert(Backoff::new(AGAIN_FIRST, AGAIN_LONGEST)).delay(jitter())
    }
}

/// Where the reports of a batch ended.
pub(super) fn settlement(outcome: &Outcome) -> Settlement {
    let Outcome { inserted, duplicates, total, buried: Burial { new, known }, .. } = *outcome;
    Settlement { stored: inserted, duplicates: duplicates + known, dead: new, total }
}
