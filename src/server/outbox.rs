//! What a connection has to say to its client, and in which order: filled by the commit thread, the flushers and the
//! reader, emptied by the writer, or by the commit thread where the socket takes all at once. Who fills it never waits.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fastwebsockets::{Frame, Payload};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use super::assembly::CloseFrame;
use super::replies::{EchoText, KEPT_SLOTS, Order, Outcome, Slot, Unit, encode_unit};
use crate::journal::{Answer, Outlet};
use crate::report::reply;

/// Pongs that may wait for the writer. Past it the oldest is dropped: RFC 6455 5.5.3 asks only for the latest.
const MAX_PONGS: usize = 16;

/// More replies than these are the writer's: others wait for who answers.
const WRITTEN_AT_ONCE: usize = 64;

/// Room for JSON that a large batch has grown past this is given back, in bytes.
const KEPT_JSON: usize = 64 * 1024;

thread_local! {
    /// What a thread that answers writes from; empty between two answers.
    static AT_ONCE: RefCell<(Batch, Vec<u8>)> = RefCell::default();
}

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
    /// Where answers may be written at once.
    line: Option<Arc<OwnedWriteHalf>>,
    /// A batch was taken and is not written yet: what comes meanwhile waits for whoever has it.
    writing: bool,
    /// What the line did not take at once of the batch that is being written: the writer's.
    rest: Option<Rest>,
    /// Nobody writes any more; replies are still waited for, for what they mean besides, and dropped.
    gone: bool,
    /// The session waits for the last answer.
    leaving: bool,
}

struct DoneEvent {
    ticket: u64,
    echo: EchoText,
    reports: u64,
}

/// The end of a batch.
struct Rest {
    bytes: Vec<u8>,
    /// What the whole batch counts for in the window.
    weight: usize,
}

/// What leaves in one write.
#[derive(Default)]
pub(super) struct Batch {
    /// What it counts for in the window.
    weight: usize,
    /// Bytes that are encoded already; then there is nothing else.
    rest: Vec<u8>,
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

    /// Lets the thread that brings answers write them to `line`, which is the writer's otherwise.
    pub(super) fn writing_to(self, line: Arc<OwnedWriteHalf>) -> Self {
        self.state().line = Some(line);
        self
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
        let weight = state.order.clear();
        // What was pushed before the outbox was abandoned is held no more.
        state.held = state.held.saturating_sub(weight);
        self.wake(state);
    }

    /// Waits until all that was pushed is answered. For the session, once its reader is over.
    pub(super) async fn answered(&self) {
        loop {
            {
                let mut state = self.state();
                if state.order.is_settled() {
                    return;
                }
                state.leaving = true;
            }
            self.room.notified().await;
        }
    }

    /// Takes what is not answered as kept, as far as it concerns who is present.
    pub(super) fn assume_kept(&self) {
        self.state().order.assume_kept();
    }

    /// The client cannot be reached: nothing is written any more.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        let (order, leaving) = (mem::take(&mut state.order), state.leaving);
        *state = State { gone: true, ending: Some(None), order, leaving, ..State::default() };
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
        if state.gone {
            batch.last = true;
            return true;
        }
        if let Some(Rest { bytes, weight }) = state.rest.take() {
            (batch.rest, batch.weight) = (bytes, weight);
            return true;
        }
        if state.writing || !state.has_work() {
            return false;
        }
        state.take(batch);
        true
    }

    /// Gives the room of a written batch back, and empties it for the next.
    pub(super) fn written(&self, batch: &mut Batch) {
        let weight = batch.weight;
        batch.clear();
        self.is_written(weight);
    }

    fn is_written(&self, weight: usize) {
        let mut state = self.state();
        state.writing = false;
        let was_full = state.held >= self.window;
        state.held = state.held.saturating_sub(weight);
        let has_room = was_full && state.held < self.window;
        self.wake(state);
        if has_room {
            self.room.notify_one();
        }
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        let work = !state.writing && state.has_work();
        drop(state);
        if work {
            self.work.notify_one();
        }
    }

    /// Writes what there is to `line`; what it does not take at once is left to the writer.
    fn write_at_once(&self, mut state: MutexGuard<'_, State>, line: &OwnedWriteHalf) {
        AT_ONCE.with_borrow_mut(|(batch, bytes)| {
            state.take(batch);
            drop(state);
            batch.encode(bytes);
            // An error comes again to the writer, who knows what to do.
            let taken = line.try_write(bytes).unwrap_or(0);
            if taken == bytes.len() {
                self.written(batch);
            } else {
                let rest = Rest { bytes: bytes.split_off(taken), weight: batch.weight };
                batch.clear();
                self.leave(rest);
            }
            bytes.clear();
            bytes.shrink_to(KEPT_JSON);
        });
    }

    fn leave(&self, rest: Rest) {
        let mut state = self.state();
        if !state.gone {
            state.rest = Some(rest);
        }
        drop(state);
        self.work.notify_one();
    }

    fn settle(&self, answers: &mut dyn Iterator<Item = (u64, Outcome)>, at_once: bool) {
        let mut state = self.state();
        for (ticket, outcome) in answers {
            if matches!(outcome, Outcome::Refused(_)) {
                state.dones.remove(&ticket);
            }
            state.order.settle(ticket, outcome);
        }
        if state.leaving && state.order.is_settled() {
            self.room.notify_one();
        }
        match &state.line {
            Some(line) if at_once && state.can_leave_at_once() => {
                let line = Arc::clone(line);
                self.write_at_once(state, &line);
            }
            _ => self.wake(state),
        }
    }
}

impl State {
    /// Whether there is something to write, and little enough for who answers. The last frame is the writer's: it ends
    /// with it.
    fn can_leave_at_once(&self) -> bool {
        !self.writing && self.ending.is_none() && self.order.ready() <= WRITTEN_AT_ONCE && self.has_work()
    }

    /// Moves all that can leave into `batch`, which is empty.
    fn take(&mut self, batch: &mut Batch) {
        self.writing = true;
        self.order.take_ready(&mut batch.units, &mut batch.slots);
        batch.weight = batch.units.iter().map(|unit| unit.weight()).sum();
        let acked = self.order.first();
        batch.events.extend(self.events.extract_if(.., |event| event.ticket < acked));
        mem::swap(&mut batch.pongs, &mut self.pongs);
        batch.ping = mem::take(&mut self.ping);
        if self.order.is_empty()
            && let Some(close) = self.ending.take()
        {
            batch.close = close;
            batch.last = true;
            self.gone = true;
            self.line = None;
        }
    }

    fn has_work(&self) -> bool {
        self.order.is_ready()
            || !self.pongs.is_empty()
            || self.ping
            || (self.ending.is_some() && self.order.is_empty())
            || self.events.iter().any(|event| event.ticket < self.order.first())
    }
}

impl Outlet for Outbox {
    fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>, at_once: bool) {
        self.settle(&mut answers.map(|(ticket, answer)| (ticket, Outcome::from(answer))), at_once);
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
            Answer::Kept(ack) => Self::Kept(ack.number(), ack.position()),
            Answer::Refused(refusal) => Self::Refused(Box::new(refusal)),
        }
    }
}

impl Batch {
    /// Writes all frames of the batch, headers and all, behind what `out` has.
    pub(super) fn encode(&mut self, out: &mut Vec<u8>) {
        if out.is_empty() {
            mem::swap(out, &mut self.rest);
        }
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
        self.weight = 0;
        self.units.clear();
        self.units.shrink_to(KEPT_SLOTS);
        self.slots.clear();
        self.slots.shrink_to(KEPT_SLOTS);
        self.events.clear();
        self.events.shrink_to(KEPT_SLOTS);
        self.json.clear();
        self.json.shrink_to(KEPT_JSON);
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
mod tests;
