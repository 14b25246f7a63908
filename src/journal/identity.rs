//! Who this journal is: its name, how often it was opened, and the secret that its bytes are sealed with.
//!
//! ```text
//! identity  version (1) | "FBI" | crc32 of the body (u32, LE) | length of the body (u32, LE) | body
//! body      journal id | starts (u64, BE, each) | secret (32 bytes)
//! ```
//!
//! The file is replaced as a whole: written under another name, synced, renamed, and its folder synced. A start counts
//! itself on disk before it tells anybody its number, so no two starts have one.
//!
//! Without its secret a journal cannot be read. So each segment of bundles begins with a copy, and the file `synced`
//! has one: what most of them say holds, and the loss of any of them loses nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::files::{self, HALF_MADE, IDENTITY as FILE};
use super::log;
use super::private;
use super::seal::{HEADER_BYTES, Magic, Seal};
use super::store::recent;
use super::unreadable::{self, Parts};
use crate::report::JournalId;

/// What the file begins with, behind its version.
const IDENTITY: Magic = *b"FBI";
/// Bytes of the secret.
const SECRET_BYTES: usize = 32;
/// Bytes of a stored identity.
pub(super) const IDENTITY_BYTES: usize = HEADER_BYTES + 8 + 8 + SECRET_BYTES;

/// What a journal is known by. Not shown as a whole: the secret is nobody's business.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// Its name.
    pub(super) id: JournalId,
    /// How often it was opened to be written.
    pub(super) starts: u64,
    /// Random, and never seen by a client.
    pub(super) secret: [u8; SECRET_BYTES],
}

impl Identity {
    /// That of a journal that is made now.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub(super) fn new() -> io::Result<Self> {
        let mut secret = [0; SECRET_BYTES];
        fill_randomly(&mut secret)?;
        Ok(Self { id: JournalId(random()?), starts: 0, secret })
    }

    /// The one that is stored in these bytes, if they are whole.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let body = Seal::none().check(IDENTITY, bytes).ok()?;
        let (id, body) = body.split_first_chunk()?;
        let (starts, secret) = body.split_first_chunk()?;
        let (id, starts) = (JournalId(u64::from_be_bytes(*id)), u64::from_be_bytes(*starts));
        Some(Self { id, starts, secret: secret.try_into().ok()? })
    }

    /// Its bytes, as they are stored.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(IDENTITY_BYTES);
        Seal::none().frame(IDENTITY, &mut bytes, |body| {
            body.extend_from_slice(&self.id.0.to_be_bytes());
            body.extend_from_slice(&self.starts.to_be_bytes());
            body.extend_from_slice(&self.secret);
        });
        bytes
    }

    /// Makes the one of a new journal, durably, unless another process does so just now; the one that is there then.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make(dir: &Path) -> io::Result<Self> {
        private::make_folder(dir)?;
        let made = Self::new()?;
        match put(dir, FILE, &made.encode(), true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Self::read(dir)?.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not whole"))
            }
            put => put.map(|()| made),
        }
    }

    /// The one of the journal in `dir`; none where the file is missing or damaged, or the disk does not give it back.
    ///
    /// # Errors
    /// When the file may not be read.
    fn read(dir: &Path) -> io::Result<Option<Self>> {
        let bytes = unreadable::read(&dir.join(FILE), &mut Parts::new())?;
        Ok(Self::decode(&bytes))
    }

    /// Stores it in the folder of its journal, durably.
    ///
    /// # Errors
    /// What the system says. The file is as it was then, or has this identity.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        put(dir, FILE, &self.encode(), false)
    }
}

/// Stores a file of the journal in `dir` as a whole, durably; the first one that is made wins where it `is_first`.
pub(super) fn put(dir: &Path, name: &str, bytes: &[u8], is_first: bool) -> io::Result<()> {
    // Two processes may make one journal.
    let new = dir.join(format!("{name}{HALF_MADE}{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let replaced = if is_first { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
    match renameat_with(CWD, &new, CWD, dir.join(name), replaced) {
        Ok(()) => {}
        // The file system knows no such rename.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => fs::rename(&new, dir.join(name))?,
        Err(error) => {
            fs::remove_file(&new)?;
            return Err(error.into());
        }
    }
    File::open(dir)?.sync_all()
}

/// What is known of who the journal in a folder is.
#[derive(Debug)]
pub(super) enum Known {
    /// There is none.
    New,
    /// Its values are of version 1, which knew no secret.
    Unsealed,
    /// This one.
    Sealed(Identity),
}

impl Known {
    /// Asks the file, its copy and the segments of bundles in `dir`.
    ///
    /// # Errors
    /// When one of them may not be read.
    pub(super) fn of(dir: &Path) -> io::Result<Self> {
        let file = Identity::read(dir)?;
        let copy = Identity::decode(&log::identity_copy(dir));
        let mut said: Vec<Identity> = file.into_iter().chain(copy).collect();
        let (mut segments, first) = (recent::headers(dir)?, said.len());
        let is_empty = segments.is_empty() && !dir.join(files::DB).exists();
        said.extend(segments.drain(..).filter_map(|header| Identity::decode(&header)));
        let votes = |of: &Identity| said.iter().filter(|other| other.secret == of.secret).count();
        // Where as many say the one as the other, the first holds.
        let most = said.iter().map(&votes).max();
        let Some(chosen) = said.iter().find(|of| Some(votes(of)) == most) else {
            return Ok(if is_empty { Self::New } else { Self::Unsealed });
        };
        let starts = said.iter().filter(|of| of.secret == chosen.secret).map(|of| of.starts).max().unwrap_or(0);
        // A name that was given later is in the file and its copy alone.
        let named = said[..first].iter().find(|of| of.secret == chosen.secret).unwrap_or(chosen);
        Ok(Self::Sealed(Identity { starts, ..named.clone() }))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).field("starts", &self.starts).finish_non_exhaustive()
    }
}

/// A random number.
///
/// # Errors
/// When the system gives no random bytes.
pub(super) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fill_randomly(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn fill_randomly(bytes: &mut [u8]) -> io::Result<()> {
    let got =
        rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()))?;
    if got == bytes.len() { Ok(()) } else { Err(io::Error::other("the system gave too few random bytes")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_as_it_was_written_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        assert_eq!(Identity::read(dir.path()).expect("readable"), None);
        let identity = Identity { starts: 7, ..Identity::new().expect("random bytes") };
        identity.write(dir.path()).expect("written");
        assert_eq!(Identity::read(dir.path()).expect("readable"), Some(identity.clone()));
        let mut bytes = identity.encode();
        assert_eq!(bytes.len(), IDENTITY_BYTES);
        bytes[30] ^= 1;
        assert_eq!(Identity::decode(&bytes), None);
        assert_ne!(Identity::new().expect("random bytes"), Identity::new().expect("random bytes"));
    }

    #[test]
    fn no_log_shows_a_secret() {
        let identity = Identity { id: JournalId(1), starts: 2, secret: [0xab; 32] };
        assert_eq!(format!("{identity:?}"), "Identity { id: JournalId(1), starts: 2, .. }");
    }
}
