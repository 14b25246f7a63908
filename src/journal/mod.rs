//! The journal.

pub mod append;

pub use append::{Ack, Answer, Append, Content, Outlet, ReplyTo};
