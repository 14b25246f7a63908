//! What goes into the journal and what comes back: appends, acks, outlets.

use std::sync::Arc;

use tokio::time::Instant;

use super::entry::number;
use crate::report::{Draft, Id, Key, LetterKind, Marker, Number, Position, Refusal};

/// Something to make durable for one id.
pub struct Append {
    /// Whose it is.
    pub id: Id,
    /// What it is.
    pub content: Content,
    /// Where its answer goes, if anybody waits for one.
    pub reply_to: Option<ReplyTo>,
}

/// The content of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A report.
    Report(Draft),
    /// A marker.
    Marker(Marker),
}

/// Where the answer to an append goes.
#[derive(Clone)]
pub struct ReplyTo {
    /// The connection (or request) that waits.
    pub outlet: Arc<dyn Outlet>,
    /// The outlet's own name for the message.
    pub ticket: u64,
    /// When the message was there to be read.
    pub since: Instant,
}

/// The answer to an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is durable.
    Kept(Ack),
    /// Nothing of it was kept.
    Refused(Refusal),
}

/// Proof that an append is on disk: only a commit that was synced makes one (but for [`Ack::made_up`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    pub(super) position: Position,
    pub(super) number: Option<Number>,
}

impl Ack {
    /// What the journal would answer a report or marker that it kept at `position`. For what stands in for the journal
    /// in a test; `tests/tidy.rs` keeps it out of the service.
    pub fn made_up(content: &Content, node_id: u16, position: Position) -> Self {
        Self::of(content, node_id, position)
    }

    /// The answer to what was synced at `position`.
    pub(super) fn of(content: &Content, node_id: u16, position: Position) -> Self {
        let number = match content {
            Content::Report(draft) => Some(number(draft.seq, node_id, position)),
            Content::Marker(_) => None,
        };
        Self { position, number }
    }

    /// The record's position in the journal.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The number that the report has in the sink; markers have none.
    pub fn number(&self) -> Option<Number> {
        self.number
    }
}

/// Who waits for answers: a connection or a request. Called by the commit thread and by flushers, so it must not block.
pub trait Outlet: Send + Sync {
    /// All answers that one commit has for this outlet, in the order of its appends, as `(ticket, answer)`. `at_once`
    /// says whether the caller has time for a write that does not wait: to the client, without a task in between.
    fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>, at_once: bool);

    /// The `done` marker of `ticket` and all before it are in the sink, or dead letters.
    fn drained(&self, ticket: u64, drained: Drained);

    /// Whether it wants to know which of its reports become dead letters.
    fn wants_dead(&self) -> bool {
        false
    }

    /// A report that it appended is a dead letter.
    fn dead(&self, _dead: Dead) {}
}

/// Where the reports of an id ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Rows that the id has in the sink.
    pub reports: u64,
    /// Dead letters that the journal holds of the id, up to [`MAX_COUNTED_DEAD`](super::MAX_COUNTED_DEAD).
    pub dead: u64,
}

/// A report that is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead {
    /// Its key.
    pub key: Key,
    /// Why it is one.
    pub kind: LetterKind,
}
