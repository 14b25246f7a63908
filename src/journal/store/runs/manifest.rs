//! Which runs count, and what of them is settled. The file is replaced as a whole: what sorting and merging made counts
//! from one instant on, and what it took the place of does not count any more.
//!
//! ```text
//! manifest  values "FBM", one part each: the head, and for each run its number and which of its blocks are dead; then
//!           ids of which a block is settled in part, and up to where
//! ```

use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::super::entry::{Appender, ENCODING, whole_values};
use super::super::super::error::JournalError;
use super::super::super::identity::put;
use super::super::super::seal::{HEADER_BYTES, Magic, Seal};
use super::super::super::unreadable::{self, Parts};
use super::dead::Dead;
use crate::report::{Id, Position};

pub(super) const FILE: &str = "manifest";
const PART: Magic = *b"FBM";
/// Words of one part, and ids.
const WORDS_A_PART: usize = 4096;
const IDS_A_PART: usize = 512;

#[derive(Serialize, Deserialize)]
enum Part<'a> {
    /// The number of the next run, of runs, and of parts behind this one.
    Head {
        next: u64,
        runs: u64,
        parts: u64,
    },
    Run {
        number: u64,
        blocks: u32,
    },
    /// Words of the run before.
    Dead {
        from: u64,
        words: Vec<u64>,
    },
    #[serde(borrow)]
    Settled(Vec<(&'a str, u64)>),
}

#[derive(Debug, Default)]
pub(super) struct Manifest {
    pub(super) next: u64,
    pub(super) runs: Vec<(u64, Dead)>,
    pub(super) settled: Vec<(Id, Position)>,
}

impl Manifest {
    /// Reads the one in the folder; none where there is none.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] where it is not whole; and what the system says.
    pub(super) fn read(folder: &Path, seal: &Seal) -> Result<Option<Self>, JournalError> {
        let path = folder.join(FILE);
        let bytes = unreadable::read(&path, &mut Parts::new());
        let bytes = bytes.map_err(|source| JournalError::Folder { path: path.clone(), action: "read", source })?;
        if bytes.is_empty() && !path.exists() {
            return Ok(None);
        }
        let damaged = || JournalError::Damaged(format!("{} is not whole", path.display()));
        Self::decode(&Bytes::from(bytes), seal).ok_or_else(damaged).map(Some)
    }

    fn decode(bytes: &Bytes, seal: &Seal) -> Option<Self> {
        let mut values = whole_values(seal, bytes, [PART]);
        let head = seal.open(&values.next()?.ok()?.1);
        let Part::Head { next, runs, parts } = decode(&head)? else { return None };
        let (mut manifest, mut count) = (Self { next, ..Self::default() }, 0);
        for value in values {
            let value = seal.open(&value.ok()?.1);
            count += 1;
            match decode(&value)? {
                Part::Head { .. } => return None,
                Part::Run { number, blocks } => manifest.runs.push((number, Dead::new(blocks))),
                Part::Dead { from, words } => manifest.runs.last_mut()?.1.set_words(from, &words)?,
                Part::Settled(ids) => {
                    for (id, through) in ids {
                        manifest.settled.push((Id::new(id).ok()?, Position(through)));
                    }
                }
            }
        }
        (count == parts && manifest.runs.len() as u64 == runs).then_some(manifest)
    }

    /// Puts it in the place of the one that is there, durably.
    pub(super) fn write(&self, folder: &Path, seal: &Seal) -> Result<(), JournalError> {
        let mut parts = Vec::new();
        for (number, dead) in &self.runs {
            parts.push(Part::Run { number: *number, blocks: dead.blocks() });
            for (at, words) in dead.words().chunks(WORDS_A_PART).enumerate() {
                if words.iter().any(|&word| word != 0) {
                    parts.push(Part::Dead { from: (at * WORDS_A_PART) as u64, words: words.to_vec() });
                }
            }
        }
        for ids in self.settled.chunks(IDS_A_PART) {
            parts.push(Part::Settled(ids.iter().map(|(id, through)| (id.as_str(), through.0)).collect()));
        }
        let head = Part::Head { next: self.next, runs: self.runs.len() as u64, parts: parts.len() as u64 };
        let mut bytes = Vec::new();
        for part in std::iter::once(&head).chain(&parts) {
            seal.frame(PART, &mut bytes, |body| {
                bincode::serde::encode_into_writer(part, Appender(body), ENCODING)
                    .expect("writing to memory cannot fail");
            });
        }
        let path = folder.join(FILE);
        put(folder, FILE, &bytes, false).map_err(|source| JournalError::Folder { path, action: "write", source })
    }
}

fn decode(value: &Bytes) -> Option<Part<'_>> {
    let (part, used) = bincode::serde::borrow_decode_from_slice(&value[HEADER_BYTES..], ENCODING).ok()?;
    (used + HEADER_BYTES == value.len()).then_some(part)
}
