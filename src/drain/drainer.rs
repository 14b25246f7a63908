//! Drainers: each takes ids that are ready, and stores their backlog in one shared transaction after the other.

use std::cmp::Reverse;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tracing::{Instrument as _, Span};

use super::graves::Graves;
use super::supervisor::{Limits, Shared};
use super::task::{self, Handover, Retry, settlement};
use crate::journal::{JournalError, Taken};
use crate::report::Batch;
use crate::sink::{self, Outcome, Sink, Writer};
use crate::sync::blocking;
use crate::trace;

/// Time between two tries to read a journal that cannot be read.
const READ_RETRY: Duration = Duration::from_secs(1);

/// Ids that wait are taken in the order of their names, as the sink's tables have them, so many at a time: rows that
/// lie beside each other cost the sink less than as many that lie apart. 20 MiB while they are sorted.
const SORTED_AT_ONCE: usize = 262_144;

/// The ids that are ready, shared by all drainers.
pub(super) struct Handovers(Mutex<Ready>);

struct Ready {
    queue: mpsc::UnboundedReceiver<Handover>,
    /// Taken from the queue together, the last id first.
    sorted: Vec<Handover>,
    /// Taken from the queue already; the next to be drained, alone.
    retried: Option<Handover>,
}

/// One of the tasks that write to the sink.
pub(super) struct Drainer<S: Sink> {
    shared: Arc<Shared>,
    writer: Writer<S>,
    limits: Limits,
}

impl Handovers {
    pub(super) fn new(queue: mpsc::UnboundedReceiver<Handover>) -> Self {
        Self(Mutex::new(Ready { queue, sorted: Vec::new(), retried: None }))
    }

    /// Lets no further handover in, and drops those that wait.
    pub(super) async fn shut(&self) {
        let mut ready = self.0.lock().await;
        ready.queue.close();
        ready.retried = None;
        ready.sorted.clear();
        // To its end: who is about to send when it is closed sends yet.
        while ready.queue.recv().await.is_some() {}
    }

    /// The next id that is ready, and all others that are and fit into the same transaction. A retry is alone.
    pub(super) async fn gather(&self, shared: &Arc<Shared>, limits: Limits) -> Option<Vec<Handover>> {
        let mut ready = self.0.lock().await;
        if let Some(retried) = ready.retried.take().and_then(|retried| retried.unless_paused(shared)) {
            return Some(vec![retried]);
        }
        let mut gathered = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        let mut next = ready.next(shared).await;
        while let Some(handover) = next {
            if handover.retry.is_some() && !gathered.is_empty() {
                ready.retried = Some(handover);
                break;
            }
            let retried = handover.retry.is_some();
            let backlog = handover.stream.lock().backlog();
            rows += (backlog.reports + backlog.markers).min(limits.catch_up_batch as u64);
            bytes += backlog.bytes;
            gathered.push(handover);
            if retried || rows >= limits.max_rows as u64 || bytes >= limits.max_bytes as u64 {
                break;
            }
            next = ready.next_that_waits(shared);
        }
        (!gathered.is_empty()).then_some(gathered)
    }
}

impl Ready {
    /// The next id.
    async fn next(&mut self, shared: &Arc<Shared>) -> Option<Handover> {
        loop {
            if let Some(handover) = self.next_that_waits(shared) {
                return Some(handover);
            }
            self.sorted.push(self.queue.recv().await?);
        }
    }

    /// The same, if there is one now.
    fn next_that_waits(&mut self, shared: &Arc<Shared>) -> Option<Handover> {
        loop {
            if self.sorted.is_empty() {
                self.sorted.extend(std::iter::from_fn(|| self.queue.try_recv().ok()).take(SORTED_AT_ONCE));
                self.sorted.sort_by_cached_key(|handover| Reverse(handover.stream.id));
            }
            if let Some(handover) = self.sorted.pop()?.unless_paused(shared) {
                return Some(handover);
            }
        }
    }
}

impl<S: Sink> Drainer<S> {
    pub(super) fn new(shared: Arc<Shared>, writer: Writer<S>, limits: Limits) -> Self {
        let writer = writer.bury_with(Arc::new(Graves(Arc::clone(&shared))));
        Self { shared, writer, limits }
    }

    /// What is ready. An outage ends while nothing is, too.
    async fn next(&mut self) -> Option<Vec<Handover>> {
        tokio::select! {
            biased;
            handovers = self.shared.queue.gather(&self.shared, self.limits) => handovers,
            () = self.writer.ask_until_up() => None,
        }
    }

    /// Runs until it is dropped, or no handover is let in any more.
    pub(super) async fn run(mut self) {
        // Tables are made, and the sink's state is known, before there is anything to store.
        self.writer.ready().await;
        while let Some(handovers) = self.next().await {
            let span = tracing::info_span!(
                target: trace::TARGET,
                trace::TRANSACTION,
                forebay.ids = handovers.len() as i64,
                forebay.rows = tracing::field::Empty,
            );
            self.drain(handovers, &span).instrument(span.clone()).await;
        }
    }

    /// Stores what these ids have, settles what is wholly stored, and lets all of them go on.
    pub(super) async fn drain(&mut self, handovers: Vec<Handover>, span: &Span) {
        let read = tracing::info_span!(target: trace::TARGET, "read");
        let taken = self.read(&handovers).instrument(read).await;
        // What was read of an id that was paused meanwhile may have been accepted after the pause.
        let count = taken.len();
        let (mut kept, mut batches, mut receipts) =
            (Vec::with_capacity(count), Vec::with_capacity(count), Vec::with_capacity(count));
        for (handover, Taken { batch, receipt }) in handovers.into_iter().zip(taken) {
            if let Some(handover) = handover.unless_paused(&self.shared) {
                if !receipt.is_current(&handover.stream.lock()) {
                    // A report of it was set aside while it was read.
                    handover.stream.lock().give_back_tried(None);
                    handover.go_on(&self.shared);
                    continue;
                }
                #[cfg(forebay_plant = "truncate_before_store")]
                self.shared.journal().truncate(&handover.stream, &receipt);
                kept.push(handover);
                batches.push(batch);
                receipts.push(receipt);
            }
        }
        let handovers = kept;
        span.record("forebay.rows", batches.iter().map(|batch| batch.records.len()).sum::<usize>() as i64);
        // A retry is alone.
        let retry = Retry::of(handovers.iter().find_map(|handover| handover.retry.as_deref()));
        let Some(outcomes) = self.store_unless_recalled(&batches, retry, &handovers).await else {
            return self.give_back(handovers, &batches);
        };
        let last_settled =
            |(batch, outcome): (&Batch, &Outcome)| Some(batch.records.get(outcome.settled.checked_sub(1)?)?.position);
        let last_settled: Vec<_> = batches.iter().zip(&outcomes).map(last_settled).collect();
        let drained = receipts.into_iter().zip(outcomes).zip(last_settled);
        let (mut stored, mut settled) = (Vec::new(), Vec::new());
        for (mut handover, ((receipt, outcome), last_settled)) in handovers.into_iter().zip(drained) {
            if let Some(sticky) = outcome.put_back.clone() {
                let Handover { stream, retry, counted } = handover;
                stream.lock().note_tried(self.writer.tried(&stream.id));
                stream.lock().note_parts(outcome.inserted, outcome.buried.new);
                last_settled.into_iter().for_each(|through| stream.lock().note_stored(through));
                self.shared.spawn(task::resolve(stream, Arc::clone(&self.shared), sticky, retry));
                drop(counted);
            } else if outcome.is_settled() {
                settled.push((Arc::clone(&handover.stream), receipt, settlement(&outcome)));
                handover.retry = None;
                stored.push(handover);
            }
            // Else the commit thread has ended, and with it the node.
        }
        self.shared.journal().settle(settled);
        stored.into_iter().for_each(|handover| handover.go_on(&self.shared));
    }

    /// Reads the backlog of all these ids, away from the tasks that must not wait for a disk.
    async fn read(&mut self, handovers: &[Handover]) -> Vec<Taken> {
        loop {
            let streams: Vec<_> = handovers.iter().map(|h| Arc::clone(&h.stream)).collect();
            let (journal, limits) = (self.shared.journal().clone(), self.limits);
            let read = move || -> Result<Vec<Taken>, JournalError> {
                streams.iter().map(|s| journal.read(s, limits.catch_up_batch, limits.max_bytes)).collect()
            };
            match blocking(read).await {
                Ok(taken) => return taken,
                Err(error) if error.is_damage() => {
                    // The next start searches the files for what is whole.
                    self.shared.journal().fail(error);
                    return std::future::pending().await;
                }
                Err(error) => {
                    tracing::error!(%error, "the backlog cannot be read; trying again");
                    tokio::time::sleep(READ_RETRY).await;
                }
            }
        }
    }

    /// Stores them, unless one of the ids is held while nothing is on its way to the sink: `None` then.
    async fn store_unless_recalled(
        &mut self,
        batches: &[Batch],
        retry: sink::Granularity,
        handovers: &[Handover],
    ) -> Option<Vec<Outcome>> {
        let (shared, trying) = (Arc::clone(&self.shared), self.writer.trying());
        let mut recalled = pin!(shared.recalled.notified());
        let mut store = pin!(self.store(batches, retry));
        poll_fn(|context| {
            // So that it is woken by the next, too.
            while recalled.as_mut().poll(context).is_ready() {
                recalled.set(shared.recalled.notified());
            }
            if let Poll::Ready(outcomes) = store.as_mut().poll(context) {
                return Poll::Ready(Some(outcomes));
            }
            let may_be_held = shared.holds.load(Ordering::SeqCst) > 0
                && (!trying.load(Ordering::SeqCst) || cfg!(forebay_plant = "recall_what_is_on_its_way"));
            let is_recalled = may_be_held && handovers.iter().any(|handover| handover.stream.lock().is_held());
            if is_recalled { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }

    /// Lets all these ids go on as if they had not been taken, but for what the sink has of them.
    fn give_back(&mut self, handovers: Vec<Handover>, batches: &[Batch]) {
        // Those of batches that have a record, see `store`.
        let mut outcomes = self.writer.recalled().into_iter();
        for (handover, batch) in handovers.into_iter().zip(batches) {
            let outcome = if batch.records.is_empty() { None } else { outcomes.next() };
            let Outcome { inserted, buried, settled, .. } = outcome.unwrap_or_default();
            let mut state = handover.stream.lock();
            state.give_back_tried(self.writer.tried(&handover.stream.id));
            state.note_parts(inserted, buried.new);
            if let Some(last) = settled.checked_sub(1).and_then(|last| batch.records.get(last)) {
                state.note_stored(last.position);
            }
            drop(state);
            handover.go_on(&self.shared);
        }
    }

    /// Stores all batches that have a record; one without has lost all its entries to damage.
    async fn store(&mut self, batches: &[Batch], retry: sink::Granularity) -> Vec<Outcome> {
        let whole: Vec<Batch>;
        let kept = if batches.iter().all(|batch| !batch.records.is_empty()) {
            batches
        } else {
            whole = batches.iter().filter(|batch| !batch.records.is_empty()).cloned().collect();
            &whole
        };
        let stored = self.writer.store_again(kept, retry).await;
        let mut stored = stored.into_iter();
        let outcome = |batch: &Batch| {
            if batch.records.is_empty() { Some(Outcome::default()) } else { stored.next() }
        };
        batches.iter().map_while(outcome).collect()
    }
}
