//! Messages of clients, and the replies to them.
#![no_main]

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::message(input));
