//! The journal as a whole, driven without flushers: append, read, settle, bury, reopen.

mod bundles;
mod damage;
mod forged;
mod letters;
mod limits;
mod owner;
mod pauses;
mod salvage;
mod upgrade;

use std::sync::mpsc;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::report::{Body, Draft, Id, Marker, Number, Position, RefusalKind};

struct Idle;

impl Drain for Idle {
    fn backlog_grew(&self, _: &Arc<Stream>, _: &mut State) {}
}

/// Sends on what it is told.
struct Ear(mpsc::Sender<(u64, Answer)>);

impl Outlet for Ear {
    fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>, _at_once: bool) {
        answers.for_each(|answer| self.0.send(answer).expect("the test listens"));
    }

    fn drained(&self, _: u64, _: Drained) {}
}

struct Bench {
    dir: TempDir,
    settings: config::Journal,
    metrics: Arc<Metrics>,
    /// None only while it is reopened: the lock on its files goes with the last handle.
    open: Option<Journal>,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut config::Journal)) -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let mut settings = config::Journal {
            dir: dir.path().join("journal"),
            lanes: 2,
            max_bytes: 1 << 30,
            max_backlog_per_id: 1_000_000,
            max_ids: 1_000_000,
            min_free_disk: 0,
            cache_bytes: 16 << 20,
            recent_bytes: 1 << 20,
        };
        change(&mut settings);
        let (journal, metrics) = open(&settings);
        Self { dir, settings, metrics, open: Some(journal) }
    }

    fn reopen(&mut self) {
        self.reopen_after(|| {});
    }

    /// The same, with something that happens to its files meanwhile.
    fn reopen_after(&mut self, happens: impl FnOnce()) {
        self.open.take().expect("open").stop().expect("a sound journal");
        happens();
        let (journal, metrics) = open(&self.settings);
        (self.open, self.metrics) = (Some(journal), metrics);
    }

    /// As after a kill: the journal goes on from a copy of its files.
    fn copy_and_reopen(&mut self) {
        let copy = self.dir.path().join("copy");
        damage::copy(&self.settings.dir, &copy);
        self.open.take().expect("open").stop().expect("a sound journal");
        self.settings.dir = copy;
        let (journal, metrics) = open(&self.settings);
        (self.open, self.metrics) = (Some(journal), metrics);
    }

    fn journal(&self) -> &Journal {
        self.open.as_ref().expect("open")
    }

    /// Appends, and waits for all answers.
    fn append(&self, id: &str, contents: Vec<Content>) -> Vec<Answer> {
        let (tell, answers) = mpsc::channel();
        let outlet: Arc<dyn Outlet> = Arc::new(Ear(tell));
        let since = Instant::now();
        let append = |(ticket, content)| Append {
            id: id_of(id),
            content,
            reply_to: Some(ReplyTo { outlet: Arc::clone(&outlet), ticket, since }),
        };
        let count = contents.len();
        self.journal().append((0..).zip(contents).map(append).collect(), 0);
        // An answer that will never come shows at once.
        drop(outlet);
        let answers: Vec<_> = answers.iter().take(count).collect();
        assert!(answers.iter().map(|(ticket, _)| *ticket).eq(0..count as u64), "answers come in order");
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    fn stream(&self, id: &str) -> Option<Arc<Stream>> {
        self.journal().stream(&id_of(id))
    }

    /// Waits until all of `id` is in runs.
    fn is_sorted(&self, id: &str) {
        let since = Instant::now();
        loop {
            let stream = self.stream(id).expect("it has backlog");
            if stream.lock().recent.is_empty() {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "{id} is not sorted");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Reads up to `max` records of `id` and settles them as stored.
    fn drain(&self, id: &str, max: usize) -> Vec<Bytes> {
        self.drain_during(id, max, || {})
    }

    /// The same, with something that happens while they are on their way to the sink.
    fn drain_during(&self, id: &str, max: usize, happens: impl FnOnce()) -> Vec<Bytes> {
        let Some(stream) = self.stream(id) else {
            happens();
            return Vec::new();
        };
        let Taken { batch, receipt } = self.journal().read(&stream, max, 1 << 20).expect("a sound journal");
        happens();
        let stored = batch.records.len() as u64;
        self.journal().settle([(Arc::clone(&stream), receipt, Settlement { stored, ..Settlement::default() })]);
        self.journal().retire(&stream);
        batch.records.into_iter().map(|r| data_of(r.body)).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(journal) = self.open.take() {
            // Its thread would hold its memory until the process ends.
            let _ = journal.stop();
        }
    }
}

fn open(settings: &config::Journal) -> (Journal, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let around = Surroundings { node_id: 3, max_queued_bytes: 1 << 20, max_entry_records: 8 };
    let opened = loop {
        match Opened::open(settings, around, Arc::clone(&metrics)) {
            // Threads of sled's own may hold the last handle of the journal before for a moment more.
            Err(JournalError::InUse { .. }) => std::thread::yield_now(),
            opened => break opened.expect("a journal"),
        }
    };
    (opened.start(Arc::new(Idle)), metrics)
}

/// What a tool says of a journal that was stopped.
fn examine(dir: &std::path::Path, mut each: impl FnMut(value::Value) -> Result<(), JournalError>) -> offline::Examined {
    loop {
        match offline::examine(dir, &mut each) {
            // Threads of sled's own may hold its lock for a moment more.
            Err(JournalError::InUse { .. }) => std::thread::yield_now(),
            examined => return examined.expect("a journal"),
        }
    }
}

fn id_of(id: &str) -> Id {
    Id::new(id).expect("an id")
}

fn report(seq: Option<u64>, data: &str) -> Content {
    let data = Some(Bytes::from(data.to_owned()));
    Content::Report(Draft { seq, time: None, code: 0, peer: None, data })
}

fn data_of(body: Body) -> Bytes {
    match body {
        Body::Report(report) => report.data.expect("each report of these tests has data"),
        Body::Marker(..) => Bytes::new(),
    }
}

fn ack(answer: &Answer) -> Ack {
    match answer {
        Answer::Kept(ack) => *ack,
        Answer::Refused(refusal) => panic!("refused: {refusal}"),
    }
}

#[test]
fn a_report_is_numbered_by_its_client_or_by_its_position() {
    let bench = Bench::new();
    let answers = bench.append("a", vec![report(Some(42), "1"), report(None, "2"), Content::Marker(Marker::Done)]);
    assert_eq!(ack(&answers[0]).number(), Some(Number { source: 0, seq: 42 }));
    let second = ack(&answers[1]);
    assert_eq!(second.number(), Some(Number { source: 3, seq: second.position().0 }));
    assert_eq!(ack(&answers[2]).number(), None);
}

#[test]
fn backlog_survives_a_restart_and_what_was_settled_does_not_return() {
    let mut bench = Bench::new();
    bench.append("a", (0..20).map(|n| report(Some(n), &n.to_string())).collect());
    assert_eq!(bench.drain("a", 8).len(), 8, "entries hold at most eight records here");
    bench.reopen();
    let audit = bench.metrics.audit.snapshot();
    assert_eq!((audit.recovered, audit.backlog), (12, 12));
    let rest: Vec<_> = std::iter::repeat_with(|| bench.drain("a", 8)).take(2).flatten().collect();
    let expected: Vec<_> = (8..20).map(|n| Bytes::from(n.to_string())).collect();
    assert_eq!(rest, expected);
    assert!(bench.stream("a").is_none(), "a drained id costs nothing");
    bench.reopen();
    assert_eq!(bench.metrics.audit.snapshot().recovered, 0);
}

#[test]
fn an_id_past_its_backlog_is_refused_and_others_are_not() {
    let bench = Bench::with(|s| s.max_backlog_per_id = 2);
    let answers = bench.append("a", vec![report(None, "1"), report(None, "2"), report(None, "3")]);
    assert!(matches!(&answers[2], Answer::Refused(r) if r.kind == RefusalKind::BacklogFull));
    assert!(matches!(bench.append("b", vec![report(None, "1")])[0], Answer::Kept(_)));
    bench.drain("a", 8);
    assert!(matches!(bench.append("a", vec![report(None, "3")])[0], Answer::Kept(_)));
}

#[test]
fn a_full_journal_or_disk_refuses_and_keeps_what_it_has() {
    let bench = Bench::with(|s| s.max_bytes = 300);
    assert!(matches!(bench.append("a", vec![report(None, &"x".repeat(100))])[0], Answer::Kept(_)));
    let answers = bench.append("a", vec![report(None, &"x".repeat(100))]);
    assert!(matches!(&answers[0], Answer::Refused(r) if r.kind == RefusalKind::JournalFull));
    assert_eq!(bench.drain("a", 8).len(), 1);
    assert!(matches!(bench.append("a", vec![report(None, &"x".repeat(100))])[0], Answer::Kept(_)));
    let bench = Bench::with(|s| s.min_free_disk = u64::MAX);
    let answers = bench.append("a", vec![report(None, "1")]);
    assert!(matches!(&answers[0], Answer::Refused(r) if r.kind == RefusalKind::JournalFull));
    assert!(bench.stream("a").is_none(), "a refused id is not kept in memory");
}

/// Changes the first entry of `id` in its run.
fn change_in_run(bench: &Bench, id: &str, change: impl FnOnce(&mut [u8])) {
    bench.is_sorted(id);
    let store = &bench.journal().shared.store;
    let blocks = store.sorted(&id_of(id), Position(0), Position(u64::MAX)).expect("a sound run");
    let values = blocks[0].read().expect("a sound run");
    let mut whole = entry::whole_values(store.seal(), &values, [entry::ENTRY]);
    let mut value = whole.next().expect("an entry").expect("a sound one").1.to_vec();
    change(&mut value);
    blocks[0].spoil(&value);
}

/// Changes the oldest bundle.
fn change_bundle(bench: &Bench, change: impl FnOnce(&mut [u8])) {
    let store = &bench.journal().shared.store;
    let (number, value) = store.bundles().next().expect("there is one").expect("sound files");
    let mut value = value.to_vec();
    change(&mut value);
    store.spoil_bundle(number, &value);
}

fn flip_last(value: &mut [u8]) {
    *value.last_mut().expect("not empty") ^= 1;
}

/// Three entries of one id, all of them in runs, or in bundles.
fn three_entries(in_runs: bool) -> Bench {
    let bench = Bench::with(|s| s.recent_bytes = if in_runs { 0 } else { 1 << 20 });
    (0..3).for_each(|n| drop(bench.append("a", vec![report(Some(n), &n.to_string())])));
    if in_runs {
        bench.is_sorted("a");
    }
    bench
}

#[test]
fn a_damaged_entry_is_set_aside_by_name_and_the_rest_is_served() {
    let mut bench = three_entries(false);
    change_bundle(&bench, flip_last);
    bench.reopen();
    assert_eq!(bench.journal().status().damaged, 1);
    assert_eq!(bench.metrics.audit.snapshot().recovered, 2);
    assert_eq!(bench.drain("a", 8), ["1", "2"]);
    bench.reopen();
    assert_eq!(bench.journal().status().damaged, 0, "it was moved, not found again");
}

/// A start reads what runs say of themselves, not every byte of them.
#[test]
fn a_damaged_entry_of_a_run_is_found_when_it_is_drained_and_is_listed_and_counted() {
    for max in [1, 8] {
        let mut bench = three_entries(true);
        change_in_run(&bench, "a", flip_last);
        bench.reopen();
        assert_eq!(bench.metrics.audit.snapshot().recovered, 3);
        let drained: Vec<_> = std::iter::repeat_with(|| bench.drain("a", max)).take(3).flatten().collect();
        assert_eq!(drained, ["1", "2"]);
        assert_eq!(bench.journal().status().damaged, 1);
        let audit = bench.metrics.audit.snapshot();
        assert_eq!((audit.stored, audit.dead, audit.backlog), (2, 1, 0));
        bench.reopen();
        let aside = bench.journal().set_aside(None, 10).expect("a sound journal");
        assert_eq!(aside.iter().filter_map(|aside| aside.reports).sum::<u64>(), 1, "{aside:?}");
        assert_eq!(bench.metrics.audit.snapshot().recovered, 0);
    }
}

#[test]
fn damage_that_appears_while_running_is_set_aside_and_the_audit_balances() {
    for in_runs in [true, false] {
        let bench = three_entries(in_runs);
        let spoil = |value: &mut [u8]| value.iter_mut().for_each(|byte| *byte = b'x');
        if in_runs {
            change_in_run(&bench, "a", spoil)
        } else {
            change_bundle(&bench, spoil)
        }
        assert_eq!(bench.drain("a", 8), ["1", "2"]);
        let audit = bench.metrics.audit.snapshot();
        assert_eq!((audit.stored, audit.dead, audit.backlog), (2, 1, 0));
        assert!(audit.balanced() && bench.stream("a").is_none());
    }
}

#[test]
fn entries_of_the_largest_size_never_leave_the_file_that_is_synced() {
    let bench = Bench::with(|s| s.lanes = 1);
    let large = format!("\"{}\"", "x".repeat(96 * 1024 - 2));
    for n in 0..200 {
        bench.append("a", vec![report(Some(n), &large)]);
        if n % 3 == 0 {
            bench.drain("a", 1);
        }
    }
    let blobs = std::fs::read_dir(bench.dir.path().join("journal/blobs")).expect("sled makes the folder");
    assert_eq!(blobs.count(), 0);
}

/// A torn `conf` would refuse every further start.
#[test]
fn a_journal_that_cannot_be_opened_is_moved_aside_and_what_is_whole_goes_on() {
    let mut bench = Bench::new();
    let data: Vec<_> = (0..50).map(|n| format!("{n}-{}", "x".repeat(100))).collect();
    let acks: Vec<_> = data.iter().map(|data| ack(&bench.append("a", vec![report(None, data)])[0])).collect();
    bench.open.take().expect("open").stop().expect("a sound journal");
    std::fs::write(bench.settings.dir.join("conf"), "torn by a power cut").expect("written");
    let (journal, metrics) = open(&bench.settings);
    (bench.open, bench.metrics) = (Some(journal), metrics);
    assert_eq!(bench.metrics.audit.snapshot().recovered, 50);
    let next = ack(&bench.append("b", vec![report(None, "1")])[0]).position();
    assert!(acks.iter().all(|ack| ack.position() < next), "a position was reused");
    let drained: Vec<_> = std::iter::repeat_with(|| bench.drain("a", 50)).take(50).flatten().collect();
    assert_eq!(drained, data);
    assert!(bench.settings.dir.join("damaged-1").exists(), "the damaged files are kept");
}

#[test]
fn a_second_journal_on_the_same_folder_is_refused_with_the_reason() {
    let bench = Bench::new();
    let around = Surroundings { node_id: 3, max_queued_bytes: 1, max_entry_records: 1 };
    let second = Opened::open(&bench.settings, around, Arc::default());
    assert!(matches!(second, Err(JournalError::InUse { .. })));
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        id: usize,
        count: usize,
    },
    Drain {
        id: usize,
        max: usize,
    },
    /// An id is drained, and has more reports meanwhile.
    Race {
        id: usize,
        max: usize,
        count: usize,
    },
    /// A batch is read and not stored.
    PutBack {
        id: usize,
        max: usize,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..5, 1usize..20).prop_map(|(id, count)| Step::Append { id, count }),
        4 => (0usize..5, 1usize..30).prop_map(|(id, max)| Step::Drain { id, max }),
        3 => (0usize..5, 1usize..30, 1usize..20).prop_map(|(id, max, count)| Step::Race { id, max, count }),
        1 => (0usize..5, 1usize..30).prop_map(|(id, max)| Step::PutBack { id, max }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Five ids in bundles and runs of any number.
    #[test]
    fn the_journal_is_a_queue_an_id(steps in proptest::collection::vec(step(), 1..40), recent_bytes in 0u64..2_000) {
        let mut bench = Bench::with(|s| s.recent_bytes = recent_bytes);
        let mut model: [std::collections::VecDeque<String>; 5] = Default::default();
        let (mut next, mut highest) = (0, 0);
        for step in steps {
            match step {
                Step::Append { id, count } => {
                    let data: Vec<_> = (next..next + count).map(|n| n.to_string()).collect();
                    next += count;
                    let contents = data.iter().map(|d| report(None, d)).collect();
                    for answer in bench.append(&id.to_string(), contents) {
                        let position = ack(&answer).position().0;
                        prop_assert!(position > highest);
                        highest = position;
                    }
                    model[id].extend(data);
                }
                Step::Drain { id, max } => {
                    for data in bench.drain(&id.to_string(), max) {
                        prop_assert_eq!(Some(data), model[id].pop_front().map(Bytes::from));
                    }
                }
                Step::Race { id, max, count } => {
                    let data: Vec<_> = (next..next + count).map(|n| n.to_string()).collect();
                    next += count;
                    let append = |d: &String| {
                        let answers = bench.append(&id.to_string(), vec![report(None, d)]);
                        highest = ack(&answers[0]).position().0;
                    };
                    for stored in bench.drain_during(&id.to_string(), max, || data.iter().for_each(append)) {
                        prop_assert_eq!(Some(stored), model[id].pop_front().map(Bytes::from));
                    }
                    model[id].extend(data);
                }
                Step::PutBack { id, max } => {
                    let read = bench.stream(&id.to_string()).map(|s| bench.journal().read(&s, max, 1 << 20));
                    prop_assert!(read.is_none_or(|read| read.is_ok()));
                }
                Step::Reopen => bench.reopen(),
            }
            let audit = bench.metrics.audit.snapshot();
            prop_assert!(audit.balanced());
            let peeked = bench.journal().peek(&id_of("0"), None, 1_000, 1 << 20).expect("a sound journal");
            let peeked: Vec<_> = peeked.reports.into_iter().filter_map(|(_, report)| report.data).collect();
            prop_assert!(peeked.iter().eq(model[0].iter().map(String::as_bytes)));
            prop_assert_eq!(audit.backlog, model.iter().map(|m| m.len() as u64).sum::<u64>());
        }
        bench.open.take().expect("open").stop().expect("a sound journal");
        let mut exported: [Vec<Bytes>; 5] = Default::default();
        let examined = examine(&bench.settings.dir, |value| {
            let value::Value::Entry(entry) = value else { panic!("no dead letter") };
            let of: usize = entry.id.as_str().parse().expect("a digit");
            exported[of].extend(entry.records.into_iter().map(|record| data_of(record.body)));
            Ok(())
        });
        prop_assert!(examined.is_whole());
        prop_assert_eq!(exported, model.map(|m| m.into_iter().map(Bytes::from).collect::<Vec<_>>()));
    }
}
