//! By which rows of the sink's table of nodes a journal is told from a copy of itself: it knows those that its own
//! processes wrote.
//!
//! ```text
//! claims  version (1) | "FBC" | crc32 of the body (u32, LE) | length of the body (u32, LE) | body
//! body    nonce of the row that was found | nonce of the row that was to take its place (u64, BE, each; 0: none)
//! ```
//!
//! It is written before the row is, so the row has one of the two, however the process ends.

use std::io;
use std::path::Path;

use super::files::CLAIMS as FILE;
use super::identity::put;
use super::seal::{Magic, Seal};
use super::unreadable::{self, Parts};

const CLAIMS: Magic = *b"FBC";

/// Nonces of the rows that may be this journal's.
pub type Claims = [u64; 2];

/// What the journal in `dir` knows of its claims; `None` where it is of a version that kept none, or was damaged, or
/// the disk does not give the file back.
///
/// # Errors
/// When the file may not be read.
pub(super) fn read(dir: &Path) -> io::Result<Option<Claims>> {
    let bytes = unreadable::read(&dir.join(FILE), &mut Parts::new())?;
    Ok(decode(&bytes))
}

/// Keeps them, durably.
///
/// # Errors
/// What the system says. The file is as it was then, or has these.
pub(super) fn write(dir: &Path, claims: Claims) -> io::Result<()> {
    let mut bytes = Vec::new();
    Seal::none().frame(CLAIMS, &mut bytes, |body| body.extend(claims.iter().flat_map(|nonce| nonce.to_be_bytes())));
    put(dir, FILE, &bytes, false)
}

fn decode(bytes: &[u8]) -> Option<Claims> {
    let (found, taking) = Seal::none().check(CLAIMS, bytes).ok()?.split_first_chunk()?;
    Some([u64::from_be_bytes(*found), u64::from_be_bytes(taking.try_into().ok()?)])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn claims_read_back_as_they_were_written_and_damaged_ones_are_none() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        assert_eq!(read(dir.path()).expect("readable"), None);
        write(dir.path(), [0, 7]).expect("written");
        write(dir.path(), [7, u64::MAX]).expect("written");
        assert_eq!(read(dir.path()).expect("readable"), Some([7, u64::MAX]));
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).expect("readable");
        bytes[20] ^= 1;
        fs::write(&path, bytes).expect("written");
        assert_eq!(read(dir.path()).expect("readable"), None);
    }
}
