//! Keys that are used again, rows that somebody removed, numbers that somebody else's report has.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use forebay::report::{Batch, JournalId, LetterKind, Marker, Number, Position, Record, Report};
use forebay::sink::{
    AnyConnection, AnySink, Burial, Bury, Class, Connection, Granularity, Outcome, Refused, Sink, SinkError,
    StoreError, Stored, Writer,
};
use futures_util::future::BoxFuture;

use crate::outcome;
use crate::sinks::{Rig, batch, body, marker, plain, report, with_data};

/// Keeps what cannot be stored, and may say that it is not.
#[derive(Default)]
struct Graves(Mutex<Vec<Position>>, bool);

impl Bury for Graves {
    fn bury<'a>(&'a self, batch: &'a Batch, refused: &'a [Refused]) -> BoxFuture<'a, Option<Burial>> {
        let positions = refused.iter().map(|refused| batch.records[refused.index].position);
        self.0.lock().expect("no panic").extend(positions);
        let buried = self.1.then_some(Burial { new: refused.len() as u64, known: 0 });
        Box::pin(std::future::ready(buried))
    }
}

/// A writer for a journal, whose dead letters are durable, or get lost.
fn writer(rig: &Rig, journal: u64, buries: bool) -> (Writer<AnySink>, Arc<Graves>) {
    let sink = rig.sink();
    sink.serve(JournalId(journal));
    let graves = Arc::new(Graves(Mutex::default(), buries));
    (Writer::new(Arc::new(sink), Arc::clone(&rig.health)).bury_with(Arc::clone(&graves) as _), graves)
}

/// As a journal hands it out that was opened again.
fn replayed(id: &str, records: Vec<Record>) -> Batch {
    Batch { tried_through: Position(u64::MAX), ..batch(id, records) }
}

fn numbered(position: u64, seq: u64, data: &str) -> Record {
    let data = Some(bytes::Bytes::copy_from_slice(data.as_bytes()));
    body(position, Report { number: Number { source: 1, seq }, data, ..plain(position, seq) })
}

fn kinds(outcome: &Outcome) -> Vec<(usize, LetterKind)> {
    outcome.refused.iter().map(|refused| (refused.index, refused.kind)).collect()
}

/// A device that counts anew: in one batch, over batches, and by another node.
pub async fn a_key_with_other_content_is_a_dead_letter_that_shows_both(rig: Rig) {
    let mut writer = writer(&rig, 1, true).0;
    let records = (1..=10).map(|n| with_data(n, n % 3, &format!(r#"{{"n":{}}}"#, n % 2))).collect();
    let first = writer.store(&[batch("a", records), batch("b", vec![report(1, 1)])]).await;
    // 1, 2 and 3 are new; 4 to 6 have other content under the same numbers; 7 to 9 repeat the first three.
    assert_eq!((first[0].inserted, first[0].duplicates, first[0].buried.new), (3, 3, 4), "{first:?}");
    assert_eq!(kinds(&first[0]), [3, 4, 5, 9].map(|index| (index, LetterKind::KeyTaken)));
    assert_eq!(first[1], outcome(1, 0, None));

    let mut other = self::writer(&rig, 2, true).0;
    let timed = body(20, Report { time: Some(1), ..plain(20, 1) });
    let coded = body(21, Report { code: 1, ..plain(21, 1) });
    let second = other.store(&[batch("b", vec![report(19, 1), timed, coded, marker(22, Marker::Done)])]).await;
    assert_eq!((second[0].inserted, second[0].duplicates, second[0].total), (0, 1, Some(1)), "{second:?}");
    assert_eq!(kinds(&second[0]), [1, 2].map(|index| (index, LetterKind::KeyTaken)));
    let holder = second[0].refused[0].holder.clone().expect("what the sink has");
    assert_eq!((holder.time, holder.code.as_deref(), holder.data), (None, Some("0"), None));

    let third = other.store(&[batch("a", vec![with_data(30, 1, r#"{"n":7}"#)])]).await;
    let holder = third[0].refused[0].holder.clone().expect("what the sink has");
    let data: serde_json::Value = serde_json::from_str(&holder.data.expect("it has data")).expect("JSON");
    assert_eq!(data, serde_json::json!({"n": 1}));
    assert_eq!(rig.stream("a").await.map(|stream| stream.1), Some(3));
}

/// A table of the version before has no digests.
pub async fn rows_without_a_digest_are_compared_by_their_values(rig: Rig) {
    let mut writer = writer(&rig, 1, true).0;
    let timed = |time| body(2, Report { time: Some(time), ..plain(2, 2) });
    let data = r#"{"b": 1, "a":[1,2 , "é'\\"], "a b":null}"#;
    let records = vec![with_data(1, 1, data), timed(1_714_972_800_123_456), report(3, 3)];
    assert_eq!(writer.store(&[batch("a", records.clone())]).await, [outcome(3, 0, None)]);
    rig.run("UPDATE reports SET digest = NULL").await;
    assert_eq!(writer.store(&[batch("a", records)]).await, [outcome(0, 3, None)]);
    let others = vec![with_data(4, 1, r#"{"b": 2}"#), timed(7), with_data(6, 3, "1"), report(7, 1)];
    let taken = writer.store(&[batch("a", others)]).await;
    assert_eq!(kinds(&taken[0]), [0, 1, 2, 3].map(|index| (index, LetterKind::KeyTaken)), "{taken:?}");
}

/// Promise 2c: a consumer that deletes what it has read, and a journal that is replayed.
pub async fn a_row_that_somebody_removed_does_not_come_back(rig: Rig) {
    let records: Vec<_> = (1..=4).map(|n| report(n, n)).chain([numbered(5, 5, "{}")]).collect();
    let first = writer(&rig, 1, true).0.store(&[batch("a", records.clone())]).await;
    assert_eq!(first, [outcome(5, 0, None)]);
    rig.run("DELETE FROM reports").await;
    // All of it again, and two more.
    let longer: Vec<_> = records.iter().cloned().chain([report(6, 6), marker(7, Marker::Done)]).collect();
    let again = writer(&rig, 1, true).0.store(&[replayed("a", longer.clone())]).await;
    assert_eq!(again, [outcome(1, 5, Some(6))]);
    assert_eq!(
        writer(&rig, 1, true).0.store_again(&[replayed("a", longer)], Granularity::Batch).await,
        [outcome(0, 6, Some(6))]
    );
    assert_eq!(rig.rows("a").await.len(), 1);
    // A client that sends it again has it stored again: the journal gives it a new position.
    assert_eq!(writer(&rig, 1, true).0.store(&[replayed("a", vec![report(8, 1)])]).await, [outcome(1, 0, None)]);
    // Another journal under the same node_id counts its own positions.
    let other = writer(&rig, 2, true).0.store(&[replayed("a", vec![report(1, 2), report(2, 3)])]).await;
    assert_eq!(other, [outcome(2, 0, None)]);
    // And the first is still remembered.
    assert_eq!(writer(&rig, 1, true).0.store(&[replayed("a", records)]).await, [outcome(0, 5, None)]);
    assert_eq!(rig.rows("a").await.len(), 4);
}

/// `settled_marks = false`: nothing is remembered, and a mark of before is neither looked at nor lost.
pub async fn without_marks_a_removed_row_comes_back_and_older_marks_stay(mut rig: Rig) {
    let marked = vec![report(1, 1), report(2, 2)];
    assert_eq!(writer(&rig, 1, true).0.store(&[batch("a", marked.clone())]).await, [outcome(2, 0, None)]);
    rig.settings.settled_marks = false;
    assert_eq!(writer(&rig, 1, true).0.store(&[batch("a", vec![report(3, 3)])]).await, [outcome(1, 0, None)]);
    rig.run("DELETE FROM reports").await;
    let again = writer(&rig, 1, true).0.store(&[replayed("a", vec![report(2, 2), report(3, 3)])]).await;
    assert_eq!(again, [outcome(2, 0, None)]);
    rig.settings.settled_marks = true;
    rig.run("DELETE FROM reports").await;
    let again = writer(&rig, 1, true).0.store(&[replayed("a", vec![report(2, 2), report(3, 3)])]).await;
    assert_eq!(again, [outcome(1, 1, None)], "up to position 2 it was settled with a mark");
}

/// The mark must not pass a report that is neither a row nor durable as a dead letter.
pub async fn what_is_remembered_as_settled_never_passes_a_letter_that_is_not_durable(rig: Rig) {
    let records = || vec![report(1, 1), with_data(2, 2, "no JSON"), report(3, 3), with_data(4, 1, "7"), report(5, 5)];
    let (mut first, lost) = writer(&rig, 1, false);
    assert_eq!(first.store(&[batch("a", records())]).await[0].inserted, 3);
    assert_eq!(lost.0.lock().expect("no panic")[..], [Position(2), Position(4)]);
    // The process died before its dead letters were durable.
    rig.run("DELETE FROM reports WHERE seq > 1").await;
    let (mut second, graves) = writer(&rig, 1, true);
    let outcomes = second.store(&[replayed("a", records())]).await;
    assert_eq!(graves.0.lock().expect("no panic")[..], [Position(2), Position(4)], "{outcomes:?}");
    rig.run("DELETE FROM reports").await;
    let (mut third, none) = writer(&rig, 1, true);
    assert_eq!(third.store(&[replayed("a", records())]).await, [outcome(0, 5, None)]);
    assert!(none.0.lock().expect("no panic").is_empty());
    assert_eq!(rig.rows("a").await, []);
}

/// The clock, or the disk, was set back: a number that a node gives out is somebody else's by then.
pub async fn what_a_node_numbered_is_stored_though_the_sink_has_its_number(rig: Rig) {
    let mut writer = writer(&rig, 1, true).0;
    let records = |shift: u64| (1..=5).map(|n| numbered(n + shift, n, &format!("{n}"))).collect::<Vec<_>>();
    assert_eq!(writer.store(&[batch("a", records(0))]).await, [outcome(5, 0, None)]);
    // The same content, too: two sensors may say the same.
    let mut other = self::writer(&rig, 2, true).0;
    let fresh = (3..=7).map(|n| numbered(n, n, "4")).collect();
    assert_eq!(other.store(&[batch("a", fresh)]).await, [outcome(5, 0, None)]);
    assert_eq!(rig.rows("a").await.len(), 10);
    // What was tried before, by a journal that the sink does not know, is a repetition where its content is the same.
    let mut third = self::writer(&rig, 3, true).0;
    let tried = vec![numbered(1, 1, "1"), numbered(2, 2, "\"another\"")];
    assert_eq!(third.store(&[replayed("a", tried)]).await, [outcome(1, 1, None)]);
    assert_eq!(rig.stream("a").await.map(|stream| stream.1), Some(11));
}

/// A sink that commits, and whose answer to the first commit gets lost.
struct Deaf(AnySink, Arc<AtomicBool>);

struct DeafConnection(AnyConnection, Arc<AtomicBool>);

impl Sink for Deaf {
    type Connection = DeafConnection;

    async fn connect(&self) -> Result<DeafConnection, SinkError> {
        Ok(DeafConnection(self.0.connect().await?, Arc::clone(&self.1)))
    }
}

impl Connection for DeafConnection {
    async fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, StoreError> {
        let stored = self.0.store(batches).await?;
        match self.1.swap(true, Ordering::SeqCst) {
            true => Ok(stored),
            false => Err(StoreError::Unknown(SinkError::new(Class::Outage, "the answer got lost"))),
        }
    }

    async fn probe(&mut self) -> Result<(), SinkError> {
        self.0.probe().await
    }

    fn usable(&self) -> bool {
        self.0.usable()
    }
}

fn deaf(rig: &Rig, sink: AnySink) -> Writer<Deaf> {
    let graves = Arc::new(Graves(Mutex::default(), true));
    Writer::new(Arc::new(Deaf(sink, Arc::default())), Arc::clone(&rig.health)).bury_with(graves)
}

/// They were taken for repetitions, and dropped: all of a batch that was put back counted as sent, and all that a
/// writer had at hand once it did not know what became of some of it.
pub async fn only_what_was_sent_and_may_be_stored_can_be_a_repetition(rig: Rig) {
    let ids = ["a", "b", "c", "d"];
    let others = ids.map(|id| batch(id, vec![numbered(1, 3, "3"), numbered(2, 4, "4")]));
    assert_eq!(writer(&rig, 1, true).0.store(&others).await, vec![outcome(2, 0, None); 4]);

    let put_back = [batch("a", vec![numbered(1, 3, "3")])];
    assert_eq!(writer(&rig, 2, true).0.store_again(&put_back, Granularity::Batch).await, [outcome(1, 0, None)]);

    // What is refused parts them: the first of `b` is sent alone, and what becomes of it is not known.
    let sink = rig.sink();
    sink.serve(JournalId(2));
    let parted = [
        batch("b", vec![numbered(1, 1, "1"), with_data(2, 2, "no JSON"), numbered(3, 3, "3")]),
        batch("c", vec![numbered(4, 4, "4")]),
    ];
    let outcomes = deaf(&rig, sink).store(&parted).await;
    assert_eq!((outcomes[0].inserted, outcomes[0].duplicates, outcomes[0].refused.len()), (1, 1, 1), "{outcomes:?}");
    assert_eq!(outcomes[1], outcome(1, 0, None));

    // Where nothing is remembered as settled, the content decides over what was sent.
    let sent = vec![numbered(1, 1, "1"), numbered(2, 2, "2")];
    assert_eq!(deaf(&rig, rig.sink()).store(&[batch("d", sent)]).await, [outcome(0, 2, None)]);
    for (id, rows) in [("a", 3), ("b", 4), ("c", 3), ("d", 4)] {
        assert_eq!(rig.rows(id).await.len(), rows, "{id}");
        assert_eq!(rig.stream(id).await.map(|stream| stream.1), Some(rows as u64), "{id}");
    }
}

/// As many journals as there is room for, the last writer first.
pub async fn each_of_many_journals_is_remembered_by_its_own_mark(rig: Rig) {
    for turn in 0..3_u64 {
        for journal in 1..=15 {
            let position = turn + 1;
            let mut writer = writer(&rig, journal, true).0;
            let stored = writer.store(&[batch("a", vec![report(position, journal * 10 + turn)])]).await;
            assert_eq!(stored, [outcome(1, 0, None)]);
        }
    }
    rig.run("DELETE FROM reports").await;
    for journal in 1..=15 {
        let mut writer = writer(&rig, journal, true).0;
        let records = (1..=4).map(|position| report(position, journal * 10 + position - 1)).collect();
        assert_eq!(writer.store(&[replayed("a", records)]).await, [outcome(1, 3, None)], "{journal}");
    }
    assert_eq!(rig.rows("a").await.len(), 15);
}
