//! What a sink can answer instead of "stored", in four classes.

/// What to do about a sink's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// A deadlock, a lock wait: the same transaction again, after a short delay. Unknown codes are of this class too.
    Transient,
    /// Not reachable, read-only, full: one prober asks, all flushers wait, nothing is dropped.
    Outage,
    /// Wrong password, missing table or right: as an outage, but a person must act, and is told loudly.
    Operator,
    /// The row itself is refused: it goes to the dead letters.
    Poison,
}

/// An error of the sink; its text names no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// What to do about it.
    pub class: Class,
    /// The server's error number, where it gave one.
    pub code: Option<u32>,
    /// What happened, for a person.
    pub message: String,
}
