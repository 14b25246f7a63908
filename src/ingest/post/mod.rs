//! `POST /reports`: many messages in, all their replies out, once each is durable or refused.

mod body;
mod options;

use std::str;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT_ENCODING, HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};
use tokio::time::{Instant, sleep, timeout};

use super::budget::Hold;
use super::collector::Collector;
use super::dones::OwnDones;
use super::http::{Answer, answer, json, problem, with};
use super::intake::{APPEND_BYTES, Effect, Intake};
use super::listener::Connection;
use super::payload::Payload;
use super::replies::{Outcome, Slot, encode_unit};
use crate::access::Grant;
use crate::journal::{Append, Content, Outlet};
use crate::report::parse::MAX_MESSAGES;
use crate::report::{Echo, Marker, Parsed, Refusal, RefusalKind, Rules, parse};
use body::Unread;
use options::Options;

/// How long a body may take to arrive, its wait for memory included.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A body that says that it has more bytes than these waits for its turn.
const LARGE_BODY: u64 = 1 << 20;
/// How long it waits.
const TURN_WAIT: Duration = Duration::from_secs(2);
/// How long a request waits for the memory of its replies.
const REPLY_WAIT: Duration = Duration::from_secs(10);
/// Bytes of appends that are handed to the service at a time, so that a large request shares commits with others, and
/// takes little of `max_queued_bytes` at once. One append may be larger.
const BYTES_AT_A_TIME: usize = 128 * 1024;
/// What a text may begin with to say that it is UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";
const NOT_GZIP: &str = "the body is not what gzip makes: it is cut, damaged, or something follows it";
/// When a request that found no room may be sent again, in milliseconds.
const RETRY_BODY_MS: u64 = 1_000;

/// Takes the messages of a request and answers with their replies.
pub(super) async fn take(request: Request<Incoming>, connection: &Connection, grant: &Grant) -> Answer {
    let options = match Options::read(request.uri().query()) {
        Ok(options) => options,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, &detail),
    };
    let lines = options::is_lines(request.headers());
    let Some(is_gzip) = options::is_gzip(request.headers()) else {
        let answer = problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Encoding may be gzip and nothing else");
        return with(answer, ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    };
    let body = request.into_body();
    let limit = connection.ingest().max_request_bytes;
    if body.size_hint().lower() > limit as u64 {
        return too_large(connection);
    }
    // Large ones come a few at a time, so that they do not wait for each other's memory; one that is slow is not waited
    // for.
    let is_large = body.size_hint().lower() > LARGE_BODY;
    let turn = if is_large { timeout(TURN_WAIT, connection.turns().acquire()).await.ok() } else { None };
    let mut hold = Hold::new(connection.bodies());
    let reading = async {
        let text = body::read(body, limit, &mut hold).await?;
        if is_gzip { body::inflate(&text, limit, &mut hold).await } else { Ok(text) }
    };
    let text = match timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(text)) => text,
        Ok(Err(Unread::TooLarge)) => return too_large(connection),
        Ok(Err(Unread::Broken)) => return problem(StatusCode::BAD_REQUEST, "the body cannot be read"),
        Ok(Err(Unread::NotGzip)) => return problem(StatusCode::BAD_REQUEST, NOT_GZIP),
        Ok(Err(Unread::NoRoom | Unread::Slow)) | Err(_) => return late(),
    };
    drop(turn);
    let text = if text.starts_with(BOM) { text.slice(BOM.len()..) } else { text };
    answered((text, hold), lines, options, connection, grant).await
}

/// Appends the messages of a body, and answers with their replies.
async fn answered(
    (text, hold): (Bytes, Hold),
    lines: bool,
    options: Options,
    connection: &Connection,
    grant: &Grant,
) -> Answer {
    let ingest = connection.ingest();
    let rules = Rules { same_id: ingest.same_id, ..Rules::from(ingest.max_report_bytes) };
    let collector = Arc::new(Collector::default());
    let sorted = || {
        let mut intake = Intake::new(Arc::clone(&collector) as Arc<dyn Outlet>, connection.peer(), 0, Instant::now());
        let mut dones = 0;
        let mut gate = |effect: Effect| {
            if connection.stop().is_cancelled() {
                return Err(Refusal::shutting_down());
            }
            grant.admit(effect.id())?;
            if options.wait.is_some() && matches!(effect, Effect::Done(_)) {
                connection.dones().admit(dones, dones)?;
                dones += 1;
            }
            Ok(())
        };
        sort(&text, lines, rules, &mut intake, &mut gate);
        if options.atomic {
            intake.refuse_with_others();
        }
        intake
    };
    let mut memory = Hold::new(connection.replies());
    let Some(intake) = with_memory(sorted, &mut memory).await else { return no_memory(connection) };
    connection.count_refused(&intake.slots);
    let mut waiting = OwnDones::new(connection.dones());
    if options.wait.is_some() {
        waiting.set(intake.slots.iter().filter(|slot| slot.done).count());
    }
    collector.expect(intake.slots, intake.appends.len());
    append(connection, &collector, intake.appends, options.atomic).await;
    let mut slots = collector.all().await;
    // Nothing that is appended is a slice of the text any more.
    drop((text, hold));
    let mut status = status(&slots, options.atomic);
    if let Some(time) = options.wait
        && !drained(&mut slots, &collector, time, connection, grant).await
    {
        status = StatusCode::ACCEPTED;
    }
    reply(status, slots, memory)
}

/// Answers each `done` that was kept with where its reports ended, as far as that comes in time, and while the client
/// is there and may know; whether all did.
async fn drained(
    slots: &mut [Slot],
    collector: &Collector,
    time: Duration,
    connection: &Connection,
    grant: &Grant,
) -> bool {
    let is_waiting = |slot: &&Slot| slot.done && matches!(slot.outcome, Outcome::Kept(..));
    let count = slots.iter().filter(is_waiting).count();
    tokio::select! {
        biased;
        () = collector.all_drained(count) => {}
        () = sleep(time) => {}
        () = async {}, if cfg!(forebay_plant = "answer_at_once") => {}
        () = connection.stop().cancelled() => {}
        () = connection.departure().wait() => {}
        () = grant.ends() => {}
    }
    let drained = collector.drained_now();
    for (ticket, drained) in &drained {
        if let Some(slot) = usize::try_from(*ticket).ok().and_then(|at| slots.get_mut(at)) {
            slot.outcome = Outcome::Drained(*drained);
        }
    }
    drained.len() >= count
}

/// What `sorted` makes of a body, once there is memory for it. Until then nothing of it is kept: the body alone waits.
async fn with_memory(sorted: impl Fn() -> Intake, memory: &mut Hold) -> Option<Intake> {
    let mut intake = sorted();
    while !memory.try_fit(intake.bytes()) {
        let bytes = intake.bytes();
        drop(intake);
        timeout(REPLY_WAIT, memory.fit(bytes)).await.ok()?;
        intake = sorted();
    }
    Some(intake)
}

/// The answer to a request with these replies; what it takes is let go of when it is written.
fn reply(status: StatusCode, slots: Vec<Slot>, mut memory: Hold) -> Answer {
    let mut replies = Vec::new();
    encode_unit(true, &slots, &mut replies);
    let retry_after = retry_after(&slots);
    drop(slots);
    memory.shrink_to(replies.len());
    let answer = answer(status, "application/json", Payload::held(replies, memory));
    match retry_after {
        Some(seconds) if answer.status().as_u16() >= 400 => with(answer, RETRY_AFTER, HeaderValue::from(seconds)),
        _ => answer,
    }
}

/// Sorts the messages of a body: lines of one message each, or one JSON text. Either has at most [`MAX_MESSAGES`]: each
/// takes memory of its own, however short it is.
fn sort(
    body: &Bytes,
    lines: bool,
    rules: Rules,
    intake: &mut Intake,
    gate: &mut dyn FnMut(Effect) -> Result<(), Refusal>,
) {
    let unreadable = || Refusal::bad_json("the text is not UTF-8".to_owned());
    if !lines {
        match str::from_utf8(body).map(|text| parse(text, rules)) {
            Ok(Parsed::One(item)) => intake.take(body, item, gate),
            Ok(Parsed::Many(items)) => items.into_iter().for_each(|item| intake.take(body, item, gate)),
            Err(_) => intake.refuse(&Echo::default(), unreadable()),
        }
        if looks_like_lines(body, rules) && intake.slots.iter().all(|slot| slot.refusal().is_some()) {
            intake.refuse_all(lines_as_json());
        }
        return;
    }
    for line in body.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        if intake.slots.len() == MAX_MESSAGES {
            return intake.refuse_all(too_many_lines());
        }
        if line.len() > rules.max_message {
            intake.refuse(&Echo::default(), Refusal::too_large(rules.max_message));
            continue;
        }
        match str::from_utf8(line).map(|text| parse(text, rules)) {
            Ok(Parsed::One(item)) => intake.take(body, item, gate),
            Ok(Parsed::Many(_)) => {
                let refusal = Refusal::bad_json("a line of NDJSON is one message, not an array".to_owned());
                intake.refuse(&Echo::default(), refusal);
            }
            Err(_) => intake.refuse(&Echo::default(), unreadable()),
        }
    }
}

/// Whether a body that is no JSON text has a message in its first line, and more behind it.
fn looks_like_lines(body: &[u8], rules: Rules) -> bool {
    let mut lines = body.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let (Some(first), Some(_)) = (lines.next(), lines.next()) else { return false };
    first.starts_with(b"{")
        && str::from_utf8(first).is_ok_and(|first| matches!(parse(first, rules), Parsed::One(Ok(_))))
}

fn lines_as_json() -> Refusal {
    let message = "the body is no JSON text, but has one in each line: send it with Content-Type: application/x-ndjson";
    Refusal::bad_json(message.to_owned())
}

fn too_many_lines() -> Refusal {
    let message = format!("the body has more than {MAX_MESSAGES} lines: send them in several");
    Refusal { message, ..Refusal::too_many(MAX_MESSAGES) }
}

async fn append(connection: &Connection, collector: &Collector, appends: Vec<Append>, together: bool) {
    let presence = connection.presence();
    for (some, bytes) in portions(appends, if together { usize::MAX } else { BYTES_AT_A_TIME }) {
        // More than there can be would be waited for forever.
        let bytes = bytes.min(connection.ingest().max_queued_bytes);
        connection.service().reserve(bytes).await;
        collector.pending(some.iter().filter_map(|append| {
            let done = append.content == Content::Marker(Marker::Done);
            Some((append.reply_to.as_ref()?.ticket, presence.pending(&append.id, done)))
        }));
        match together {
            true => connection.service().append_together(some, bytes),
            false => connection.service().append(some, bytes),
        }
    }
}

/// Cuts appends, in order, into portions of at most `most` bytes or one append.
fn portions(appends: Vec<Append>, most: usize) -> impl Iterator<Item = (Vec<Append>, usize)> {
    let mut appends = appends.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = appends.next()?;
        let mut bytes = size(&first);
        let mut portion = vec![first];
        while let Some(next) = appends.next_if(|next| bytes + size(next) <= most) {
            bytes += size(&next);
            portion.push(next);
        }
        Some((portion, bytes))
    })
}

fn size(append: &Append) -> usize {
    match &append.content {
        Content::Report(draft) => APPEND_BYTES + draft.data.as_ref().map_or(0, Bytes::len),
        Content::Marker(_) => APPEND_BYTES,
    }
}

/// The status of a whole request: 200 all kept, 207 some, and where none was, or all were to be, that of the first
/// refusal.
fn status(slots: &[Slot], atomic: bool) -> StatusCode {
    let mut refusals = slots.iter().filter_map(Slot::refusal);
    let Some(first) = refusals.next() else { return StatusCode::OK };
    if !atomic && 1 + refusals.count() < slots.len() {
        return StatusCode::MULTI_STATUS;
    }
    StatusCode::from_u16(first.kind.code()).expect("every refusal's code is a status of HTTP")
}

/// The longest wait that a refusal asks for, in whole seconds.
fn retry_after(slots: &[Slot]) -> Option<u64> {
    slots
        .iter()
        .filter_map(Slot::refusal)
        .filter_map(|refusal| refusal.retry_after_ms)
        .max()
        .map(|ms| ms.div_ceil(1000))
}

fn too_large(connection: &Connection) -> Answer {
    let limit = connection.ingest().max_request_bytes;
    let message = format!("the request has more than {limit} bytes (max_request_bytes): send it in parts");
    let refusal = Refusal { kind: RefusalKind::TooLarge, field: None, message, retry_after_ms: None };
    let slots = [Slot::new(&Echo::default(), Outcome::Refused(Box::new(refusal)))];
    connection.count_refused(&slots);
    let mut replies = Vec::new();
    encode_unit(true, &slots, &mut replies);
    json(StatusCode::PAYLOAD_TOO_LARGE, "application/json", replies)
}

/// The answer to a request whose replies find no memory.
fn no_memory(connection: &Connection) -> Answer {
    let message = format!(
        "the replies of all connections take what they may (max_reply_bytes): send it again after {RETRY_BODY_MS} ms"
    );
    let retry_after_ms = Some(RETRY_BODY_MS);
    let refusal = Refusal { kind: RefusalKind::BacklogFull, field: None, message, retry_after_ms };
    let slots = vec![Slot::new(&Echo::default(), Outcome::Refused(Box::new(refusal)))];
    connection.count_refused(&slots);
    reply(StatusCode::TOO_MANY_REQUESTS, slots, Hold::new(connection.replies()))
}

fn late() -> Answer {
    let detail = format!("the body came too slowly, or found no memory, within {} s", BODY_TIMEOUT.as_secs());
    let answer = problem(StatusCode::REQUEST_TIMEOUT, &detail);
    with(answer, RETRY_AFTER, HeaderValue::from(RETRY_BODY_MS.div_ceil(1000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::RefusalKind::{BacklogFull, BadJson};
    use crate::report::{Draft, Id, Position};

    fn slot(kind: Option<RefusalKind>, retry_after_ms: Option<u64>) -> Slot {
        let refused = |kind| Refusal { kind, field: None, message: String::new(), retry_after_ms };
        let outcome = kind.map_or(Outcome::Kept(None, Position(1)), |kind| Outcome::Refused(Box::new(refused(kind))));
        Slot::new(&Echo::default(), outcome)
    }

    #[test]
    fn the_status_says_whether_all_some_or_none_was_kept() {
        let code = |kinds: &[Option<RefusalKind>]| {
            status(&kinds.iter().map(|&kind| slot(kind, None)).collect::<Vec<_>>(), false).as_u16()
        };
        assert_eq!(code(&[]), 200);
        assert_eq!(code(&[None, None]), 200);
        assert_eq!(code(&[Some(BadJson), None]), 207);
        assert_eq!(code(&[Some(BacklogFull), Some(BadJson)]), 429);
        assert_eq!(code(&[Some(BadJson)]), 400);
        let pong = Slot::new(&Echo::default(), Outcome::Pong);
        assert_eq!(status(&[pong, slot(Some(BacklogFull), None)], true).as_u16(), 429);
    }

    #[test]
    fn retry_after_is_the_longest_that_is_asked_for() {
        assert_eq!(retry_after(&[slot(Some(BadJson), None)]), None);
        assert_eq!(retry_after(&[slot(Some(BacklogFull), Some(500)), slot(Some(BacklogFull), Some(1001))]), Some(2));
    }

    fn sorted(body: impl Into<Bytes>, lines: bool) -> Vec<Option<RefusalKind>> {
        let collector: Arc<dyn Outlet> = Arc::new(Collector::default());
        let mut intake = Intake::new(collector, [127, 0, 0, 1].into(), 0, Instant::now());
        sort(&body.into(), lines, 50.into(), &mut intake, &mut |_| Ok(()));
        assert!(intake.appends.len() <= intake.slots.len(), "no append is without a slot");
        intake.slots.iter().map(|slot| slot.refusal().map(|refusal| refusal.kind)).collect()
    }

    #[test]
    fn each_line_of_ndjson_is_a_message() {
        let body = "{\"op\":\"ping\"}\r\n\n  \nnonsense\n[{\"op\":\"ping\"}]\n{\"op\":\"report\",\"id\":1}";
        assert_eq!(sorted(body, true), [None, Some(BadJson), Some(BadJson), None]);
        assert_eq!(sorted("", true), []);
        let long = "{\"op\":\"ping\",\"x\":\"012345678901234567890123456789012345678901234567890\"}";
        assert_eq!(sorted(long, true), [Some(RefusalKind::TooLarge)]);
    }

    /// Lines were once not counted: 8 MiB of `7` took a gigabyte.
    #[test]
    fn lines_of_ndjson_are_bounded_as_arrays_are() {
        let report = "{\"op\":\"report\",\"id\":1}\n";
        let most = format!("{report}{}", "7\n\n".repeat(MAX_MESSAGES - 1));
        assert_eq!(sorted(most.clone(), true).len(), MAX_MESSAGES);
        assert_eq!(sorted(most + report, true), [Some(RefusalKind::TooLarge)]);
    }

    #[test]
    fn a_body_of_json_is_a_message_or_an_array() {
        assert_eq!(sorted("{\"op\":\"ping\"}", false), [None]);
        assert_eq!(sorted("[{\"op\":\"ping\"},7]", false), [None, Some(BadJson)]);
        assert_eq!(sorted("[]", false), []);
        assert_eq!(sorted("", false), [Some(BadJson)]);
    }

    #[test]
    fn lines_that_are_sent_as_json_are_told_their_type() {
        let told = |body: &'static str| {
            let collector: Arc<dyn Outlet> = Arc::new(Collector::default());
            let mut intake = Intake::new(collector, [127, 0, 0, 1].into(), 0, Instant::now());
            sort(&body.into(), false, 50.into(), &mut intake, &mut |_| Ok(()));
            let refusal = intake.slots[0].refusal().map(|refusal| refusal.message.clone());
            assert_eq!(intake.slots.len(), 1);
            refusal.is_some_and(|message| message.contains("application/x-ndjson"))
        };
        assert!(told("{\"op\":\"ping\"}\n{\"op\":\"ping\"}\n") && told("\n{\"op\":\"ping\"}\r\n\r\nx"));
        assert!(!told("{\"op\":\n\"ping\"}") && !told("{\"op\":\"ping\"}") && !told("{\n}") && !told("x\ny"));
    }

    #[test]
    fn a_large_request_is_appended_in_portions() {
        let append = |bytes: usize| {
            let data = Some(Bytes::from(vec![b' '; bytes - APPEND_BYTES]));
            let draft = Draft { seq: None, time: None, code: 0, peer: None, data };
            Append { id: Id::new("a").expect("an id"), content: Content::Report(draft), reply_to: None }
        };
        let half = BYTES_AT_A_TIME / 2;
        let appends = [half, half, 600, 2 * BYTES_AT_A_TIME, 600, 600].map(append).into();
        let sizes: Vec<_> = portions(appends, BYTES_AT_A_TIME).map(|(portion, bytes)| (portion.len(), bytes)).collect();
        assert_eq!(sizes, [(2, 2 * half), (1, 600), (1, 2 * BYTES_AT_A_TIME), (2, 1200)]);
        assert_eq!(portions(Vec::new(), 1).count(), 0);
    }
}
