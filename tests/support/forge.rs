//! Reports that hold, once they are encoded, a whole value as the journal wrote it in its first version: magic, length
//! and a checksum that is right. No client knows the secret of a journal; these are the best that one can do without.
//!
//! ```text
//! of an entry   … seq: 253, u64 LE | 1 | time: 253, i64 LE | code: 252, u32 LE | peer: 1, 0, IPv4 | 1 | length | data
//! as a value      version, magic, crc …  | … crc | length, body …
//! ```

use std::sync::LazyLock;

use super::ledger::Sent;

/// Bytes of its data, and how many of them lie in the body of the value.
const DATA_BYTES: usize = 245;
const IN_BODY: usize = 235;
/// The same for all: what differs lies in front of the body.
static DATA: LazyLock<String> = LazyLock::new(data);
/// What the checksum must be: it lies across the last bytes of `seq` and what is between that and `time`.
const SUM: u32 = 0x0100_190B;

/// A report with a whole value in it.
pub struct Forged {
    /// What the ledger knows of it.
    pub sent: Sent,
    /// The message.
    pub text: String,
}

/// A report of `id` that holds a value of `kind` and `version`, the `last`th of its like. Its peer is 127.0.0.1.
pub fn forged(id: &str, kind: u8, version: u8, last: u8) -> Forged {
    let seq = u64::from_le_bytes([last, version, b'F', b'B', kind, 0x0B, 0x19, 0]);
    let data = DATA.clone();
    let text = format!(r#"{{"op":"report","id":"{id}","seq":{seq},"time":"2147.483648","code":524416,"data":{data}}}"#);
    Forged { sent: Sent { id: id.to_owned(), seq: Some(seq), data }, text }
}

/// A text of zeros and ones that makes the checksum of the body what it must be.
fn data() -> String {
    let body = |data: &[u8]| {
        let head = [0, 1, 0, 0, 0, 252, 0, 1, 0x10, 0, 1, 0, 127, 0, 0, 1, 1, DATA_BYTES as u8];
        crc32(&[&head[..], &data[..IN_BODY]].concat())
    };
    let mut data = [b'0'; DATA_BYTES];
    (data[0], data[DATA_BYTES - 1]) = (b'"', b'"');
    // A checksum is linear: what a one in the place of a zero changes does not depend on the rest.
    let (zeros, mut basis) = (body(&data), Vec::<(u32, u128)>::new());
    for at in 0..100 {
        data[100 + at] = b'1';
        let reduced = reduce(&basis, (body(&data) ^ zeros, 1 << at));
        data[100 + at] = b'0';
        if reduced.0 != 0 {
            basis.push(reduced);
        }
    }
    let (rest, ones) = reduce(&basis, (zeros ^ SUM, 0));
    assert_eq!(rest, 0, "a hundred places are enough for any checksum");
    (0..100).filter(|at| ones >> at & 1 == 1).for_each(|at| data[100 + at] = b'1');
    assert_eq!(body(&data), SUM);
    String::from_utf8(data.to_vec()).expect("zeros and ones")
}

/// Takes out of a change all that others make.
fn reduce(basis: &[(u32, u128)], mut change: (u32, u128)) -> (u32, u128) {
    for other in basis {
        if change.0 >> (31 - other.0.leading_zeros()) & 1 == 1 {
            change = (change.0 ^ other.0, change.1 ^ other.1);
        }
    }
    change
}

/// CRC-32 as of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}
