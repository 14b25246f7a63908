//! The ingest listener: WebSockets at `GET /ws` and requests at `POST /reports`.
//!
//! Duty: turns bytes of clients into appends, and answers into bytes; keeps the protocol, the order of replies and the
//! bounds of each connection; leaves a marker for ids whose last connection ends.
//!
//! Invariants:
//! 1. Every message gets exactly one reply, unless its connection is lost first: replies come in the order of messages,
//!    those of an array as one array of the same length.
//! 2. An ack is written only for an answer that the journal gave.
//! 3. A `done` event follows the ack of its message. Nothing follows a close frame.
//! 4. All replies of a connection that one call of `Outlet::answer` releases leave in one write.
//! 5. While `max_in_flight` messages of a connection, or `max_reply_bytes_per_connection` of replies, are unanswered or
//!    unwritten, no further frame of it is read. One frame may carry the count over the limit: an array is taken
//!    whole, or
//!    refused whole where its replies alone would be over it.
//! 6. Nothing that clients do makes the node hold more for them than: for each connection 16 KiB of a message under
//!    way,
//!    16 KiB of replies, `outbox`'s few pongs and events, and buffers; and over all connections what `bodies`
//!    (`max_request_bytes`), `replies` (`max_reply_bytes`), `dones` (`max_waiting_dones`), `presence` (`max_ids`) and
//!    the
//!    service's reservations (`max_queued_bytes`) give. What is sorted out of a message is counted before anything is
//!    waited for, or dropped.
//! 7. A marker `disconnected` is appended after all appends of its connection are answered (or a bound has passed), and
//!    never after a report of a connection that came later. It is left for ids whose last kept message is a report.
//! 8. A frame is read to its end or reading is over: the library's read is not cancel-safe.
//! 9. What a token may not write is refused by message. A token that is not known is refused before the upgrade, and
//!    before a body is read. Once a token is withdrawn or changed its WebSockets are told nothing of what comes later:
//!    they get the answers to what was kept before, and are closed.
//! 10. Every task is tracked; [`Server::run`] returns after all of them, or after a bound.
//!
//! Bytes on the wire: HTTP/1.1, RFC 6455 (version 13, no extension, subprotocol `forebay` for whoever names it), text
//! or binary frames of JSON as `report::parse` reads and `report::reply` writes them; errors of HTTP itself as
//! `application/problem+json`.
//!
//! | close code | when |
//! |---|---|
//! | the client's own | the client closed; pending answers come first |
//! | 1001 | the node stops, or the client was silent for `idle_timeout` (the reason says which) |
//! | 1002 | the protocol is broken: unmasked, misplaced fragment, long control frame, bad close code |
//! | 1007 | a message, text or binary, that is not UTF-8 |
//! | 1008 | the token of the connection was changed or withdrawn; what was answered before comes first |
//! | 1009 | a message over `max_report_bytes`; the error reply `too_large` comes first |
//! | 1013 | a large message came slowly while others waited for memory |
//!
//! Does not know: how reports are kept, when they are drained, which sink there is.

mod assembly;
mod backend;
mod batch;
mod budget;
mod collector;
mod dones;
mod http;
mod intake;
mod listener;
mod once;
mod outbox;
mod payload;
mod post;
mod presence;
mod reader;
mod replies;
mod session;
mod source;
mod write_half;
mod writer;

pub use backend::Backend;
pub use listener::Server;
pub use session::alone;
