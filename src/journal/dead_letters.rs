//! Dead letters on disk: reports that the sink refuses for what they are, each with its reason.
//!
//! ```text
//! key    id (ASCII) | 0x00 | source (u16, big-endian) | seq (u64, big-endian)
//! value  header as an entry's | bincode of the report, the sink's code and reason, and the time
//! ```

use std::net::IpAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Journal;
use super::commit::Committer;
use super::entry::{Appender, HEADER_BYTES, MAX_BODY_BYTES, Magic, frame, unframe};
use super::error::{Damage, JournalError};
use super::queue::{Buried, Command, Revision};
use crate::metrics::Revised;
use crate::report::{Id, Key, Number, Report};

/// The longest reason that is kept, in bytes.
pub const MAX_REASON_BYTES: usize = 1024;

/// What a dead letter's value begins with, behind its version.
pub(super) const LETTER: Magic = *b"FBD";

const ENCODING: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_BODY_BYTES>,
> = bincode::config::standard().with_limit::<MAX_BODY_BYTES>();

/// A report that the sink refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Whose report it is.
    pub id: Id,
    /// The report.
    pub report: Report,
    /// The sink's error number.
    pub code: Option<u32>,
    /// What the sink said; at most 1 KiB of it is kept.
    pub reason: String,
    /// When it was refused, in microseconds of the epoch.
    pub dead_at: u64,
}

impl DeadLetter {
    /// What names it.
    pub fn key(&self) -> Key {
        Key { id: self.id, number: self.report.number }
    }
}

impl Journal {
    /// Up to `limit` dead letters in order of key, those behind `after`, of one id or of all. Reads the disk.
    ///
    /// # Errors
    /// When the storage cannot be read. A damaged letter is left out; it was logged at start.
    pub fn dead_letters(
        &self,
        of: Option<&Id>,
        after: Option<Key>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        let first =
            of.map_or_else(Vec::new, |id| key(id, Number { source: 0, seq: 0 })[..=id.as_bytes().len()].to_vec());
        let after = after.map_or_else(Vec::new, |after| key(&after.id, after.number)).max(first);
        let mut letters = Vec::new();
        for pair in self.shared.store.dead_after(&after) {
            let (key, value) = pair?;
            let Ok(letter) = decode(&key, &value) else { continue };
            if letters.len() == limit || of.is_some_and(|id| *id != letter.id) {
                break;
            }
            letters.push(letter);
        }
        Ok(letters)
    }

    /// The dead letter with this key. Reads the disk.
    ///
    /// # Errors
    /// When the storage cannot be read; [`JournalError::DeadLetter`] where the letter is damaged.
    pub fn dead_letter(&self, of: Key) -> Result<Option<DeadLetter>, JournalError> {
        let key = key(&of.id, of.number);
        let value = self.shared.store.dead_letter(&key)?;
        let letter = value.map(|value| decode(&key, &value)).transpose();
        letter.map_err(|damage| JournalError::DeadLetter { key: of, damage })
    }

    /// Whether there is a dead letter with this key, damaged or not. Reads the disk.
    ///
    /// # Errors
    /// When the storage cannot be read.
    pub fn has_dead_letter(&self, of: Key) -> Result<bool, JournalError> {
        Ok(self.shared.store.dead_letter(&key(&of.id, of.number))?.is_some())
    }

    /// Changes dead letters, those that are still there. Durable and counted when it returns true; false when the
    /// journal failed or stopped instead.
    pub async fn revise(&self, revisions: Vec<Revision>) -> bool {
        let (done, revised) = oneshot::channel();
        self.shared.queue.push(Command::Revise(revisions, done));
        revised.await.is_ok()
    }
}

#[derive(Serialize, Deserialize)]
struct LetterBody<'a> {
    id: &'a str,
    source: u16,
    seq: u64,
    time: Option<i64>,
    code: i32,
    peer: Option<IpAddr>,
    data: Option<&'a str>,
    accepted_at: u64,
    sink_code: Option<u32>,
    reason: &'a str,
    dead_at: u64,
}

impl Committer {
    /// Keeps these as dead letters, those that are none yet.
    pub(super) fn bury(&mut self, letters: &[DeadLetter]) -> Result<Buried, JournalError> {
        let mut buried = Buried { new: 0, known: 0 };
        for letter in letters {
            let key = self::key(&letter.id, letter.report.number);
            encode(letter, &mut self.value);
            if self.shared.store.keep_dead(&key, &self.value)? {
                buried.new += 1;
                self.shared.dead_changed((key.len() + self.value.len()) as u64, 0);
            } else {
                buried.known += 1;
            }
        }
        Ok(buried)
    }

    /// Does what a revision says, if its letter is still there; in `revised` what is to be counted.
    pub(super) fn revise(&mut self, revision: Revision, revised: &mut Revised) -> Result<(), JournalError> {
        let (key, letter) = match &revision {
            Revision::Stored { key, .. } | Revision::Discarded(key) => (*key, None),
            Revision::Refused(letter) => (letter.key(), Some(letter)),
        };
        let key = self::key(&key.id, key.number);
        if let Some(letter) = letter {
            if self.shared.store.dead_letter(&key)?.is_some() {
                encode(letter, &mut self.value);
                let old = self.shared.store.change_dead(&key, Some(&self.value))?.unwrap_or(0);
                self.shared.dead_changed(self.value.len() as u64, old as u64);
            }
        } else if let Some(old) = self.shared.store.change_dead(&key, None)? {
            self.shared.dead_changed(0, (key.len() + old) as u64);
            match revision {
                Revision::Stored { is_new: true, .. } => revised.stored += 1,
                Revision::Stored { is_new: false, .. } => revised.duplicates += 1,
                _ => revised.discarded += 1,
            }
        }
        Ok(())
    }
}

/// The key of a dead letter.
pub(super) fn key(id: &Id, number: Number) -> Vec<u8> {
    let mut key = id.as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(&number.source.to_be_bytes());
    key.extend_from_slice(&number.seq.to_be_bytes());
    key
}

/// What a stored key names; `None` where it is none of a dead letter.
pub(super) fn named(stored_key: &[u8]) -> Option<Key> {
    let (id, number) = stored_key.split_at_checked(stored_key.len().checked_sub(11)?)?;
    let (source, seq) = number.strip_prefix(&[0])?.split_first_chunk::<2>()?;
    let number = Number { source: u16::from_be_bytes(*source), seq: u64::from_be_bytes(seq.try_into().ok()?) };
    Some(Key { id: Id::new(std::str::from_utf8(id).ok()?).ok()?, number })
}

/// Writes the value of a dead letter into `value`.
pub(super) fn encode(letter: &DeadLetter, value: &mut Vec<u8>) {
    let DeadLetter { id, report, code, reason, dead_at } = letter;
    let body = LetterBody {
        id: id.as_str(),
        source: report.number.source,
        seq: report.number.seq,
        time: report.time,
        code: report.code,
        peer: report.peer,
        data: report
            .data
            .as_deref()
            .map(|d| std::str::from_utf8(d).expect("`data` is a part of a text that was UTF-8")),
        accepted_at: report.accepted_at,
        sink_code: *code,
        reason: &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)],
        dead_at: *dead_at,
    };
    value.clear();
    frame(LETTER, value, |value| {
        bincode::serde::encode_into_writer(&body, Appender(value), ENCODING).expect("writing to memory cannot fail");
    });
}

/// Reads the dead letter with this key.
///
/// # Errors
/// [`Damage`], whatever the bytes are.
pub(super) fn decode(stored_key: &[u8], value: &Bytes) -> Result<DeadLetter, Damage> {
    let letter = decode_value(value)?;
    let is_its_own = key(&letter.id, letter.report.number) == stored_key;
    if is_its_own { Ok(letter) } else { Err(Damage::Key) }
}

/// Reads a dead letter whose key is not known.
///
/// # Errors
/// As [`decode`].
pub(super) fn decode_value(value: &Bytes) -> Result<DeadLetter, Damage> {
    let body = unframe(LETTER, value)?;
    let (body, used): (LetterBody<'_>, usize) =
        bincode::serde::borrow_decode_from_slice(body, ENCODING).map_err(|_| Damage::Content)?;
    if used + HEADER_BYTES != value.len() || body.reason.len() > MAX_REASON_BYTES {
        return Err(Damage::Content);
    }
    let id = Id::new(body.id).map_err(|_| Damage::Content)?;
    let number = Number { source: body.source, seq: body.seq };
    let report = Report {
        number,
        time: body.time,
        code: body.code,
        peer: body.peer,
        data: body.data.map(|d| value.slice_ref(d.as_bytes())),
        accepted_at: body.accepted_at,
    };
    Ok(DeadLetter { id, report, code: body.sink_code, reason: body.reason.to_owned(), dead_at: body.dead_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(reason: &str) -> DeadLetter {
        let number = Number { source: 0, seq: 42 };
        let data = Some(Bytes::from_static(b"{\"a\": 1}"));
        let report = Report { number, time: Some(-5), code: -1, peer: None, data, accepted_at: 7 };
        DeadLetter { id: Id::new("x").expect("an id"), report, code: Some(4025), reason: reason.into(), dead_at: 9 }
    }

    #[test]
    fn a_dead_letter_reads_back_as_it_was_written() {
        let mut value = Vec::new();
        encode(&letter("CONSTRAINT failed"), &mut value);
        let stored_key = key(&letter("").id, letter("").report.number);
        assert_eq!(decode(&stored_key, &Bytes::from(value.clone())), Ok(letter("CONSTRAINT failed")));
        assert_eq!(decode(b"another key", &Bytes::from(value.clone())), Err(Damage::Key));
        assert_eq!(named(&stored_key), Some(letter("").key()));
        assert_eq!([named(b""), named(b"another key of this length"), named(&stored_key[1..])], [None; 3]);
        value[20] ^= 1;
        assert_eq!(decode(&stored_key, &Bytes::from(value)), Err(Damage::Checksum));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let mut value = Vec::new();
        let long = letter(&"é".repeat(MAX_REASON_BYTES));
        encode(&long, &mut value);
        let read = decode(&key(&long.id, long.report.number), &Bytes::from(value)).expect("just written");
        assert_eq!(read.reason.len(), MAX_REASON_BYTES);
    }
}
