//! Reports: what they are and how they are said on the wire. No I/O, no clock, no async.

mod digest;
mod field;
pub mod id;
pub mod identity;
pub mod key;
pub mod letter;
pub mod message;
pub mod parse;
pub mod record;
pub mod reply;
pub mod time;

pub use digest::Digest;
pub use id::Id;
pub use identity::{JournalId, Owner};
pub use key::{Key, Number};
pub use letter::{Holder, LetterKey, LetterKind};
pub use message::{Echo, Message, Op, Parsed, Rejected};
pub use parse::{Rules, parse};
pub use record::{Batch, Body, Draft, Marker, Position, Record, Report};
pub use reply::{Refusal, RefusalKind};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
