//! The flusher of one id: what it waits for, and what it does when that came.
//!
//! It is a task only while there is something to wait for. Ready, it hands its id over and ends; the drainer that
//! stored a batch lets the id go on from there.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::policy::Decision;
use super::supervisor::Shared;
use crate::journal::{DeadLetter, LastError, Receipt, Settlement, Stream};
use crate::report::{Batch, Body};
use crate::sink::backoff::{Backoff, jitter};
use crate::sink::{Lasting, Outcome, Refused};

/// The first and the longest delay before a batch that was put back is stored again.
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN_LONGEST: Duration = Duration::from_secs(10);

/// An id whose backlog is ready for the sink. Small: in an outage there is one for every id with backlog, and nothing
/// else of its flusher.
pub(super) struct Handover {
    pub(super) stream: Arc<Stream>,
    /// The sink failed over its batch before, so it is stored on its own.
    pub(super) doubt: Option<Box<Doubt>>,
    /// Whoever waits for all flushers waits for this, too.
    pub(super) counted: TaskTrackerToken,
}

/// An id whose batch was put back: the sink fails over it.
#[derive(Default)]
pub(super) struct Doubt {
    /// Until it is stored, or paused, an operator sees the error as one of the sink.
    lasting: Option<Arc<Lasting>>,
    backoff: Option<Backoff>,
}

/// What a drainer took of an id, and what the sink said, where not all of it is stored.
pub(super) struct Left {
    pub(super) batch: Batch,
    pub(super) receipt: Receipt,
    pub(super) outcome: Outcome,
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
            Decision::Act => shared.hand_over(self.stream, self.doubt),
            Decision::Quiet if shared.journal().retire(&self.stream) => {}
            _ => shared.spawn(Flusher::new(self.stream, Arc::clone(shared), self.doubt)),
        }
    }
}

pin_project! {
    /// Waits until its id is ready, and hands it over, or until nothing is left of it. Ends early, leaving the backlog
    /// in the journal, when flushers are stopped. Dropping it at any wait loses nothing: what is not settled is
    /// journalled.
    ///
    /// Written by hand: there is one for each id that waits, and with one field more its task takes half as much
    /// memory again.
    pub(super) struct Flusher {
        stream: Arc<Stream>,
        shared: Arc<Shared>,
        doubt: Option<Box<Doubt>>,
        #[pin]
        until: Option<Sleep>,
    }
}

impl Flusher {
    pub(super) fn new(stream: Arc<Stream>, shared: Arc<Shared>, doubt: Option<Box<Doubt>>) -> Self {
        Self { stream, shared, doubt, until: None }
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
                    shared.hand_over(Arc::clone(stream), this.doubt.take());
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
                    this.doubt.iter_mut().for_each(|doubt| doubt.lasting = None);
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

/// Goes on with an id of which the sink refused records, or failed over all of them. Ends early when the commit thread
/// has ended.
pub(super) async fn resolve(stream: Arc<Stream>, shared: Arc<Shared>, left: Box<Left>, mut doubt: Option<Box<Doubt>>) {
    let Left { batch, receipt, outcome } = *left;
    if let Some(lasting) = outcome.put_back {
        let error = LastError::new(&lasting.error().message, lasting.error().code);
        let again = Instant::now() + doubt.get_or_insert_default().renew(lasting);
        stream.lock().put_back(error, again);
        woken_or(again, &stream, &shared).await;
    } else {
        let mut settlement = settlement(&outcome);
        if let Some(last) = outcome.refused.last() {
            stream.lock().refused(LastError::new(&last.reason, last.code));
            let Some(buried) = shared.journal().bury(dead_letters(&batch, outcome.refused)).await else { return };
            settlement.dead = buried.new;
            settlement.duplicates += buried.known;
        }
        shared.journal().settle([(Arc::clone(&stream), receipt, settlement)]);
        doubt = None;
    }
    Flusher::new(stream, shared, doubt).await;
}

/// Waits for this time, or until the flusher is woken: by an operator, or because flushers stop.
async fn woken_or(due: Instant, stream: &Stream, shared: &Shared) {
    let hurried = shared.hurry.load(Ordering::Acquire);
    let mut waits = false;
    let woken = poll_fn(|context| {
        let mut state = stream.lock();
        let is_woken = waits && state.waker.is_none();
        // Whoever hurries or stops all says so before it wakes them.
        let is_over = shared.hurry.load(Ordering::Acquire) != hurried || shared.stopped.load(Ordering::Acquire);
        waits = !is_woken && !is_over;
        state.waker = waits.then(|| context.waker().clone());
        if waits { Poll::Pending } else { Poll::Ready(()) }
    });
    // Whichever it was, it looks at its stream.
    let _ = timeout_at(due, woken).await;
}

impl Doubt {
    /// How long to wait before the batch is stored again.
    fn renew(&mut self, lasting: Arc<Lasting>) -> Duration {
        self.lasting = Some(lasting);
        self.backoff.get_or_insert(Backoff::new(AGAIN_FIRST, AGAIN_LONGEST)).delay(jitter())
    }
}

/// Where the reports ended that were not refused.
pub(super) fn settlement(outcome: &Outcome) -> Settlement {
    let Outcome { inserted, duplicates, total, .. } = *outcome;
    Settlement { stored: inserted, duplicates, dead: 0, total }
}

fn dead_letters(batch: &Batch, refused: Vec<Refused>) -> Vec<DeadLetter> {
    let dead_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
    let letter = |refused: Refused| match &batch.records[refused.index].body {
        Body::Report(report) => {
            let key = crate::report::Key { id: batch.id, number: report.number };
            let Refused { code, reason, .. } = &refused;
            tracing::warn!(%key, code, ?reason, "the sink refused a report; it is in the dead letters");
            let (report, code) = (report.clone(), refused.code);
            Some(DeadLetter { id: batch.id, report, code, reason: refused.reason, dead_at })
        }
        Body::Marker(..) => None,
    };
    refused.into_iter().filter_map(letter).collect()
}
