//! Bytes of a WebSocket, and the replies to them.
#![no_main]

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;
#[path = "../memory.rs"]
mod memory;

/// A session with its buffers, a window of messages and what the harness itself needs.
const SESSION: usize = 256 << 10;
/// Two bytes may be a message of an array, whose reply has some 200 bytes; the harness keeps and parses all replies.
const BYTE: usize = 1024;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    memory::at_most(SESSION + BYTE * input.len(), || harness::frames(input));
});
