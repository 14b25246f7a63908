//! What must hold for every input: one function a fuzz target. Shared with `tests/fuzz_corpus.rs`, which replays the
//! corpora without a fuzzer.

mod config;
mod entry;
mod forged;
mod frames;
mod message;
mod service;
mod stand_ins;
mod wire;

pub use config::config;
pub use entry::entry;
pub use forged::forged;
pub use frames::frames;
pub use message::message;
pub use service::service;
