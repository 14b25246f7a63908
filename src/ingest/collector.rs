//! The answers to one request, until all are there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::presence::PendingAppend;
use super::replies::{Outcome, Slot};
use crate::journal::{Answer, Drained, Outlet};

/// The replies of one request, until all are there.
#[derive(Default)]
pub(super) struct Collector {
    collected: Mutex<Collected>,
    complete: Notify,
}

#[derive(Default)]
struct Collected {
    slots: Vec<Slot>,
    waiting: usize,
    /// `done` messages that are drained.
    drained: Vec<(u64, Drained)>,
}

impl Collector {
    fn collected(&self) -> MutexGuard<'_, Collected> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is to come: the ticket of a message is its place in `slots`.
    pub(super) fn expect(&self, slots: Vec<Slot>, waiting: usize) {
        *self.collected() = Collected { slots, waiting, drained: Vec::new() };
    }

    /// Says what being kept means for the ids of messages, by ticket, before these are appended.
    pub(super) fn pending(&self, pending: impl Iterator<Item = (u64, Option<PendingAppend>)>) {
        let mut collected = self.collected();
        for (ticket, pending) in pending {
            if let Some(slot) = usize::try_from(ticket).ok().and_then(|at| collected.slots.get_mut(at)) {
                slot.pending = pending;
            }
        }
    }

    fn settle(&self, answers: &mut dyn Iterator<Item = (u64, Outcome)>) {
        let mut collected = self.collected();
        for (ticket, outcome) in answers {
            let slot = usize::try_from(ticket).ok().and_then(|at| collected.slots.get_mut(at));
            if let Some(slot) = slot.filter(|slot| matches!(slot.outcome, Outcome::Waiting)) {
                slot.settle(outcome);
                collected.waiting -= 1;
            }
        }
        if collected.waiting == 0 {
            self.complete.notify_one();
        }
    }

    /// Waits until every message is answered.
    pub(super) async fn all(&self) -> Vec<Slot> {
        loop {
            {
                let mut collected = self.collected();
                if collected.waiting == 0 {
                    return std::mem::take(&mut collected.slots);
                }
            }
            self.complete.notified().await;
        }
    }
}

impl Collector {
    /// Waits until `count` markers are drained.
    pub(super) async fn all_drained(&self, count: usize) {
        while self.collected().drained.len() < count {
            self.complete.notified().await;
        }
    }

    /// Those that are drained by now: ticket, and where the reports ended.
    pub(super) fn drained_now(&self) -> Vec<(u64, Drained)> {
        std::mem::take(&mut self.collected().drained)
    }
}

impl Outlet for Collector {
    fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>, _at_once: bool) {
        self.settle(&mut answers.map(|(ticket, answer)| (ticket, Outcome::from(answer))));
    }

    /// Most requests are over when their markers are durable.
    fn drained(&self, ticket: u64, drained: Drained) {
        self.collected().drained.push((ticket, drained));
        self.complete.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::report::{Echo, Position};

    #[tokio::test]
    async fn a_request_waits_for_its_last_answer() {
        let collector = Collector::default();
        let waiting = || Slot::new(&Echo::default(), Outcome::Waiting);
        collector.expect(vec![waiting(), Slot::new(&Echo::default(), Outcome::Pong), waiting()], 2);
        collector.settle(&mut [(2, Outcome::Kept(None, Position(1)))].into_iter());
        assert!(timeout(Duration::from_millis(10), collector.all()).await.is_err());
        collector
            .settle(&mut [(2, Outcome::Pong), (0, Outcome::Kept(None, Position(1))), (9, Outcome::Pong)].into_iter());
        assert_eq!(collector.all().await.len(), 3);
    }
}
