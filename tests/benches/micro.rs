//! The parts of a report's way, each alone and on one thread: reading a message, saying an ack, an entry to bytes and
//! back, and a commit with so many appends that wait for it, from the append to the last answer.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay::config::{Settings, Sources};
use forebay::journal::{Answer, Append, Content, Drained, Entry, Outlet, ReplyTo, Seal, Value};
use forebay::report::{self, Body, Draft, Echo, Id, Number, Position, Record, Report, reply};
use forebay::service::Service;
use serde::Serialize;
use support::message::{self, FIRST_SEQ, MESSAGE_BYTES};
use support::options::{Known, Options};
use support::stats::{Table, median, percentile};
use support::{folder, progress};

const OPTIONS: [Known; 2] =
    [("ms", 500, "milliseconds that each is repeated for, in each run"), ("repeats", 5, "runs of each")];

/// The default `ingest.max_report_bytes`.
const MAX_MESSAGE: usize = 64 * 1024;

/// Reports of an entry: one, the default `flush.batch`, and ten of these.
const ENTRIES: [usize; 3] = [1, 10, 100];

/// Appends that wait for one commit.
const WAITING: [usize; 4] = [1, 10, 100, 1000];

/// Between two looks at the clock, where something takes far less than a microsecond.
const ROUND: u32 = 100;

/// Something that was repeated: the time that each took, in nanoseconds, in each run.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    ns: Vec<f64>,
    /// 99th percentiles, for what was timed one by one.
    p99_ns: Vec<f64>,
    /// Reports that each was about.
    reports: usize,
}

fn main() {
    let options = Options::read(&OPTIONS);
    support::run(bench(options));
}

async fn bench(options: Options) {
    let time = Duration::from_millis(options.get("ms"));
    let mut figures: Vec<Figure> = Vec::new();
    for repeat in 1..=options.get("repeats") {
        progress(&format!("run {repeat}"));
        let mut run = on_one_thread(time);
        run.extend(commits(time).await);
        if figures.is_empty() {
            figures = run;
        } else {
            for (all, one) in figures.iter_mut().zip(run) {
                all.ns.extend(one.ns);
                all.p99_ns.extend(one.p99_ns);
            }
        }
    }
    print(&options, &figures);
    if options.json {
        println!("{}", serde_json::json!({ "bench": "micro", "options": options.all(), "figures": figures }));
    }
}

fn on_one_thread(time: Duration) -> Vec<Figure> {
    let text = message::text();
    let array = format!("[{}]", [text.as_str(); 10].join(","));
    let id = message::id(0);
    let raw = format!("\"{id}\"");
    let echo = Echo { id: Some(&raw), reference: None };
    let number = Some(Number { source: 0, seq: FIRST_SEQ });
    let mut figures = vec![
        repeated("parse a message", 1, time, || drop(black_box(report::parse(black_box(&text), MAX_MESSAGE)))),
        repeated("parse an array of 10", 10, time, || {
            drop(black_box(report::parse(black_box(&array), MAX_MESSAGE)));
        }),
    ];
    let mut buffer = Vec::with_capacity(256);
    figures.push(repeated("encode an ack", 1, time, || {
        buffer.clear();
        reply::ack(&mut buffer, black_box(&echo), black_box(number));
        black_box(&buffer);
    }));
    let seal = Seal::of(&[7; 32]);
    for reports in ENTRIES {
        let entry = Value::Entry(entry(reports));
        let encode = |entry: &Value| {
            let mut bytes = Vec::new();
            entry.encode(&seal, &mut bytes);
            bytes
        };
        let bytes = Bytes::from(encode(&entry));
        figures.push(repeated(&format!("encode an entry of {reports}"), reports, time, || {
            drop(black_box(encode(black_box(&entry))));
        }));
        figures.push(repeated(&format!("decode an entry of {reports}"), reports, time, || {
            drop(black_box(Value::decode(&seal, black_box(&bytes)).expect("it is whole")));
        }));
    }
    figures
}

/// Repeats what is too short for the clock.
fn repeated(name: &str, reports: usize, time: Duration, mut what: impl FnMut()) -> Figure {
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < time {
        for _ in 0..ROUND {
            what();
        }
        count += u64::from(ROUND);
    }
    let ns = start.elapsed().as_nanos() as f64 / count as f64;
    Figure { name: name.to_owned(), ns: vec![ns], p99_ns: Vec::new(), reports }
}

/// An entry of one commit.
fn entry(reports: usize) -> Entry {
    let first = 1_714_972_800_000_000;
    let record = |n: u64| {
        let body = Body::Report(Report {
            number: Number { source: 0, seq: FIRST_SEQ + n },
            time: Some(1_714_972_800_000_000),
            code: 0,
            peer: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            data: Some(message::data().into()),
            accepted_at: first,
        });
        Record { position: Position(first + n), body }
    };
    Entry {
        id: Id::new(&message::id(0)).expect("it is one"),
        first: Position(first),
        accepted_at: first,
        records: (0..reports as u64).map(record).collect(),
    }
}

/// Commits of a service whose sink is not there, on the disk of the build.
async fn commits(time: Duration) -> Vec<Figure> {
    let folder = folder("micro-");
    let file = format!("journal.dir = {:?}\nsink.url = {:?}\n", folder.path(), support::node::DEAD_SINK);
    let sources = Sources { file: Some(("micro".to_owned(), file)), variables: Vec::new(), flags: Default::default() };
    let mut settings = Settings::load(&sources).expect("the settings are in order");
    settings.shutdown.drain = Duration::ZERO;
    let service = Service::open(&settings).await.expect("a new journal opens");
    let mut figures = Vec::new();
    for waiting in WAITING {
        let start = Instant::now();
        let mut times = Vec::new();
        while start.elapsed() < time {
            let began = Instant::now();
            commit(&service, waiting).await;
            times.push(u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX));
        }
        times.sort_unstable();
        figures.push(Figure {
            name: format!("commit with {waiting} waiting"),
            ns: vec![percentile(&times, 50.0).into()],
            p99_ns: vec![percentile(&times, 99.0).into()],
            reports: waiting,
        });
    }
    service.shut_down().await.expect("the journal is well");
    service.close().expect("the journal closes");
    figures
}

/// Appends a report to each of so many ids, each for a connection of its own, and waits until all are durable.
async fn commit(service: &Service, waiting: usize) {
    let left = Arc::new(AtomicUsize::new(waiting));
    let append = |number: usize| {
        let outlet = Arc::new(Connection { left: Arc::clone(&left), waits: std::thread::current() });
        let draft = Draft {
            seq: None,
            time: Some(1_714_972_800_000_000),
            code: 0,
            peer: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            data: Some(message::data().into()),
        };
        Append {
            id: Id::new(&message::id(number as u32)).expect("it is one"),
            content: Content::Report(draft),
            reply_to: Some(ReplyTo { outlet, ticket: 0, since: tokio::time::Instant::now() }),
        }
    };
    // All at once, so that they are one commit.
    let appends = (0..waiting).map(append).collect();
    service.reserve(waiting * MESSAGE_BYTES).await;
    service.append(appends, waiting * MESSAGE_BYTES);
    while left.load(Ordering::Acquire) > 0 {
        std::thread::park();
    }
}

/// Who waits for one report.
struct Connection {
    left: Arc<AtomicUsize>,
    waits: Thread,
}

impl Outlet for Connection {
    fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>, _at_once: bool) {
        for (_, answer) in answers {
            assert!(matches!(answer, Answer::Kept(_)), "{answer:?}");
            if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.waits.unpark();
            }
        }
    }

    fn drained(&self, _: u64, _: Drained) {}
}

fn print(options: &Options, figures: &[Figure]) {
    println!(
        "micro: reports of {MESSAGE_BYTES} bytes; medians of {} runs of {} ms",
        options.get("repeats"),
        options.get("ms")
    );
    let mut table = Table::new(&["what", "each", "p99", "a report"]);
    for figure in figures {
        let each = median(figure.ns.iter().copied());
        let p99 = (!figure.p99_ns.is_empty()).then(|| time(median(figure.p99_ns.iter().copied())));
        let name = figure.name.clone();
        table.row([name, time(each), p99.unwrap_or_default(), time(each / figure.reports as f64)]);
    }
    table.print();
}

/// Nanoseconds, in the unit that suits them.
fn time(ns: f64) -> String {
    match ns {
        ..1e3 => format!("{ns:.0} ns"),
        ..1e6 => format!("{:.1} µs", ns / 1e3),
        _ => format!("{:.2} ms", ns / 1e6),
    }
}
