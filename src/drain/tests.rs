//! Flushers and drainers that are dropped at any of their waits, over a real journal and the embedded sink: another
//! takes over, in the same process or after a restart, and nothing is lost or stored twice.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::drainer::Drainer;
use super::supervisor::Limits;
use super::{Flushers, Policy, task};
use crate::config;
use crate::journal::{
    Answer, Append, Content, Drain, Drained, Flusher, Journal, JournalError, Opened, Outlet, ReplyTo, State, Stream,
    Surroundings, Taken,
};
use crate::metrics::Metrics;
use crate::report::{Batch, Body, Draft, Id, Marker, Record};
use crate::sink::{
    Class, Connection, Health, Sink, SinkError, SqliteSink, StoreError, Stored, Writer, sqlite::SqliteConnection,
};

mod tried;

const POLICY: Policy = Policy { batch: 1, tick: Duration::from_secs(10) };
/// So small that the reports below take several transactions.
const LIMITS: Limits = Limits { catch_up_batch: 2, max_rows: 2, max_bytes: 1 << 20 };
/// A report with this code is refused for what it is.
const POISONED: i32 = 13;
/// The sink fails over one with this code, though it takes others.
const FAILING: i32 = 14;
/// It commits one with this code, and says that it does not know.
const UNANSWERED: i32 = 15;
const REPORTS: u64 = 8;

/// Starts no flusher: the tests poll theirs by hand.
struct ByHand;

impl Drain for ByHand {
    fn backlog_grew(&self, _: &Arc<Stream>, _: &mut State) {}
}

/// The embedded sink, which refuses poison as MySQL would.
struct PickySink(SqliteSink);

struct Picky(SqliteConnection);

impl Sink for PickySink {
    type Connection = Picky;

    async fn connect(&self) -> Result<Picky, SinkError> {
        self.0.connect().await.map(Picky)
    }
}

impl Connection for Picky {
    async fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, StoreError> {
        let has = |code| move |record: &Record| matches!(&record.body, Body::Report(report) if report.code == code);
        let mut records = batches.iter().flat_map(|batch| &batch.records);
        if records.clone().any(has(POISONED)) {
            return Err(SinkError::new(Class::Poison, "poison").into());
        }
        if records.clone().any(has(FAILING)) {
            return Err(SinkError::new(Class::Transient, "it fails").into());
        }
        let is_unanswered = records.any(has(UNANSWERED));
        let stored = self.0.store(batches).await?;
        match is_unanswered {
            true => Err(StoreError::Unknown(SinkError::new(Class::Transient, "the answer got lost"))),
            false => Ok(stored),
        }
    }

    async fn probe(&mut self) -> Result<(), SinkError> {
        self.0.probe().await
    }

    fn usable(&self) -> bool {
        self.0.usable()
    }
}

/// Waits for all answers of one append.
struct Ear(tokio::sync::mpsc::UnboundedSender<(u64, Answer)>);

impl Outlet for Ear {
    fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>, _at_once: bool) {
        answers.for_each(|answer| self.0.send(answer).expect("the test listens"));
    }

    fn drained(&self, _: u64, _: Drained) {}
}

/// One node's journal and sink, without a runtime of flushers.
struct Bench {
    dir: tempfile::TempDir,
    metrics: Arc<Metrics>,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder for the test"), metrics: Arc::default() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Opens the journal, whose lock sled's threads may hold for a moment after it was closed.
    fn open(&mut self, drain: Arc<dyn Drain>) -> Journal {
        let settings = config::Journal {
            dir: self.path().join("journal"),
            lanes: 1,
            max_bytes: 1 << 30,
            max_backlog_per_id: 1_000,
            max_ids: 1_000,
            min_free_disk: 0,
            cache_bytes: 1 << 20,
            recent_bytes: 1 << 20,
        };
        let around = Surroundings { node_id: 1, max_queued_bytes: 1 << 20, max_entry_records: LIMITS.catch_up_batch };
        loop {
            self.metrics = Arc::default();
            match Opened::open(&settings, around, Arc::clone(&self.metrics)) {
                Err(JournalError::InUse { .. }) => std::thread::yield_now(),
                opened => return opened.expect("a journal").start(drain),
            }
        }
    }

    fn writer(&self) -> Writer<PickySink> {
        self.writer_of(Arc::default())
    }

    fn writer_of(&self, health: Arc<Health>) -> Writer<PickySink> {
        let settings = config::Sink {
            target: config::SinkTarget::Sqlite(self.path().join("reports.db")),
            connections: 1,
            max_rows: LIMITS.max_rows,
            max_bytes: LIMITS.max_bytes,
            ..config::Settings::default().sink
        };
        let sink = SqliteSink::new(&self.path().join("reports.db"), &settings);
        Writer::new(Arc::new(PickySink(sink)), health)
    }

    /// All reports again, and a marker: the sink has each of them but the poison, once.
    async fn assert_stored_once(&self) {
        let contents: Vec<_> = contents().into_iter().filter(|content| !is_poison(content)).collect();
        let batch = batch_of(&contents);
        let outcome = self.writer().store(&[batch]).await.remove(0);
        assert_eq!((outcome.inserted, outcome.duplicates, outcome.total), (0, REPORTS - 1, Some(REPORTS - 1)));
    }
}

fn id() -> Id {
    Id::new("a").expect("an id")
}

fn is_poison(content: &Content) -> bool {
    matches!(content, Content::Report(draft) if draft.code == POISONED)
}

/// Reports, of which one is poison, and a marker.
fn contents() -> Vec<Content> {
    let report = |seq| {
        let code = if seq == 4 { POISONED } else { 0 };
        Content::Report(Draft { seq: Some(seq), time: None, code, peer: None, data: None })
    };
    (0..REPORTS).map(report).chain([Content::Marker(Marker::Done)]).collect()
}

fn batch_of(contents: &[Content]) -> Batch {
    use crate::report::{Number, Position, Report};
    let record = |(position, content): (u64, &Content)| {
        let body = match content {
            Content::Report(Draft { seq, code, .. }) => {
                let number = Number { source: 0, seq: seq.expect("its client numbers it") };
                Body::Report(Report { number, time: None, code: *code, peer: None, data: None, accepted_at: 1 })
            }
            Content::Marker(marker) => Body::Marker(*marker, 1),
        };
        Record { position: Position(position), body }
    };
    Batch::new(id(), (1..).zip(contents).map(record).collect())
}

/// Makes all reports durable; their stream.
async fn append_all(journal: &Journal) -> Arc<Stream> {
    append(journal, contents()).await
}

/// The same of these.
async fn append(journal: &Journal, contents: Vec<Content>) -> Arc<Stream> {
    append_to(journal, id(), contents).await
}

/// The same of this id.
async fn append_to(journal: &Journal, id: Id, contents: Vec<Content>) -> Arc<Stream> {
    let count = contents.len();
    let (tell, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let outlet: Arc<dyn Outlet> = Arc::new(Ear(tell));
    let append = |(ticket, content)| Append {
        id,
        content,
        reply_to: Some(ReplyTo { outlet: Arc::clone(&outlet), ticket, since: tokio::time::Instant::now() }),
    };
    journal.append((0..).zip(contents).map(append).collect(), 0);
    for _ in 0..count {
        let (_, answer) = answers.recv().await.expect("an answer");
        assert!(matches!(answer, Answer::Kept(_)));
    }
    journal.stream(&id).expect("it has backlog")
}

/// Runs a task, and drops it when it has been polled so often in vain.
fn dropped_after<F: Future<Output = ()> + Send + 'static>(
    mut polls: usize,
    task: F,
) -> impl Future<Output = ()> + Send + use<F> {
    let mut task = Box::pin(task);
    std::future::poll_fn(move |context| match task.as_mut().poll(context) {
        Poll::Pending => {
            polls -= 1;
            if polls == 0 { Poll::Ready(()) } else { Poll::Pending }
        }
        ready => ready,
    })
}

/// The flushers of one id and one drainer, which is dropped when it has been polled so often in vain.
struct Tasks {
    flushers: Flushers,
    drainer: JoinHandle<()>,
}

impl Tasks {
    fn start(bench: &Bench, journal: &Journal, stream: &Arc<Stream>, polls: usize) -> Self {
        let flushers = Flushers::new(POLICY);
        flushers.start::<PickySink>(journal, Vec::new(), LIMITS);
        let drainer = Drainer::new(Arc::clone(&flushers.0), bench.writer(), LIMITS).run();
        let drainer = tokio::spawn(dropped_after(polls, drainer));
        flushers.backlog_grew(stream, &mut stream.lock());
        Self { flushers, drainer }
    }

    /// Waits until the drainer is dropped, or all is drained without that; whether the latter.
    async fn undisturbed(&self, journal: &Journal) -> bool {
        loop {
            if self.drainer.is_finished() {
                return false;
            }
            if journal.streams() == 0 {
                return true;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Ends all that is left of both.
    async fn end(self) {
        self.drainer.abort();
        while !self.drainer.is_finished() {
            tokio::task::yield_now().await;
        }
        self.flushers.drain_and_stop(Duration::ZERO).await;
    }
}

/// For each number of polls until one is not reached: drops the drainer there, and lets another take over.
async fn at_every_wait(restart: bool) {
    for polls in 1.. {
        let mut bench = Bench::new();
        let mut journal = bench.open(Arc::new(ByHand));
        let stream = append_all(&journal).await;
        let tasks = Tasks::start(&bench, &journal, &stream, polls);
        let undisturbed = tasks.undisturbed(&journal).await;
        tasks.end().await;
        let flushers = Flushers::new(POLICY);
        if restart {
            journal.stop().expect("a sound journal");
            drop(journal);
            journal = bench.open(Arc::new(flushers.clone()));
        } else if journal.streams() > 0 {
            stream.lock().flusher = Flusher::None;
            flushers.backlog_grew(&stream, &mut stream.lock());
        }
        flushers.start(&journal, vec![bench.writer()], LIMITS);
        flushers.drain_and_stop(Duration::from_secs(60)).await;
        let audit = bench.metrics.audit.snapshot();
        assert!(audit.balanced() && audit.backlog == 0, "dropped at poll {polls}: {audit:?}");
        // In the same process, a letter that nobody settled is a duplicate for whoever takes over.
        assert!(!restart || audit.dead == 1, "the poison is a dead letter, once: {audit:?}");
        assert_eq!(journal.streams(), 0);
        journal.stop().expect("a sound journal");
        bench.assert_stored_once().await;
        if undisturbed {
            println!("dropped at each of {} waits", polls - 1);
            assert!(polls > 7, "it has more waits than that");
            return;
        }
    }
}

/// Gives the id to a drainer, as its flusher would.
fn hand_over(flushers: &Flushers, stream: &Arc<Stream>) {
    stream.lock().flusher = Flusher::Working;
    flushers.0.hand_over(Arc::clone(stream), None);
}

/// In the order of the sink's primary keys, whatever the order in which they came.
#[tokio::test]
async fn ids_that_wait_together_are_taken_in_the_order_of_their_names() {
    let mut bench = Bench::new();
    let journal = bench.open(Arc::new(ByHand));
    let flushers = Flushers::new(POLICY);
    for name in ["c", "b10", "d", "a", "b9"] {
        let id = Id::new(name).expect("an id");
        hand_over(&flushers, &append_to(&journal, id, contents().into_iter().take(1).collect()).await);
    }
    let mut names = Vec::new();
    for _ in 0..3 {
        let gathered = flushers.0.queue.gather(&flushers.0, LIMITS).await.expect("some wait");
        names.push(gathered.iter().map(|handover| handover.stream.id.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(names, [vec!["a", "b10"], vec!["b9", "c"], vec!["d"]]);
    journal.stop().expect("a sound journal");
}

/// And the stop waits for what is with a drainer.
#[tokio::test]
async fn an_id_goes_on_from_what_is_left_of_it_once_its_batch_is_settled() {
    let mut bench = Bench::new();
    let journal = bench.open(Arc::new(ByHand));
    let flushers = Flushers::new(POLICY);
    flushers.start::<PickySink>(&journal, Vec::new(), LIMITS);
    let stream = append(&journal, contents().into_iter().take(1).collect()).await;
    hand_over(&flushers, &stream);
    let handovers = flushers.0.queue.gather(&flushers.0, LIMITS).await.expect("one waits");
    let mut stopping = pin!(flushers.drain_and_stop(Duration::from_secs(60)));
    assert!(stopping.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "it is with a drainer");
    let mut drainer = Drainer::new(Arc::clone(&flushers.0), bench.writer(), LIMITS);
    drainer.drain(handovers, &tracing::Span::none()).await;
    assert_eq!(journal.streams(), 0, "nothing is left of it, and it is handed over again");
    stopping.await;
    journal.stop().expect("a sound journal");
}

/// The disk takes its time, and what it gives at last has a report that came after the pause.
#[test]
fn what_is_accepted_after_a_pause_is_not_drained_by_a_read_that_was_under_way() {
    // Whoever has the one thread for what waits for a disk holds up all others.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.expect("a runtime").block_on(async {
        let mut bench = Bench::new();
        let journal = bench.open(Arc::new(ByHand));
        let flushers = Flushers::new(POLICY);
        flushers.start(&journal, vec![bench.writer()], LIMITS);
        let mut contents = contents().into_iter();
        let stream = append(&journal, contents.by_ref().take(1).collect()).await;
        hand_over(&flushers, &stream);
        while journal.streams() > 0 {
            // The sink is ready after that.
            tokio::task::yield_now().await;
        }

        let stream = append(&journal, contents.by_ref().take(1).collect()).await;
        let (release, held) = std::sync::mpsc::channel::<()>();
        let holder = tokio::task::spawn_blocking(move || held.recv());
        hand_over(&flushers, &stream);
        for _ in 0..10 {
            // The drainer has it after the first of these, and begins to read.
            tokio::task::yield_now().await;
        }
        journal.set_paused(id(), true).await.expect("few are paused");
        append(&journal, contents.take(1).collect()).await;
        drop(release);
        holder.await.expect("no panic").expect_err("nothing is sent");
        while stream.lock().flusher != Flusher::Held {
            // Until the id is given back.
            tokio::task::yield_now().await;
        }
        let audit = bench.metrics.audit.snapshot();
        assert_eq!((audit.stored, audit.backlog), (1, 2), "{audit:?}");
        flushers.drain_and_stop(Duration::ZERO).await;
        journal.stop().expect("a sound journal");
    });
}

#[tokio::test]
async fn a_drainer_that_is_dropped_at_any_wait_loses_and_doubles_nothing() {
    at_every_wait(false).await;
}

#[tokio::test]
async fn a_restart_after_a_drainer_was_dropped_at_any_wait_loses_and_doubles_nothing() {
    at_every_wait(true).await;
}

/// Has the sink fail over what the id has, and lets it go on from there.
async fn put_back(
    bench: &Bench,
    flushers: &Flushers,
    stream: &Arc<Stream>,
    retry: Option<Box<task::Retry>>,
) -> impl Future<Output = ()> + use<> {
    let Taken { batch, .. } = flushers.0.journal().read(stream, 1, 1 << 20).expect("a sound journal");
    let outcome =
        bench.writer().store_again(std::slice::from_ref(&batch), crate::sink::Granularity::Batch).await.remove(0);
    let sticky = outcome.put_back.expect("the sink fails over it");
    task::resolve(Arc::clone(stream), Arc::clone(&flushers.0), sticky, retry)
}

/// No longer than until an operator's flush or the shutdown, also where that comes while the sink has the batch.
/// The shutdown shortens one wait of each: a sink that fails at once is not asked without a rest.
#[tokio::test]
async fn a_batch_that_is_put_back_waits_until_its_time_or_until_somebody_wants_it() {
    let mut bench = Bench::new();
    let journal = bench.open(Arc::new(ByHand));
    let flushers = Flushers::new(POLICY);
    flushers.start::<PickySink>(&journal, Vec::new(), LIMITS);
    let failing = Draft { seq: Some(1), time: None, code: FAILING, peer: None, data: None };
    let stream = append(&journal, vec![Content::Report(failing)]).await;
    let mut context = Context::from_waker(Waker::noop());

    let waiting = put_back(&bench, &flushers, &stream, None).await;
    let mut waiting = pin!(waiting);
    assert!(waiting.as_mut().poll(&mut context).is_pending(), "it has its time");
    stream.hasten();
    assert!(waiting.as_mut().poll(&mut context).is_ready(), "the flush changes nothing");
    let retry = flushers.0.queue.gather(&flushers.0, LIMITS).await.expect("it is handed over").remove(0).retry;

    let flushed = put_back(&bench, &flushers, &stream, retry).await;
    stream.hasten();
    assert!(pin!(flushed).poll(&mut context).is_ready(), "the flush before changes nothing");
    let retry = flushers.0.queue.gather(&flushers.0, LIMITS).await.expect("it is handed over").remove(0).retry;

    flushers.0.hurry.store(true, Ordering::SeqCst);
    let hurried = put_back(&bench, &flushers, &stream, retry).await;
    assert!(pin!(hurried).poll(&mut context).is_ready(), "the shutdown changes nothing");
    let retry = flushers.0.queue.gather(&flushers.0, LIMITS).await.expect("it is handed over").remove(0).retry;
    let again = put_back(&bench, &flushers, &stream, retry).await;
    assert!(pin!(again).poll(&mut context).is_pending(), "it has no rest");
    flushers.drain_and_stop(Duration::ZERO).await;
    journal.stop().expect("a sound journal");
}

/// There may be a million of each. A task's memory comes in steps of 128 bytes, of which its runtime takes 104.
#[test]
fn what_an_id_has_that_waits_is_small() {
    assert!(size_of::<task::Flusher>() <= 144 && size_of::<task::Handover>() <= 24);
}
