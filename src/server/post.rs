//! `POST /reports`: many messages in, all their replies out, once each is durable or refused.

use std::str;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::collector::Collector;
use super::http::{Answer, json, problem, with};
use super::intake::{Intake, Wish};
use super::listener::Connection;
use super::replies::{Outcome, Slot, encode_unit};
use crate::access::Grant;
use crate::journal::{Append, Content, Outlet};
use crate::report::parse::MAX_MESSAGES;
use crate::report::{Echo, Marker, Parsed, Refusal, RefusalKind, parse};

/// How long a body may take to arrive, its wait for memory included.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bodies of the largest size that may be in memory at a time, over all connections.
const LARGEST_BODIES: usize = 4;
/// What a body of unknown length finds room for at a time, in bytes.
const ROOM_STEP: usize = 256 * 1024;
/// How long a body of unknown length may wait for further room, while it holds some.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// Bytes of appends that are handed to the engine at a time, so that a large request shares commits with others, and
/// takes little of `max_queued_bytes` at once. One append may be larger.
const BYTES_AT_A_TIME: usize = 64 * 1024;
/// What an append is reserved with besides its data, in bytes.
const APPEND_BYTES: usize = 128;
/// When a request that found no room may be sent again, in milliseconds.
const RETRY_BODY_MS: u64 = 1_000;

/// The memory of request bodies, in bytes, over all connections.
pub(super) struct Bodies {
    room: Semaphore,
    largest: usize,
}

impl Bodies {
    pub(super) fn new(largest: usize) -> Self {
        let largest = largest.clamp(1, u32::MAX as usize);
        Self { room: Semaphore::new((largest * LARGEST_BODIES).min(Semaphore::MAX_PERMITS)), largest }
    }

    /// Waits for room for `bytes`, or for the largest body where that is less.
    async fn room(&self, bytes: usize) -> SemaphorePermit<'_> {
        let permits = u32::try_from(bytes.min(self.largest)).expect("`new` keeps the largest body within u32");
        self.room.acquire_many(permits).await.expect("the semaphore is never closed")
    }
}

/// Why a body was not read.
#[derive(Debug, PartialEq, Eq)]
enum Unread {
    TooLarge,
    NoRoom,
    Broken,
}

/// Reads a body of at most `limit` bytes. One that says its length finds room for all of it first; another takes room
/// as its bytes come, so that it holds little while it sends nothing.
async fn read<B>(mut body: B, limit: usize, bodies: &Bodies) -> Result<(Bytes, SemaphorePermit<'_>), Unread>
where
    B: Body<Data = Bytes> + Unpin,
{
    let known = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
    let mut room = bodies.room(known.unwrap_or(ROOM_STEP)).await;
    let mut text = Vec::with_capacity(known.unwrap_or(0).min(limit));
    while let Some(frame) = body.frame().await {
        // What is not data is a trailer.
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        let bytes = text.len() + data.len();
        if bytes > limit {
            return Err(Unread::TooLarge);
        }
        if bytes > room.num_permits() {
            let step = (bytes - room.num_permits()).max(ROOM_STEP);
            // Bodies that wait for more hold what others wait for, so one that finds none soon gives its own back.
            room.merge(timeout(ROOM_WAIT, bodies.room(step)).await.map_err(|_| Unread::NoRoom)?);
        }
        text.extend_from_slice(&data);
    }
    Ok((text.into(), room))
}

/// Takes the messages of a request and answers with their replies.
pub(super) async fn take(request: Request<Incoming>, connection: &Connection, grant: &Grant) -> Answer {
    let lines = is_ndjson(request.headers().get(CONTENT_TYPE));
    let body = request.into_body();
    let limit = connection.ingest().max_request_bytes;
    if body.size_hint().lower() > limit as u64 {
        return too_large(connection);
    }
    let (text, _room) = match timeout(BODY_TIMEOUT, read(body, limit, connection.bodies())).await {
        Ok(Ok(read)) => read,
        Ok(Err(Unread::TooLarge)) => return too_large(connection),
        Ok(Err(Unread::Broken)) => return problem(StatusCode::BAD_REQUEST, "the body cannot be read"),
        Ok(Err(Unread::NoRoom)) | Err(_) => return late(),
    };
    let collector = Arc::new(Collector::default());
    let mut intake = Intake::new(Arc::clone(&collector) as Arc<dyn Outlet>, connection.peer(), 0, Instant::now());
    let mut gate = |wish: Wish| match connection.stop().is_cancelled() {
        true => Err(Refusal::shutting_down()),
        false => grant.admit(wish.id()),
    };
    sort(&text, lines, connection.ingest().max_report_bytes, &mut intake, &mut gate);
    connection.count_refused(&intake.slots);
    collector.expect(intake.slots, intake.appends.len());
    append(connection, &collector, intake.appends).await;
    let slots = collector.all().await;
    let mut replies = Vec::new();
    encode_unit(true, &slots, &mut replies);
    let answer = json(status(&slots), "application/json", replies);
    match retry_after(&slots) {
        Some(seconds) if answer.status().as_u16() >= 400 => with(answer, RETRY_AFTER, HeaderValue::from(seconds)),
        _ => answer,
    }
}

fn is_ndjson(content_type: Option<&HeaderValue>) -> bool {
    let essence = content_type.and_then(|value| value.to_str().ok()).and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/x-ndjson"))
}

/// Sorts the messages of a body: lines of one message each, or one JSON text. Either has at most [`MAX_MESSAGES`]: each
/// takes memory of its own, however short it is.
fn sort(
    body: &Bytes,
    lines: bool,
    max_message: usize,
    intake: &mut Intake,
    gate: &mut dyn FnMut(Wish) -> Result<(), Refusal>,
) {
    let unreadable = || Refusal::bad_json("the text is not UTF-8".to_owned());
    if !lines {
        match str::from_utf8(body).map(|text| parse(text, max_message)) {
            Ok(Parsed::One(item)) => intake.take(body, item, gate),
            Ok(Parsed::Many(items)) => items.into_iter().for_each(|item| intake.take(body, item, gate)),
            Err(_) => intake.refuse(&Echo::default(), unreadable()),
        }
        return;
    }
    for line in body.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        if intake.slots.len() == MAX_MESSAGES {
            return intake.refuse_all(too_many_lines());
        }
        if line.len() > max_message {
            intake.refuse(&Echo::default(), Refusal::too_large(max_message));
            continue;
        }
        match str::from_utf8(line).map(|text| parse(text, max_message)) {
            Ok(Parsed::One(item)) => intake.take(body, item, gate),
            Ok(Parsed::Many(_)) => {
                let refusal = Refusal::bad_json("a line of NDJSON is one message, not an array".to_owned());
                intake.refuse(&Echo::default(), refusal);
            }
            Err(_) => intake.refuse(&Echo::default(), unreadable()),
        }
    }
}

fn too_many_lines() -> Refusal {
    let message = format!("the body has more than {MAX_MESSAGES} lines: send them in several");
    Refusal { message, ..Refusal::too_many(MAX_MESSAGES) }
}

async fn append(connection: &Connection, collector: &Collector, appends: Vec<Append>) {
    let presence = connection.presence();
    for (some, bytes) in portions(appends) {
        // More than there can be would be waited for forever.
        let bytes = bytes.min(connection.ingest().max_queued_bytes);
        connection.engine().reserve(bytes).await;
        collector.stake(some.iter().filter_map(|append| {
            let done = append.content == Content::Marker(Marker::Done);
            Some((append.reply_to.as_ref()?.ticket, presence.stake(&append.id, done)))
        }));
        connection.engine().append(some, bytes);
    }
}

/// Cuts appends, in order, into portions of at most [`BYTES_AT_A_TIME`] or one append.
fn portions(appends: Vec<Append>) -> impl Iterator<Item = (Vec<Append>, usize)> {
    let mut appends = appends.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = appends.next()?;
        let mut bytes = size(&first);
        let mut portion = vec![first];
        while let Some(next) = appends.next_if(|next| bytes + size(next) <= BYTES_AT_A_TIME) {
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

/// The status of a whole request: 200 all kept, 207 some, and where none was, that of the first refusal.
fn status(slots: &[Slot]) -> StatusCode {
    let mut refusals = slots.iter().filter_map(Slot::refusal);
    let Some(first) = refusals.next() else { return StatusCode::OK };
    if 1 + refusals.count() < slots.len() {
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

fn late() -> Answer {
    let detail = format!("the body did not arrive, or found no room, within {} s", BODY_TIMEOUT.as_secs());
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
            status(&kinds.iter().map(|&kind| slot(kind, None)).collect::<Vec<_>>()).as_u16()
        };
        assert_eq!(code(&[]), 200);
        assert_eq!(code(&[None, None]), 200);
        assert_eq!(code(&[Some(BadJson), None]), 207);
        assert_eq!(code(&[Some(BacklogFull), Some(BadJson)]), 429);
        assert_eq!(code(&[Some(BadJson)]), 400);
    }

    #[test]
    fn retry_after_is_the_longest_that_is_asked_for() {
        assert_eq!(retry_after(&[slot(Some(BadJson), None)]), None);
        assert_eq!(retry_after(&[slot(Some(BacklogFull), Some(500)), slot(Some(BacklogFull), Some(1001))]), Some(2));
    }

    fn sorted(body: impl Into<Bytes>, lines: bool) -> Vec<Option<RefusalKind>> {
        let collector: Arc<dyn Outlet> = Arc::new(Collector::default());
        let mut intake = Intake::new(collector, [127, 0, 0, 1].into(), 0, Instant::now());
        sort(&body.into(), lines, 50, &mut intake, &mut |_| Ok(()));
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
    fn ndjson_is_known_by_its_content_type() {
        let is = |value| is_ndjson(Some(&HeaderValue::from_static(value)));
        assert!(is("application/x-ndjson") && is("Application/X-NDJSON; charset=utf-8"));
        assert!(!is("application/json") && !is_ndjson(None));
    }

    #[test]
    fn a_large_request_is_appended_in_portions() {
        let append = |bytes: usize| {
            let data = Some(Bytes::from(vec![b' '; bytes - APPEND_BYTES]));
            let draft = Draft { seq: None, time: None, code: 0, peer: None, data };
            Append { id: Id::new("a").expect("an id"), content: Content::Report(draft), reply_to: None }
        };
        let half = BYTES_AT_A_TIME / 2;
        let appends = [half, half, 200, 2 * BYTES_AT_A_TIME, 200, 200].map(append).into();
        let sizes: Vec<_> = portions(appends).map(|(portion, bytes)| (portion.len(), bytes)).collect();
        assert_eq!(sizes, [(2, 2 * half), (1, 200), (1, 2 * BYTES_AT_A_TIME), (2, 400)]);
        assert_eq!(portions(Vec::new()).count(), 0);
    }

    #[tokio::test]
    async fn bodies_share_a_bound_of_memory() {
        let bodies = Bodies::new(10);
        let held = bodies.room(10).await;
        let _also = bodies.room(25).await;
        let _small = bodies.room(15).await;
        let _last = bodies.room(10).await;
        assert!(timeout(Duration::from_millis(10), bodies.room(1)).await.is_err());
        drop(held);
        let _freed = bodies.room(10).await;
    }

    /// A body of `bytes` in parts of a step, which does not say its length; it never ends where `stalls`.
    fn chunked(bytes: usize, stalls: bool) -> impl Body<Data = Bytes> + Unpin {
        let parts = (0..bytes.div_ceil(ROOM_STEP)).map(move |at| {
            let part = vec![b' '; ROOM_STEP.min(bytes - at * ROOM_STEP)];
            Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from(part)))
        });
        let mut parts = parts.collect::<Vec<_>>().into_iter();
        http_body_util::StreamBody::new(futures_util::stream::poll_fn(move |_| match parts.next() {
            None if stalls => std::task::Poll::Pending,
            next => std::task::Poll::Ready(next),
        }))
    }

    /// Four that sent nothing once kept everybody else out.
    #[tokio::test]
    async fn slow_bodies_of_unknown_length_hold_what_they_sent() {
        let bodies = Bodies::new(4 * ROOM_STEP);
        let slow = || read(chunked(10, true), 4 * ROOM_STEP, &bodies);
        let others = async {
            let (text, room) = read(chunked(2 * ROOM_STEP + 1, false), 4 * ROOM_STEP, &bodies).await.expect("room");
            assert_eq!((text.len(), room.num_permits()), (2 * ROOM_STEP + 1, 3 * ROOM_STEP));
        };
        tokio::select! {
            biased;
            _ = async { tokio::join!(slow(), slow(), slow(), slow()) } => panic!("they never end"),
            () = others => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_of_unknown_length_keep_their_bounds() {
        let bodies = Bodies::new(2 * ROOM_STEP);
        let large = read(chunked(2 * ROOM_STEP + 1, false), 2 * ROOM_STEP, &bodies).await;
        assert_eq!(large.map(|(text, _)| text.len()), Err(Unread::TooLarge));
        let _held = tokio::join!(bodies.room(2 * ROOM_STEP), bodies.room(2 * ROOM_STEP), bodies.room(2 * ROOM_STEP));
        let _most = bodies.room(ROOM_STEP).await;
        let crowded = read(chunked(2 * ROOM_STEP, false), 2 * ROOM_STEP, &bodies).await;
        assert_eq!(crowded.map(|(text, _)| text.len()), Err(Unread::NoRoom));
        assert_eq!(read(chunked(9, false), 9, &bodies).await.map(|(text, _)| text.len()), Ok(9));
    }
}
