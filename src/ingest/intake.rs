//! From messages to slots and appends: the one way in, for sockets and for requests. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::replies::{Outcome, Slot};
use crate::journal::{Append, Content, Outlet, ReplyTo};
use crate::report::{Draft, Echo, Id, Marker, Message, Op, Refusal, Rejected};

/// What a message would change.
#[derive(Debug, Clone, Copy)]
pub(super) enum Effect {
    /// To keep a report of the id.
    Report(Id),
    /// To mark an id as done.
    Done(Id),
}

impl Effect {
    pub(super) fn id(&self) -> &Id {
        match self {
            Self::Report(id) | Self::Done(id) => id,
        }
    }
}

/// The messages of one frame or request on their way in.
pub(super) struct Intake {
    outlet: Arc<dyn Outlet>,
    peer: IpAddr,
    first_ticket: u64,
    since: Instant,
    /// One for each message, in order; those of appends wait for their answer.
    pub(super) slots: Vec<Slot>,
    /// What is to be made durable, in order.
    pub(super) appends: Vec<Append>,
    /// What the slots, or their replies, take of memory.
    pub(super) reply_bytes: usize,
}

/// What an append takes of memory besides its data, in bytes: itself, and what a commit has of it.
pub(super) const APPEND_BYTES: usize = 2 * size_of::<Append>();

impl Intake {
    /// Messages from `peer` that came at `since`; the first gets `first_ticket`, and their answers go to `outlet`.
    pub(super) fn new(outlet: Arc<dyn Outlet>, peer: IpAddr, first_ticket: u64, since: Instant) -> Self {
        Self { outlet, peer, first_ticket, since, slots: Vec::new(), appends: Vec::new(), reply_bytes: 0 }
    }

    /// Takes one message, which was read from `text`; `gate` may refuse what would change something.
    pub(super) fn take(
        &mut self,
        text: &Bytes,
        item: Result<Message<'_>, Rejected<'_>>,
        gate: &mut dyn FnMut(Effect) -> Result<(), Refusal>,
    ) {
        let Message { echo, op } = match item {
            Ok(message) => message,
            Err(Rejected { echo, refusal }) => return self.refuse(&echo, refusal),
        };
        let (effect, id, content) = match op {
            Op::Ping => return self.push(Slot::new(&echo, Outcome::Pong)),
            Op::Done { id } => (Effect::Done(id), id, Content::Marker(Marker::Done)),
            Op::Report { id, seq, time, code, data } => {
                let data = data.map(|data| text.slice_ref(data.as_bytes()));
                (Effect::Report(id), id, Content::Report(Draft { seq, time, code, peer: Some(self.peer), data }))
            }
        };
        if let Err(refusal) = gate(effect) {
            return self.refuse(&echo, refusal);
        }
        let ticket = self.first_ticket + self.slots.len() as u64;
        let done = matches!(effect, Effect::Done(_));
        self.push(Slot { done, ..Slot::new(&echo, Outcome::Waiting) });
        let reply_to = ReplyTo { outlet: Arc::clone(&self.outlet), ticket, since: self.since };
        self.appends.push(Append { id, content, reply_to: Some(reply_to) });
    }

    /// Takes a message that is refused before it is read.
    pub(super) fn refuse(&mut self, echo: &Echo<'_>, refusal: Refusal) {
        self.push(Slot::new(echo, Outcome::Refused(Box::new(refusal))));
    }

    fn push(&mut self, slot: Slot) {
        self.reply_bytes += slot.bytes();
        self.slots.push(slot);
    }

    /// What all of it takes of memory, but for the text.
    pub(super) fn bytes(&self) -> usize {
        self.reply_bytes + self.appends.len() * APPEND_BYTES
    }

    /// What the appends take of memory until they are committed, with `text`, which they are slices of.
    pub(super) fn queued_bytes(&self, text: &Bytes) -> usize {
        text.len() + self.appends.len() * APPEND_BYTES
    }

    /// Refuses all that was taken, with one reply for the whole.
    pub(super) fn refuse_all(&mut self, refusal: Refusal) {
        self.appends = Vec::new();
        self.slots = Vec::new();
        self.reply_bytes = 0;
        self.refuse(&Echo::default(), refusal);
    }

    /// Refuses every message that would have been appended, where another is refused: they are kept together or not at
    /// all.
    pub(super) fn refuse_with_others(&mut self) {
        let first = self.slots.iter().enumerate().find_map(|(at, slot)| Some((at, slot.refusal()?)));
        if let Some((at, first)) = first {
            let refusal = Refusal::with_another(at, first);
            self.refuse_appends(&refusal);
        }
    }

    /// Refuses every message that would have been appended.
    pub(super) fn refuse_appends(&mut self, refusal: &Refusal) {
        self.appends.clear();
        for slot in self.slots.iter_mut().filter(|slot| matches!(slot.outcome, Outcome::Waiting)) {
            slot.outcome = Outcome::Refused(Box::new(refusal.clone()));
            slot.done = false;
        }
        self.reply_bytes = self.slots.iter().map(Slot::bytes).sum();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::journal::{Answer, Drained};
    use crate::report::{Parsed, parse};

    struct Nobody;

    impl Outlet for Nobody {
        fn answer(&self, _answers: &mut dyn Iterator<Item = (u64, Answer)>, _at_once: bool) {}
        fn drained(&self, _ticket: u64, _drained: Drained) {}
    }

    fn taken(text: &'static str, gate: &mut dyn FnMut(Effect) -> Result<(), Refusal>) -> Intake {
        let mut intake = Intake::new(Arc::new(Nobody), IpAddr::from([127, 0, 0, 1]), 5, Instant::now());
        let bytes = Bytes::from_static(text.as_bytes());
        match parse(text, 1000) {
            Parsed::One(item) => intake.take(&bytes, item, gate),
            Parsed::Many(items) => items.into_iter().for_each(|item| intake.take(&bytes, item, gate)),
        }
        intake
    }

    const MIXED: &str = r#"[{"op":"ping"},{"op":"report","id":1,"data":{"a" : 1}},{"op":"x"},{"op":"done","id":1}]"#;

    #[test]
    fn each_message_has_a_slot_and_each_append_the_ticket_of_its_slot() {
        let intake = taken(MIXED, &mut |_| Ok(()));
        assert_eq!(intake.slots.len(), 4);
        assert_eq!(intake.slots.iter().map(|slot| slot.done).collect::<Vec<_>>(), [false, false, false, true]);
        let tickets = intake.appends.iter().map(|append| append.reply_to.as_ref().map(|reply| reply.ticket));
        assert_eq!(tickets.collect::<Vec<_>>(), [Some(6), Some(8)]);
        let Content::Report(draft) = &intake.appends[0].content else { panic!("a report") };
        assert_eq!(draft.data.as_deref(), Some(&br#"{"a" : 1}"#[..]));
        assert_eq!(intake.appends[1].content, Content::Marker(Marker::Done));
    }

    #[test]
    fn what_the_gate_refuses_is_not_appended() {
        let intake = taken(MIXED, &mut |effect| match effect {
            Effect::Report(_) => Err(Refusal::shutting_down()),
            Effect::Done(_) => Ok(()),
        });
        assert_eq!(intake.appends.len(), 1);
        assert!(matches!(intake.slots[1].outcome, Outcome::Refused(_)));
    }

    #[test]
    fn appends_can_still_be_refused_together() {
        let mut intake = taken(MIXED, &mut |_| Ok(()));
        intake.refuse_appends(&Refusal::shutting_down());
        assert!(intake.appends.is_empty());
        assert!(intake.slots.iter().all(|slot| !matches!(slot.outcome, Outcome::Waiting) && !slot.done));
    }
}
