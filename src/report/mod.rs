//! Reports: what they are and how they are said on the wire. No I/O, no clock, no async.

mod field;
pub mod id;
pub mod key;
pub mod message;
pub mod parse;
pub mod record;
pub mod reply;
pub mod time;

pub use id::Id;
pub use key::{Key, Number};
pub use message::{Echo, Message, Op, Parsed, Rejected};
pub use parse::parse;
pub use record::{Batch, Body, Draft, Marker, Position, Record, Report};
pub use reply::{Refusal, RefusalKind};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
