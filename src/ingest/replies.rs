//! Replies in the order of their messages: a slot for each message, a unit for each frame. Pure: no lock, no clock.

use std::collections::VecDeque;

use super::presence::PendingAppend;
use crate::journal::Drained;
use crate::report::{Echo, Number, Position, Refusal, reply};

/// Echoes up to this many bytes are kept without an allocation: an id, and a `ref` of the length of a UUID.
const INLINE_ECHO: usize = 48;

/// Room for slots, or for units, that a large frame has grown past this many is given back.
pub(super) const KEPT_SLOTS: usize = 64;

/// What a slot counts for besides what hangs on it, in bytes: twice its size, as lists grow by doubling. Its reply has
/// fewer once it is written, without what it echoes.
pub(super) const SLOT_BYTES: usize = 2 * size_of::<Slot>();

/// The raw JSON of a message's `id` and `ref`, kept until its reply is written.
#[derive(Clone)]
pub(super) struct EchoText {
    id_len: Option<u32>,
    ref_len: Option<u32>,
    text: Text,
}

#[derive(Clone)]
enum Text {
    Inline([u8; INLINE_ECHO]),
    Heap(Box<[u8]>),
}

impl EchoText {
    pub(super) fn new(echo: &Echo<'_>) -> Self {
        let id = echo.id.unwrap_or("");
        let reference = echo.reference.unwrap_or("");
        let len = id.len() + reference.len();
        let text = if len <= INLINE_ECHO {
            let mut bytes = [0; INLINE_ECHO];
            bytes[..id.len()].copy_from_slice(id.as_bytes());
            bytes[id.len()..len].copy_from_slice(reference.as_bytes());
            Text::Inline(bytes)
        } else {
            Text::Heap([id.as_bytes(), reference.as_bytes()].concat().into_boxed_slice())
        };
        Self { id_len: echo.id.map(|id| id.len() as u32), ref_len: echo.reference.map(|text| text.len() as u32), text }
    }

    /// Bytes that are kept apart from the slot.
    fn heap_bytes(&self) -> usize {
        match &self.text {
            Text::Inline(_) => 0,
            Text::Heap(bytes) => bytes.len(),
        }
    }

    pub(super) fn get(&self) -> Echo<'_> {
        let bytes: &[u8] = match &self.text {
            Text::Inline(bytes) => bytes,
            Text::Heap(bytes) => bytes,
        };
        let text = |from: u32, len: u32| {
            let range = from as usize..(from + len) as usize;
            std::str::from_utf8(&bytes[range]).expect("these bytes were copied from a str, cut where it was joined")
        };
        Echo {
            id: self.id_len.map(|len| text(0, len)),
            reference: self.ref_len.map(|len| text(self.id_len.unwrap_or(0), len)),
        }
    }
}

/// What became of a message.
pub(super) enum Outcome {
    /// Its answer has not come.
    Waiting,
    /// It is durable; a report has a number, a marker has none; both have their position in the journal.
    Kept(Option<Number>, Position),
    /// Nothing of it was kept.
    Refused(Box<Refusal>),
    /// It was a ping.
    Pong,
    /// It was a `done`, and all before it is in the sink, or a dead letter.
    Drained(Drained),
}

/// The place of one message's reply.
pub(super) struct Slot {
    pub(super) echo: EchoText,
    pub(super) outcome: Outcome,
    /// Whether a `done` event follows once the sink has all before it.
    pub(super) done: bool,
    /// What being kept means for the id; there while the answer of an append is waited for.
    pub(super) pending: Option<PendingAppend>,
}

impl Slot {
    pub(super) fn new(echo: &Echo<'_>, outcome: Outcome) -> Self {
        Self { echo: EchoText::new(echo), outcome, done: false, pending: None }
    }

    /// Why nothing of it was kept, where that is so.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match &self.outcome {
            Outcome::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The memory that the slot takes, or its reply once that is written, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let refusal = self.refusal().map_or(0, |refusal| size_of::<Refusal>() + 2 * refusal.message.len());
        SLOT_BYTES + self.echo.heap_bytes() + refusal
    }

    /// Notes what became of the message.
    pub(super) fn settle(&mut self, outcome: Outcome) {
        if let Some(pending) = self.pending.take()
            && let Outcome::Kept(_, position) = outcome
        {
            pending.kept(position);
        }
        self.outcome = outcome;
    }

    /// Writes the reply as JSON; a slot that still waits has none.
    fn encode(&self, json: &mut Vec<u8>) {
        match &self.outcome {
            Outcome::Waiting => debug_assert!(false, "only settled slots are written"),
            Outcome::Kept(number, _) => reply::ack(json, &self.echo.get(), *number),
            Outcome::Refused(refusal) => reply::error(json, &self.echo.get(), refusal),
            Outcome::Pong => reply::pong(json, &self.echo.get()),
            Outcome::Drained(Drained { reports, dead }) => reply::done(json, &self.echo.get(), *reports, *dead),
        }
    }
}

/// The messages of one frame; their replies leave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) messages: usize,
    /// What its slots, or its replies once they are written, take of memory.
    pub(super) bytes: usize,
    /// Whether they came as an array, so that their replies go as one.
    pub(super) array: bool,
}

impl Unit {
    /// What the unit counts for: an empty array is answered, so it is not free.
    pub(super) fn weight(self) -> Weight {
        Weight { messages: self.messages.max(1), bytes: self.bytes }
    }
}

/// What replies count for: messages in the window of their connection, and bytes of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Weight {
    /// Adds what is held more.
    pub(super) fn add(&mut self, more: Self) {
        self.messages += more.messages;
        self.bytes += more.bytes;
    }

    /// Takes away what is held no more; what was never held changes nothing.
    pub(super) fn take_away(&mut self, less: Self) {
        self.messages = self.messages.saturating_sub(less.messages);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }
}

impl std::iter::Sum for Weight {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum.add(one);
            sum
        })
    }
}

/// Writes the JSON of a unit's replies, one for each of `slots`.
pub(super) fn encode_unit(array: bool, slots: &[Slot], json: &mut Vec<u8>) {
    if !array {
        slots.iter().for_each(|slot| slot.encode(json));
        return;
    }
    json.push(b'[');
    for (at, slot) in slots.iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        slot.encode(json);
    }
    json.push(b']');
}

/// All replies that are due, in the order of their messages.
#[derive(Default)]
pub(super) struct Order {
    slots: VecDeque<Slot>,
    units: VecDeque<Unit>,
    /// The ticket of the first slot.
    first: u64,
    /// How many slots from the first on are settled without a gap.
    settled: usize,
}

impl Order {
    /// Takes the slots of one frame, leaving `slots` empty; the first gets the ticket `next_ticket()`. They take
    /// `bytes`.
    pub(super) fn push(&mut self, array: bool, slots: &mut Vec<Slot>, bytes: usize) -> Unit {
        let unit = Unit { messages: slots.len(), bytes, array };
        self.units.push_back(unit);
        self.slots.extend(slots.drain(..));
        self.advance();
        unit
    }

    /// The ticket of the next message; tickets are given in the order of messages, from 0 on.
    pub(super) fn next_ticket(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The lowest ticket whose reply was not taken yet.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Notes what became of a message. A ticket that is not waited for changes nothing.
    pub(super) fn settle(&mut self, ticket: u64, outcome: Outcome) {
        let slot = ticket.checked_sub(self.first).and_then(|at| self.slots.get_mut(usize::try_from(at).ok()?));
        if let Some(slot) = slot {
            slot.settle(outcome);
            self.advance();
        }
    }

    /// Whether every message has its answer.
    pub(super) fn is_settled(&self) -> bool {
        self.settled == self.slots.len()
    }

    /// Takes what is not answered as kept, as far as it concerns who is present. The replies still wait.
    pub(super) fn assume_kept(&mut self) {
        self.slots.iter_mut().filter_map(|slot| slot.pending.take()).for_each(PendingAppend::assume_kept);
    }

    fn advance(&mut self) {
        while self.slots.get(self.settled).is_some_and(|slot| !matches!(slot.outcome, Outcome::Waiting)) {
            self.settled += 1;
        }
    }

    /// How many messages are answered without one before them that is not.
    pub(super) fn ready(&self) -> usize {
        self.settled
    }

    /// Whether the first unit is answered whole.
    pub(super) fn is_ready(&self) -> bool {
        self.units.front().is_some_and(|unit| unit.messages <= self.settled)
    }

    /// Whether no reply is due.
    pub(super) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Moves every unit out that is answered whole and has no unanswered one before it.
    pub(super) fn take_ready(&mut self, units: &mut Vec<Unit>, slots: &mut Vec<Slot>) {
        let mut messages = 0;
        while let Some(unit) = self.units.front().copied().filter(|unit| messages + unit.messages <= self.settled) {
            messages += unit.messages;
            units.push(unit);
            self.units.pop_front();
        }
        slots.extend(self.slots.drain(..messages));
        self.first += messages as u64;
        self.settled -= messages;
        if self.slots.len() <= KEPT_SLOTS {
            self.slots.shrink_to(KEPT_SLOTS);
        }
        if self.units.len() <= KEPT_SLOTS {
            self.units.shrink_to(KEPT_SLOTS);
        }
    }

    /// Forgets every reply that is due, and returns what they count for.
    pub(super) fn clear(&mut self) -> Weight {
        self.first += self.slots.len() as u64;
        self.slots.clear();
        self.settled = 0;
        self.units.drain(..).map(Unit::weight).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Echo<'static> = Echo { id: None, reference: None };

    fn waiting(count: usize) -> Vec<Slot> {
        (0..count).map(|_| Slot::new(&NOBODY, Outcome::Waiting)).collect()
    }

    fn taken(order: &mut Order) -> Vec<Unit> {
        let (mut units, mut slots) = (Vec::new(), Vec::new());
        order.take_ready(&mut units, &mut slots);
        assert_eq!(slots.len(), units.iter().map(|unit| unit.messages).sum::<usize>());
        units
    }

    #[test]
    fn an_echo_is_given_back_as_it_was_sent() {
        let long = format!("\"{}\"", "é".repeat(40));
        for (id, reference) in [
            (None, None),
            (Some("7"), None),
            (None, Some("\"a\"")),
            (Some("\"x\""), Some("1")),
            (Some("7"), Some(&*long)),
        ] {
            let text = EchoText::new(&Echo { id, reference });
            assert_eq!((text.get().id, text.get().reference), (id, reference));
        }
    }

    #[test]
    fn replies_wait_for_those_before_them() {
        let mut order = Order::default();
        order.push(false, &mut waiting(1), 0);
        order.push(false, &mut vec![Slot::new(&NOBODY, Outcome::Pong)], 0);
        order.push(false, &mut waiting(1), 0);
        assert!(!order.is_ready());
        order.settle(2, Outcome::Kept(None, Position(1)));
        assert!(taken(&mut order).is_empty());
        order.settle(0, Outcome::Kept(None, Position(1)));
        assert!(order.is_ready());
        assert_eq!(taken(&mut order).len(), 3);
        assert!(order.is_empty());
        assert_eq!((order.first(), order.next_ticket()), (3, 3));
    }

    #[test]
    fn an_array_leaves_whole() {
        let mut order = Order::default();
        order.push(true, &mut waiting(3), 9);
        order.settle(0, Outcome::Kept(None, Position(1)));
        order.settle(2, Outcome::Kept(None, Position(1)));
        assert!(taken(&mut order).is_empty());
        order.settle(1, Outcome::Kept(None, Position(1)));
        assert_eq!(taken(&mut order), [Unit { messages: 3, bytes: 9, array: true }]);
    }

    /// The room of the largest array was once kept for as long as the connection.
    #[test]
    fn room_of_a_large_array_is_given_back() {
        let mut order = Order::default();
        order.push(true, &mut waiting(10 * KEPT_SLOTS), 0);
        (0..10 * KEPT_SLOTS as u64).for_each(|ticket| order.settle(ticket, Outcome::Pong));
        assert_eq!(taken(&mut order).len(), 1);
        assert!(order.slots.capacity() < 2 * KEPT_SLOTS);
    }

    #[test]
    fn an_empty_array_is_answered_in_its_place() {
        let mut order = Order::default();
        order.push(false, &mut waiting(1), 0);
        let empty = order.push(true, &mut Vec::new(), 0);
        assert_eq!(empty.weight().messages, 1);
        assert!(!order.is_ready());
        order.settle(0, Outcome::Pong);
        assert_eq!(taken(&mut order).len(), 2);
        let mut json = Vec::new();
        encode_unit(true, &[], &mut json);
        assert_eq!(json, b"[]");
    }

    #[test]
    fn an_answer_that_nobody_waits_for_changes_nothing() {
        let mut order = Order::default();
        order.settle(5, Outcome::Pong);
        order.push(false, &mut waiting(1), 7);
        assert_eq!(order.clear(), Weight { messages: 1, bytes: 7 });
        order.settle(0, Outcome::Pong);
        assert!(order.is_empty() && !order.is_ready());
    }
}
