//! Messages of clients, and the replies to them.
#![no_main]

#[path = "../harness.rs"]
#[allow(dead_code)]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::message(input));
