//! Dead letters on disk: reports that the sink refuses for what they are, each with its reason.
//!
//! ```text
//! key    shifted id | 0x00 | source (u16, BE) | shifted seq (u64, BE) | twin (u64, BE), where it has one (`seal.rs`)
//! value  header with "FBD" (`seal.rs`) | bincode of the report, the sink's code and reason, and the time
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Journal;
use super::commit::Committer;
use super::entry::Appender;
use super::error::{Damage, JournalError};
use super::queue::{Buried, Command, Revision};
use super::seal::{HEADER_BYTES, MAX_BODY_BYTES, Magic, Seal};
use crate::metrics::Revised;
use crate::report::{Holder, Id, LetterKey, LetterKind, Number, Report};

/// Dead letters of one id that a `done` event counts at the most.
pub const MAX_COUNTED_DEAD: usize = 100_000;

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
    /// Why it is one.
    pub kind: LetterKind,
    /// What the sink has under its key, where that is the reason.
    pub holder: Option<Box<Holder>>,
    /// The sink's error number.
    pub code: Option<u32>,
    /// What the sink said; at most 1 KiB of it is kept.
    pub reason: String,
    /// When it was refused, in microseconds of the epoch.
    pub dead_at: u64,
    /// Whether there was a letter of other content under its report's key when it became one.
    pub is_twin: bool,
}

impl DeadLetter {
    /// What names it.
    pub fn key(&self) -> LetterKey {
        let twin = self.is_twin.then(|| {
            let digest = self.report.digest();
            u64::from_be_bytes(*digest.first_chunk().expect("a digest has 16 bytes"))
        });
        LetterKey { id: self.id, number: self.report.number, twin }
    }

    /// Whether it is the same report, sent again.
    fn repeats(&self, other: &Self) -> bool {
        self.report.digest() == other.report.digest()
    }
}

impl Journal {
    /// Up to `limit` dead letters in order of key, those behind `after`, of one id or of all,
    /// of one kind or of all. Reads the disk.
    ///
    /// # Errors
    /// When the storage cannot be read. A damaged letter is left out; it was logged at start.
    pub fn dead_letters(
        &self,
        of: Option<&Id>,
        kind: Option<LetterKind>,
        after: Option<LetterKey>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        let seal = self.shared.store.seal();
        let first = of.map_or_else(Vec::new, |id| stored_key(seal, &least(*id))[..=id.as_bytes().len()].to_vec());
        let after = after.map_or_else(Vec::new, |after| stored_key(seal, &after)).max(first);
        let mut letters = Vec::new();
        for pair in self.shared.store.dead_after(&after) {
            let (key, value) = pair?;
            let Ok(letter) = decode(seal, &key, &value) else { continue };
            if letters.len() == limit || of.is_some_and(|id| *id != letter.id) {
                break;
            }
            if kind.is_some_and(|kind| kind != letter.kind) {
                continue;
            }
            letters.push(letter);
        }
        Ok(letters)
    }

    /// The dead letter with this key. Reads the disk.
    ///
    /// # Errors
    /// When the storage cannot be read; [`JournalError::DeadLetter`] where the letter is damaged.
    pub fn dead_letter(&self, of: LetterKey) -> Result<Option<DeadLetter>, JournalError> {
        let seal = self.shared.store.seal();
        let key = stored_key(seal, &of);
        let value = self.shared.store.dead_letter(&key)?;
        let letter = value.map(|value| decode(seal, &key, &value)).transpose();
        letter.map_err(|damage| JournalError::DeadLetter { key: of, damage })
    }

    /// How many dead letters there are of an id, up to [`MAX_COUNTED_DEAD`]; none where the storage cannot be read.
    /// Costs nothing where there are none at all.
    pub(super) fn count_dead(&self, of: &Id) -> u64 {
        if self.shared.dead_bytes.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let first = stored_key(self.shared.store.seal(), &least(*of))[..=of.as_bytes().len()].to_vec();
        let its = self.shared.store.dead_after(&first).map_while(Result::ok);
        let its = its.take_while(|(key, _)| key.starts_with(&first));
        its.take(MAX_COUNTED_DEAD).count() as u64
    }

    /// Whether there is a dead letter with this key, damaged or not. Reads the disk.
    ///
    /// # Errors
    /// When the storage cannot be read.
    pub fn has_dead_letter(&self, of: LetterKey) -> Result<bool, JournalError> {
        Ok(self.shared.store.dead_letter(&stored_key(self.shared.store.seal(), &of))?.is_some())
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

/// What follows the body; a letter of the first version has none of it.
#[derive(Serialize, Deserialize)]
struct Addition<'a> {
    kind: &'a str,
    is_twin: bool,
    holder: Option<HolderBody<'a>>,
}

#[derive(Serialize, Deserialize)]
struct HolderBody<'a> {
    time: Option<&'a str>,
    code: Option<&'a str>,
    data: Option<&'a str>,
    data_bytes: u64,
    accepted_at: Option<&'a str>,
}

impl Committer {
    /// Keeps these as dead letters, those that are none yet.
    pub(super) fn bury(&mut self, letters: &[DeadLetter]) -> Result<Buried, JournalError> {
        let mut buried = Buried { new: 0, known: 0 };
        for letter in letters {
            if self.bury_one(letter)? {
                buried.new += 1;
            } else {
                buried.known += 1;
            }
        }
        Ok(buried)
    }

    /// Keeps one, beside a letter of other content that has its report's key; false where it is there already.
    fn bury_one(&mut self, letter: &DeadLetter) -> Result<bool, JournalError> {
        let shared = Arc::clone(&self.shared);
        let seal = shared.store.seal();
        let mut key = stored_key(seal, &letter.key());
        let found = self.shared.store.dead_letter(&key)?;
        // One that is damaged has some content that nobody knows.
        let is_other = |found: &Bytes| !decode(seal, &key, found).is_ok_and(|found| found.repeats(letter));
        if found.as_ref().is_some_and(is_other) {
            let twin = DeadLetter { is_twin: true, ..letter.clone() };
            key = stored_key(seal, &twin.key());
            encode(seal, &twin, &mut self.value);
        } else {
            encode(seal, letter, &mut self.value);
        }
        let is_new = self.shared.store.keep_dead(&key, &self.value)?;
        if is_new {
            self.shared.dead_changed((key.len() + self.value.len()) as u64, 0);
        }
        Ok(is_new)
    }

    /// Does what a revision says, if its letter is still there; in `revised` what is to be counted.
    pub(super) fn revise(&mut self, revision: Revision, revised: &mut Revised) -> Result<(), JournalError> {
        let (key, letter) = match &revision {
            Revision::Stored { key, .. } | Revision::Discarded(key) => (*key, None),
            Revision::Refused(letter) => (letter.key(), Some(letter)),
        };
        let shared = Arc::clone(&self.shared);
        let key = stored_key(shared.store.seal(), &key);
        if let Some(letter) = letter {
            if self.shared.store.dead_letter(&key)?.is_some() {
                encode(shared.store.seal(), letter, &mut self.value);
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

/// The least key of an id.
fn least(id: Id) -> LetterKey {
    LetterKey { id, number: Number { source: 0, seq: 0 }, twin: None }
}

/// The key under which a dead letter is stored.
pub(super) fn stored_key(seal: &Seal, key: &LetterKey) -> Vec<u8> {
    let LetterKey { id, number, twin } = key;
    let mut stored = id.as_bytes().to_vec();
    seal.shift_id(&mut stored);
    stored.push(0);
    stored.extend_from_slice(&number.source.to_be_bytes());
    stored.extend_from_slice(&seal.shift(number.seq).to_be_bytes());
    stored.extend(twin.map(|twin| seal.shift(twin).to_be_bytes()).into_iter().flatten());
    stored
}

/// What a stored key names; `None` where it is none of a dead letter.
pub(super) fn named(seal: &Seal, stored_key: &[u8]) -> Option<LetterKey> {
    let end = stored_key.iter().position(|byte| *byte == 0)?;
    let (mut id, number) = (stored_key[..end].to_vec(), &stored_key[end + 1..]);
    seal.unshift_id(&mut id);
    let (source, number) = number.split_first_chunk()?;
    let (seq, twin) = number.split_first_chunk()?;
    let twin = if twin.is_empty() { None } else { Some(seal.unshift(u64::from_be_bytes(twin.try_into().ok()?))) };
    let number = Number { source: u16::from_be_bytes(*source), seq: seal.unshift(u64::from_be_bytes(*seq)) };
    Some(LetterKey { id: Id::new(std::str::from_utf8(&id).ok()?).ok()?, number, twin })
}

/// Writes the value of a dead letter into `value`.
pub(super) fn encode(seal: &Seal, letter: &DeadLetter, value: &mut Vec<u8>) {
    let DeadLetter { id, report, kind, holder, code, reason, dead_at, is_twin } = letter;
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
    let holder = holder.as_deref().map(|Holder { time, code, data, data_bytes, accepted_at }| HolderBody {
        time: time.as_deref(),
        code: code.as_deref(),
        data: data.as_deref(),
        data_bytes: *data_bytes,
        accepted_at: accepted_at.as_deref(),
    });
    let addition = Addition { kind: kind.name(), is_twin: *is_twin, holder };
    value.clear();
    seal.frame(LETTER, value, |value| {
        bincode::serde::encode_into_writer(&body, Appender(value), ENCODING).expect("writing to memory cannot fail");
        bincode::serde::encode_into_writer(&addition, Appender(value), ENCODING)
            .expect("writing to memory cannot fail");
    });
}

/// Reads the dead letter with this key.
///
/// # Errors
/// [`Damage`], whatever the bytes are.
pub(super) fn decode(seal: &Seal, stored_key: &[u8], value: &Bytes) -> Result<DeadLetter, Damage> {
    let letter = decode_value(seal, value)?;
    let is_its_own = self::stored_key(seal, &letter.key()) == stored_key;
    if is_its_own { Ok(letter) } else { Err(Damage::Key) }
}

/// Reads a dead letter whose key is not known.
///
/// # Errors
/// As [`decode`].
pub(super) fn decode_value(seal: &Seal, value: &Bytes) -> Result<DeadLetter, Damage> {
    let value = seal.unframe(LETTER, value)?;
    let bytes = &value[HEADER_BYTES..];
    let (body, used): (LetterBody<'_>, usize) =
        bincode::serde::borrow_decode_from_slice(bytes, ENCODING).map_err(|_| Damage::Content)?;
    if body.reason.len() > MAX_REASON_BYTES {
        return Err(Damage::Content);
    }
    let (kind, is_twin, holder) = decode_addition(&bytes[used..])?;
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
    let (code, reason, dead_at) = (body.sink_code, body.reason.to_owned(), body.dead_at);
    Ok(DeadLetter { id, report, kind, holder, code, reason, dead_at, is_twin })
}

/// Reads what follows the body. Letters of the first version, which end there, are of reports that the sink refused.
fn decode_addition(bytes: &[u8]) -> Result<(LetterKind, bool, Option<Box<Holder>>), Damage> {
    if bytes.is_empty() {
        return Ok((LetterKind::Refused, false, None));
    }
    let (addition, used): (Addition<'_>, usize) =
        bincode::serde::borrow_decode_from_slice(bytes, ENCODING).map_err(|_| Damage::Content)?;
    if used != bytes.len() {
        return Err(Damage::Content);
    }
    let holder = addition.holder.map(|HolderBody { time, code, data, data_bytes, accepted_at }| {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let (time, code, data) = (owned(time), owned(code), owned(data));
        Box::new(Holder { time, code, data, data_bytes, accepted_at: owned(accepted_at) })
    });
    let kind = LetterKind::of_name(addition.kind).ok_or(Damage::Content)?;
    Ok((kind, addition.is_twin, holder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal::of(&[7; 32])
    }

    fn letter(reason: &str) -> DeadLetter {
        let number = Number { source: 0, seq: 42 };
        let data = Some(Bytes::from_static(b"{\"a\": 1}"));
        let report = Report { number, time: Some(-5), code: -1, peer: None, data, accepted_at: 7 };
        let (kind, holder) = (LetterKind::KeyTaken, Some(Box::new(Holder { data_bytes: 3, ..Holder::default() })));
        let id = Id::new("x").expect("an id");
        DeadLetter { id, report, kind, holder, code: Some(4025), reason: reason.into(), dead_at: 9, is_twin: false }
    }

    #[test]
    fn a_letter_of_the_first_version_is_read_as_one_that_was_refused() {
        let mut value = Vec::new();
        encode(&seal(), &letter("CONSTRAINT failed"), &mut value);
        let (_, used): (LetterBody<'_>, usize) =
            bincode::serde::borrow_decode_from_slice(&seal().open(&value)[HEADER_BYTES..], ENCODING)
                .expect("just written");
        let mut first = Vec::new();
        let opened = seal().open(&value);
        seal().frame(LETTER, &mut first, |first| first.extend_from_slice(&opened[HEADER_BYTES..HEADER_BYTES + used]));
        let read = decode_value(&seal(), &Bytes::from(first)).expect("a letter of the first version");
        assert_eq!(read, DeadLetter { kind: LetterKind::Refused, holder: None, ..letter("CONSTRAINT failed") });
    }

    #[test]
    fn a_dead_letter_reads_back_as_it_was_written() {
        let mut value = Vec::new();
        encode(&seal(), &letter("CONSTRAINT failed"), &mut value);
        let stored_key = stored_key(&seal(), &letter("").key());
        assert_eq!(decode(&seal(), &stored_key, &Bytes::from(value.clone())), Ok(letter("CONSTRAINT failed")));
        assert_eq!(decode(&seal(), b"another key", &Bytes::from(value.clone())), Err(Damage::Key));
        assert_eq!(named(&seal(), &stored_key), Some(letter("").key()));
        assert_eq!(
            [named(&seal(), b""), named(&seal(), b"another key of this length"), named(&seal(), &stored_key[1..])],
            [None; 3]
        );
        let twin = LetterKey { twin: Some(7), ..letter("").key() };
        assert_eq!(named(&seal(), &self::stored_key(&seal(), &twin)), Some(twin));
        value[20] ^= 1;
        assert_eq!(decode(&seal(), &stored_key, &Bytes::from(value)), Err(Damage::Checksum));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let mut value = Vec::new();
        let long = letter(&"é".repeat(MAX_REASON_BYTES));
        encode(&seal(), &long, &mut value);
        let read = decode(&seal(), &stored_key(&seal(), &long.key()), &Bytes::from(value)).expect("just written");
        assert_eq!(read.reason.len(), MAX_REASON_BYTES);
    }
}
