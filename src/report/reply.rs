//! Replies to clients: why a message was refused, and the JSON of acks, pongs, errors and `done` events.

use std::fmt;
use std::io::Write as _;

use super::field::excerpt;
use super::id::Id;
use super::key::{Key, Number};
use super::letter::LetterKind;
use super::message::Echo;

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
    /// 403: an id that the client's token may not write.
    ForbiddenId,
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
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::BadJson,
        Self::BadField,
        Self::UnknownOp,
        Self::IdMismatch,
        Self::ForbiddenId,
        Self::TooLarge,
        Self::BacklogFull,
        Self::ShuttingDown,
        Self::JournalFull,
    ];

    /// The code on the wire, an HTTP status.
    pub fn code(self) -> u16 {
        match self {
            Self::BadJson | Self::BadField | Self::UnknownOp | Self::IdMismatch => 400,
            Self::ForbiddenId => 403,
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
            Self::ForbiddenId => "forbidden_id",
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

/// When a client may try again while the node stops: by then another node, or this one, may be up. In milliseconds.
const RETRY_AFTER_SHUTDOWN_MS: u64 = 1_000;

impl Refusal {
    /// `bad_json`; the message says what is wrong.
    pub fn bad_json(message: String) -> Self {
        Self { kind: RefusalKind::BadJson, field: None, message, retry_after_ms: None }
    }

    /// `bad_json`, for what the JSON reader says.
    pub(super) fn not_json(error: &serde_json::Error) -> Self {
        Self::bad_json(format!("the message is not valid JSON: {error}"))
    }

    /// `bad_field`; the message names the field, what it was and what is allowed.
    pub fn bad_field(field: &'static str, message: String) -> Self {
        Self { kind: RefusalKind::BadField, field: Some(field), message, retry_after_ms: None }
    }

    /// `unknown_op`.
    pub(super) fn unknown_op(message: String) -> Self {
        Self { kind: RefusalKind::UnknownOp, field: None, message, retry_after_ms: None }
    }

    /// `id_mismatch`, with both as raw JSON.
    pub(super) fn id_mismatch(id: &str, data_id: &str) -> Self {
        let (id, data_id) = (excerpt(id), excerpt(data_id));
        let message = format!("id is {id} and data.id is {data_id}: send one of them, or the same in both");
        Self { kind: RefusalKind::IdMismatch, field: None, message, retry_after_ms: None }
    }

    /// `too_large`: a message of more than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the message has more than {limit} bytes (max_report_bytes): split it or send less");
        Self { kind: RefusalKind::TooLarge, field: None, message, retry_after_ms: None }
    }

    /// `too_large`: an array of more than `limit` messages.
    pub fn too_many(limit: usize) -> Self {
        let message = format!("the array has more than {limit} messages: send them in several");
        Self { kind: RefusalKind::TooLarge, field: None, message, retry_after_ms: None }
    }

    /// `backlog_full`: the backlog of `id` is at `limit` reports.
    pub fn backlog_full(id: &Id, limit: u64, retry_after_ms: u64) -> Self {
        let message = format!(
            "{limit} reports of id {id} wait for the sink, which is its limit (max_backlog_per_id): \
             send this one again after {retry_after_ms} ms"
        );
        Self { kind: RefusalKind::BacklogFull, field: None, message, retry_after_ms: Some(retry_after_ms) }
    }

    /// `journal_full`, with the limit that was reached, such as "the journal holds 8 GiB (max_bytes)".
    pub fn journal_full(reason: impl fmt::Display, retry_after_ms: u64) -> Self {
        let message =
            format!("{reason}: nothing is taken until there is room; send it again after {retry_after_ms} ms");
        Self { kind: RefusalKind::JournalFull, field: None, message, retry_after_ms: Some(retry_after_ms) }
    }

    /// `forbidden_id`; the message says which rule is in the way.
    pub fn forbidden_id(message: String) -> Self {
        Self { kind: RefusalKind::ForbiddenId, field: None, message, retry_after_ms: None }
    }

    /// A good message of a request of which all are kept or none: that at place `at`, from 0, was refused `first`.
    pub fn with_another(at: usize, first: &Self) -> Self {
        let message =
            format!("nothing of this request was kept (atomic), as its message {} was refused: {first}", at + 1);
        Self { message, field: None, ..first.clone() }
    }

    /// `shutting_down`.
    pub fn shutting_down() -> Self {
        let message = "the node is stopping and did not keep this: connect again and send it again".to_owned();
        let retry_after_ms = Some(RETRY_AFTER_SHUTDOWN_MS);
        Self { kind: RefusalKind::ShuttingDown, field: None, message, retry_after_ms }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}

/// Appends the reply to what was kept: a report, with the number that it has in the sink, or a marker, which has none.
pub fn ack(buf: &mut Vec<u8>, echo: &Echo<'_>, number: Option<Number>) {
    buf.extend_from_slice(br#"{"op":"ack""#);
    push_id(buf, echo);
    if let Some(Number { source, seq }) = number {
        push_number(buf, r#","source":"#, source.into());
        push_number(buf, r#","seq":"#, seq);
    }
    push_reference(buf, echo);
    buf.extend_from_slice(br#","code":200}"#);
}

/// Appends the reply to a ping.
pub fn pong(buf: &mut Vec<u8>, echo: &Echo<'_>) {
    buf.extend_from_slice(br#"{"op":"pong""#);
    push_id(buf, echo);
    push_reference(buf, echo);
    buf.extend_from_slice(br#","code":200}"#);
}

/// Appends the event that a `done` marker and all before it are in the sink, where the id has `reports` rows in all, or
/// dead letters, of which there are `dead`.
pub fn done(buf: &mut Vec<u8>, echo: &Echo<'_>, reports: u64, dead: u64) {
    buf.extend_from_slice(br#"{"op":"done""#);
    push_id(buf, echo);
    push_reference(buf, echo);
    push_number(buf, r#","code":200,"reports":"#, reports);
    push_number(buf, r#","dead":"#, dead);
    buf.push(b'}');
}

/// Appends the event that a report is a dead letter.
pub fn dead(buf: &mut Vec<u8>, key: &Key, kind: LetterKind) {
    let Key { id, number: Number { source, seq } } = key;
    write!(buf, r#"{{"op":"dead","id":"{id}","source":{source},"seq":{seq},"kind":"{}"}}"#, kind.name())
        .expect("a Vec takes every write");
}

/// Appends the reply to a message of which nothing was kept.
pub fn error(buf: &mut Vec<u8>, echo: &Echo<'_>, refusal: &Refusal) {
    buf.extend_from_slice(br#"{"op":"error""#);
    push_id(buf, echo);
    push_reference(buf, echo);
    push_number(buf, r#","code":"#, refusal.kind.code().into());
    for (name, text) in [
        (r#","error":"#, Some(refusal.kind.name())),
        (r#","field":"#, refusal.field),
        (r#","message":"#, Some(refusal.message.as_str())),
    ] {
        let Some(text) = text else { continue };
        buf.extend_from_slice(name.as_bytes());
        serde_json::to_writer(&mut *buf, text).expect("text is JSON, and a Vec takes every write");
    }
    if let Some(ms) = refusal.retry_after_ms {
        push_number(buf, r#","retry_after_ms":"#, ms);
    }
    buf.push(b'}');
}

fn push_id(buf: &mut Vec<u8>, echo: &Echo<'_>) {
    if let Some(id) = echo.id {
        buf.extend_from_slice(br#","id":"#);
        buf.extend_from_slice(id.as_bytes());
    }
}

fn push_reference(buf: &mut Vec<u8>, echo: &Echo<'_>) {
    if let Some(reference) = echo.reference {
        buf.extend_from_slice(br#","ref":"#);
        buf.extend_from_slice(reference.as_bytes());
    }
}

fn push_number(buf: &mut Vec<u8>, name: &str, number: u64) {
    buf.extend_from_slice(name.as_bytes());
    write!(buf, "{number}").expect("a Vec takes every write");
}
