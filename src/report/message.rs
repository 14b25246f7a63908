//! A message of a client, as read from its text and borrowing from it.

use super::id::Id;
use super::reply::Refusal;

/// What a reply repeats of its message, so that the client knows which one is meant: raw JSON text, as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Echo<'a> {
    /// `id`, else `data.id`: a JSON string or number of at most [`MAX_ECHOED_ID_BYTES`]; valid JSON, if not a valid id.
    pub id: Option<&'a str>,
    /// `ref`, where it was valid.
    pub reference: Option<&'a str>,
}

/// The longest raw `id` that is repeated in a reply, in bytes; a valid one needs more only with escapes.
pub const MAX_ECHOED_ID_BYTES: usize = 256;

/// One valid message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What its reply repeats.
    pub echo: Echo<'a>,
    /// What it asks for.
    pub op: Op<'a>,
}

/// What a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// To keep a report.
    Report {
        /// The stream.
        id: Id,
        /// The client's own number, at most [`super::key::MAX_EXACT`].
        seq: Option<u64>,
        /// The client's time, in microseconds of the epoch; within `DECIMAL(17,6)` seconds.
        time: Option<i64>,
        /// The client's code, 0 where it sent none.
        code: i32,
        /// JSON text, byte for byte as sent and a slice of the message's text; `None` where the message has no `data`.
        data: Option<&'a str>,
    },
    /// To mark the stream as done.
    Done {
        /// The stream.
        id: Id,
    },
    /// To answer.
    Ping,
}

/// A message that was refused, with what could be read of it for the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected<'a> {
    /// What its reply repeats.
    pub echo: Echo<'a>,
    /// Why it was refused.
    pub refusal: Refusal,
}

/// What one text held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// One message, or a text that is not JSON at all: one reply.
    One(Result<Message<'a>, Rejected<'a>>),
    /// An array of messages: an array of as many replies, in this order.
    Many(Vec<Result<Message<'a>, Rejected<'a>>>),
}
