//! What is remembered of tries whose batch went back to the journal: only what was sent can be in the sink.

use super::*;
use crate::sink::SinkState;

/// Whether each report that waits may be in the sink.
fn tried(journal: &Journal, stream: &Arc<Stream>) -> Vec<bool> {
    let Taken { batch, .. } = journal.read(stream, 10, 1 << 20).expect("a sound journal");
    stream.lock().give_back();
    batch.records.iter().map(|record| batch.is_tried(record.position)).collect()
}

fn reports(code: i32, seqs: std::ops::RangeInclusive<u64>) -> Vec<Content> {
    let report = |seq| Content::Report(Draft { seq: Some(seq), time: None, code, peer: None, data: None });
    seqs.map(report).collect()
}

/// Has a drainer store what the id has.
async fn drain(writer: Writer<PickySink>, flushers: &Flushers, stream: &Arc<Stream>, retry: Option<Box<task::Retry>>) {
    stream.lock().flusher = Flusher::Working;
    flushers.0.hand_over(Arc::clone(stream), retry);
    let handovers = flushers.0.queue.gather(&flushers.0, LIMITS).await.expect("one waits");
    let mut drainer = Drainer::new(Arc::clone(&flushers.0), writer, LIMITS);
    drainer.drain(handovers, &tracing::Span::none()).await;
}

/// All of a batch that was put back, and all that came after it, counted as sent.
#[tokio::test]
async fn of_a_batch_that_is_put_back_only_what_may_be_stored_counts_as_tried() {
    for (code, is_tried) in [(FAILING, false), (UNANSWERED, true)] {
        let mut bench = Bench::new();
        let journal = bench.open(Arc::new(ByHand));
        let flushers = Flushers::new(POLICY);
        flushers.start::<PickySink>(&journal, Vec::new(), LIMITS);
        let stream = append(&journal, reports(code, 1..=2)).await;
        // A retry: what fails is put back at once.
        drain(bench.writer(), &flushers, &stream, Some(Box::default())).await;
        append(&journal, reports(0, 3..=3)).await;
        assert_eq!(tried(&journal, &stream), [is_tried, is_tried, false], "{code}");
        flushers.drain_and_stop(Duration::ZERO).await;
        journal.stop().expect("a sound journal");
    }
}

/// Nor what a drainer had at hand when its id was held.
#[tokio::test]
async fn what_is_given_back_before_it_was_sent_does_not_count_as_tried() {
    let mut bench = Bench::new();
    let journal = bench.open(Arc::new(ByHand));
    let flushers = Flushers::new(POLICY);
    flushers.start::<PickySink>(&journal, Vec::new(), LIMITS);
    std::fs::create_dir(bench.path().join("reports.db")).expect("a folder in the place of the file");
    let stream = append(&journal, reports(0, 1..=2)).await;
    let health: Arc<Health> = Arc::default();
    let hold = async {
        health.until(|status| status.state == SinkState::Down).await;
        flushers.hold(&id()).expect("it has backlog")
    };
    let writer = bench.writer_of(Arc::clone(&health));
    let ((), held) = tokio::join!(drain(writer, &flushers, &stream, None), hold);
    assert!(!held.hold().is_taken());
    assert_eq!(tried(&journal, &stream), [false, false]);
    drop(held);
    flushers.drain_and_stop(Duration::ZERO).await;
    journal.stop().expect("a sound journal");
}
