//! Files of a disk that does not give back all of them. What cannot be read is damage like any other: it reads as
//! zeros, and is named; the rest is served.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::io::Errno;

use super::error::JournalError;
use super::files;

/// What is left out at a time: a page of the system's cache, below which it reads nothing.
const PAGE_BYTES: u64 = 4096;
/// Files that are named in one error.
const MOST_NAMED: usize = 8;

/// The parts of a file that cannot be read: bytes from, up to, in order; those that touch are one.
pub(super) type Parts = Vec<Range<u64>>;

/// A file of which a part cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// Its name in the journal's folder.
    pub(super) name: String,
    parts: Parts,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: u64 = self.parts.iter().map(|part| part.end - part.start).sum();
        let from = self.parts.first().map_or(0, |part| part.start);
        write!(f, "the disk does not give back {bytes} bytes of {}, from byte {from} on", self.name)
    }
}

/// Reads what the file has from `offset` on, until `bytes` is full; how many they are. What cannot be read is zeros,
/// and is added to `parts`.
///
/// # Errors
/// What else the system says.
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64, parts: &mut Parts) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        let at = offset + read as u64;
        match file.read_at(&mut bytes[read..], at) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_of_disk(&error) => {
                let left_out = (PAGE_BYTES - at % PAGE_BYTES).min((bytes.len() - read) as u64);
                bytes[read..read + left_out as usize].fill(0);
                read += left_out as usize;
                match parts.last_mut() {
                    Some(last) if last.end == at => last.end += left_out,
                    _ => parts.push(at..at + left_out),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// A whole file, likewise; nothing where it is missing.
pub(super) fn read(path: &Path, parts: &mut Parts) -> io::Result<Vec<u8>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    let read = read_at(&file, &mut bytes, 0, parts)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Whether the disk, or the file system by its checksums, says that the bytes are gone.
fn is_of_disk(error: &io::Error) -> bool {
    let said = [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::NODATA].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|error| said.contains(&error))
}

/// Reads all files of the journal in `dir`; those of which a part cannot be read.
fn find(dir: &Path) -> io::Result<Vec<Unreadable>> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let (mut found, mut bytes) = (Vec::new(), vec![0; CHUNK_BYTES as usize]);
    for path in files::all(dir)? {
        let mut parts = Parts::new();
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        for at in (0..length).step_by(CHUNK_BYTES as usize) {
            let most = CHUNK_BYTES.min(length - at) as usize;
            read_at(&file, &mut bytes[..most], at, &mut parts)?;
        }
        if !parts.is_empty() {
            let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
            found.push(Unreadable { name, parts });
        }
    }
    Ok(found)
}

/// The error as damage: it is one, or the disk does not give back a part of the journal's files.
///
/// # Errors
/// The error itself where it is neither: the files may be fine when it is over.
pub(super) fn as_damage(dir: &Path, error: JournalError) -> Result<JournalError, JournalError> {
    if error.is_damage() {
        return Ok(error);
    }
    // sled may have lost the number of the system's error.
    if !error.of_system().is_some_and(|said| is_of_disk(said) || said.raw_os_error().is_none()) {
        return Err(error);
    }
    let found = match find(dir) {
        Ok(found) if !found.is_empty() => found,
        _ => return Err(error),
    };
    let mut named: Vec<_> = found.iter().take(MOST_NAMED).map(Unreadable::to_string).collect();
    if found.len() > MOST_NAMED {
        named.push(format!("and parts of {} more files", found.len() - MOST_NAMED));
    }
    Ok(JournalError::Damaged(named.join("; ")))
}

/// The small files in `dir` of which a part cannot be read. What they say is said elsewhere, too, or can be done
/// without.
///
/// # Errors
/// What else the system says.
pub(super) fn small_files(dir: &Path) -> io::Result<Vec<Unreadable>> {
    let mut found = Vec::new();
    for name in [files::IDENTITY, files::CLAIMS, files::SYNCED] {
        let mut parts = Parts::new();
        read(&dir.join(name), &mut parts)?;
        if !parts.is_empty() {
            found.push(Unreadable { name: name.to_owned(), parts });
        }
    }
    Ok(found)
}
