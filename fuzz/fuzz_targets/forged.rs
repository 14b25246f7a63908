//! Reports of an attacker in a journal that is written over, killed and opened again.
#![no_main]

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::forged(input));
