//! The bytes of an entry: all records of one id that share a commit.
//!
//! ```text
//! key    id (ASCII) | 0x00, both masked | first position (u64, big-endian)
//! value  header with "FBJ" (`seal.rs`) | body
//! body   bincode 2, standard: id, first position, accepted_at, node_id, records
//! ```
//!
//! Record *i* has the position *first + i*. The body repeats the key, so that an entry proves where it belongs. Values
//! that were written together lie one behind the other in one value of the storage (`bundle.rs`, `shelving.rs`);
//! [`whole_values`] tells them apart. This file alone knows the encoding; a successor of bincode is a change of this
//! file and a new version byte.

use std::net::IpAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::append::Content;
use super::error::Damage;
use super::positions::MAX_FOUND;
use super::seal::{HEADER_BYTES, MAX_BODY_BYTES, Magic, Seal, body_length};
use crate::report::{Body, Draft, Id, Marker, Number, Position, Record, Report};

/// An entry.
pub(super) const ENTRY: Magic = *b"FBJ";
/// What a record costs in an entry beside its data, at most: numbers, address, lengths.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 64;
/// The encoding of bodies. The limit is on what lengths may claim before anything is allocated.
pub(super) const ENCODING: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<{ 4 * MAX_BODY_BYTES }>,
> = bincode::config::standard().with_limit::<{ 4 * MAX_BODY_BYTES }>();

#[derive(Serialize, Deserialize)]
struct EntryBody<'a> {
    id: &'a str,
    first: u64,
    accepted_at: u64,
    node_id: u16,
    #[serde(borrow)]
    records: Vec<RecordBody<'a>>,
}

#[derive(Serialize, Deserialize)]
enum RecordBody<'a> {
    Report { seq: Option<u64>, time: Option<i64>, code: i32, peer: Option<IpAddr>, data: Option<&'a str> },
    Done,
    Disconnected,
}

/// What an entry says of itself and of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose records they are.
    pub id: Id,
    /// The position of the first record.
    pub first: Position,
    /// When its commit was made, in microseconds of the epoch.
    pub accepted_at: u64,
    /// The records, in order of position; at least one.
    pub records: Vec<Record>,
}

impl Entry {
    /// The position of the last record.
    pub fn last(&self) -> Position {
        Position(self.first.0 + self.records.len() as u64 - 1)
    }

    /// How many of the records are reports.
    pub fn reports(&self) -> u64 {
        self.records.iter().filter(|r| matches!(r.body, Body::Report(_))).count() as u64
    }

    /// What it says of itself.
    pub fn summary(&self) -> Summary {
        let Self { id, first, accepted_at, .. } = *self;
        let reports = self.reports() as u32;
        let markers = self.records.len() as u32 - reports;
        Summary { id, first, last: self.last(), reports, markers, accepted_at }
    }
}

/// What an entry says of itself, without its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Whose records they are.
    pub id: Id,
    /// The position of the first record.
    pub first: Position,
    /// The position of the last.
    pub last: Position,
    /// How many of the records are reports.
    pub reports: u32,
    /// How many are markers.
    pub markers: u32,
    /// When its commit was made, in microseconds of the epoch.
    pub accepted_at: u64,
}

/// The circumstances that all records of an entry share.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// The position of the first record.
    pub first: Position,
    /// When the commit was made, in microseconds of the epoch.
    pub accepted_at: u64,
    /// The node that numbers reports without a `seq`.
    pub node_id: u16,
}

/// Writes the key of an entry into `key`.
pub fn encode_key(seal: &Seal, id: &Id, first: Position, key: &mut Vec<u8>) {
    key.clear();
    key.extend_from_slice(id.as_bytes());
    key.push(0);
    seal.mask(key, 0);
    key.extend_from_slice(&first.0.to_be_bytes());
}

/// Reads a key.
pub fn decode_key(seal: &Seal, key: &[u8]) -> Option<(Id, Position)> {
    let (rest, position) = key.split_last_chunk::<8>()?;
    let mut rest = rest.to_vec();
    seal.mask(&mut rest, 0);
    let (0, id) = rest.split_last()? else { return None };
    let id = Id::new(std::str::from_utf8(id).ok()?).ok()?;
    Some((id, Position(u64::from_be_bytes(*position))))
}

/// Appends the value of an entry to `value`.
pub fn encode<'a>(
    seal: &Seal,
    id: &Id,
    stamp: Stamp,
    contents: impl Iterator<Item = &'a Content>,
    value: &mut Vec<u8>,
) {
    let body = EntryBody {
        id: id.as_str(),
        first: stamp.first.0,
        accepted_at: stamp.accepted_at,
        node_id: stamp.node_id,
        records: contents.map(record_body).collect(),
    };
    seal.frame(ENTRY, value, |value| {
        bincode::serde::encode_into_writer(&body, Appender(value), ENCODING).expect("writing to memory cannot fail");
    });
}

fn record_body(content: &Content) -> RecordBody<'_> {
    match content {
        Content::Report(Draft { seq, time, code, peer, data }) => RecordBody::Report {
            seq: *seq,
            time: *time,
            code: *code,
            peer: *peer,
            data: data.as_deref().map(|d| std::str::from_utf8(d).expect("`data` is a part of a text that was UTF-8")),
        },
        Content::Marker(Marker::Done) => RecordBody::Done,
        Content::Marker(Marker::Disconnected) => RecordBody::Disconnected,
    }
}

/// Reads the value of the entry with this key. The data of its reports are slices of one copy.
///
/// # Errors
/// [`Damage`], whatever the bytes are; nothing is allocated on the word of a length that a checksum does not cover.
pub fn decode(seal: &Seal, key: (Id, Position), value: &Bytes) -> Result<Entry, Damage> {
    let entry = decode_value(seal, value)?;
    if (entry.id, entry.first) != key {
        return Err(Damage::Key);
    }
    Ok(entry)
}

/// The entries that lie together in `value`, each with its own part of it. They belong to the id of `key`, and none is
/// older than the key; what is otherwise, or not whole, is an error each, and the others go on behind it.
pub(super) fn decode_together(
    seal: &Seal,
    key: &[u8],
    value: &Bytes,
) -> impl Iterator<Item = Result<(Entry, Bytes), Damage>> {
    let key = decode_key(seal, key);
    whole_values(seal, value, [ENTRY]).map(move |part| {
        let ((id, first), (_, part)) = (key.ok_or(Damage::Key)?, part?);
        let entry = decode_whole(seal, &part)?;
        if entry.id == id && entry.first >= first { Ok((entry, part)) } else { Err(Damage::Key) }
    })
}

/// Reads the value of an entry whose key is not known.
///
/// # Errors
/// As [`decode`].
pub fn decode_value(seal: &Seal, value: &Bytes) -> Result<Entry, Damage> {
    seal.check(ENTRY, value)?;
    decode_whole(seal, value)
}

/// Reads the value of an entry whose header and checksum were looked at.
///
/// # Errors
/// [`Damage::Content`].
pub(super) fn decode_whole(seal: &Seal, value: &Bytes) -> Result<Entry, Damage> {
    let value = &seal.open(value);
    let (id, body) = body_of(value)?;
    let records = body.records.iter().zip(body.first..).map(|(record, position)| Record {
        position: Position(position),
        body: record_of(record, position, &body, value),
    });
    let records = records.collect();
    Ok(Entry { id, first: Position(body.first), accepted_at: body.accepted_at, records })
}

/// What such a value says of itself.
///
/// # Errors
/// As [`decode_whole`].
pub(super) fn summarize(seal: &Seal, value: &[u8]) -> Result<Summary, Damage> {
    let value = seal.open(value);
    let (id, body) = body_of(&value)?;
    let records = body.records.len() as u64;
    let reports = body.records.iter().filter(|record| matches!(record, RecordBody::Report { .. })).count() as u32;
    let (first, last) = (Position(body.first), Position(body.first + records - 1));
    Ok(Summary { id, first, last, reports, markers: records as u32 - reports, accepted_at: body.accepted_at })
}

fn body_of(value: &[u8]) -> Result<(Id, EntryBody<'_>), Damage> {
    let (body, used): (EntryBody<'_>, usize) =
        bincode::serde::borrow_decode_from_slice(&value[HEADER_BYTES..], ENCODING).map_err(|_| Damage::Content)?;
    let id = Id::new(body.id).map_err(|_| Damage::Content)?;
    let end = body.first.checked_add(body.records.len() as u64).filter(|end| *end <= MAX_FOUND + 1);
    if used + HEADER_BYTES != value.len() || body.records.is_empty() || end.is_none() {
        return Err(Damage::Content);
    }
    Ok((id, body))
}

fn record_of(record: &RecordBody<'_>, position: u64, entry: &EntryBody<'_>, value: &Bytes) -> Body {
    match record {
        RecordBody::Done => Body::Marker(Marker::Done, entry.accepted_at),
        RecordBody::Disconnected => Body::Marker(Marker::Disconnected, entry.accepted_at),
        RecordBody::Report { seq, time, code, peer, data } => Body::Report(Report {
            number: number(*seq, entry.node_id, Position(position)),
            time: *time,
            code: *code,
            peer: *peer,
            data: data.map(|d| value.slice_ref(d.as_bytes())),
            accepted_at: entry.accepted_at,
        }),
    }
}

/// The number that a report has in the sink: the client's, or the node's with the position.
pub fn number(seq: Option<u64>, node_id: u16, position: Position) -> Number {
    match seq {
        Some(seq) => Number { source: 0, seq },
        None => Number { source: node_id, seq: position.0 },
    }
}

/// The values of these kinds that lie one behind the other in `value`, with their offsets, header and checksum looked
/// at. Each stretch between them that holds no whole one is an error; they go on behind it.
pub(super) fn whole_values<const N: usize>(
    seal: &Seal,
    value: &Bytes,
    kinds: [Magic; N],
) -> impl Iterator<Item = Result<(usize, Bytes), Damage>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut damage = None;
        while at < value.len() {
            let header = value.get(at..at + HEADER_BYTES);
            let length = header.map_or(0, |header| HEADER_BYTES.saturating_add(body_length(header)));
            let end = at.saturating_add(length).min(value.len());
            let unframed = header.ok_or(Damage::Length).and_then(|header| {
                let kind = kinds.into_iter().find(|kind| seal.is_header_of(*kind, header)).unwrap_or(kinds[0]);
                seal.check(kind, &value[at..end])
            });
            match (unframed, damage) {
                (Ok(_), Some(damage)) => return Some(Err(damage)),
                (Ok(_), None) => {
                    let start = std::mem::replace(&mut at, end);
                    return Some(Ok((start, value.slice(start..end))));
                }
                (Err(found), _) => {
                    damage.get_or_insert(found);
                    at += 1;
                }
            }
        }
        damage.map(Err)
    })
}

/// Appends what bincode writes to a buffer that is used again and again.
pub(super) struct Appender<'a>(pub(super) &'a mut Vec<u8>);

impl bincode::enc::write::Writer for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content() -> impl Strategy<Value = Content> {
        let report = (
            proptest::option::of(0..(1u64 << 53)),
            proptest::option::of(any::<i64>()),
            any::<i32>(),
            proptest::option::of(any::<IpAddr>()),
            proptest::option::of(".{0,200}"),
        )
            .prop_map(|(seq, time, code, peer, data)| {
                Content::Report(Draft { seq, time, code, peer, data: data.map(Bytes::from) })
            });
        prop_oneof![
            8 => report,
            1 => Just(Content::Marker(Marker::Done)),
            1 => Just(Content::Marker(Marker::Disconnected)),
        ]
    }

    fn seal() -> Seal {
        Seal::of(&[7; 32])
    }

    fn encoded(id: &Id, first: u64, contents: &[Content]) -> Bytes {
        let mut value = Vec::new();
        let stamp = Stamp { first: Position(first), accepted_at: 5, node_id: 9 };
        encode(&seal(), id, stamp, contents.iter(), &mut value);
        Bytes::from(value)
    }

    proptest! {
        #[test]
        fn an_entry_reads_back_as_it_was_written(
            id in "[A-Za-z0-9._:-]{1,64}",
            first in 1..(1u64 << 52),
            contents in proptest::collection::vec(content(), 1..20),
        ) {
            let id = Id::new(&id).expect("made of the set");
            let mut key = Vec::new();
            encode_key(&seal(), &id, Position(first), &mut key);
            prop_assert_eq!(decode_key(&seal(), &key), Some((id, Position(first))));
            let value = encoded(&id, first, &contents);
            let entry = decode(&seal(), (id, Position(first)), &value).expect("just written");
            prop_assert_eq!(entry.records.len(), contents.len());
            prop_assert_eq!(entry.last(), Position(first + contents.len() as u64 - 1));
            for (i, (record, content)) in entry.records.iter().zip(&contents).enumerate() {
                let position = Position(first + i as u64);
                prop_assert_eq!(record.position, position);
                match (&record.body, content) {
                    (Body::Report(r), Content::Report(d)) => {
                        prop_assert_eq!(r.number, number(d.seq, 9, position));
                        prop_assert_eq!((r.time, r.code, r.peer, &r.data), (d.time, d.code, d.peer, &d.data));
                    }
                    (Body::Marker(m, 5), Content::Marker(c)) => prop_assert_eq!(m, c),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }

        #[test]
        fn a_flipped_bit_is_damage_never_another_entry(
            bit in 0usize..1000,
            contents in proptest::collection::vec(content(), 1..4),
        ) {
            let id = Id::new("a").expect("an id");
            let mut value = encoded(&id, 7, &contents).to_vec();
            let at = bit % (value.len() * 8);
            value[at / 8] ^= 1 << (at % 8);
            prop_assert!(decode(&seal(), (id, Position(7)), &Bytes::from(value)).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_value(&seal(), &Bytes::from(bytes.clone()));
            let mut framed = Vec::new();
            seal().frame(ENTRY, &mut framed, |v| v.extend_from_slice(&bytes));
            let _ = decode_value(&seal(), &Bytes::from(framed));
        }
    }

    #[test]
    fn an_entry_under_another_key_is_damage() {
        let id = Id::new("a").expect("an id");
        let value = encoded(&id, 7, &[Content::Marker(Marker::Done)]);
        assert_eq!(decode(&seal(), (id, Position(8)), &value), Err(Damage::Key));
        let other = Id::new("b").expect("an id");
        assert_eq!(decode(&seal(), (other, Position(7)), &value), Err(Damage::Key));
    }
}
