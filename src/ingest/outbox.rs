//! What a connection has to say to its client, and in which order: filled by the commit thread, the flushers and the
//! reader, emptied by the writer, or by the commit thread where the socket takes all at once. Who fills it never waits.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::assembly::CloseFrame;
use super::batch::{Batch, Event, What};
use super::budget::{Budget, FREE, Hold};
use super::dones::{Dones, OwnDones};
use super::replies::{EchoText, KEPT_SLOTS, Order, Outcome, Slot, Weight};
use crate::access::Grant;
use crate::journal::{Answer, Dead, Drained, Outlet};

/// Pongs that may wait for the writer. Past it the oldest is dropped: RFC 6455 5.5.3 asks only for the latest.
const MAX_PONGS: usize = 16;

/// Events of dead letters that may wait for the writer. Past it further ones are not told: the letters are listed all
/// the
/// same.
const MAX_DEAD_EVENTS: usize = 256;

/// More replies than these are the writer's: others wait for who answers.
const WRITTEN_AT_ONCE: usize = 64;

/// What the thread that answers keeps of its buffer, in bytes.
const KEPT_AT_ONCE: usize = 64 * 1024;

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
    /// What may be unanswered or unwritten; past it the reader waits.
    window: Weight,
    /// The memory that replies of all connections share.
    budget: Arc<Budget>,
    all_dones: Arc<Dones>,
    /// The client asked to be told of dead letters.
    tells_dead: bool,
    /// No event goes to whose token was withdrawn.
    grant: Grant,
}

struct State {
    order: Order,
    /// The echoes of `done` messages whose event has not come.
    dones: HashMap<u64, EchoText>,
    /// They count for all connections.
    counted: OwnDones,
    events: Vec<Event>,
    /// Those of dead letters among them.
    dead_events: usize,
    pongs: VecDeque<Bytes>,
    ping: bool,
    /// Set once no further message comes; the close frame, if any, leaves after the last reply.
    ending: Option<Option<CloseFrame>>,
    /// What was pushed and is not written yet.
    held: Weight,
    /// Bytes of what is about to be pushed.
    reserved: usize,
    /// The reader waits for memory.
    in_want: bool,
    /// The memory of both.
    hold: Hold,
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

/// The end of a batch.
struct Rest {
    bytes: Vec<u8>,
    /// What the whole batch counts for.
    weight: Weight,
}

impl Outbox {
    /// An outbox whose reader waits while as much as `window` is unanswered or unwritten. Its memory is from
    /// `budget`, its
    /// `done` messages are some of `dones`.
    pub(super) fn new(window: Weight, budget: &Arc<Budget>, dones: &Arc<Dones>) -> Self {
        let state = Mutex::new(State::new(Hold::new(budget), OwnDones::new(dones)));
        let (work, room) = (Notify::new(), Notify::new());
        let (budget, all_dones) = (Arc::clone(budget), Arc::clone(dones));
        Self { state, work, room, window, budget, all_dones, tells_dead: false, grant: Grant::everything() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the thread that brings answers write them to `line`, which is the writer's otherwise.
    pub(super) fn writing_to(self, line: Arc<OwnedWriteHalf>) -> Self {
        self.state().line = Some(line);
        self
    }

    /// The same, which tells of dead letters.
    pub(super) fn telling_of_dead(self, tells_dead: bool) -> Self {
        Self { tells_dead, ..self }
    }

    /// The same for the bearer of a token: once that is withdrawn, there are no events.
    pub(super) fn granted(self, grant: &Grant) -> Self {
        Self { grant: grant.clone(), ..self }
    }

    /// Takes the slots of one frame in the order of messages; they take `bytes` of memory, which are reserved, or
    /// within
    /// what [`Outbox::room_now`] said. Tickets count messages from 0 on. Replies that are settled already leave as soon
    /// as all before them do.
    pub(super) fn push(&self, array: bool, first_ticket: u64, slots: &mut Vec<Slot>, bytes: usize) {
        let mut state = self.state();
        state.reserved = 0;
        for (slot, ticket) in slots.iter().zip(first_ticket..) {
            if slot.done {
                state.dones.insert(ticket, slot.echo.clone());
                state.count_dones();
            }
        }
        let weight = state.order.push(array, slots, bytes).weight();
        state.held.add(weight);
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
        state.held.take_away(weight);
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
        let nothing = State::new(Hold::new(&self.budget), OwnDones::new(&self.all_dones));
        let rest = State { gone: true, ending: Some(None), order, leaving, ..nothing };
        // Dropped behind the lock: it may be much.
        let dropped = mem::replace(&mut *state, rest);
        drop(state);
        drop(dropped);
        self.work.notify_one();
        self.room.notify_one();
    }

    fn may_tell(&self) -> bool {
        self.grant.is_in_force() || cfg!(forebay_plant = "tell_the_withdrawn")
    }

    /// `done` messages whose event has not come.
    pub(super) fn waiting_dones(&self) -> usize {
        self.state().dones.len()
    }

    /// Whether the client can still be reached.
    pub(super) fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// Whether a further frame may be read; then, how many bytes its replies may take without a reservation.
    pub(super) fn room_now(&self) -> Option<usize> {
        let state = self.state();
        (!self.is_full(&state)).then(|| FREE.saturating_sub(state.held.bytes))
    }

    fn is_full(&self, state: &State) -> bool {
        state.held.messages >= self.window.messages || state.held.bytes >= self.window.bytes
    }

    /// Waits until a further frame may be read or the client is gone; what [`Outbox::room_now`] says then. For the
    /// reader alone.
    pub(super) async fn room(&self) -> usize {
        loop {
            if let Some(free) = self.room_now() {
                return free;
            }
            self.room.notified().await;
        }
    }

    /// Reserves memory for replies that are about to be pushed; false where there is none now. For the reader alone.
    pub(super) fn try_reserve(&self, bytes: usize) -> bool {
        let mut state = self.state();
        let all = state.held.bytes + bytes;
        let fits = state.gone || state.hold.try_fit(all);
        state.reserved = if fits { bytes } else { 0 };
        state.in_want = !fits;
        fits
    }

    /// Waits for memory that [`Outbox::try_reserve`] did not find, or until the client is gone. For the reader alone.
    pub(super) async fn reserve(&self, bytes: usize) {
        let mut more = Hold::new(&self.budget);
        while !self.try_reserve(bytes) {
            let missing = {
                let state = self.state();
                state.hold.missing(state.held.bytes + bytes)
            };
            tokio::select! {
                () = more.fit_permits(missing) => {}
                () = self.room.notified() => continue,
            }
            self.state().hold.absorb(&mut more);
        }
    }

    /// Returns once others wait for memory and this connection, which takes nothing of a write of `bytes` that began at
    /// `since`, holds some of it.
    pub(super) async fn is_wanted(&self, since: Instant, bytes: usize) {
        loop {
            self.budget.is_wanted(since, bytes).await;
            if self.state().hold.is_shared() {
                return;
            }
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

    fn is_written(&self, weight: Weight) {
        let mut state = self.state();
        state.writing = false;
        let was_full = self.is_full(&state);
        state.held.take_away(weight);
        let held = state.held.bytes + state.reserved;
        state.hold.shrink_to(held);
        let has_room = state.in_want || was_full && !self.is_full(&state);
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
            bytes.shrink_to(KEPT_AT_ONCE);
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
                state.count_dones();
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
    fn new(hold: Hold, counted: OwnDones) -> Self {
        Self {
            order: Order::default(),
            dones: HashMap::new(),
            counted,
            events: Vec::new(),
            dead_events: 0,
            pongs: VecDeque::new(),
            ping: false,
            ending: None,
            held: Weight::default(),
            reserved: 0,
            in_want: false,
            hold,
            line: None,
            writing: false,
            rest: None,
            gone: false,
            leaving: false,
        }
    }

    fn count_dones(&mut self) {
        self.counted.set(self.dones.len());
        if self.dones.is_empty() {
            self.dones.shrink_to(KEPT_SLOTS);
        }
    }

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
        if self.dead_events > 0 {
            self.dead_events = self.events.iter().filter(|event| matches!(event.what, What::Dead(_))).count();
        }
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

    fn drained(&self, ticket: u64, drained: Drained) {
        let mut state = self.state();
        if let Some(echo) = state.dones.remove(&ticket) {
            state.count_dones();
            if self.may_tell() {
                state.events.push(Event { ticket, what: What::Drained(echo, drained) });
                self.wake(state);
            }
        }
    }

    fn wants_dead(&self) -> bool {
        self.tells_dead
    }

    fn dead(&self, dead: Dead) {
        let mut state = self.state();
        if state.dead_events < MAX_DEAD_EVENTS && !state.gone && self.may_tell() {
            state.dead_events += 1;
            // The report was answered, if perhaps behind others that were not.
            let ticket = state.order.next_ticket().saturating_sub(1);
            state.events.push(Event { ticket, what: What::Dead(dead) });
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

#[cfg(test)]
mod tests;
