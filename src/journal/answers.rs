//! What a commit answers: to each outlet all that it has for it, at once.

use std::ops::Range;
use std::sync::Arc;

use tokio::time::Instant;

use super::append::{Ack, Answer, Content, Outlet, ReplyTo};
use super::senders::done_waiter;
use super::stream::Stream;
use crate::metrics::{Metrics, Tally};
use crate::report::{Position, Refusal};

/// Connections whose answers the commit thread writes itself in a cycle: that costs it what waking a task does.
const ANSWERED_AT_ONCE: usize = 64;

/// All appends of one id in one cycle.
pub(super) struct Group {
    pub(super) stream: Arc<Stream>,
    pub(super) first: Position,
    /// Which of the cycle's spots are its own.
    pub(super) spots: Range<usize>,
    pub(super) contents: Vec<Content>,
    pub(super) reports: u64,
    pub(super) bytes: u64,
}

/// What became of an append of the cycle.
pub(super) enum Verdict {
    /// Written as this content of this group.
    Written {
        group: usize,
        index: usize,
    },
    Refused(Box<Refusal>),
}

/// Notes who waits for a `done` that is durable.
pub(super) fn note_done_waiter(group: &Group, index: usize, to: &ReplyTo) {
    let position = Position(group.first.0 + index as u64);
    if let Some(waiter) = done_waiter(&group.contents[index], position, to) {
        group.stream.lock().done.push(waiter);
    }
}

/// Gives each outlet all its answers of this cycle at once, in the order of its appends.
pub(super) fn answer(mut answers: Vec<(ReplyTo, Verdict)>, groups: &[Group], node_id: u16, metrics: &Metrics) {
    let (mut acks, mut outlets) = (Tally::default(), 0);
    let outlet = |to: &ReplyTo| Arc::as_ptr(&to.outlet).cast::<()>();
    answers.sort_by_key(|(to, _)| outlet(to));
    let mut answers = answers.into_iter().peekable();
    while let Some((first, _)) = answers.peek() {
        let to: Arc<dyn Outlet> = Arc::clone(&first.outlet);
        let this = outlet(first);
        outlets += 1;
        // One look at the clock for each connection.
        let now = Instant::now();
        let mut its = std::iter::from_fn(|| {
            let (to, verdict) = answers.next_if(|(to, _)| outlet(to) == this)?;
            let answer = verdict.into_answer(groups, node_id);
            match &answer {
                Answer::Kept(_) => acks.observe(now.saturating_duration_since(to.since)),
                Answer::Refused(refusal) => metrics.refused.add(refusal.kind.name()),
            }
            Some((to.ticket, answer))
        });
        to.answer(&mut its, outlets <= ANSWERED_AT_ONCE);
    }
    metrics.acks.add(&acks);
}

impl Verdict {
    fn into_answer(self, groups: &[Group], node_id: u16) -> Answer {
        match self {
            Self::Refused(refusal) => Answer::Refused(*refusal),
            Self::Written { group, index } => {
                let group = &groups[group];
                let position = Position(group.first.0 + index as u64);
                Answer::Kept(Ack::of(&group.contents[index], node_id, position))
            }
        }
    }
}
