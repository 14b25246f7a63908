//! Entries and dead letters as they may come from a disk.
#![no_main]

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;
#[path = "../memory.rs"]
mod memory;

/// What decoding reserves on the word of a length: serde takes at most a mebibyte.
const RESERVED: usize = 3 << 20;
/// A record of one byte is this large in memory, in the encoded form and in the decoded one, each doubled by growth.
const RECORD: usize = 1024;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    memory::at_most(RESERVED + RECORD * input.len(), || harness::entry(input));
});
