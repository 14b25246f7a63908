//! The flusher of one id.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::policy::Decision;
use super::supervisor::Shared;
use crate::journal::{DeadLetter, Flusher, LastError, Receipt, Settlement, Stream};
use crate::report::{Batch, Body};
use crate::sink::backoff::{Backoff, jitter};
use crate::sink::{Lasting, Outcome, Refused};

/// The first and the longest delay before a batch that was put back is stored again.
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN_LONGEST: Duration = Duration::from_secs(10);

/// An id whose backlog is ready for the sink.
pub(super) struct Handover {
    pub(super) stream: Arc<Stream>,
    /// The sink failed over its batch before, so it is stored on its own.
    pub(super) doubtful: bool,
    pub(super) drained: oneshot::Sender<Drained>,
}

impl Handover {
    /// Gives an id back that was paused since.
    pub(super) fn unless_paused(self) -> Option<Self> {
        if cfg!(forebay_plant = "shutdown_drains_paused") || !self.stream.lock().backlog().paused {
            return Some(self);
        }
        self.stream.lock().give_back();
        // A flusher that is gone drains nothing either.
        let _ = self.drained.send(Drained::Held);
        None
    }
}

/// What a drainer says of an id that was handed over.
pub(super) enum Drained {
    /// Its batch is stored and settled.
    Settled,
    /// It was paused before its turn came.
    Held,
    /// Not all of its batch is stored. Boxed: in an outage every id with backlog has a channel for this, and nothing
    /// in it.
    Left(Box<Left>),
}

/// What a drainer took of an id, and what the sink said.
pub(super) struct Left {
    pub(super) batch: Batch,
    pub(super) receipt: Receipt,
    pub(super) outcome: Outcome,
}

/// An id whose batch was put back: the sink fails over it.
struct Doubt {
    /// Until it is stored, or paused, an operator sees the error as one of the sink.
    lasting: Option<Arc<Lasting>>,
    backoff: Backoff,
}

/// What became of a batch.
enum Drain {
    Settled,
    PutBack(Arc<Lasting>),
    Held,
}

/// Drains `stream` until nothing is left of it. Ends early, leaving the backlog in the journal, when flushers are
/// stopped or the commit thread has ended. Dropping it at any wait loses nothing: what is not settled is journalled.
pub(super) async fn run(stream: Arc<Stream>, shared: Arc<Shared>) {
    // Boxed: there is one flusher for each id with backlog, and hardly any ever needs it.
    let mut doubt: Option<Box<Doubt>> = None;
    while !shared.stopped.load(Ordering::Acquire) {
        match next(&stream, &shared) {
            Decision::WaitUntil(due) => drop(woken_or(due, &stream).await),
            Decision::Quiet if shared.journal().retire(&stream) => return,
            Decision::Quiet => stream.wake.notified().await,
            // It stays in the journal, and nobody waits for it.
            Decision::Hold if shared.hurry.load(Ordering::Acquire) => return,
            Decision::Hold => {
                doubt.iter_mut().for_each(|doubt| doubt.lasting = None);
                stream.wake.notified().await;
            }
            Decision::Act => match drain(&stream, &shared, doubt.is_some()).await {
                None => return,
                Some(Drain::Settled) => doubt = None,
                Some(Drain::Held) => {}
                Some(Drain::PutBack(lasting)) => {
                    let error = LastError::new(&lasting.error().message, lasting.error().code);
                    let delay = Doubt::renew(&mut doubt, lasting);
                    let again = Instant::now() + delay;
                    stream.lock().put_back(error, again);
                    drop(woken_or(again, &stream).await);
                }
            },
        }
    }
}

/// Waits until the flusher is woken, or for this time; whichever it was, it looks at its stream.
fn woken_or(due: Instant, stream: &Stream) -> impl Future {
    timeout_at(due, stream.wake.notified())
}

impl Doubt {
    /// How long to wait before the batch is stored again.
    fn renew(doubt: &mut Option<Box<Self>>, lasting: Arc<Lasting>) -> Duration {
        let backoff = doubt.take().map_or(Backoff::new(AGAIN_FIRST, AGAIN_LONGEST), |doubt| doubt.backoff);
        let doubt = doubt.insert(Box::new(Self { lasting: Some(lasting), backoff }));
        doubt.backoff.delay(jitter())
    }
}

/// Decides, and notes under the same lock what the flusher wants to be woken by.
fn next(stream: &Stream, shared: &Shared) -> Decision {
    let mut state = stream.lock();
    let decision = shared.policy.decide(state.backlog(), shared.hurry.load(Ordering::Acquire), Instant::now());
    #[cfg(forebay_plant = "note_too_late")]
    {
        drop(state);
        state = stream.lock();
    }
    state.urgent &= decision != Decision::Act;
    state.flusher = match decision {
        Decision::Act => Flusher::Working,
        Decision::Hold => Flusher::Held,
        Decision::WaitUntil(_) => Flusher::Waiting,
        Decision::Quiet => Flusher::Idle,
    };
    decision
}

async fn drain(stream: &Arc<Stream>, shared: &Shared, doubtful: bool) -> Option<Drain> {
    let (drained, done) = oneshot::channel();
    shared.handovers.send(Handover { stream: Arc::clone(stream), doubtful, drained }).ok()?;
    match done.await.ok()? {
        Drained::Settled => Some(Drain::Settled),
        Drained::Held => Some(Drain::Held),
        // Boxed: each id with backlog has room for this wait, and hardly any ever needs it.
        Drained::Left(left) => Box::pin(left.resolve(stream, shared)).await,
    }
}

impl Left {
    /// Buries what the sink refused, and settles all.
    async fn resolve(self: Box<Self>, stream: &Arc<Stream>, shared: &Shared) -> Option<Drain> {
        let Self { batch, receipt, outcome } = *self;
        if let Some(lasting) = outcome.put_back {
            return Some(Drain::PutBack(lasting));
        }
        let mut settlement = settlement(&outcome);
        if let Some(last) = outcome.refused.last() {
            stream.lock().refused(LastError::new(&last.reason, last.code));
            let buried = shared.journal().bury(dead_letters(&batch, outcome.refused)).await?;
            settlement.dead = buried.new;
            settlement.duplicates += buried.known;
        }
        shared.journal().settle([(Arc::clone(stream), receipt, settlement)]);
        Some(Drain::Settled)
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
