//! The outbox as its three sides see it.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::batch::KEPT_JSON;
use super::super::presence::{Attendance, PendingAppend, Presence};
use super::super::write_half::WriteHalf;
use super::super::writer;
use super::*;
use crate::access::{Access, Scope, TokenHash, Tokens};
use crate::report::{Echo, Id, Key, LetterKind, Number, Position, Refusal};

const DRAINED: Drained = Drained { reports: 42, dead: 1 };

fn outbox_of(messages: usize) -> Outbox {
    Outbox::new(Weight { messages, bytes: usize::MAX }, &Budget::new(1 << 20), &Dones::new(100))
}

fn push(outbox: &Outbox, array: bool, first: u64, slots: &mut Vec<Slot>) {
    let bytes = slots.iter().map(Slot::bytes).sum();
    outbox.push(array, first, slots, bytes);
}

fn slots(ids: &[&str]) -> Vec<Slot> {
    ids.iter().map(|id| Slot::new(&Echo { id: Some(id), reference: None }, Outcome::Waiting)).collect()
}

fn kept(outbox: &Outbox, tickets: &[u64]) {
    let number = Some(Number { source: 0, seq: 1 });
    outbox.settle(&mut tickets.iter().map(|&ticket| (ticket, Outcome::Kept(number, Position(ticket)))), false);
}

/// The frames of one write: opcode and payload.
fn write(outbox: &Outbox) -> (Vec<(u8, String)>, bool) {
    let mut batch = Batch::default();
    if !outbox.try_take(&mut batch) {
        return (Vec::new(), false);
    }
    let mut bytes = Vec::new();
    batch.encode(&mut bytes);
    let last = batch.last;
    outbox.written(&mut batch);
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while let [head, len, body @ ..] = rest {
        let (len, body) = match len {
            126 => (usize::from(u16::from_be_bytes([body[0], body[1]])), &body[2..]),
            len => (usize::from(*len), body),
        };
        let payload = &body[..len];
        let text = if *head == 0x88 { format!("{payload:?}") } else { String::from_utf8_lossy(payload).into() };
        frames.push((head & 0x0f, text));
        rest = &body[len..];
    }
    (frames, last)
}

fn ops(frames: &[(u8, String)]) -> Vec<String> {
    let op = |text: &String| {
        let json: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let say = |reply: &serde_json::Value| format!("{} {}", reply["op"].as_str().expect("op"), reply["id"]);
        json.as_array().map_or_else(|| say(&json), |all| all.iter().map(say).collect::<Vec<_>>().join(","))
    };
    frames.iter().map(|(_, text)| op(text)).collect()
}

#[test]
fn replies_leave_in_the_order_of_messages_and_in_one_write() {
    let outbox = outbox_of(10);
    push(&outbox, false, 0, &mut slots(&["1"]));
    push(&outbox, true, 1, &mut slots(&["2", "3"]));
    let refusal = Outcome::Refused(Box::new(Refusal::shutting_down()));
    push(&outbox, false, 3, &mut vec![Slot::new(&Echo { id: Some("4"), reference: None }, refusal)]);
    kept(&outbox, &[1, 2]);
    assert!(write(&outbox).0.is_empty());
    kept(&outbox, &[0]);
    assert_eq!(ops(&write(&outbox).0), ["ack 1", "ack 2,ack 3", "error 4"]);
}

/// The room of the largest batch was once kept for as long as the connection.
#[test]
fn room_of_a_large_batch_is_given_back() {
    let outbox = outbox_of(10);
    push(&outbox, true, 0, &mut slots(&vec!["1"; 20 * KEPT_SLOTS]));
    kept(&outbox, &(0..20 * KEPT_SLOTS as u64).collect::<Vec<_>>());
    let mut batch = Batch::default();
    assert!(outbox.try_take(&mut batch));
    assert!(batch.slots.capacity() >= 20 * KEPT_SLOTS);
    let mut bytes = Vec::new();
    batch.encode(&mut bytes);
    assert!(bytes.len() > KEPT_JSON);
    // Already before it is written: the client may take it slowly.
    assert!(batch.json.capacity() <= KEPT_JSON && batch.slots.capacity() <= KEPT_SLOTS);
}

#[test]
fn the_window_opens_when_replies_are_written() {
    let outbox = outbox_of(2);
    push(&outbox, false, 0, &mut slots(&["1"]));
    assert!(outbox.room_now().is_some());
    push(&outbox, true, 1, &mut Vec::new());
    assert!(outbox.room_now().is_none());
    kept(&outbox, &[0]);
    assert!(outbox.room_now().is_none());
    assert_eq!(write(&outbox).0.len(), 2);
    assert!(outbox.room_now().is_some());
}

#[test]
fn a_done_event_follows_the_ack_of_its_message() {
    let outbox = outbox_of(10);
    push(&outbox, false, 0, &mut slots(&["1"]));
    let mut done = slots(&["2"]);
    done[0].done = true;
    push(&outbox, false, 1, &mut done);
    kept(&outbox, &[1]);
    outbox.drained(1, DRAINED);
    assert!(write(&outbox).0.is_empty());
    kept(&outbox, &[0]);
    let (frames, _) = write(&outbox);
    assert_eq!(ops(&frames), ["ack 1", "ack 2", "done 2"]);
    assert!(frames[2].1.contains("\"reports\":42,\"dead\":1"));
    outbox.drained(1, DRAINED);
    outbox.drained(0, DRAINED);
    assert!(write(&outbox).0.is_empty());
}

#[test]
fn a_refused_done_waits_for_no_event() {
    let outbox = outbox_of(10);
    let mut done = slots(&["2"]);
    done[0].done = true;
    push(&outbox, false, 0, &mut done);
    assert_eq!(outbox.waiting_dones(), 1);
    outbox.settle(&mut [(0, Outcome::Refused(Box::new(Refusal::shutting_down())))].into_iter(), false);
    assert_eq!(outbox.waiting_dones(), 0);
}

#[test]
fn a_close_is_the_last_frame_and_waits_for_replies() {
    let outbox = outbox_of(10);
    push(&outbox, false, 0, &mut slots(&["1"]));
    outbox.finish(Some(CloseFrame::new(1001, "")));
    outbox.pong(Bytes::from_static(b"x"));
    assert_eq!(write(&outbox), (vec![(10, "x".to_owned())], false));
    kept(&outbox, &[0]);
    let (frames, last) = write(&outbox);
    assert!(last);
    assert_eq!(frames[1], (8, "[3, 233]".to_owned()));
    outbox.ping();
    kept(&outbox, &[0]);
    assert!(outbox.is_gone());
}

#[test]
fn a_close_can_be_cut_short() {
    let outbox = outbox_of(1);
    push(&outbox, false, 0, &mut slots(&["1"]));
    outbox.finish(None);
    assert!(write(&outbox).0.is_empty());
    outbox.cut();
    assert_eq!(write(&outbox), (Vec::new(), true));
}

fn pending_slots(id: &str, done: bool, pending: PendingAppend) -> Vec<Slot> {
    let mut slots = slots(&[id]);
    slots[0].done = done;
    slots[0].pending = Some(pending);
    slots
}

fn refused(outbox: &Outbox, ticket: u64) {
    outbox.settle(&mut [(ticket, Outcome::Refused(Box::new(Refusal::shutting_down())))].into_iter(), false);
}

fn marks(attendance: Attendance) -> usize {
    let mut marked = 0;
    attendance.leave(|ids| marked += ids.len());
    marked
}

/// `done` was once noted before its answer was there: a refused one took the marker away.
#[tokio::test]
async fn a_refused_done_leaves_the_marker_even_to_a_client_that_is_gone() {
    let (outbox, id) = (outbox_of(10), Id::new("a").expect("an id"));
    let mut attendance = Attendance::new(Presence::new(10), 10);
    push(&outbox, false, 0, &mut pending_slots("1", false, attendance.reported(&id)));
    push(&outbox, false, 1, &mut pending_slots("1", true, attendance.done(&id).expect("the id is here")));
    kept(&outbox, &[0]);
    outbox.abandon();
    assert!(timeout(Duration::from_millis(10), outbox.answered()).await.is_err());
    tokio::join!(outbox.answered(), async { refused(&outbox, 1) });
    assert_eq!(marks(attendance), 1);
    outbox.cut();
}

/// A refused report once opened the id again, and the marker took the place of `done`.
#[tokio::test]
async fn a_refused_report_after_done_leaves_no_marker() {
    let (outbox, id) = (outbox_of(10), Id::new("a").expect("an id"));
    let mut attendance = Attendance::new(Presence::new(10), 10);
    push(&outbox, false, 0, &mut pending_slots("1", false, attendance.reported(&id)));
    push(&outbox, false, 1, &mut pending_slots("1", true, attendance.done(&id).expect("the id is here")));
    push(&outbox, false, 2, &mut pending_slots("1", false, attendance.reported(&id)));
    kept(&outbox, &[0, 1]);
    refused(&outbox, 2);
    outbox.answered().await;
    assert_eq!(marks(attendance), 0);
}

#[test]
fn what_is_not_answered_in_time_counts_as_kept() {
    let (outbox, id) = (outbox_of(10), Id::new("a").expect("an id"));
    let mut attendance = Attendance::new(Presence::new(10), 10);
    push(&outbox, false, 0, &mut pending_slots("1", false, attendance.reported(&id)));
    outbox.assume_kept();
    refused(&outbox, 0);
    assert_eq!(marks(attendance), 1);
}

#[test]
fn pongs_are_bounded_and_the_latest_are_kept() {
    let outbox = outbox_of(1);
    for at in 0..MAX_PONGS as u8 + 3 {
        outbox.pong(Bytes::copy_from_slice(&[b'a' + at]));
    }
    let (frames, _) = write(&outbox);
    assert_eq!(frames.len(), MAX_PONGS);
    assert_eq!(frames[0].1, "d");
}

#[tokio::test]
async fn an_abandoned_outbox_wakes_both_sides_and_keeps_nothing() {
    let outbox = outbox_of(1);
    push(&outbox, false, 0, &mut slots(&["1"]));
    outbox.abandon();
    outbox.room().await;
    let mut batch = Batch::default();
    outbox.take(&mut batch).await;
    assert!(batch.last && outbox.is_gone());
    kept(&outbox, &[0]);
}

/// An outbox that answers at once over a socket, the writer's hold of it, and the client.
async fn connected(window: usize) -> (Arc<Outbox>, WriteHalf, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let line = Arc::new(accepted.expect("a client").0.into_split().1);
    (Arc::new(outbox_of(window).writing_to(Arc::clone(&line))), WriteHalf(line), client.expect("connected"))
}

fn kept_at_once(outbox: &Outbox, tickets: std::ops::Range<u64>) {
    outbox.settle(&mut tickets.map(|ticket| (ticket, Outcome::Kept(None, Position(ticket)))), true);
}

#[tokio::test]
async fn who_answers_writes_where_the_socket_takes_it() {
    let (outbox, line, mut client) = connected(1).await;
    push(&outbox, false, 0, &mut slots(&["1"]));
    // Whether a fresh socket takes anything is known once it was waited for.
    line.0.writable().await.expect("it is open");
    kept_at_once(&outbox, 0..1);
    assert!(outbox.room_now().is_some(), "it is written");
    let mut bytes = [0; 64];
    let read = client.read(&mut bytes).await.expect("there");
    assert!(String::from_utf8_lossy(&bytes[2..read]).contains("\"op\":\"ack\",\"id\":1"));
}

/// More than any socket takes at once, in `messages` of an array.
fn long(messages: u64) -> Vec<String> {
    (0..messages).map(|at| format!("{at}{}", " ".repeat(2 << 20))).collect()
}

/// What the socket does not take is the writer's; what is answered meanwhile comes behind it.
#[tokio::test]
async fn what_the_socket_does_not_take_at_once_leaves_in_order() {
    let (outbox, line, mut client) = connected(10).await;
    line.0.writable().await.expect("it is open");
    let ids = long(16);
    push(&outbox, true, 0, &mut slots(&ids.iter().map(String::as_str).collect::<Vec<_>>()));
    push(&outbox, false, 16, &mut slots(&["16"]));
    push(&outbox, false, 17, &mut slots(&["17"]));
    kept_at_once(&outbox, 0..16);
    assert!(outbox.state().rest.is_some(), "no socket takes as much at once");
    kept_at_once(&outbox, 16..17);
    outbox.finish(None);
    kept_at_once(&outbox, 17..18);
    let writing = writer::run(Arc::clone(&outbox), line, Duration::from_secs(60), CancellationToken::new());
    let mut bytes = Vec::new();
    let (_, read) = tokio::join!(writing, client.read_to_end(&mut bytes));
    read.expect("all of it, and the end");
    let text = String::from_utf8_lossy(&bytes);
    let id = |after: &str| after[..after.find([' ', ',', '}']).expect("an ack")].parse::<u64>().expect("a number");
    let seen: Vec<u64> = text.split("\"id\":").skip(1).map(id).collect();
    assert_eq!(seen, (0..18).collect::<Vec<_>>());
}

/// The bytes that are left over would be for nobody.
#[tokio::test]
async fn what_the_socket_does_not_take_is_dropped_with_the_client() {
    let (outbox, line, client) = connected(10).await;
    line.0.writable().await.expect("it is open");
    let ids = long(16);
    push(&outbox, true, 0, &mut slots(&ids.iter().map(String::as_str).collect::<Vec<_>>()));
    kept_at_once(&outbox, 0..16);
    assert!(outbox.state().rest.is_some(), "no socket takes as much at once");
    drop(client);
    let over = CancellationToken::new();
    writer::run(Arc::clone(&outbox), line, Duration::from_secs(60), over.clone()).await;
    assert!(over.is_cancelled() && outbox.is_gone() && outbox.state().rest.is_none());
    assert!(outbox.room_now().is_some());
}

/// Whoever answers has others to answer.
#[tokio::test]
async fn many_replies_are_left_to_the_writer() {
    let (outbox, line, _client) = connected(10).await;
    line.0.writable().await.expect("it is open");
    let many = WRITTEN_AT_ONCE as u64 + 1;
    push(&outbox, true, 0, &mut slots(&vec!["1"; many as usize]));
    kept_at_once(&outbox, 0..many);
    assert!(outbox.room_now().is_none());
    assert_eq!(write(&outbox).0.len(), 1);
}

/// An outbox lives until its last answer, which may be long after its connection.
#[tokio::test]
async fn a_session_that_is_over_leaves_the_socket_to_nobody() {
    let (outbox, line, mut client) = connected(10).await;
    outbox.finish(None);
    writer::run(Arc::clone(&outbox), line, Duration::from_secs(60), CancellationToken::new()).await;
    assert!(outbox.state().line.is_none());
    assert_eq!(client.read(&mut [0]).await.expect("the end"), 0);
}

#[test]
fn the_window_is_one_of_bytes_too_and_beyond_what_is_free_they_are_taken_from_the_budget() {
    let budget = Budget::new(64 * 1024);
    let outbox = Outbox::new(Weight { messages: 1000, bytes: 4 * FREE }, &budget, &Dones::new(100));
    assert_eq!(outbox.room_now(), Some(FREE));
    outbox.push(true, 0, &mut slots(&["1"]), FREE);
    assert_eq!(outbox.room_now(), Some(0));
    assert!(outbox.try_reserve(3 * FREE));
    outbox.push(true, 1, &mut slots(&["2"]), 3 * FREE);
    assert_eq!(outbox.room_now(), None);
    let mut other = Hold::new(&budget);
    assert!(!other.try_fit(3 * FREE));
    kept(&outbox, &[0, 1]);
    assert_eq!(write(&outbox).0.len(), 2);
    assert!(outbox.room_now() == Some(FREE) && other.try_fit(3 * FREE));
}

#[tokio::test]
async fn a_reader_that_waits_for_memory_goes_on_when_its_own_replies_are_written() {
    let budget = Budget::new(1);
    let mut other = Hold::new(&budget);
    assert!(other.try_fit(2 * FREE));
    let outbox = outbox_with(&budget);
    outbox.push(false, 0, &mut slots(&["1"]), FREE);
    assert!(!outbox.try_reserve(9));
    let mut reserving = std::pin::pin!(outbox.reserve(9));
    assert!(timeout(Duration::from_millis(10), reserving.as_mut()).await.is_err());
    kept(&outbox, &[0]);
    assert_eq!(write(&outbox).0.len(), 1);
    timeout(Duration::from_secs(10), reserving).await.expect("there is room again");
}

fn outbox_with(budget: &Arc<Budget>) -> Outbox {
    Outbox::new(Weight { messages: 10, bytes: usize::MAX }, budget, &Dones::new(100))
}

fn a_letter() -> Dead {
    let key = Key { id: Id::new("a").expect("an id"), number: Number { source: 0, seq: 9 } };
    Dead { key, kind: LetterKind::KeyTaken }
}

#[test]
fn a_dead_letter_is_told_of_behind_the_replies_and_no_more_of_them_than_wait() {
    let outbox = outbox_of(10).telling_of_dead(true);
    assert!(outbox.wants_dead() && !outbox_of(10).wants_dead());
    push(&outbox, false, 0, &mut slots(&["1"]));
    (0..2 * MAX_DEAD_EVENTS).for_each(|_| outbox.dead(a_letter()));
    assert!(write(&outbox).0.is_empty());
    kept(&outbox, &[0]);
    let frames = write(&outbox).0;
    assert_eq!(frames.len(), 1 + MAX_DEAD_EVENTS);
    assert_eq!(frames[1].1, r#"{"op":"dead","id":"a","source":0,"seq":9,"kind":"key_taken"}"#);
    outbox.dead(a_letter());
    assert_eq!(write(&outbox).0.len(), 1, "there is room again");
}

/// While its last answers are waited for, for example.
#[test]
fn who_is_withdrawn_is_told_of_nothing_that_comes_later() {
    let secret = TokenHash::of("secret");
    let tokens = format!("[[token]]\nname = \"a\"\nsha256 = \"{secret}\"\nscope = \"ingest\"\n");
    let access = Access::new(Some(Tokens::parse(&tokens).expect("a tokens file")));
    let bearing = [(hyper::header::AUTHORIZATION, "Bearer secret".parse().expect("a header"))].into_iter().collect();
    let grant = access.check(&bearing, Scope::Ingest).expect("the token is known");
    let outbox = outbox_of(10).telling_of_dead(true).granted(&grant);
    let mut both = slots(&["1", "2"]);
    both[0].done = true;
    push(&outbox, true, 0, &mut both);
    kept(&outbox, &[0, 1]);
    access.replace(Tokens::parse("").expect("no tokens"));
    outbox.drained(0, DRAINED);
    outbox.dead(a_letter());
    assert_eq!(ops(&write(&outbox).0), ["ack 1,ack 2"]);
}
