//! How values lie on disk: behind a header, under a checksum that only this journal makes, and masked, so that no byte
//! that a client chose is there as it chose it.
//!
//! ```text
//! value  version (2) | magic | sum (u32, LE) | length of the body (u32, LE) | body, masked
//! sum    crc32 of the body as it lies there, begun from a number of the journal's own
//! mask   4 KiB that follow from the journal's secret, again and again
//! ```
//!
//! Damaged files are searched for values at any byte, and what a value holds is mostly what clients sent. Without the
//! secret a client could send a report with a whole value in it, or with what the storage below takes for a message of
//! its own log. Checksums and masks keep clients out; they hide nothing from whoever may read the files, where the
//! secret lies, too.
//!
//! Keys of the storage are masked likewise (`store.rs`). Version 1 had neither secret nor masks: [`Seal::none`]. Its
//! values are read by `upgrade.rs` alone.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::error::Damage;

/// Behind the version: what a value is, also where a damaged file is searched for values.
pub type Magic = [u8; 3];
/// Version, magic, checksum, length.
pub(super) const HEADER_BYTES: usize = 12;
/// The longest body that is decoded; the longest that is written is a report of 96 KiB with its envelope.
pub(super) const MAX_BODY_BYTES: usize = 112 * 1024;
/// How far a character of an id may be moved: the highest is `z`.
const ID_SHIFTS: u8 = u8::MAX - b'z' + 1;
/// The version of values with neither secret nor mask.
const UNSEALED: u8 = 1;
/// The version that is written.
const SEALED: u8 = 2;
/// Bytes of the mask. More than the sums of a few reports can tell, and few enough to stay in the processor's cache.
const MASK_BYTES: usize = 4096;

/// What a journal seals its values with.
#[derive(Clone)]
pub struct Seal {
    version: u8,
    /// Where each checksum begins.
    sum: u32,
    /// What numbers in keys are moved by.
    shift: u64,
    mask: Arc<[u8; MASK_BYTES]>,
}

impl Seal {
    /// That of the journal with this secret.
    pub fn of(secret: &[u8; 32]) -> Self {
        if cfg!(forebay_plant = "seal_without_secret") {
            return Self { version: SEALED, ..Self::none() };
        }
        let mut stream = Stream::of(secret);
        let (sum, shift) = (stream.next() as u32, stream.next() >> 1);
        let mut mask = [0; MASK_BYTES];
        mask.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&stream.next().to_le_bytes()));
        Self { version: SEALED, sum, shift, mask: Arc::new(mask) }
    }

    /// What version 1 of the format has for one: none.
    pub(super) fn none() -> Self {
        Self { version: UNSEALED, sum: 0, shift: 0, mask: Arc::new([0; MASK_BYTES]) }
    }

    /// The best that one can make who knows the format and not the secret.
    #[cfg(test)]
    pub(super) fn guessed() -> Self {
        Self { version: SEALED, ..Self::none() }
    }

    /// Whether it is one.
    pub(super) fn is_sealed(&self) -> bool {
        self.version == SEALED
    }

    /// Appends header and body: whatever `body` appends, masked, behind its version, length and checksum.
    pub fn frame(&self, magic: Magic, value: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
        let start = begin(value);
        body(value);
        self.mask(&mut value[start + HEADER_BYTES..], 0);
        self.finish(magic, &mut value[start..]);
    }

    /// The same for a body that consists of such values, and is not masked once more.
    pub(super) fn enclose(&self, magic: Magic, value: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
        let start = begin(value);
        body(value);
        self.finish(magic, &mut value[start..]);
    }

    fn finish(&self, magic: Magic, value: &mut [u8]) {
        let (header, body) = value.split_at_mut(HEADER_BYTES);
        let length = u32::try_from(body.len()).expect("a body is at most MAX_BODY_BYTES");
        header[0] = self.version;
        header[1..4].copy_from_slice(&magic);
        header[4..8].copy_from_slice(&self.sum_of(body).to_le_bytes());
        header[8..12].copy_from_slice(&length.to_le_bytes());
    }

    /// Checks header and checksum, and returns the body as it lies there.
    ///
    /// # Errors
    /// [`Damage`], whatever the bytes are.
    pub(super) fn check<'a>(&self, magic: Magic, value: &'a [u8]) -> Result<&'a [u8], Damage> {
        let (header, body) = value.split_at_checked(HEADER_BYTES).ok_or(Damage::Length)?;
        if !self.is_header_of(magic, header) {
            return Err(Damage::Version(header[0]));
        }
        if body_length(header) != body.len() || body.len() > MAX_BODY_BYTES {
            return Err(Damage::Length);
        }
        if self.sum_of(body) != field(header, 4) && cfg!(not(forebay_plant = "trust_the_bytes")) {
            return Err(Damage::Checksum);
        }
        Ok(body)
    }

    /// Whether a value of this kind may begin with these bytes.
    pub(super) fn is_header_of(&self, magic: Magic, header: &[u8]) -> bool {
        header[0] == self.version && header[1..4] == magic
    }

    /// Takes the mask off a value whose header and checksum were looked at.
    pub fn open(&self, value: &[u8]) -> Bytes {
        let mut value = BytesMut::from(value);
        self.mask(&mut value[HEADER_BYTES..], 0);
        value.freeze()
    }

    /// Checks a value and takes its mask off.
    ///
    /// # Errors
    /// As [`Seal::check`].
    pub(super) fn unframe(&self, magic: Magic, value: &[u8]) -> Result<Bytes, Damage> {
        self.check(magic, value)?;
        Ok(self.open(value))
    }

    /// Puts the mask over bytes, or takes it off, as if `before` others lay before them.
    pub(super) fn mask(&self, bytes: &mut [u8], before: usize) {
        let (first, rest) = bytes.split_at_mut(bytes.len().min((MASK_BYTES - before % MASK_BYTES) % MASK_BYTES));
        first.iter_mut().zip(&self.mask[before % MASK_BYTES..]).for_each(|(byte, mask)| *byte ^= mask);
        for chunk in rest.chunks_mut(MASK_BYTES) {
            chunk.iter_mut().zip(self.mask.iter()).for_each(|(byte, mask)| *byte ^= mask);
        }
    }

    /// An id as it lies in keys that are in the order of ids: each character is moved up, by less than takes the
    /// highest of them beyond a byte.
    pub(super) fn shift_id(&self, id: &mut [u8]) {
        id.iter_mut().zip(self.mask.iter()).for_each(|(byte, mask)| *byte = byte.wrapping_add(mask % ID_SHIFTS));
    }

    /// The id that lies in a key so.
    pub(super) fn unshift_id(&self, id: &mut [u8]) {
        id.iter_mut().zip(self.mask.iter()).for_each(|(byte, mask)| *byte = byte.wrapping_sub(mask % ID_SHIFTS));
    }

    /// A number below 2^63 as it lies in a key: in the same order, and nobody else knows which bytes it has.
    pub(super) fn shift(&self, number: u64) -> u64 {
        number.wrapping_add(self.shift)
    }

    /// The number that lies in a key so.
    pub(super) fn unshift(&self, number: u64) -> u64 {
        number.wrapping_sub(self.shift)
    }

    fn sum_of(&self, body: &[u8]) -> u32 {
        let mut sum = crc32fast::Hasher::new_with_initial(self.sum);
        sum.update(body);
        sum.finalize()
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Numbers that follow from a secret: xoshiro256++ (Blackman and Vigna, <https://prng.di.unimi.it>).
struct Stream([u64; 4]);

impl Stream {
    fn of(secret: &[u8; 32]) -> Self {
        let mut words = secret.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        Self(std::array::from_fn(|_| words.next().expect("a secret has four words")))
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let number = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        number
    }
}

/// Makes room for a header; where it begins.
fn begin(value: &mut Vec<u8>) -> usize {
    let start = value.len();
    value.extend_from_slice(&[0; HEADER_BYTES]);
    start
}

/// The length of the body that a header claims.
pub(super) fn body_length(header: &[u8]) -> usize {
    field(header, 8) as usize
}

fn field(header: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIND: Magic = *b"FBX";

    proptest! {
        #[test]
        fn what_was_masked_reads_back_in_whole_and_from_anywhere(
            bytes in proptest::collection::vec(any::<u8>(), 0..10_000),
            at in 0usize..10_000,
        ) {
            let seal = Seal::of(&[7; 32]);
            let mut value = Vec::new();
            seal.frame(KIND, &mut value, |value| value.extend_from_slice(&bytes));
            let opened = seal.unframe(KIND, &value).expect("just written");
            prop_assert_eq!(&opened[HEADER_BYTES..], &bytes[..]);
            let at = at.min(bytes.len());
            seal.mask(&mut value[HEADER_BYTES + at..], at);
            prop_assert_eq!(&value[HEADER_BYTES + at..], &bytes[at..]);
        }

        #[test]
        fn ids_in_keys_keep_their_order(a in "[A-Za-z0-9._:-]{1,64}", b in "[A-Za-z0-9._:-]{1,64}") {
            let seal = Seal::of(&[7; 32]);
            let shifted = |id: &str| {
                let mut id = id.as_bytes().to_vec();
                seal.shift_id(&mut id);
                id
            };
            prop_assert_eq!(a.cmp(&b), shifted(&a).cmp(&shifted(&b)));
            let mut id = shifted(&a);
            prop_assert!(!id.contains(&0));
            seal.unshift_id(&mut id);
            prop_assert_eq!(id, a.as_bytes());
        }

        #[test]
        fn numbers_in_keys_keep_their_order(a in 0u64..(1 << 63), b in 0u64..(1 << 63)) {
            let seal = Seal::of(&[7; 32]);
            prop_assert_eq!(a.cmp(&b), seal.shift(a).cmp(&seal.shift(b)));
            prop_assert_eq!(seal.unshift(seal.shift(a)), a);
        }
    }

    /// Whatever it sends, it does not know what lies on the disk then.
    #[test]
    fn no_byte_of_a_value_is_as_a_client_chose_it() {
        let chosen = vec![0; 64 * 1024];
        let mut values = [[1; 32], [2; 32]].map(|secret| {
            let mut value = Vec::new();
            Seal::of(&secret).frame(KIND, &mut value, |value| value.extend_from_slice(&chosen));
            value.split_off(HEADER_BYTES)
        });
        for value in &mut values {
            let zeros = value.iter().filter(|&&byte| byte == 0).count();
            assert!(zeros < value.len() / 128, "{zeros} bytes lie there as they were sent");
        }
        assert_ne!(values[0], values[1]);
    }

    #[test]
    fn a_value_of_another_journal_or_of_none_is_not_believed() {
        let mut value = Vec::new();
        Seal::of(&[1; 32]).frame(KIND, &mut value, |value| value.extend_from_slice(b"body"));
        assert_eq!(Seal::of(&[2; 32]).check(KIND, &value), Err(Damage::Checksum));
        let mut old = Vec::new();
        Seal::none().frame(KIND, &mut old, |value| value.extend_from_slice(b"body"));
        assert_eq!(Seal::of(&[1; 32]).check(KIND, &old), Err(Damage::Version(1)));
        assert_eq!(Seal::none().check(KIND, &old), Ok(&b"body"[..]));
    }
}
