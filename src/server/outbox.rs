//! What a connection has to say to its client, and in which order: filled by the commit thread, the flushers and the
//! reader, emptied by the writer. Nobody who fills it waits.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fastwebsockets::{Frame, Payload};
use tokio::sync::Notify;

use super::assembly::CloseFrame;
use super::replies::{EchoText, Order, Outcome, Slot, Unit, encode_unit};
use crate::journal::{Answer, Outlet};
use crate::report::reply;

/// Pongs that may wait for the writer. Past it the oldest is dropped: RFC 6455 5.5.3 asks only for the latest.
const MAX_PONGS: usize = 16;

/// The replies, events and control frames of one connection.
pub(super) struct Outbox {
    state: Mutex<State>,
    /// Wakes the writer.
    work: Notify,
    /// Wakes the reader.
    room: Notify,
    /// Messages that may be unanswered or unwritten; past it the reader waits.
    window: usize,
}

#[derive(Default)]
struct State {
    order: Order,
    /// The echoes of `done` messages whose event has not come.
    dones: HashMap<u64, EchoText>,
    events: Vec<DoneEvent>,
    pongs: VecDeque<Bytes>,
    ping: bool,
    /// Set once no further message comes; the close frame, if any, leaves after the last reply.
    ending: Option<Option<CloseFrame>>,
    /// Messages pushed and not yet written.
    held: usize,
    /// Nobody writes any more; what comes is dropped.
    gone: bool,
}

struct DoneEvent {
    ticket: u64,
    echo: EchoText,
    reports: u64,
}

/// What leaves in one write.
#[derive(Default)]
pub(super) struct Batch {
    units: Vec<Unit>,
    slots: Vec<Slot>,
    events: Vec<DoneEvent>,
    pongs: VecDeque<Bytes>,
    ping: bool,
    close: Option<CloseFrame>,
    /// Nothing follows.
    pub(super) last: bool,
    json: Vec<u8>,
}

impl Outbox {
    /// An outbox whose reader waits while `window` messages are unanswered or unwritten.
    pub(super) fn new(window: usize) -> Self {
        Self { state: Mutex::default(), work: Notify::new(), room: Notify::new(), window }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the slots of one frame in the order of messages. Tickets count messages from 0 on. Replies that are
    /// settled already leave as soon as all before them do.
    pub(super) fn push(&self, array: bool, first_ticket: u64, slots: &mut Vec<Slot>) {
        let mut state = self.state();
        for (slot, ticket) in slots.iter().zip(first_ticket..) {
            if slot.done {
                state.dones.insert(ticket, slot.echo.clone());
            }
        }
        state.held += state.order.push(array, slots).weight();
        self.wake(state);
    }

    /// Notes a client's ping; its payload is at most 125 bytes.
    pub(super) fn pong(&self, payload: Bytes) {
        let mut state = self.state();
        if state.pongs.len() == MAX_PONGS {
            state.pongs.pop_front();
        }
        state.pongs.push_back(payload);
        self.wake(state);
    }

    /// Asks the client for a sign of life.
    pub(super) fn ping(&self) {
        let mut state = self.state();
        state.ping = true;
        self.wake(state);
    }

    /// No further message comes. The writer ends once every reply is written, with `close` as the last frame.
    pub(super) fn finish(&self, close: Option<CloseFrame>) {
        let mut state = self.state();
        state.ending = Some(close);
        self.wake(state);
    }

    /// After [`Outbox::finish`]: what is not answered by now is not waited for.
    pub(super) fn cut(&self) {
        let mut state = self.state();
        state.held -= state.order.clear();
        self.wake(state);
    }

    /// The client cannot be reached: everything is dropped, now and later.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        *state = State { gone: true, ending: Some(None), ..State::default() };
        drop(state);
        self.work.notify_one();
        self.room.notify_one();
    }

    /// `done` messages whose event has not come.
    pub(super) fn waiting_dones(&self) -> usize {
        self.state().dones.len()
    }

    /// Whether the client can still be reached.
    pub(super) fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// Whether a further frame may be read.
    pub(super) fn has_room(&self) -> bool {
        self.state().held < self.window
    }

    /// Waits until a further frame may be read or the client is gone. For the reader alone.
    pub(super) async fn room(&self) {
        while !self.has_room() {
            self.room.notified().await;
        }
    }

    /// Waits for something to write. For the writer alone.
    pub(super) async fn take(&self, batch: &mut Batch) {
        while !self.try_take(batch) {
            self.work.notified().await;
        }
    }

    fn try_take(&self, batch: &mut Batch) -> bool {
        let mut state = self.state();
        if !state.has_work() {
            return false;
        }
        let State { order, events, .. } = &mut *state;
        order.take_ready(&mut batch.units, &mut batch.slots);
        let acked = order.first();
        batch.events.extend(events.extract_if(.., |event| event.ticket < acked));
        mem::swap(&mut batch.pongs, &mut state.pongs);
        batch.ping = mem::take(&mut state.ping);
        if state.order.is_empty()
            && let Some(close) = state.ending.take()
        {
            batch.close = close;
            batch.last = true;
            state.gone = true;
        }
        true
    }

    /// Gives the room of a written batch back, and empties it for the next.
    pub(super) fn written(&self, batch: &mut Batch) {
        let weight: usize = batch.units.iter().map(|unit| unit.weight()).sum();
        batch.clear();
        let mut state = self.state();
        let was_full = state.held >= self.window;
        state.held = state.held.saturating_sub(weight);
        if was_full && state.held < self.window {
            drop(state);
            self.room.notify_one();
        }
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        let work = state.has_work();
        drop(state);
        if work {
            self.work.notify_one();
        }
    }

    fn settle(&self, answers: &mut dyn Iterator<Item = (u64, Outcome)>) {
        let mut state = self.state();
        if state.gone {
            return;
        }
        for (ticket, outcome) in answers {
            if matches!(outcome, Outcome::Refused(_)) {
                state.dones.remove(&ticket);
            }
            state.order.settle(ticket, outcome);
        }
        self.wake(state);
    }
}

impl State {
    fn has_work(&self) -> bool {
        self.order.is_ready()
            || !self.pongs.is_empty()
            || self.ping
            || (self.ending.is_some() && self.order.is_empty())
            || self.events.iter().any(|event| event.ticket < self.order.first())
    }
}

impl Outlet for Outbox {
    fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>) {
        self.settle(&mut answers.map(|(ticket, answer)| (ticket, Outcome::from(answer))));
    }

    fn drained(&self, ticket: u64, reports: u64) {
        let mut state = self.state();
        if let Some(echo) = state.dones.remove(&ticket) {
            state.events.push(DoneEvent { ticket, echo, reports });
            self.wake(state);
        }
    }
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Kept(ack) => Self::Kept(ack.number()),
            Answer::Refused(refusal) => Self::Refused(Box::new(refusal)),
        }
    }
}

impl Batch {
    /// Writes all frames of the batch, headers and all, behind what `out` has.
    pub(super) fn encode(&mut self, out: &mut Vec<u8>) {
        for payload in &self.pongs {
            put(out, Frame::pong(Payload::Borrowed(payload)));
        }
        let mut from = 0;
        for unit in &self.units {
            self.json.clear();
            encode_unit(unit.array, &self.slots[from..from + unit.messages], &mut self.json);
            from += unit.messages;
            put(out, Frame::text(Payload::Borrowed(&self.json)));
        }
        for event in &self.events {
            self.json.clear();
            reply::done(&mut self.json, &event.echo.get(), event.reports);
            put(out, Frame::text(Payload::Borrowed(&self.json)));
        }
        if self.ping {
            put(out, Frame::new(true, fastwebsockets::OpCode::Ping, None, Payload::Borrowed(&[])));
        }
        if let Some(close) = &self.close {
            put(out, close.frame());
        }
    }

    fn clear(&mut self) {
        self.units.clear();
        self.slots.clear();
        self.events.clear();
        self.pongs.clear();
        self.ping = false;
        self.close = None;
    }
}

/// A server's frames are not masked, so a header has at most 10 bytes.
fn put(out: &mut Vec<u8>, mut frame: Frame<'_>) {
    let mut head = [0; 14];
    let len = frame.fmt_head(&mut head);
    out.extend_from_slice(&head[..len]);
    out.extend_from_slice(&frame.payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Echo, Number, Refusal};

    fn slots(ids: &[&str]) -> Vec<Slot> {
        ids.iter().map(|id| Slot::new(&Echo { id: Some(id), reference: None }, Outcome::Waiting)).collect()
    }

    fn kept(outbox: &Outbox, tickets: &[u64]) {
        let number = Some(Number { source: 0, seq: 1 });
        outbox.settle(&mut tickets.iter().map(|&ticket| (ticket, Outcome::Kept(number))));
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
        let outbox = Outbox::new(10);
        outbox.push(false, 0, &mut slots(&["1"]));
        outbox.push(true, 1, &mut slots(&["2", "3"]));
        let refusal = Outcome::Refused(Box::new(Refusal::shutting_down()));
        outbox.push(false, 3, &mut vec![Slot::new(&Echo { id: Some("4"), reference: None }, refusal)]);
        kept(&outbox, &[1, 2]);
        assert!(write(&outbox).0.is_empty());
        kept(&outbox, &[0]);
        assert_eq!(ops(&write(&outbox).0), ["ack 1", "ack 2,ack 3", "error 4"]);
    }

    #[test]
    fn the_window_opens_when_replies_are_written() {
        let outbox = Outbox::new(2);
        outbox.push(false, 0, &mut slots(&["1"]));
        assert!(outbox.has_room());
        outbox.push(true, 1, &mut Vec::new());
        assert!(!outbox.has_room());
        kept(&outbox, &[0]);
        assert!(!outbox.has_room());
        assert_eq!(write(&outbox).0.len(), 2);
        assert!(outbox.has_room());
    }

    #[test]
    fn a_done_event_follows_the_ack_of_its_message() {
        let outbox = Outbox::new(10);
        outbox.push(false, 0, &mut slots(&["1"]));
        let mut done = slots(&["2"]);
        done[0].done = true;
        outbox.push(false, 1, &mut done);
        kept(&outbox, &[1]);
        outbox.drained(1, 42);
        assert!(write(&outbox).0.is_empty());
        kept(&outbox, &[0]);
        let (frames, _) = write(&outbox);
        assert_eq!(ops(&frames), ["ack 1", "ack 2", "done 2"]);
        assert!(frames[2].1.contains("\"reports\":42"));
        outbox.drained(1, 42);
        outbox.drained(0, 42);
        assert!(write(&outbox).0.is_empty());
    }

    #[test]
    fn a_refused_done_waits_for_no_event() {
        let outbox = Outbox::new(10);
        let mut done = slots(&["2"]);
        done[0].done = true;
        outbox.push(false, 0, &mut done);
        assert_eq!(outbox.waiting_dones(), 1);
        outbox.settle(&mut [(0, Outcome::Refused(Box::new(Refusal::shutting_down())))].into_iter());
        assert_eq!(outbox.waiting_dones(), 0);
    }

    #[test]
    fn a_close_is_the_last_frame_and_waits_for_replies() {
        let outbox = Outbox::new(10);
        outbox.push(false, 0, &mut slots(&["1"]));
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
        let outbox = Outbox::new(1);
        outbox.push(false, 0, &mut slots(&["1"]));
        outbox.finish(None);
        assert!(write(&outbox).0.is_empty());
        outbox.cut();
        assert_eq!(write(&outbox), (Vec::new(), true));
    }

    #[test]
    fn pongs_are_bounded_and_the_latest_are_kept() {
        let outbox = Outbox::new(1);
        for at in 0..MAX_PONGS as u8 + 3 {
            outbox.pong(Bytes::copy_from_slice(&[b'a' + at]));
        }
        let (frames, _) = write(&outbox);
        assert_eq!(frames.len(), MAX_PONGS);
        assert_eq!(frames[0].1, "d");
    }

    #[tokio::test]
    async fn an_abandoned_outbox_wakes_both_sides_and_keeps_nothing() {
        let outbox = Outbox::new(1);
        outbox.push(false, 0, &mut slots(&["1"]));
        outbox.abandon();
        outbox.room().await;
        let mut batch = Batch::default();
        outbox.take(&mut batch).await;
        assert!(batch.last && outbox.is_gone());
        kept(&outbox, &[0]);
    }
}
