//! Making runs: of entries in memory, and of other runs.

use bytes::Bytes;

use super::super::super::entry::Summary;
use super::super::super::error::JournalError;
use super::super::super::seal::Seal;
use super::super::MAX_VALUE_BYTES;
use super::{Block, Counted, RunWriter, Runs, entries};
use crate::report::{Id, Position};

/// Entries that one run is made of, in bytes: they are in memory meanwhile.
pub(in super::super::super) const SORTED_AT_ONCE: usize = 64 << 20;
/// Where runs are merged, each that is made ends here.
pub(in super::super::super) const MERGED_BYTES: u64 = 512 << 20;

/// Entries that are to be one run, in any order.
#[derive(Default)]
pub(in super::super::super) struct Chunk {
    blocks: Vec<Block>,
    bytes: Vec<u8>,
}

impl Chunk {
    /// One with room for so many bytes, as far as it may have them.
    pub(in super::super::super) fn with_room(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(SORTED_AT_ONCE).min(SORTED_AT_ONCE);
        Self { blocks: Vec::new(), bytes: Vec::with_capacity(bytes + MAX_VALUE_BYTES) }
    }

    /// Takes in an entry and its value.
    pub(in super::super::super) fn push(&mut self, entry: Summary, value: &[u8]) {
        self.blocks.push(Block::of(entry, self.bytes.len() as u64, value.len()));
        self.bytes.extend_from_slice(value);
    }

    /// Whether it has as much as one run is made of.
    pub(in super::super::super) fn is_full(&self) -> bool {
        self.bytes.len() >= SORTED_AT_ONCE
    }

    /// Writes the run; none where there is nothing. What is there twice is written once.
    pub(in super::super::super) fn write(mut self, runs: &Runs) -> Result<(Option<Counted>, Vec<Block>), JournalError> {
        self.blocks.sort_unstable_by_key(|block| (block.id, block.first));
        self.blocks.dedup_by_key(|block| (block.id, block.first));
        let mut run = runs.begin(false)?;
        for block in &self.blocks {
            let at = block.offset as usize;
            run.add(*block, &self.bytes[at..at + block.length as usize])?;
        }
        Ok((runs.finish(run)?, self.blocks))
    }
}

/// The blocks of a run that are not dead, one after the other.
struct Cursor<'a> {
    from: &'a Counted,
    page: usize,
    blocks: std::vec::IntoIter<Block>,
    next: Option<Block>,
}

impl<'a> Cursor<'a> {
    fn of(from: &'a Counted) -> Result<Self, JournalError> {
        let mut cursor = Self { from, page: 0, blocks: Vec::new().into_iter(), next: None };
        cursor.advance()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<(), JournalError> {
        loop {
            self.next = self.blocks.next();
            if self.next.is_some() || self.page == self.from.run.pages() {
                return Ok(());
            }
            let (first, blocks) = self.from.run.page(self.page)?;
            let live = (first..).zip(blocks.iter()).filter(|(number, _)| !self.from.dead.has(*number));
            self.blocks = live.map(|(_, block)| *block).collect::<Vec<_>>().into_iter();
            self.page += 1;
        }
    }
}

/// Writes what is not dead of these runs into new ones. `goes_on` is asked for each block; where it says no, what was
/// written does not count, and none is the answer.
pub(in super::super::super) fn merge(
    runs: &Runs,
    seal: &Seal,
    of: &[Counted],
    goes_on: impl Fn() -> bool,
) -> Result<Option<Vec<Counted>>, JournalError> {
    let mut cursors: Vec<_> = of.iter().map(Cursor::of).collect::<Result<_, _>>()?;
    let mut made = Vec::new();
    let mut run = runs.begin(true)?;
    let mut done = None;
    // Few: a look at each of them costs less than to read a block.
    while let Some(least) = cursors.iter_mut().filter(|cursor| cursor.next.is_some()).min_by_key(|cursor| {
        let block = cursor.next.as_ref().expect("filtered");
        (block.id, block.first)
    }) {
        if !goes_on() {
            return Ok(None);
        }
        let block = least.next.take().expect("filtered");
        let values = least.from.run.read(&block)?;
        least.advance()?;
        if cfg!(forebay_plant = "drop_the_youngest") && cursors.iter().all(|cursor| cursor.next.is_none()) {
            break;
        }
        add(&mut run, seal, block, &values, &mut done)?;
        if run.bytes() >= MERGED_BYTES {
            made.extend(runs.finish(std::mem::replace(&mut run, runs.begin(true)?))?);
        }
    }
    made.extend(runs.finish(run)?);
    Ok(Some(made))
}

/// Appends a block, but for what of it was added before: files that were salvaged may have an entry twice.
fn add(
    run: &mut RunWriter,
    seal: &Seal,
    block: Block,
    values: &Bytes,
    done: &mut Option<(Id, Position)>,
) -> Result<(), JournalError> {
    let before = done.filter(|(id, _)| *id == block.id).map_or(Position(0), |(_, last)| last);
    *done = Some((block.id, block.last.max(before)));
    if block.first > before {
        return run.add(block, values);
    }
    for (entry, value) in entries(seal, &block, values).filter_map(Result::ok) {
        if entry.first > before {
            run.add(Block::of(entry.summary(), 0, value.len()), &value)?;
        }
    }
    Ok(())
}
