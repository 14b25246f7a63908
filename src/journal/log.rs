//! sled's log as it lies on disk, read before sled opens it.
//!
//! sled 0.34.7 takes a segment with a damaged header for a free one, and what lies behind a damaged message for free
//! space: it goes on without both, says nothing, and writes over them. So the log is walked first, by sled's own rules
//! (`pagecache/{iterator,logger}.rs`), and what sled would skip is named. Pages older than the last snapshot are not
//! walked: sled reads them by address and checks them itself.
//!
//! Where the log ends, damage looks like a write that a power cut tore. The difference is whether it was synced: each
//! sync writes a *stamp* (a new position) into the log before, and behind it the same stamp into the file `synced`,
//! which itself is never waited for. A log that does not reach its stamp has lost what was synced.
//!
//! ```text
//! db       segments of 8 MiB
//! segment  !crc32 of the next 16 (u32) | lsn ^ i64::MAX | stable lsn ^ i64::MAX | messages
//! message  !crc32 of body and the rest of this header (u32) | kind | length, segment number, page (varints) | body
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::Path;

use super::error::JournalError;
use super::files;
use super::identity::IDENTITY_BYTES;
use super::positions::MAX_FOUND;
use super::seal::{HEADER_BYTES, Magic, Seal, body_length};
use super::unreadable::{self, Parts};

/// sled keeps a page of more than a quarter of a segment in a file of its own, which it never syncs.
pub(super) const SEGMENT_BYTES: usize = 8 << 20;
const SEGMENT: i64 = SEGMENT_BYTES as i64;
const SEGMENT_HEADER_BYTES: usize = 20;
/// No message begins closer than this to the end of its segment.
const RED_ZONE_BYTES: usize = 32;
/// Kinds of messages: what fills a segment up, and the highest there is.
const CAP: u8 = 2;
const HIGHEST_KIND: u8 = 11;
/// How far ahead of the newest segment one may be that is just being written over an old one.
const SEGMENTS_AHEAD: u64 = 64;
/// Holes that are named in one error.
const MOST_NAMED: usize = 8;
/// Longer messages have no stamp: its tree has one key.
const STAMP_MESSAGE_BYTES: usize = 256;

/// What a stamp begins with, behind its version.
const STAMP: Magic = *b"FBT";
const STAMP_BYTES: usize = HEADER_BYTES + 8;
/// Where a copy of the identity begins in the file `synced`: not in the sector that is written again and again.
const IDENTITY_OFFSET: u64 = 4096;

/// A part of the log that sled would skip without a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} (byte {offset} of db)")]
pub struct Hole {
    /// Where it begins in the file `db`.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// The file that says how far the log was synced.
pub(super) struct Synced {
    file: File,
    seal: Seal,
}

impl Synced {
    pub(super) fn open(dir: &Path, seal: &Seal) -> io::Result<Self> {
        let file =
            File::options().write(true).create(true).truncate(false).mode(0o600).open(dir.join(files::SYNCED))?;
        Ok(Self { file, seal: seal.clone() })
    }

    /// Notes that all up to this stamp is synced. Not waited for: it may be behind after a power cut, never ahead.
    pub(super) fn note(&self, position: u64) -> io::Result<()> {
        self.file.write_all_at(&stamp(&self.seal, position), 0)
    }

    /// Notes that all bundles up to this one are synced, likewise.
    pub(super) fn note_bundle(&self, number: u64) -> io::Result<()> {
        self.file.write_all_at(&stamp(&self.seal, number), STAMP_BYTES as u64)
    }

    /// Keeps a copy of the identity. Durable after the next sync of the file.
    pub(super) fn keep_identity(&self, identity: &[u8]) -> io::Result<()> {
        self.file.write_all_at(identity, IDENTITY_OFFSET)
    }
}

/// How far the log was synced, as far as it is known; else 0.
pub(super) fn synced(dir: &Path, seal: &Seal) -> u64 {
    noted(dir, seal, 0)
}

/// The last bundle that was synced, as far as it is known; else 0.
pub(super) fn synced_bundle(dir: &Path, seal: &Seal) -> u64 {
    noted(dir, seal, STAMP_BYTES)
}

/// The bytes where the copy of the identity is.
pub(super) fn identity_copy(dir: &Path) -> Vec<u8> {
    let bytes = noted_bytes(dir);
    bytes.get(IDENTITY_OFFSET as usize..).and_then(|copy| copy.get(..IDENTITY_BYTES)).unwrap_or_default().to_vec()
}

fn noted(dir: &Path, seal: &Seal, at: usize) -> u64 {
    let bytes = noted_bytes(dir);
    bytes.get(at..at + STAMP_BYTES).and_then(|value| stamped(seal, value)).unwrap_or(0)
}

/// The file `synced`. What cannot be read says nothing.
fn noted_bytes(dir: &Path) -> Vec<u8> {
    unreadable::read(&dir.join(files::SYNCED), &mut Parts::new()).unwrap_or_default()
}

/// The stamp of a commit whose last position this is.
pub(super) fn stamp(seal: &Seal, position: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(STAMP_BYTES);
    seal.frame(STAMP, &mut value, |value| value.extend_from_slice(&position.to_be_bytes()));
    value
}

/// The position that a stamp has.
pub(super) fn stamped(seal: &Seal, value: &[u8]) -> Option<u64> {
    let value = seal.unframe(STAMP, value).ok()?;
    let stamp = value[HEADER_BYTES..].try_into().ok().map(u64::from_be_bytes);
    stamp.filter(|&stamp| stamp <= MAX_FOUND)
}

/// Walks the log of the journal in `dir`, which nobody may have open: what sled would skip, from the lowest offset to
/// the highest; nothing where the log is whole, or there is none.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn inspect(dir: &Path, seal: &Seal) -> Result<Vec<Hole>, JournalError> {
    find_holes(dir, seal).map_err(|source| JournalError::Folder {
        path: dir.to_owned(),
        action: "read the files",
        source,
    })
}

/// The holes as damage, if there are any.
pub(super) fn as_damage(holes: &[Hole]) -> Option<JournalError> {
    let mut named: Vec<_> = holes.iter().take(MOST_NAMED).map(Hole::to_string).collect();
    if holes.len() > MOST_NAMED {
        named.push(format!("and {} more", holes.len() - MOST_NAMED));
    }
    (!holes.is_empty()).then(|| JournalError::Damaged(named.join("; ")))
}

/// Takes sled's own lock, so that nobody writes the log while it is read; `None` where there is no log yet.
///
/// # Errors
/// [`JournalError::InUse`], and when the file cannot be opened.
pub(super) fn lock(dir: &Path) -> Result<Option<File>, JournalError> {
    let path = dir.join(files::DB);
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JournalError::Folder { path, action: "open the file", source }),
        Ok(file) => match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(_) => Err(JournalError::InUse { path: dir.to_owned() }),
        },
    }
}

/// Where the log ends in the file `db`.
#[cfg(test)]
pub(super) fn end(dir: &Path, seal: &Seal) -> io::Result<u64> {
    let file = File::open(dir.join(files::DB))?;
    let mut log = Log::of(file, seal);
    log.read_headers()?;
    log.walk(snapshot(dir)? / SEGMENT * SEGMENT)
}

fn find_holes(dir: &Path, seal: &Seal) -> io::Result<Vec<Hole>> {
    let file = match File::open(dir.join(files::DB)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what = "the file is missing, and something was synced to it".to_owned();
            return Ok(if synced(dir, seal) > 0 { vec![Hole { offset: 0, what }] } else { Vec::new() });
        }
        file => file?,
    };
    let mut log = Log::of(file, seal);
    log.read_headers()?;
    let from = snapshot(dir)? / SEGMENT * SEGMENT;
    let end = log.walk(from)?;
    log.search_nameless(from)?;
    let synced = synced(dir, seal);
    if log.stamp < synced {
        // An idle journal's stamp may lie before what is replayed.
        log.search_stamps(from)?;
    }
    if log.stamp < synced {
        let what = format!("what was synced last (position {synced}) is missing: the log's end is damaged or cut off");
        log.holes.push(Hole { offset: end, what });
    }
    // The end of a log, and a header that is searched behind, are read twice.
    log.holes.sort_unstable_by(|one, other| (one.offset, &one.what).cmp(&(other.offset, &other.what)));
    log.holes.dedup();
    Ok(log.holes)
}

/// How far sled's last snapshot goes; what is before it is not replayed.
fn snapshot(dir: &Path) -> io::Result<i64> {
    let mut last = 0;
    for file in fs::read_dir(dir)? {
        let name = file?.file_name();
        let lsn = name.to_str().and_then(|name| i64::from_str_radix(name.strip_prefix("snap.")?, 16).ok());
        last = last.max(lsn.unwrap_or(0));
    }
    Ok(last)
}

struct Log {
    file: File,
    seal: Seal,
    /// Offsets of the segments whose header is whole, by their first log sequence number.
    segments: BTreeMap<i64, u64>,
    /// Offsets of the others.
    nameless: Vec<u64>,
    /// The highest stable log sequence number that a header knows.
    stable: i64,
    /// The highest stamp that was found.
    stamp: u64,
    holes: Vec<Hole>,
}

impl Log {
    fn of(file: File, seal: &Seal) -> Self {
        let seal = seal.clone();
        Self { file, seal, segments: BTreeMap::new(), nameless: Vec::new(), stable: 0, stamp: 0, holes: Vec::new() }
    }

    fn read_headers(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        for offset in (0..length).step_by(SEGMENT_BYTES) {
            let mut bytes = [0; SEGMENT_HEADER_BYTES];
            unreadable::read_at(&self.file, &mut bytes, offset, &mut Parts::new())?;
            let Some((lsn, stable)) = segment_header(&bytes) else {
                self.nameless.push(offset);
                continue;
            };
            self.stable = self.stable.max(stable);
            if self.segments.insert(lsn, offset).is_some() {
                self.holes.push(Hole { offset, what: "two segments have one number".to_owned() });
            }
        }
        Ok(())
    }

    /// Walks the segments that sled replays; the offset at which the log ends.
    fn walk(&mut self, from: i64) -> io::Result<u64> {
        let tail = self.stable.max(from) / SEGMENT * SEGMENT;
        let highest = self.segments.keys().next_back().map_or(0, |lsn| lsn / SEGMENT) as u64;
        let mut end = 0;
        let mut next_of_tail = tail;
        let replayed: Vec<_> = self.segments.range(from..).map(|(&lsn, &offset)| (lsn, offset)).collect();
        for (lsn, offset) in replayed {
            if lsn >= tail {
                if lsn != next_of_tail {
                    break;
                }
                next_of_tail += SEGMENT;
            }
            let (bytes, number) = (self.segment(offset)?, (lsn / SEGMENT) as u64);
            let walked = walk(&bytes, number, &self.seal, &mut self.stamp);
            end = offset + walked.unwrap_or(SEGMENT_BYTES) as u64;
            match walked {
                None => {}
                Some(_) if lsn >= tail => break,
                Some(at) if is_written_over(&bytes, at, number, highest) => {}
                Some(_) => {
                    self.holes.push(Hole { offset: end, what: "a part of a segment cannot be read".to_owned() });
                }
            }
        }
        Ok(end)
    }

    /// Segments without a whole header are free, or were written when the power went, or are damaged.
    fn search_nameless(&mut self, from: i64) -> io::Result<()> {
        let tail = (self.stable.max(from) / SEGMENT) as u64;
        for offset in std::mem::take(&mut self.nameless) {
            let bytes = self.segment(offset)?;
            if messages(&bytes, 0, |number| number < tail).next().is_some() {
                self.holes.push(Hole { offset, what: "the header of a segment is damaged".to_owned() });
            }
        }
        Ok(())
    }

    /// Looks for stamps in what sled does not replay.
    fn search_stamps(&mut self, before: i64) -> io::Result<()> {
        let kept: Vec<_> = self.segments.range(..before).map(|(&lsn, &offset)| (lsn, offset)).collect();
        for (lsn, offset) in kept {
            let bytes = self.segment(offset)?;
            walk(&bytes, (lsn / SEGMENT) as u64, &self.seal, &mut self.stamp);
        }
        Ok(())
    }

    /// The bytes of a segment; zeros behind the end of the file, and where it cannot be read.
    fn segment(&mut self, offset: u64) -> io::Result<Vec<u8>> {
        let (mut bytes, mut parts) = (vec![0; SEGMENT_BYTES], Parts::new());
        unreadable::read_at(&self.file, &mut bytes, offset, &mut parts)?;
        self.holes.extend(parts.into_iter().map(|part| {
            let what = format!("the disk does not give back {} bytes", part.end - part.start);
            Hole { offset: part.start, what }
        }));
        Ok(bytes)
    }
}

/// The log sequence numbers (first, stable) of a segment.
fn segment_header(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Option<(i64, i64)> {
    let number = |at: usize| i64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) ^ i64::MAX;
    let crc = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    let (lsn, stable) = (number(4), number(12));
    (!crc == crc32fast::hash(&bytes[4..]) && lsn >= 0 && lsn % SEGMENT == 0).then_some((lsn, stable))
}

struct Message<'a> {
    kind: u8,
    number: u64,
    body: &'a [u8],
    /// Where the next one begins.
    end: usize,
}

/// The message at `at`, if one is there, whole, in a segment with a number that is `wanted`.
fn message(segment: &[u8], at: usize, wanted: impl Fn(u64) -> bool) -> Option<Message<'_>> {
    let header = &segment[at..];
    let (&crc, rest) = header.split_first_chunk::<4>()?;
    let (&kind, mut rest) = rest.split_first()?;
    if kind == 0 || kind > HIGHEST_KIND {
        return None;
    }
    let (length, number, _page) = (varint(&mut rest)?, varint(&mut rest)?, varint(&mut rest)?);
    if !wanted(number) {
        return None;
    }
    let body = rest.get(..usize::try_from(length).ok()?)?;
    let mut hash = crc32fast::Hasher::new();
    hash.update(body);
    hash.update(&header[4..header.len() - rest.len()]);
    let end = segment.len() - rest.len() + body.len();
    (!hash.finalize() == u32::from_le_bytes(crc)).then_some(Message { kind, number, body, end })
}

/// sled's own encoding of integers.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    let more = match first {
        0..=240 => 0,
        241..=248 => 1,
        249 => 2,
        _ => usize::from(first) - 247,
    };
    let (more, rest) = rest.split_at_checked(more)?;
    *bytes = rest;
    Some(match first {
        0..=240 => u64::from(first),
        241..=248 => 240 + 256 * (u64::from(first) - 241) + u64::from(more[0]),
        249 => 2288 + 256 * u64::from(more[0]) + u64::from(more[1]),
        _ => more.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)),
    })
}

/// Walks a segment's messages to its end (`None`) or to where no whole one follows.
fn walk(segment: &[u8], number: u64, seal: &Seal, highest_stamp: &mut u64) -> Option<usize> {
    let mut at = SEGMENT_HEADER_BYTES;
    while at <= SEGMENT_BYTES - RED_ZONE_BYTES {
        let Some(message) = message(segment, at, |n| n == number) else { return Some(at) };
        if message.kind == CAP {
            return None;
        }
        if message.body.len() <= STAMP_MESSAGE_BYTES {
            *highest_stamp = (*highest_stamp).max(stamp_in(seal, message.body).unwrap_or(0));
        }
        at = message.end;
    }
    None
}

/// The stamp that a message carries.
fn stamp_in(seal: &Seal, body: &[u8]) -> Option<u64> {
    let begins = body.windows(HEADER_BYTES).enumerate().filter(|(_, header)| seal.is_header_of(STAMP, header));
    let whole = |at: usize, header| body.get(at..at.checked_add(HEADER_BYTES)?.checked_add(body_length(header))?);
    begins.filter_map(|(at, header)| stamped(seal, whole(at, header)?)).max()
}

/// Whether what follows in an old segment belongs to a newer one, whose first part was not written yet when the node
/// was killed: nothing of the old one was in use any more.
fn is_written_over(segment: &[u8], at: usize, number: u64, highest: u64) -> bool {
    let newer = highest + 1..=highest + SEGMENTS_AHEAD;
    let mut found = messages(segment, at, |n| n == number || newer.contains(&n)).peekable();
    found.peek().is_some() && found.all(|message| message.number != number)
}

/// All whole messages from `at` on, wherever they begin.
fn messages(segment: &[u8], mut at: usize, wanted: impl Fn(u64) -> bool) -> impl Iterator<Item = Message<'_>> {
    const STEP: usize = 4096;
    std::iter::from_fn(move || {
        while at < segment.len() {
            if segment[at..].starts_with(&[0; STEP]) {
                at += STEP - 4;
                continue;
            }
            if let Some(message) = message(segment, at, &wanted) {
                at = message.end;
                return Some(message);
            }
            at += 1;
        }
        None
    })
}
