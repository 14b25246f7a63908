//! Reports: what they are and how they are said on the wire. No I/O, no clock, no async.

pub mod id;
pub mod key;
pub mod record;
pub mod reply;

pub use id::Id;
pub use key::{Key, Number};
pub use record::{Batch, Body, Draft, Marker, Position, Record, Report};
pub use reply::{Refusal, RefusalKind};
