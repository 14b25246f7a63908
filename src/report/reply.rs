//! Replies to clients: why a message was refused, and the JSON of acks, pongs, errors and `done` events.

use std::fmt;

/// Why a message was refused; each kind has one code and one name on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// 400: not JSON, or not an object or array of objects.
    BadJson,
    /// 400: a field that is missing, of the wrong type or out of range.
    BadField,
    /// 400: an `op` that does not exist.
    UnknownOp,
    /// 400: `id` and `data.id` differ.
    IdMismatch,
    /// 413: over `max_report_bytes`.
    TooLarge,
    /// 429: the id's backlog is at `max_backlog_per_id`.
    BacklogFull,
    /// 503: the node is stopping.
    ShuttingDown,
    /// 507: the journal is at `max_bytes`, or the disk at `min_free_disk`.
    JournalFull,
}

impl RefusalKind {
    /// The code on the wire, an HTTP status.
    pub fn code(self) -> u16 {
        match self {
            Self::BadJson | Self::BadField | Self::UnknownOp | Self::IdMismatch => 400,
            Self::TooLarge => 413,
            Self::BacklogFull => 429,
            Self::ShuttingDown => 503,
            Self::JournalFull => 507,
        }
    }

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadField => "bad_field",
            Self::UnknownOp => "unknown_op",
            Self::IdMismatch => "id_mismatch",
            Self::TooLarge => "too_large",
            Self::BacklogFull => "backlog_full",
            Self::ShuttingDown => "shutting_down",
            Self::JournalFull => "journal_full",
        }
    }
}

/// A refused message: nothing of it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub kind: RefusalKind,
    /// The field at fault, where it is one field.
    pub field: Option<&'static str>,
    /// For a person: what happened, to what, what to do.
    pub message: String,
    /// When a retry is worth it, in milliseconds; `None`: never as it stands.
    pub retry_after_ms: Option<u64>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}
