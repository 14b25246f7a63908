//! Target `entry`: the values of the journal, as they may come from a disk.

use std::sync::LazyLock;

use bytes::Bytes;
use forebay::journal::{Damage, Seal, Value};

/// Neither a panic nor a value where there is none; what decodes is encoded to bytes that decode as the same, under its
/// own key alone.
///
/// The input is a value, and the body of an entry and of a dead letter, whose header is put before it.
pub fn entry(input: &[u8]) {
    check(input.to_vec());
    check(framed(b"FBJ", input));
    check(framed(b"FBD", input));
}

/// A sealed value with this body.
fn framed(magic: &[u8; 3], body: &[u8]) -> Vec<u8> {
    let mut value = Vec::new();
    seal().frame(*magic, &mut value, |value| value.extend_from_slice(body));
    value
}

fn seal() -> &'static Seal {
    static SEAL: LazyLock<Seal> = LazyLock::new(|| Seal::of(&[7; 32]));
    &SEAL
}

fn check(stored: Vec<u8>) {
    let stored = Bytes::from(stored);
    let Ok(value) = Value::decode(seal(), &stored) else { return };
    if let Value::Entry(entry) = &value {
        assert!(!entry.records.is_empty() && entry.reports() <= entry.records.len() as u64);
        let positions = entry.records.iter().map(|record| record.position.0);
        assert!(positions.eq(entry.first.0..=entry.last().0), "positions without a gap");
    }
    let key = value.key(seal());
    let mut again = Vec::new();
    value.encode(seal(), &mut again);
    assert_eq!(Value::decode_under(seal(), &key, &Bytes::from(again)).as_ref(), Ok(&value));
    let mut other = key;
    for at in 0..other.len() {
        other[at] ^= 1;
        assert_eq!(Value::decode_under(seal(), &other, &stored), Err(Damage::Key));
        other[at] ^= 1;
    }
    // A bit of the value makes it another or none: a checksum of 32 bits sees every change of one.
    let mut flipped = stored.to_vec();
    let at = flipped.len() / 2;
    flipped[at] ^= 1;
    assert!(Value::decode(seal(), &Bytes::from(flipped)).is_err());
}
