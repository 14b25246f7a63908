//! A stored value on its own: what a tool can say of it that has no journal open.

use bytes::Bytes;

use super::append::Content;
use super::dead_letters::{self, DeadLetter, LETTER};
use super::entry::{self, Entry, Stamp};
use super::error::Damage;
use super::seal::Seal;
use crate::report::{Body, Draft};

/// What the journal keeps under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Records that wait for the sink.
    Entry(Entry),
    /// A report that the sink refused.
    DeadLetter(DeadLetter),
}

impl Value {
    /// Reads a value. Its data are slices of one copy.
    ///
    /// # Errors
    /// [`Damage`], whatever the bytes are.
    pub fn decode(seal: &Seal, bytes: &Bytes) -> Result<Self, Damage> {
        match bytes.get(1..4) {
            Some(magic) if *magic == LETTER => dead_letters::decode_value(seal, bytes).map(Self::DeadLetter),
            _ => entry::decode_value(seal, bytes).map(Self::Entry),
        }
    }

    /// Reads the value that was stored under `key`.
    ///
    /// # Errors
    /// [`Damage`]; [`Damage::Key`] where it is the value of another key.
    pub fn decode_under(seal: &Seal, key: &[u8], bytes: &Bytes) -> Result<Self, Damage> {
        Self::decode(seal, bytes).and_then(|value| if value.key(seal) == key { Ok(value) } else { Err(Damage::Key) })
    }

    /// The key that it belongs under.
    pub fn key(&self, seal: &Seal) -> Vec<u8> {
        match self {
            Self::Entry(entry) => {
                let mut key = Vec::new();
                entry::encode_key(seal, &entry.id, entry.first, &mut key);
                key
            }
            Self::DeadLetter(letter) => dead_letters::stored_key(seal, &letter.key()),
        }
    }

    /// Appends its bytes, as the journal writes them.
    pub fn encode(&self, seal: &Seal, bytes: &mut Vec<u8>) {
        match self {
            Self::Entry(Entry { id, first, accepted_at, records }) => {
                let sources = records.iter().filter_map(|record| match &record.body {
                    Body::Report(report) => Some(report.number.source),
                    Body::Marker(..) => None,
                });
                // One node writes an entry.
                let node_id = sources.max().unwrap_or(0);
                let contents: Vec<Content> = records.iter().map(|record| content(&record.body)).collect();
                let stamp = Stamp { first: *first, accepted_at: *accepted_at, node_id };
                entry::encode(seal, id, stamp, contents.iter(), bytes);
            }
            Self::DeadLetter(letter) => dead_letters::encode(seal, letter, bytes),
        }
    }
}

fn content(body: &Body) -> Content {
    match body {
        Body::Report(report) => Content::Report(Draft {
            seq: (report.number.source == 0).then_some(report.number.seq),
            time: report.time,
            code: report.code,
            peer: report.peer,
            data: report.data.clone(),
        }),
        Body::Marker(marker, _) => Content::Marker(*marker),
    }
}
