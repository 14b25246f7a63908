//! The writer against a scripted sink: what it sends, in which order, when.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::report::{Body, Id, Marker, Number, Position, Record, Report};
use crate::sink::SinkState;

/// A sink that answers its script first, then refuses transactions with a poisoned code and takes all others.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Class>>,
    committed: Mutex<Vec<(Id, Position)>>,
    asking: AtomicUsize,
    most_asking: AtomicUsize,
    up: std::sync::atomic::AtomicBool,
    /// The id whose every transaction fails with this class, else as transient.
    refuses: Mutex<Option<Id>>,
    /// The same of all ids that begin so.
    refuses_all_of: Mutex<Option<String>>,
    as_class: Mutex<Option<Class>>,
    /// The record whose every transaction fails.
    fails_over: Mutex<Option<Position>>,
}

const POISONED: i32 = 13;

struct Scripted(Arc<Script>);

struct ScriptedSink(Arc<Script>);

impl Sink for ScriptedSink {
    type Connection = Scripted;

    async fn connect(&self) -> Result<Scripted, SinkError> {
        let asking = self.0.asking.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_asking.fetch_max(asking, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.0.asking.fetch_sub(1, Ordering::SeqCst);
        match self.0.up.load(Ordering::SeqCst) {
            true => Ok(Scripted(Arc::clone(&self.0))),
            false => Err(SinkError::new(Class::Outage, "refused")),
        }
    }
}

impl Connection for Scripted {
    async fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, StoreError> {
        if let Some(class) = self.0.answers.lock().expect("no panic").pop_front() {
            return Err(SinkError::new(class, "scripted").into());
        }
        let refuses = *self.0.refuses.lock().expect("no panic");
        let all_of = self.0.refuses_all_of.lock().expect("no panic").clone();
        let is_refused =
            |id: Id| Some(id) == refuses || all_of.as_deref().is_some_and(|of| id.as_str().starts_with(of));
        if batches.iter().any(|batch| is_refused(batch.id)) {
            let class = self.0.as_class.lock().expect("no panic").unwrap_or(Class::Transient);
            return Err(SinkError::new(class, "a code that nobody knows").into());
        }
        let fails_over = *self.0.fails_over.lock().expect("no panic");
        if batches.iter().flat_map(|batch| &batch.records).any(|record| Some(record.position) == fails_over) {
            return Err(SinkError::new(Class::Transient, "a trigger says no").into());
        }
        let poisoned = |body: &Body| matches!(body, Body::Report(report) if report.code == POISONED);
        if batches.iter().flat_map(|batch| &batch.records).any(|record| poisoned(&record.body)) {
            return Err(SinkError { class: Class::Poison, code: Some(1366), message: "bad".to_owned() }.into());
        }
        let mut committed = self.0.committed.lock().expect("no panic");
        Ok(batches
            .iter()
            .map(|batch| {
                committed.extend(batch.records.iter().map(|record| (batch.id, record.position)));
                let total = crate::sink::record::has_marker(batch).then_some(99);
                Stored { inserted: crate::sink::record::reports(&batch.records), duplicates: 0, total }
            })
            .collect())
    }

    async fn probe(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    fn usable(&self) -> bool {
        true
    }
}

fn sink(answers: &[Class]) -> Arc<Script> {
    let script = Script { answers: Mutex::new(answers.iter().copied().collect()), ..Script::default() };
    script.up.store(true, Ordering::SeqCst);
    Arc::new(script)
}

fn writer(script: &Arc<Script>, health: &Arc<Health>) -> Writer<ScriptedSink> {
    Writer::new(Arc::new(ScriptedSink(Arc::clone(script))), Arc::clone(health))
}

/// A batch of reports, of which some are poisoned, with a marker at its end.
fn batch(id: &str, poisoned: &[bool]) -> Batch {
    let report = |(index, poisoned): (usize, &bool)| {
        let seq = index as u64 + 1;
        let code = if *poisoned { POISONED } else { 0 };
        let report =
            Report { number: Number { source: 0, seq }, time: None, code, peer: None, data: None, accepted_at: seq };
        Record { position: Position(seq), body: Body::Report(report) }
    };
    let end = poisoned.len() as u64 + 1;
    let marker = Record { position: Position(end), body: Body::Marker(Marker::Done, end) };
    Batch::new(Id::new(id).expect("an id"), poisoned.iter().enumerate().map(report).chain([marker]).collect())
}

proptest! {
    /// Invariants 5 and 6: whatever is poisoned, exactly that is refused, and the rest is committed in order.
    #[test]
    fn exactly_the_poison_is_refused_and_order_is_kept(
        poisoned in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 0..12), 1..6),
    ) {
        let script = sink(&[]);
        let batches: Vec<_> = poisoned.iter().enumerate().map(|(n, row)| batch(&format!("id{n}"), row)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let outcomes = runtime.block_on(writer(&script, &Arc::default()).store(&batches));
        let committed = script.committed.lock().expect("no panic");
        for ((batch, row), outcome) in batches.iter().zip(&poisoned).zip(outcomes) {
            let bad: Vec<_> = (0..row.len()).filter(|index| row[*index]).collect();
            prop_assert_eq!(outcome.refused.iter().map(|refused| refused.index).collect::<Vec<_>>(), bad.clone());
            prop_assert_eq!(outcome.inserted as usize, row.len() - bad.len());
            prop_assert_eq!(outcome.total, Some(99));
            let kept = batch.records.iter().enumerate().filter(|(index, _)| !bad.contains(index));
            let kept: Vec<_> = kept.map(|(_, record)| record.position).collect();
            let stored = committed.iter().filter(|(id, _)| *id == batch.id);
            let stored: Vec<_> = stored.map(|(_, position)| *position).collect();
            prop_assert_eq!(stored, kept);
        }
    }
}

/// Invariant 5: such a batch is put back alone, the others are stored, and its error is seen until it is stored.
#[tokio::test(start_paused = true)]
async fn a_code_that_nobody_knows_is_never_poison_and_holds_up_its_own_id_only() {
    let script = sink(&[]);
    let health: Arc<Health> = Arc::default();
    let mut writer = writer(&script, &health);
    let batches = [batch("a", &[false]), batch("b", &[false, true]), batch("c", &[false]), batch("d", &[true])];
    *script.refuses.lock().expect("no panic") = Some(batches[1].id);
    let mut outcomes = writer.store(&batches).await;
    for (index, refused) in [(0, 0), (2, 0), (3, 1)] {
        assert_eq!((&outcomes[index].put_back, outcomes[index].refused.len()), (&None, refused), "{outcomes:?}");
    }
    for _ in 0..500 {
        assert_eq!((outcomes[1].inserted, outcomes[1].refused.len(), outcomes[1].put_back.is_some()), (0, 0, true));
        health.works();
        let status = health.status();
        assert_eq!(status.state, SinkState::Up);
        assert!(status.last_error.is_some(), "that others succeed must not hide it");
        outcomes[1] = writer.store_again(&batches[1..2], Granularity::Batch).await.remove(0);
    }
    *script.refuses.lock().expect("no panic") = None;
    outcomes[1] = writer.store_again(&batches[1..2], Granularity::Batch).await.remove(0);
    assert_eq!((outcomes[1].inserted, outcomes[1].refused.len(), outcomes[1].put_back.is_some()), (1, 1, false));
    assert_eq!(health.status().last_error, None);
}

/// It took a probe: that it fails over some batches is no outage, so none waits for the prober's next turn.
#[tokio::test(start_paused = true)]
async fn a_sink_that_comes_back_is_up_even_where_it_fails_over_many_batches() {
    let script = sink(&[Class::Outage]);
    let health: Arc<Health> = Arc::default();
    *script.refuses_all_of.lock().expect("no panic") = Some("bad".to_owned());
    let batches: Vec<_> =
        (0..20).map(|n| batch(&format!("bad-{n}"), &[false])).chain([batch("good", &[false])]).collect();
    let began = Instant::now();
    let outcomes = writer(&script, &health).store(&batches).await;
    assert!(outcomes[..20].iter().all(|outcome| outcome.put_back.is_some()) && outcomes[20].is_settled());
    assert!(began.elapsed() < LASTS_AFTER * 3, "the good one waited for {:?}", began.elapsed());
}

/// Invariants 5 and 6: what comes before it is stored, and what comes after it waits.
#[tokio::test(start_paused = true)]
async fn a_record_that_the_sink_never_takes_holds_up_only_what_comes_after_it() {
    let script = sink(&[]);
    *script.fails_over.lock().expect("no panic") = Some(Position(6));
    let health: Arc<Health> = Arc::default();
    let mut writer = writer(&script, &health);
    let batches = [batch("a", &[false; 9])];
    let whole = writer.store_again(&batches, Granularity::Batch).await;
    assert_eq!((whole[0].inserted, whole[0].put_back.is_some()), (0, true), "{whole:?}");
    let parted = writer.store_again(&batches, Granularity::Record).await;
    assert_eq!((parted[0].inserted, parted[0].put_back.is_some()), (5, true), "{parted:?}");
    let committed = script.committed.lock().expect("no panic").clone();
    assert_eq!(committed, (1..=5).map(|at| (batches[0].id, Position(at))).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_transient_error_that_passes_puts_nothing_back() {
    let script = sink(&[Class::Transient; 4]);
    let health = Arc::default();
    let outcomes = writer(&script, &health).store(&[batch("a", &[false, false]), batch("b", &[false])]).await;
    assert!(outcomes.iter().all(|outcome| outcome.put_back.is_none() && outcome.inserted > 0), "{outcomes:?}");
    assert_eq!(health.retries(Class::Transient), 4);
}

/// A row over which the server drops its connection, or stalls, would else hold up all ids: each that asks whether the
/// server is there again would find that it is, and then the same.
#[tokio::test(start_paused = true)]
async fn an_outage_that_only_one_batch_meets_holds_up_its_own_id_only() {
    let script = sink(&[]);
    *script.refuses.lock().expect("no panic") = Some(Id::new("a").expect("an id"));
    *script.as_class.lock().expect("no panic") = Some(Class::Outage);
    let health: Arc<Health> = Arc::default();
    let outcomes = writer(&script, &health).store(&[batch("a", &[false]), batch("b", &[false])]).await;
    assert_eq!((outcomes[0].put_back.is_some(), outcomes[1].put_back.is_some()), (true, false), "{outcomes:?}");
    assert_eq!((health.status().state, outcomes[1].inserted), (SinkState::Up, 1));
}

/// Invariant 7.
#[tokio::test(start_paused = true)]
async fn one_writer_asks_while_the_sink_is_down_and_another_takes_over_when_it_is_dropped() {
    let script = sink(&[]);
    script.up.store(false, Ordering::SeqCst);
    let health: Arc<Health> = Arc::default();
    health.fails(&SinkError::new(Class::Outage, "down"), true);
    let mut stores: Vec<_> = (0..8)
        .map(|n| {
            let mut writer = writer(&script, &health);
            tokio::spawn(async move { writer.store(&[batch(&format!("id{n}"), &[false])]).await })
        })
        .collect();
    let probed = health.retries(Class::Outage) + 20;
    tokio::time::timeout(Duration::from_secs(3_600), async {
        while health.retries(Class::Outage) < probed {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("somebody asks");
    assert_eq!(script.most_asking.load(Ordering::SeqCst), 1);
    stores.remove(0).abort();
    script.up.store(true, Ordering::SeqCst);
    for store in stores {
        assert_eq!(store.await.expect("no panic")[0].inserted, 1);
    }
    assert_eq!(health.status().state, SinkState::Up);
}

#[tokio::test(start_paused = true)]
async fn an_outage_or_operator_error_never_refuses_a_record() {
    let answers = [Class::Outage, Class::Operator, Class::Transient, Class::Operator, Class::Outage];
    let script = sink(&answers);
    let health = Arc::default();
    let outcomes = writer(&script, &health).store(&[batch("a", &[false, true, false])]).await;
    assert_eq!((outcomes[0].inserted, outcomes[0].refused.len()), (2, 1));
    assert_eq!((health.retries(Class::Outage), health.retries(Class::Operator)), (2, 2));
    assert_eq!(health.status().state, SinkState::Up);
}

/// Invariant 5: a marker is never refused.
#[tokio::test(start_paused = true)]
async fn a_marker_that_is_refused_is_an_operators_matter() {
    let script = sink(&[Class::Poison; 10]);
    let health: Arc<Health> = Arc::default();
    let outcomes = writer(&script, &health).store(&[batch("a", &[])]).await;
    assert_eq!(outcomes[0], Outcome { total: Some(99), ..Outcome::default() });
    assert!(health.retries(Class::Operator) > 0);
}

/// Keeps what cannot be stored, or fails to; from then on the sink fails over the fourth record.
struct Buries(Arc<Script>, bool);

impl Bury for Buries {
    fn bury<'a>(&'a self, _: &'a Batch, refused: &'a [Refused]) -> BoxFuture<'a, Option<Burial>> {
        *self.0.fails_over.lock().expect("no panic") = Some(Position(4));
        let burial = Burial { new: refused.len() as u64, known: 0 };
        Box::pin(std::future::ready(self.1.then_some(burial)))
    }
}

/// An operator who then sets the first report that waits aside must not get one that is a row or a letter.
#[tokio::test(start_paused = true)]
async fn of_a_batch_that_is_recalled_it_is_known_what_is_stored_and_buried() {
    for buries in [true, false] {
        let script = sink(&[]);
        let mut writer = writer(&script, &Arc::default()).bury_with(Arc::new(Buries(Arc::clone(&script), buries)));
        let batches = [batch("a", &[false, false, true, false])];
        let until = tokio::time::timeout(LASTS_AFTER / 2, writer.store(&batches));
        until.await.expect_err("it fails over the fourth, and is tried again");
        let recalled = writer.recalled();
        assert_eq!((recalled[0].inserted, recalled[0].buried.new), (2, u64::from(buries)));
        assert_eq!(recalled[0].settled, if buries { 3 } else { 0 }, "it would pass a report that is nowhere");
        assert_eq!(writer.recalled(), []);
    }
}
