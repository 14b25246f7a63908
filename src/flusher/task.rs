//! The flusher of one id.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::policy::Decision;
use super::supervisor::Shared;
use crate::journal::{DeadLetter, Flusher, Receipt, Settlement, Stream};
use crate::report::{Batch, Body};
use crate::sink::{Outcome, Refused};

/// An id whose backlog is ready for the sink.
pub(super) struct Handover {
    pub(super) stream: Arc<Stream>,
    /// Boxed: in an outage every id with backlog has this channel, and nothing in it.
    pub(super) drained: oneshot::Sender<Box<Drained>>,
}

/// What a drainer took of an id, and what the sink said.
pub(super) struct Drained {
    pub(super) batch: Batch,
    pub(super) receipt: Receipt,
    pub(super) outcome: Outcome,
}

/// Drains `stream` until nothing is left of it. Ends early, leaving the backlog in the journal, when flushers are
/// stopped or the commit thread has ended. Dropping it at any wait loses nothing: what is not settled is journalled.
pub(super) async fn run(stream: Arc<Stream>, shared: Arc<Shared>) {
    while !shared.stopped.load(Ordering::Acquire) {
        match next(&stream, &shared) {
            Decision::WaitUntil(due) => {
                tokio::select! {
                    () = stream.wake.notified() => {}
                    () = sleep_until(due) => {}
                }
            }
            Decision::Quiet if shared.journal().retire(&stream) => return,
            Decision::Quiet => stream.wake.notified().await,
            Decision::Act => {
                if drain(&stream, &shared).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// Decides, and notes under the same lock what the flusher wants to be woken by.
fn next(stream: &Stream, shared: &Shared) -> Decision {
    let mut state = stream.lock();
    let decision = shared.policy.decide(state.backlog(), shared.hurry.load(Ordering::Acquire), Instant::now());
    state.flusher = match decision {
        Decision::Act => Flusher::Working,
        Decision::WaitUntil(_) => Flusher::Waiting,
        Decision::Quiet => Flusher::Idle,
    };
    decision
}

async fn drain(stream: &Arc<Stream>, shared: &Shared) -> Option<()> {
    let (drained, done) = oneshot::channel();
    shared.handovers.send(Handover { stream: Arc::clone(stream), drained }).ok()?;
    let Drained { batch, receipt, outcome } = *done.await.ok()?;
    let Outcome { inserted, duplicates, total, refused } = outcome;
    let mut settlement = Settlement { stored: inserted, duplicates, dead: 0, total };
    if !refused.is_empty() {
        // Boxed: each id with backlog has room for this wait, and hardly any ever needs it.
        let buried = Box::pin(shared.journal().bury(dead_letters(&batch, refused))).await?;
        settlement.dead = buried.new;
        settlement.duplicates += buried.known;
    }
    shared.journal().settle(stream, receipt, settlement);
    Some(())
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
