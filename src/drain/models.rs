//! The service under every kind of schedule: the real commit thread, index, flushers, drainers and writers, over a
//! journal in memory and a sink that stands in for a database. Threads change at each lock; the tasks have a runtime
//! that never sleeps, so that a wake-up that was lost is a model that does not end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use super::{Flushers, Limits, Policy};
use crate::config;
use crate::journal::{Answer, Append, Content, Drained, Journal, Opened, Outlet, ReplyTo, Surroundings};
use crate::metrics::Metrics;
use crate::report::{Batch, Body, Draft, Id, Marker};
use crate::sink::{Connection, Sink, SinkError, StoreError, Stored, Writer};
use crate::sync::{Condvar, Mutex, check, thread};

const TICK: Duration = Duration::from_secs(10);
/// No model waits for so long: its clock stands, or goes by ticks.
const PATIENCE: Duration = Duration::from_secs(1 << 30);

/// What the sink has, by id in the order of its coming.
#[derive(Default)]
struct Tables {
    rows: BTreeMap<Id, Vec<u64>>,
    markers: usize,
    /// Ids of transactions under way.
    storing: BTreeSet<Id>,
}

#[derive(Clone, Default)]
struct ModelSink(Arc<Mutex<Tables>>);

impl Sink for ModelSink {
    type Connection = Self;

    async fn connect(&self) -> Result<Self, SinkError> {
        Ok(self.clone())
    }
}

impl Connection for ModelSink {
    async fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, StoreError> {
        for batch in batches {
            assert!(self.tables().storing.insert(batch.id), "{} is with two drainers", batch.id);
        }
        tokio::task::yield_now().await;
        let mut tables = self.tables();
        let mut store = |batch: &Batch| {
            tables.storing.remove(&batch.id);
            let mut inserted = 0;
            for record in &batch.records {
                match &record.body {
                    Body::Report(report) => {
                        tables.rows.entry(batch.id).or_default().push(report.number.seq);
                        inserted += 1;
                    }
                    Body::Marker(..) => tables.markers += 1,
                }
            }
            Stored { inserted, duplicates: 0, total: None }
        };
        Ok(batches.iter().map(&mut store).collect())
    }

    async fn probe(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    fn usable(&self) -> bool {
        true
    }
}

impl ModelSink {
    fn tables(&self) -> crate::sync::MutexGuard<'_, Tables> {
        self.0.lock().expect("no panic")
    }
}

/// Waits for answers, one at a time.
#[derive(Default)]
struct Ear {
    heard: Mutex<Vec<Answer>>,
    wake: Condvar,
}

impl Outlet for Ear {
    fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>, _at_once: bool) {
        self.heard.lock().expect("no panic").extend(answers.map(|(_, answer)| answer));
        self.wake.notify_one();
    }

    fn drained(&self, _: u64, _: Drained) {}
}

impl Ear {
    fn next(&self) -> Answer {
        let mut heard = self.heard.lock().expect("no panic");
        while heard.is_empty() {
            heard = self.wake.wait(heard).expect("no panic");
        }
        heard.remove(0)
    }
}

/// One run of a model.
struct Run {
    journal: Journal,
    flushers: Flushers,
    sink: ModelSink,
    metrics: Arc<Metrics>,
    /// Clients that have all their answers.
    ended: Arc<AtomicUsize>,
    clients: Vec<thread::JoinHandle<Vec<(Id, u64)>>>,
}

impl Run {
    /// Two drainers, and `max_backlog` records of an id at the most.
    fn start(policy: Policy, max_backlog: u64) -> Self {
        let flushers = Flushers::new(policy);
        let settings = config::Journal {
            dir: PathBuf::from("/nowhere/of/a/model"),
            lanes: 1,
            max_bytes: u64::MAX,
            max_backlog_per_id: max_backlog,
            max_ids: 1_000,
            min_free_disk: 0,
            cache_bytes: 0,
            recent_bytes: 200,
        };
        let around = Surroundings { node_id: 1, max_queued_bytes: 1 << 20, max_entry_records: 8 };
        let metrics = Arc::new(Metrics::default());
        let opened = Opened::open(&settings, around, Arc::clone(&metrics)).expect("a journal in memory");
        let journal = opened.start(Arc::new(flushers.clone()));
        let sink = ModelSink::default();
        let health = Arc::default();
        let writers = (0..2).map(|_| Writer::new(Arc::new(sink.clone()), Arc::clone(&health))).collect();
        flushers.start(&journal, writers, Limits { catch_up_batch: 8, max_rows: 8, max_bytes: 1 << 20 });
        Self { journal, flushers, sink, metrics, ended: Arc::default(), clients: Vec::new() }
    }

    /// A client that sends these reports, one when the one before is answered, and then a marker for the first id.
    fn client(&mut self, reports: &'static [(&str, u64)]) {
        self.client_after(|_| {}, reports);
    }

    /// The same of one that pauses the first id before.
    fn client_after_a_pause(&mut self, reports: &'static [(&str, u64)]) {
        let pause = |journal: &Journal| {
            let mut pausing = pin!(journal.set_paused(id_of(reports[0].0), true));
            let mut context = Context::from_waker(Waker::noop());
            while pausing.as_mut().poll(&mut context).is_pending() {
                thread::yield_now();
            }
        };
        self.client_after(pause, reports);
    }

    fn client_after(&mut self, before: impl FnOnce(&Journal) + Send + 'static, reports: &'static [(&str, u64)]) {
        let (journal, ended) = (self.journal.clone(), Arc::clone(&self.ended));
        self.clients.push(thread::spawn(move || {
            before(&journal);
            let ear = Arc::new(Ear::default());
            let ask = |id: Id, content: Content| {
                let outlet: Arc<dyn Outlet> = Arc::clone(&ear) as _;
                journal.append(
                    vec![Append {
                        id,
                        content,
                        reply_to: Some(ReplyTo { outlet, ticket: 0, since: tokio::time::Instant::now() }),
                    }],
                    0,
                );
                matches!(ear.next(), Answer::Kept(_))
            };
            let mut kept = Vec::new();
            for &(id, seq) in reports {
                let draft = Draft { seq: Some(seq), time: None, code: 0, peer: None, data: None };
                if ask(id_of(id), Content::Report(draft)) {
                    kept.push((id_of(id), seq));
                }
            }
            ask(id_of(reports[0].0), Content::Marker(Marker::Done));
            ended.fetch_add(1, Ordering::SeqCst);
            kept
        }));
    }

    async fn answered(&self) {
        while self.ended.load(Ordering::SeqCst) < self.clients.len() {
            tokio::task::yield_now().await;
        }
    }

    async fn drained(&self) {
        while self.journal.streams() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// As the admin API does it.
    fn flush(&self, id: &str) {
        if let Some(stream) = self.journal.stream(&id_of(id)) {
            stream.hasten();
        }
    }

    /// Rows of an id.
    fn stored(&self, id: &str) -> usize {
        self.sink.tables().rows.get(&id_of(id)).map_or(0, Vec::len)
    }

    /// Stops as a node does; what was kept is in the sink, once and in order, and nothing is left.
    async fn end(self) {
        self.journal.stop_accepting();
        self.journal.commit_queued().await;
        self.flushers.drain_and_stop(PATIENCE).await;
        assert_eq!(self.journal.streams(), 0, "an id without backlog is not known");
        self.journal.stop().expect("no failure");
        let audit = self.metrics.audit.snapshot();
        assert!(audit.balanced() && audit.backlog == 0, "{audit:?}");
        let mut rows = std::mem::take(&mut self.sink.tables().rows);
        for client in self.clients {
            let kept = client.join().expect("no panic");
            for id in kept.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>() {
                let wanted: Vec<u64> = kept.iter().filter(|(of, _)| *of == id).map(|(_, seq)| *seq).collect();
                let of_client = |seq: &u64| seq / 100 == wanted[0] / 100;
                let stored = rows.get_mut(&id).expect("its reports are stored");
                let found: Vec<u64> = stored.extract_if(.., |seq| of_client(seq)).collect();
                assert_eq!(found, wanted, "{id}");
            }
        }
        assert!(rows.values().all(Vec::is_empty), "nobody sent {rows:?}");
    }
}

fn id_of(text: &str) -> Id {
    Id::new(text).expect("an id")
}

/// Runs a model with a runtime whose clock stands, and in which something is always to be done.
fn model<F: Future<Output = ()>>(run: impl Fn() -> F + Send + Sync + 'static) {
    check(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let restless = tokio::spawn(async {
                loop {
                    thread::yield_now();
                    tokio::task::yield_now().await;
                }
            });
            run().await;
            restless.abort();
        });
    });
}

/// Each report is a batch: ids drain, leave and return all the time. Nothing waits for a tick: the clock stands.
#[test]
fn an_id_that_returns_while_it_is_drained_or_leaves_is_stored_in_order() {
    model(|| async {
        let mut run = Run::start(Policy { batch: 1, tick: TICK }, 100);
        run.client(&[("a", 1), ("a", 2), ("b", 3)]);
        run.client(&[("a", 101), ("b", 102)]);
        run.answered().await;
        while run.journal.streams() > 0 {
            tokio::task::yield_now().await;
        }
        run.end().await;
    });
}

/// An append that is refused may be all that an id is in memory for, or meet a flusher that wants to let it go.
#[test]
fn an_append_that_is_refused_leaves_nothing_behind() {
    model(|| async {
        let mut run = Run::start(Policy { batch: 1, tick: TICK }, 1);
        run.client(&[("a", 1), ("a", 2)]);
        run.client(&[("a", 101), ("a", 102)]);
        run.client(&[("a", 201)]);
        run.answered().await;
        run.drained().await;
        run.end().await;
    });
}

/// A flusher that waits for its tick is woken by the report that makes a batch, by a marker, or by the tick.
#[test]
fn a_batch_a_marker_or_the_tick_wakes_the_flusher() {
    model(|| async {
        let mut run = Run::start(Policy { batch: 2, tick: TICK }, 100);
        run.client(&[("a", 1), ("b", 2), ("a", 3)]);
        run.client(&[("b", 101), ("a", 102), ("b", 103)]);
        run.answered().await;
        while run.journal.streams() > 0 {
            tokio::time::advance(TICK).await;
            tokio::task::yield_now().await;
        }
        run.end().await;
    });
}

/// The clock stands and no batch is full: only the marker, which may come just after the flusher looked, makes it act.
#[test]
fn a_marker_that_comes_while_the_flusher_looks_is_not_overlooked() {
    model(|| async {
        let mut run = Run::start(Policy { batch: 100, tick: TICK }, 100);
        run.client(&[("a", 1), ("a", 2)]);
        run.client(&[("b", 101)]);
        run.answered().await;
        run.drained().await;
        run.end().await;
    });
}

/// The clock stands and no batch is full: only the shutdown makes the flushers act.
#[test]
fn a_shutdown_wakes_every_flusher() {
    model(|| async {
        let mut run = Run::start(Policy { batch: 100, tick: TICK }, 100);
        run.client(&[("a", 1), ("b", 2)]);
        run.client(&[("b", 101), ("c", 102)]);
        run.answered().await;
        run.end().await;
    });
}

/// A stop without patience, in the midst of whatever is under way: no task waits for anything any more, and each report
/// is in the sink or in the backlog, once.
#[test]
fn a_stop_without_patience_ends_every_task_and_forgets_nothing() {
    model(|| async {
        let mut run = Run::start(Policy { batch: 1, tick: TICK }, 100);
        run.client(&[("a", 1), ("b", 2)]);
        run.client(&[("a", 101), ("b", 102)]);
        run.answered().await;
        run.flushers.drain_and_stop(Duration::ZERO).await;
        run.journal.stop().expect("no failure");
        let audit = run.metrics.audit.snapshot();
        let rows = run.sink.tables().rows.values().map(Vec::len).sum::<usize>() as u64;
        assert!(audit.balanced() && (audit.accepted, audit.stored) == (4, rows), "{audit:?}, {rows} rows");
        assert!(audit.backlog == 0 || run.journal.streams() > 0, "{audit:?}");
    });
}

/// What is accepted once a pause was answered is not stored, whatever was under way then. A flush of a paused id
/// changes nothing, and the resume brings all of it, in order.
#[test]
fn what_is_accepted_after_a_pause_is_stored_only_after_the_resume() {
    model(|| async {
        let mut run = Run::start(Policy { batch: 1, tick: TICK }, 100);
        run.client(&[("a", 1), ("a", 2), ("b", 3)]);
        run.client_after_a_pause(&[("a", 101), ("b", 102)]);
        run.answered().await;
        run.flush("a");
        while run.stored("b") < 2 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let rows = run.sink.tables().rows.get(&id_of("a")).cloned().unwrap_or_default();
        assert!(rows.iter().all(|&seq| seq < 100), "{rows:?} are stored of a paused id");
        run.journal.set_paused(id_of("a"), false).await.expect("it may be resumed");
        run.drained().await;
        run.end().await;
    });
}

/// Whoever pauses, flushes and resumes ids while they drain, leave and return loses no wake-up and no report.
#[test]
fn an_id_that_is_paused_flushed_and_resumed_in_the_midst_of_its_reports_is_stored_in_order() {
    model(|| async {
        let mut run = Run::start(Policy { batch: 1, tick: TICK }, 100);
        run.client(&[("a", 1), ("b", 2)]);
        run.client(&[("a", 101), ("a", 102)]);
        for id in ["a", "b", "a"] {
            run.journal.set_paused(id_of(id), true).await.expect("few are paused");
            run.flush(id);
            run.journal.set_paused(id_of(id), false).await.expect("it may be resumed");
        }
        run.answered().await;
        run.drained().await;
        run.end().await;
    });
}

/// The clock stands and no batch is full: a flush alone makes the flusher act.
#[test]
fn a_flush_wakes_a_flusher_that_waits_for_its_tick() {
    model(|| async {
        let mut run = Run::start(Policy { batch: 100, tick: TICK }, 100);
        run.client(&[("a", 1), ("b", 2)]);
        run.client(&[("b", 101), ("c", 102)]);
        run.answered().await;
        ["a", "b", "c"].into_iter().for_each(|id| run.flush(id));
        run.drained().await;
        run.end().await;
    });
}
