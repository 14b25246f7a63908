//! What must hold for every input: one function a fuzz target. Shared with `tests/fuzz_corpus.rs`, which replays the
//! corpora without a fuzzer.

mod config;
mod entry;
mod message;

pub use config::config;
pub use entry::entry;
pub use message::message;
