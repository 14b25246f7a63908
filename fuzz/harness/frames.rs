//! Target `frames`: what comes out of a WebSocket for what goes into it, with a stand-in for the journal behind it.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay::config::{Ingest, Settings};
use forebay::ingest::alone;
use forebay::report::{Number, Op, Parsed, Refusal, Rejected, parse, reply};
use serde_json::value::RawValue;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::stand_ins::{Commits, Input, Kept, NODE, Output, StandIn};
use super::wire::{self, End};

/// Longest message.
const MAX: usize = 512;

/// How a case goes, from the first two bytes of its input.
struct Case {
    /// Bytes that one read gives at most, each after a wait, or all at once.
    chunk: Option<usize>,
    commits: Commits,
    /// The client takes so many bytes and then none.
    stalls_after: Option<usize>,
    /// The node stops when so many bytes were read.
    stops_at: Option<usize>,
    /// The client ends with silence, not with the end of its half.
    silent: bool,
    window: usize,
    max_ids: usize,
    /// What the client sends.
    bytes: Vec<u8>,
}

impl Case {
    fn new(input: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = input else { return None };
        let flag = |bit: u8| first >> bit & 1 == 1;
        let commits = match first >> 2 & 3 {
            0 => Commits::AtOnce,
            1 => Commits::Later,
            2 => Commits::RefusingSome,
            _ => Commits::Never,
        };
        let places = usize::from(second >> 3) * 16;
        Some(Self {
            chunk: [None, Some(1), Some(7), Some(64)][usize::from(first & 3)],
            stalls_after: flag(4).then_some(places),
            stops_at: flag(5).then_some(places),
            silent: flag(7),
            window: 1 + usize::from(second & 3),
            max_ids: 1 + usize::from(second >> 2 & 1) * 2,
            bytes: if flag(6) { framed(rest) } else { rest.to_vec() },
            commits,
        })
    }

    /// Whether nothing but the client ends it, and all is answered and taken.
    fn is_calm(&self) -> bool {
        self.stalls_after.is_none() && self.stops_at.is_none() && self.commits != Commits::Never
    }
}

/// Each line as a message; one that begins with `~` in two fragments, around a ping.
fn framed(lines: &[u8]) -> Vec<u8> {
    let message = |line: &[u8]| match line {
        [b'~', line @ ..] => {
            let (head, tail) = line.split_at(line.len() / 2);
            [wire::frame(false, 1, head), wire::frame(true, 9, b"!"), wire::frame(true, 0, tail)].concat()
        }
        line => wire::frame(true, 1, line),
    };
    lines.split(|byte| *byte == b'\n').flat_map(message).collect()
}

/// No panic and no hang; each whole message has one reply, in order, as JSON that repeats what it must; a connection
/// ends as RFC 6455 says; markers are left for the ids that are owed one, and no others.
///
/// The input is two bytes for [`Case`], and what the client sends.
pub fn frames(input: &[u8]) {
    let Some(case) = Case::new(input) else { return };
    let (out, kept) = run(&case);
    let (messages, end) = wire::messages(&case.bytes, MAX);
    let mut check = Check { expected: Vec::new(), acked_dones: 0, events: 0, close: None };
    check.expected = messages.iter().rev().map(|text| parse(text, MAX)).collect();
    if end == End::Broken(&[1009]) {
        let refusal = Refusal::too_large(MAX);
        check.expected.insert(0, Parsed::One(Err(Rejected { echo: Default::default(), refusal })));
    }
    for (opcode, payload) in wire::replies(&out) {
        check.frame(opcode, payload);
    }
    let proper: &[Option<u16>] = match end {
        End::Eof if case.silent => &[Some(1001)],
        End::Eof => &[None],
        End::Closed(code) => &[Some(code.unwrap_or(0))],
        End::Broken(codes) => &codes.iter().map(|code| Some(*code)).collect::<Vec<_>>(),
    };
    if case.is_calm() {
        assert!(check.expected.is_empty(), "{} messages have no reply", check.expected.len());
        assert!(proper.contains(&check.close), "closed with {:?} after {end:?}", check.close);
        assert_eq!(kept.marked(), kept.owed());
        assert!(case.commits != Commits::AtOnce || check.events == check.acked_dones, "each done has its event");
    } else if case.stalls_after.is_none() {
        assert!(check.close == Some(1001) || proper.contains(&check.close), "closed with {:?}", check.close);
    }
}

thread_local! {
    /// Its clock stands still until nobody has anything else to do.
    static RUNTIME: RefCell<Runtime> = RefCell::new(
        Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime without a driver"),
    );
    static INGEST: Ingest = Settings::default().ingest;
}

/// What the client gets, and what was kept.
fn run(case: &Case) -> (Vec<u8>, Kept) {
    let ingest = Ingest {
        max_report_bytes: MAX,
        max_in_flight: case.window,
        max_ids_per_connection: case.max_ids,
        max_waiting_dones: 2 * case.max_ids,
        idle_timeout: Duration::from_secs(60),
        ..INGEST.with(Clone::clone)
    };
    let stop = CancellationToken::new();
    let out = Arc::<Mutex<Vec<u8>>>::default();
    let input = Input::new(case.bytes.clone(), case.chunk, case.silent, case.stops_at, stop.clone());
    let output = Output::new(Arc::clone(&out), case.stalls_after);
    let keeper = StandIn::new(case.commits);
    let session = alone(ingest, keeper.clone(), stop.clone(), input, output);
    let node = async {
        if case.commits == Commits::Never {
            // A journal that answers nothing has failed, and its node stops.
            tokio::time::sleep(Duration::from_secs(30)).await;
            stop.cancel();
        }
        keeper.commit().await
    };
    let limit = Duration::from_secs(3600);
    RUNTIME.with_borrow_mut(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                ended = timeout(limit, session) => ended.expect("the session hangs"),
                () = node => {}
            }
        });
    });
    let out = std::mem::take(&mut *out.lock().expect("nobody panicked"));
    (out, keeper.kept())
}

struct Check<'a> {
    /// Messages whose reply has not come, the next at the end.
    expected: Vec<Parsed<'a>>,
    acked_dones: usize,
    events: usize,
    /// The code of the close frame; 0 for one without.
    close: Option<u16>,
}

impl Check<'_> {
    fn frame(&mut self, opcode: u8, payload: &[u8]) {
        assert!(self.close.is_none(), "nothing follows a close frame");
        match opcode {
            1 => self.text(std::str::from_utf8(payload).expect("UTF-8")),
            8 => self.close = Some(payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code))),
            _ => assert!(payload.len() <= 125),
        }
    }

    fn text(&mut self, text: &str) {
        if text.starts_with(r#"{"op":"done""#) {
            self.events += 1;
            assert!(self.events <= self.acked_dones, "an event before its ack");
            serde_json::from_str::<&RawValue>(text).expect("JSON");
            return;
        }
        match self.expected.pop().expect("a reply to no message") {
            Parsed::One(item) => self.reply(&item, text),
            Parsed::Many(items) => {
                let replies: Vec<&RawValue> = serde_json::from_str(text).expect("an array");
                assert_eq!(replies.len(), items.len());
                items.iter().zip(replies).for_each(|(item, reply)| self.reply(item, reply.get()));
            }
        }
    }

    fn reply(&mut self, item: &Result<forebay::report::Message<'_>, Rejected<'_>>, text: &str) {
        let mut expected = Vec::new();
        let message = match item {
            Ok(message) => message,
            Err(Rejected { echo, refusal }) => {
                reply::error(&mut expected, echo, refusal);
                return assert_eq!(text.as_bytes(), expected);
            }
        };
        let got: serde_json::Value = serde_json::from_str(text).expect("JSON");
        if got["op"] == "error" {
            assert!(message.op != Op::Ping && [429, 503].contains(&got["code"].as_u64().expect("a code")));
            reply::error(&mut expected, &message.echo, &Refusal::shutting_down());
            let code = expected.windows(8).position(|at| at == br#","code":"#).expect("every error has one");
            return assert!(text.as_bytes().starts_with(&expected[..code]));
        }
        match message.op {
            Op::Ping => reply::pong(&mut expected, &message.echo),
            Op::Done { .. } => {
                self.acked_dones += 1;
                reply::ack(&mut expected, &message.echo, None);
            }
            Op::Report { seq, .. } => {
                let by_node = || Number { source: NODE, seq: got["seq"].as_u64().expect("a number") };
                let number = seq.map_or_else(by_node, |seq| Number { source: 0, seq });
                reply::ack(&mut expected, &message.echo, Some(number));
            }
        }
        assert_eq!(text.as_bytes(), expected);
    }
}
