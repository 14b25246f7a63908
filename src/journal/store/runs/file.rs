//! One run: entries by id and position, in a file that is written once, from its beginning to its end.
//!
//! ```text
//! run        a copy of the identity (`identity.rs`) | blocks, each page behind its own | directory | tail
//! block      values of entries of one id (`entry.rs`), in order of position
//! page       "FBG" | list of blocks: id, first, last, offset, length, reports, markers, accepted_at
//! directory  values "FBQ" | list of pages: id and number of the first block, offset, length
//! tail       "FBE" | number | whether it is of other runs | blocks | lowest, highest position | offset, length of the
//!            directory (u64, BE, each)
//! ```
//!
//! A block ends before it outgrows [`BLOCK_BYTES`], unless it is one entry. Memory holds the directory, and the page
//! that was read last.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::super::entry::{self, Appender, ENCODING, ENTRY, Entry, Summary};
use super::super::super::error::{Damage, JournalError};
use super::super::super::seal::{HEADER_BYTES, Magic, Seal, body_length};
use super::super::super::unreadable::{self, Parts};
use crate::report::{Id, Position};

const PAGE: Magic = *b"FBG";
const DIRECTORY: Magic = *b"FBQ";
const TAIL: Magic = *b"FBE";
const TAIL_BYTES: usize = HEADER_BYTES + 7 * 8;
/// What is read at a time of an id that has much.
pub(super) const BLOCK_BYTES: usize = 64 * 1024;
/// Blocks of one page, and pages of one value of the directory.
const BLOCKS_A_PAGE: usize = 128;
const PAGES_A_VALUE: usize = 512;
/// What is handed to the system at a time, and what it may have before it is to be on disk: a sync that has much to
/// write is in the way of the commits'.
const WRITTEN_AT_ONCE: usize = 1 << 20;
const SYNCED_AT_ONCE: u64 = 4 << 20;

/// Entries of one id that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super::super) struct Block {
    pub(in super::super::super) id: Id,
    /// The positions of its first and its last record.
    pub(in super::super::super) first: Position,
    pub(in super::super::super) last: Position,
    /// Where it begins in its file, and its length.
    pub(in super::super::super) offset: u64,
    pub(in super::super::super) length: u32,
    pub(in super::super::super) reports: u32,
    pub(in super::super::super) markers: u32,
    /// When the commit of its first entry was made, in microseconds of the epoch.
    pub(in super::super::super) accepted_at: u64,
}

#[derive(Serialize, Deserialize)]
struct BlockBody<'a>(&'a str, u64, u64, u64, u32, u32, u32, u64);

/// A page, and the first block of it.
#[derive(Debug, Clone, Copy)]
struct Page {
    id: Id,
    block: u32,
    offset: u64,
    length: u32,
}

#[derive(Serialize, Deserialize)]
struct PageBody<'a>(&'a str, u32, u64, u32);

/// A run, open.
pub(in super::super::super) struct Run {
    pub(in super::super::super) number: u64,
    pub(super) path: PathBuf,
    file: File,
    seal: Seal,
    pages: Vec<Page>,
    /// Whether it was made of other runs; else of bundles.
    pub(super) is_merged: bool,
    pub(super) blocks: u32,
    /// The lowest and the highest position of its records.
    pub(super) lowest: Position,
    pub(super) highest: Position,
    /// The length of its file.
    pub(super) bytes: u64,
    latest: Mutex<Option<(usize, Arc<[Block]>)>>,
}

impl Block {
    /// One that has this entry alone.
    pub(in super::super::super) fn of(entry: Summary, offset: u64, length: usize) -> Self {
        let Summary { id, first, last, reports, markers, accepted_at } = entry;
        Self { id, first, last, offset, length: length as u32, reports, markers, accepted_at }
    }

    /// Takes in one that lies right behind it, if that fits.
    fn join(&mut self, next: &Self) -> bool {
        let fits = self.id == next.id && (self.length + next.length) as usize <= BLOCK_BYTES;
        if fits {
            self.last = next.last;
            self.length += next.length;
            self.reports += next.reports;
            self.markers += next.markers;
        }
        fits
    }

    fn body(&self) -> BlockBody<'_> {
        let Self { id, first, last, offset, length, reports, markers, accepted_at } = self;
        BlockBody(id.as_str(), first.0, last.0, *offset, *length, *reports, *markers, *accepted_at)
    }
}

impl TryFrom<BlockBody<'_>> for Block {
    type Error = Damage;

    fn try_from(body: BlockBody<'_>) -> Result<Self, Damage> {
        let BlockBody(id, first, last, offset, length, reports, markers, accepted_at) = body;
        let id = Id::new(id).map_err(|_| Damage::Content)?;
        let (first, last) = (Position(first), Position(last));
        Ok(Self { id, first, last, offset, length, reports, markers, accepted_at })
    }
}

impl Run {
    /// Opens a run that was written to its end.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] where its directory is not whole; and what the system says.
    pub(super) fn open(path: &Path, number: u64, seal: &Seal) -> Result<Self, JournalError> {
        let file = File::open(path).map_err(failed(path, "open"))?;
        let bytes = file.metadata().map_err(failed(path, "look at"))?.len();
        let damaged = |what: &str| JournalError::Damaged(format!("{what} of the run {} is not whole", path.display()));
        let mut run = Self {
            number,
            path: path.to_owned(),
            file,
            seal: seal.clone(),
            pages: Vec::new(),
            is_merged: false,
            blocks: 0,
            lowest: Position(0),
            highest: Position(0),
            bytes,
            latest: Mutex::new(None),
        };
        let tail = bytes.checked_sub(TAIL_BYTES as u64).ok_or_else(|| damaged("the length"))?;
        let tail = run.value(tail..bytes, TAIL)?.ok_or_else(|| damaged("the tail"))?;
        let mut fields = tail[HEADER_BYTES..]
            .chunks_exact(8)
            .map(|field| u64::from_be_bytes(field.try_into().expect("eight bytes")));
        let [of, is_merged, blocks, lowest, highest, at, length] = std::array::from_fn(|_| fields.next().unwrap_or(0));
        let blocks = u32::try_from(blocks).ok().filter(|_| of == number).ok_or_else(|| damaged("the tail"))?;
        (run.is_merged, run.blocks) = (is_merged != 0, blocks);
        (run.lowest, run.highest) = (Position(lowest), Position(highest));
        run.pages = run.directory(at, length)?.ok_or_else(|| damaged("the directory"))?;
        Ok(run)
    }

    fn directory(&self, at: u64, length: u64) -> Result<Option<Vec<Page>>, JournalError> {
        let Some(end) = at.checked_add(length).filter(|end| *end <= self.bytes) else { return Ok(None) };
        let bytes = self.bytes_at(at..end)?;
        let (mut pages, mut rest) = (Vec::new(), &bytes[..]);
        while !rest.is_empty() {
            let value = rest.get(..HEADER_BYTES).map_or(0, |header| HEADER_BYTES.saturating_add(body_length(header)));
            let Some((value, behind)) = rest.split_at_checked(value) else { return Ok(None) };
            rest = behind;
            let Ok(value) = self.seal.unframe(DIRECTORY, value) else { return Ok(None) };
            let list =
                bincode::serde::borrow_decode_from_slice::<Vec<PageBody<'_>>, _>(&value[HEADER_BYTES..], ENCODING);
            let Ok((list, _)) = list else { return Ok(None) };
            for PageBody(id, block, offset, length) in list {
                let Ok(id) = Id::new(id) else { return Ok(None) };
                pages.push(Page { id, block, offset, length });
            }
        }
        Ok(Some(pages))
    }

    /// How many pages it has.
    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// The blocks of a page, and the number of the first of them.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] where it is not whole; and what the system says.
    pub(super) fn page(&self, number: usize) -> Result<(u32, Arc<[Block]>), JournalError> {
        let Page { block, offset, length, .. } = self.pages[number];
        let mut latest = self.latest.lock().expect("no holder panics: it reads");
        if let Some((of, blocks)) = &*latest
            && *of == number
        {
            return Ok((block, Arc::clone(blocks)));
        }
        let damaged =
            || JournalError::Damaged(format!("page {number} of the run {} is not whole", self.path.display()));
        let value = self.value(offset..offset + u64::from(length), PAGE)?.ok_or_else(damaged)?;
        let list = bincode::serde::borrow_decode_from_slice::<Vec<BlockBody<'_>>, _>(&value[HEADER_BYTES..], ENCODING);
        let (list, _) = list.map_err(|_| damaged())?;
        let blocks: Result<Arc<[Block]>, Damage> = list.into_iter().map(Block::try_from).collect();
        let blocks = blocks.map_err(|_| damaged())?;
        *latest = Some((number, Arc::clone(&blocks)));
        Ok((block, blocks))
    }

    /// The blocks of an id that have records from `from` through `through`, in order.
    ///
    /// # Errors
    /// As [`Run::page`].
    pub(super) fn blocks_of(
        &self,
        id: &Id,
        from: Position,
        through: Position,
        into: &mut Vec<(u32, Block)>,
    ) -> Result<(), JournalError> {
        if self.highest < from || self.lowest > through {
            return Ok(());
        }
        let begin = self.pages.partition_point(|page| page.id < *id).saturating_sub(1);
        for number in begin..self.pages.len() {
            if self.pages[number].id > *id {
                break;
            }
            let (first, blocks) = self.page(number)?;
            let begin = blocks.partition_point(|block| (block.id, block.last) < (*id, from));
            let its =
                (begin..).zip(&blocks[begin..]).take_while(|(_, block)| block.id == *id && block.first <= through);
            into.extend(its.map(|(at, block)| (first + at as u32, *block)));
        }
        Ok(())
    }

    /// Whether all of it is whole: a run that was not synced may have its end on disk and not what is before it.
    ///
    /// # Errors
    /// As [`Run::page`].
    pub(super) fn is_whole(&self) -> Result<bool, JournalError> {
        for number in 0..self.pages.len() {
            for block in self.page(number)?.1.iter() {
                let values = self.read(block)?;
                let (mut reports, mut markers) = (0, 0);
                for entry in entries(&self.seal, block, &values) {
                    let Ok((entry, _)) = entry else { return Ok(false) };
                    let summary = entry.summary();
                    (reports, markers) = (reports + summary.reports, markers + summary.markers);
                }
                if (reports, markers) != (block.reports, block.markers) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The bytes of a block; zeros for what the disk does not give back.
    ///
    /// # Errors
    /// What else the system says.
    pub(in super::super::super) fn read(&self, block: &Block) -> Result<Bytes, JournalError> {
        self.bytes_at(block.offset..block.offset + u64::from(block.length)).map(Bytes::from)
    }

    /// Puts these bytes where a block begins.
    #[cfg(test)]
    pub(in super::super::super) fn spoil(&self, block: &Block, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.path).expect("it is there");
        file.write_all_at(bytes, block.offset).expect("a sound disk");
    }

    fn value(&self, range: Range<u64>, magic: Magic) -> Result<Option<Bytes>, JournalError> {
        if cfg!(forebay_plant = "trust_a_page") && magic == PAGE {
            return Ok(Some(self.seal.open(&self.bytes_at(range)?)));
        }
        Ok(self.seal.unframe(magic, &self.bytes_at(range)?).ok())
    }

    fn bytes_at(&self, range: Range<u64>) -> Result<Vec<u8>, JournalError> {
        let mut bytes = vec![0; range.end.saturating_sub(range.start).min(self.bytes) as usize];
        let read = unreadable::read_at(&self.file, &mut bytes, range.start, &mut Parts::new());
        read.map_err(failed(&self.path, "read"))?;
        Ok(bytes)
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("number", &self.number).field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

/// Writes a run. One that is not [finished](RunWriter::finish) is removed.
pub(in super::super::super) struct RunWriter {
    is_finished: bool,
    number: u64,
    is_merged: bool,
    path: PathBuf,
    file: File,
    seal: Seal,
    /// What the file does not have yet, and where in it that begins.
    buffer: Vec<u8>,
    at: u64,
    synced: u64,
    open: Vec<Block>,
    pages: Vec<Page>,
    blocks: u32,
    lowest: Position,
    highest: Position,
}

impl RunWriter {
    pub(super) fn begin(
        path: &Path,
        number: u64,
        is_merged: bool,
        seal: &Seal,
        header: &[u8],
    ) -> Result<Self, JournalError> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
        Ok(Self {
            is_finished: false,
            number,
            is_merged,
            path: path.to_owned(),
            file: file.map_err(failed(path, "make"))?,
            seal: seal.clone(),
            buffer: header.to_vec(),
            at: 0,
            synced: 0,
            open: Vec::new(),
            pages: Vec::new(),
            blocks: 0,
            lowest: Position(u64::MAX),
            highest: Position(0),
        })
    }

    /// Bytes that it has by now.
    pub(in super::super::super) fn bytes(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    /// Appends entries that lie together: all of them are behind those that were added before.
    pub(in super::super::super) fn add(&mut self, block: Block, values: &[u8]) -> Result<(), JournalError> {
        self.lowest = self.lowest.min(block.first);
        self.highest = self.highest.max(block.last);
        if !self.open.last_mut().is_some_and(|last| last.join(&block)) {
            if self.open.len() == BLOCKS_A_PAGE {
                self.close_page()?;
            }
            self.open.push(Block { offset: self.bytes(), ..block });
        }
        self.buffer.extend_from_slice(values);
        if self.buffer.len() >= WRITTEN_AT_ONCE { self.write() } else { Ok(()) }
    }

    fn close_page(&mut self) -> Result<(), JournalError> {
        let Some(first) = self.open.first() else { return Ok(()) };
        let (id, block, offset, begun) = (first.id, self.blocks, self.bytes(), self.buffer.len());
        let list: Vec<_> = self.open.iter().map(Block::body).collect();
        self.seal.frame(PAGE, &mut self.buffer, |body| encode(&list, body));
        let length = (self.buffer.len() - begun) as u32;
        self.pages.push(Page { id, block, offset, length });
        self.blocks += self.open.len() as u32;
        self.open.clear();
        self.write()
    }

    fn write(&mut self) -> Result<(), JournalError> {
        self.file.write_all_at(&self.buffer, self.at).map_err(failed(&self.path, "write"))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        if self.at - self.synced >= SYNCED_AT_ONCE { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(failed(&self.path, "sync"))?;
        self.synced = self.at;
        Ok(())
    }

    /// Ends it, and makes it durable but for its name; none where nothing was added.
    pub(super) fn finish(mut self) -> Result<Option<Run>, JournalError> {
        self.close_page()?;
        if self.blocks == 0 {
            return Ok(None);
        }
        let at = self.bytes();
        for pages in self.pages.chunks(PAGES_A_VALUE) {
            let list: Vec<_> =
                pages.iter().map(|page| PageBody(page.id.as_str(), page.block, page.offset, page.length)).collect();
            self.seal.frame(DIRECTORY, &mut self.buffer, |body| encode(&list, body));
        }
        let length = self.bytes() - at;
        let fields =
            [self.number, self.is_merged.into(), self.blocks.into(), self.lowest.0, self.highest.0, at, length];
        let fields = fields.iter().flat_map(|field| field.to_be_bytes());
        self.seal.frame(TAIL, &mut self.buffer, |body| body.extend(fields));
        self.write()?;
        if cfg!(not(forebay_plant = "count_a_run_before_its_sync")) {
            self.sync()?;
        }
        self.is_finished = true;
        Run::open(&self.path, self.number, &self.seal).map(Some)
    }
}

impl Drop for RunWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            // A full disk would stay full. What cannot be removed now is removed by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn encode(list: &impl Serialize, body: &mut Vec<u8>) {
    bincode::serde::encode_into_writer(list, Appender(body), ENCODING).expect("writing to memory cannot fail");
}

/// The entries of a block that are not settled, each with its own part of it; what is damaged is an error each.
pub(in super::super::super) fn entries(
    seal: &Seal,
    block: &Block,
    values: &Bytes,
) -> impl Iterator<Item = Result<(Entry, Bytes), Damage>> {
    let (id, range) = (block.id, block.first..=block.last);
    entry::whole_values(seal, values, [ENTRY]).map(move |part| {
        let (_, part) = part?;
        let entry = entry::decode_whole(seal, &part)?;
        if entry.id == id && range.contains(&entry.first) { Ok((entry, part)) } else { Err(Damage::Key) }
    })
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Folder { path, action, source }
}
