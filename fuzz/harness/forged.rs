//! Target `forged`: what a client chose, through the parser of the wire into a journal whose files are then written
//! over, killed and opened again: nothing of it is taken for the journal's own.

use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use forebay::config::Settings;
use forebay::journal::{
    Answer, Append, Content, Drain, Drained, Journal, JournalError, Opened, Outlet, ReplyTo, Settlement, State, Stream,
    Surroundings,
};
use forebay::metrics::Metrics;
use forebay::report::{Body, Draft, Id, Op, Parsed, parse};

/// How often the report is sent before it is drained, so that it lies in a file from end to end.
const COPIES: usize = 400;
/// Reports that wait when the node is killed, each so long that together they are half a file.
const WAITING: u64 = 16;
const WAITING_BYTES: usize = 60_000;
const MAX_MESSAGE: usize = 96 << 10;

struct Idle;

impl Drain for Idle {
    fn backlog_grew(&self, _: &Arc<Stream>, _: &mut State) {}
}

struct Ear(mpsc::Sender<Answer>);

impl Outlet for Ear {
    fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>, _at_once: bool) {
        answers.for_each(|(_, answer)| self.0.send(answer).expect("the harness listens"));
    }

    fn drained(&self, _: u64, _: Drained) {}
}

/// Every report that waited is there after a kill, and no other; positions are below 2^53.
///
/// The input is a message.
pub fn forged(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Parsed::One(Ok(message)) = parse(text, MAX_MESSAGE) else { return };
    let Op::Report { id, seq, time, code, data } = message.op else { return };
    let data = data.map(|data| Bytes::copy_from_slice(data.as_bytes()));
    let draft = Draft { seq, time, code, peer: Some([127, 0, 0, 1].into()), data };
    let folder = tempfile::Builder::new().prefix("forebay-forged-").tempdir_in(super::service::memory());
    let folder = folder.expect("a folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));

    let journal = open(&first);
    let (attacker, victim) = (id, other_than(id));
    for _ in 0..4 {
        append(&journal, attacker, vec![Content::Report(draft.clone()); COPIES / 4]);
    }
    while drain(&journal, attacker) > 0 {}
    let long = |seq| {
        Content::Report(Draft {
            seq: Some(seq),
            time: None,
            code: 0,
            peer: None,
            data: Some(Bytes::from(format!("\"{seq}-{}\"", "x".repeat(WAITING_BYTES)))),
        })
    };
    (0..WAITING).for_each(|seq| drop(append(&journal, victim, vec![long(seq)])));
    super::service::copy_journal(&first, &second);
    journal.stop().expect("a sound journal");

    let journal = open(&second);
    let stream = journal.stream(&victim).expect("acknowledged reports are gone");
    let taken = journal.read(&stream, usize::MAX, usize::MAX).expect("a sound journal");
    let found = taken.batch.records.iter().filter_map(|record| match &record.body {
        Body::Report(report) => Some(report.number.seq),
        Body::Marker(..) => None,
    });
    assert!(found.eq(0..WAITING), "acknowledged reports are gone, or others are there");
    let numbered = Content::Report(Draft { seq: None, time: None, code: 0, peer: None, data: None });
    let answers = append(&journal, victim, vec![numbered]);
    assert!(matches!(&answers[0], Answer::Kept(ack) if ack.position().0 < 1 << 53), "{answers:?}");
    assert_eq!(journal.set_aside(None, 1).expect("a sound journal"), []);
    journal.stop().expect("a sound journal");
    assert!(!folder.path().join("second.damaged-1").exists(), "a sound journal was taken for a damaged one");
}

fn open(dir: &Path) -> Journal {
    let mut settings = Settings::default().journal;
    (settings.dir, settings.lanes, settings.min_free_disk) = (dir.to_owned(), 1, 0);
    let around = Surroundings { node_id: 1, max_queued_bytes: 1 << 30, max_entry_records: 1_000 };
    let opened = loop {
        match Opened::open(&settings, around, Arc::new(Metrics::default())) {
            // Threads of the storage's own may hold its lock for a moment more.
            Err(JournalError::InUse { .. }) => std::thread::yield_now(),
            opened => break opened.expect("a journal that was left by a node opens"),
        }
    };
    opened.start(Arc::new(Idle))
}

fn append(journal: &Journal, id: Id, contents: Vec<Content>) -> Vec<Answer> {
    let (tell, answers) = mpsc::channel();
    let outlet: Arc<dyn Outlet> = Arc::new(Ear(tell));
    let (count, since) = (contents.len(), tokio::time::Instant::now());
    let reply_to = |ticket| Some(ReplyTo { outlet: Arc::clone(&outlet), ticket, since });
    let append = |(ticket, content)| Append { id, content, reply_to: reply_to(ticket) };
    journal.append((0..).zip(contents).map(append).collect(), 0);
    drop(outlet);
    let answers: Vec<Answer> = answers.iter().take(count).collect();
    assert!(answers.iter().all(|answer| matches!(answer, Answer::Kept(_))), "{answers:?}");
    answers
}

/// Takes some of an id as stored; how many.
fn drain(journal: &Journal, id: Id) -> usize {
    let Some(stream) = journal.stream(&id) else { return 0 };
    let taken = journal.read(&stream, 1_000, 1 << 20).expect("a sound journal");
    let stored = taken.batch.records.len();
    journal.settle([(
        Arc::clone(&stream),
        taken.receipt,
        Settlement { stored: stored as u64, ..Settlement::default() },
    )]);
    journal.retire(&stream);
    stored
}

fn other_than(id: Id) -> Id {
    let other = if id.as_str() == "victim" { "another" } else { "victim" };
    Id::new(other).expect("an id")
}
