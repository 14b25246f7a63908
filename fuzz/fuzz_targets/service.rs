//! A node's service by arbitrary steps, against a model.
#![no_main]

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::service(input));
