//! The files of the bundles: a log that is written from segment to segment and never rewritten, so that a commit costs
//! one write and one sync.
//!
//! ```text
//! recent/NNNN  a segment of 2 MiB: made once, all zeros, and written again when nothing of it is left
//! segment      a page with a copy of the identity (`identity.rs`) | frames one behind the other
//! frame        header with "FBR" (`seal.rs`) | body, of which the values in the bundle are masked each for itself
//! body         number | oldest | synced | stamp | generation (u64, BE, each) | the bundle
//! ```
//!
//! *number* counts bundles and never begins anew; *oldest* is the oldest bundle that was not removed when the frame
//! was written, *synced* the last that was on disk then, and *stamp* the last position that was given out. *generation*
//! is the number of the first frame of the segment since it was begun. The frames of a segment are those from its
//! beginning on with consecutive numbers and one generation: its *chain*.
//!
//! Frames below the greatest *oldest* of all chains are gone, wherever their bytes may still lie; from there on none
//! may be missing up to the last that is known to be synced. What is behind that and torn was never acknowledged. Of
//! frames that are in no chain nothing is believed but that they are there: where they say that one was synced that is
//! in no chain, that is damage.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::super::bundle::Heading;
use super::super::error::JournalError;
use super::super::files;
use super::super::identity::{IDENTITY_BYTES, Identity};
use super::super::private;
use super::super::seal::Seal;
use super::super::unreadable::{self, Parts};

mod frames;
mod segment;

use frames::{Format, Found, Frames, Said};
pub(in super::super) use segment::SEGMENT_BYTES;
use segment::{fill, opened, read_whole, reserve, will_need};

/// The folder, in that of the journal.
pub(in super::super) const FOLDER: &str = files::RECENT;
/// Where the last segment had at least so many, a commit that needs a new one fills it with zeros. That costs some
/// milliseconds once; without, each sync of what is written for the first time takes 0.1 ms longer.
const FEW_FRAMES: u64 = 128;
/// So many free segments are kept in any case; and as many as are in use.
const FEW_SEGMENTS: usize = 32;
/// Segments that are removed where one is begun: a commit waits for it.
const REMOVED_AT_ONCE: usize = 4;

/// All bundles on disk.
pub(super) struct Recent {
    folder: PathBuf,
    format: Format,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    segments: Vec<Segment>,
    /// The segment that is written, and how far.
    current: Option<usize>,
    end: usize,
    /// The last frame before that segment; 0 where it was begun before the opening.
    begun: u64,
    /// The number of the first frame in that segment.
    generation: u64,
    /// Where the bundles are that were not removed, by number.
    places: VecDeque<Place>,
    /// What the last frame says of itself; all zero where there is none.
    last: Said,
    /// Frames up to here are on disk.
    synced: u64,
    /// Segments whose frames are all below this may be written again.
    free_below: u64,
    /// Segments that were written since the last sync.
    unsynced: Vec<usize>,
    frame: Vec<u8>,
}

struct Segment {
    file: Arc<File>,
    path: PathBuf,
    /// The number of the last frame that was written to it.
    last: u64,
}

#[derive(Clone, Copy)]
struct Place {
    number: u64,
    segment: usize,
    /// Where the bundle begins in its segment, and its length.
    offset: u32,
    length: u32,
}

impl Recent {
    /// Opens the segments, and syncs what it finds. `synced` is the last frame that is known to have been synced.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] when a frame is missing that was synced; and what the system says.
    pub(super) fn open(dir: &Path, synced: u64, seal: &Seal, of: Option<&Identity>) -> Result<Self, JournalError> {
        let folder = dir.join(FOLDER);
        let failed = |action| failed(&folder, action);
        let made = private::make_folder(&folder).and_then(|()| File::open(dir)?.sync_all());
        made.map_err(failed("make the folder"))?;
        let format = Format { seal: seal.clone(), header: of.map(Identity::encode).unwrap_or_default() };
        let (mut state, mut found) = (State::default(), Frames::new(format.clone()));
        let mut bytes = Vec::new();
        let mut files = open_all(&folder).map_err(failed("open the segments in"))?.into_iter().peekable();
        while let Some((path, file)) = files.next() {
            if let Some((_, next)) = files.peek() {
                will_need(next);
            }
            let segment = read_segment((path, file), of, state.segments.len(), &mut bytes, &mut found);
            state.segments.extend(segment.map_err(failed("read the segments in"))?);
        }
        found.in_order.sort_by_key(|frame| frame.said.number);
        state.take(&found, synced)?;
        state.clear_the_rest(&found, &format).map_err(failed("clear the segments in"))?;
        if state.current.is_none() {
            // Not for the first ack to wait for; and what syncs finds a file.
            state.roll(&folder, &format).map_err(failed("make a segment in"))?;
        }
        let recent = Self { folder, format, state: Mutex::new(state) };
        recent.sync()?;
        Ok(recent)
    }

    /// The number of the next bundle, and the oldest that the last frame knows of.
    pub(super) fn next_and_oldest(&self) -> (u64, u64) {
        let last = self.state().last;
        (last.number + 1, last.oldest.max(1))
    }

    /// The last position that was given out, as the last frame says.
    pub(super) fn stamp(&self) -> u64 {
        self.state().last.stamp
    }

    /// Bytes of all segments.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        (self.state().segments.len() * SEGMENT_BYTES) as u64
    }

    /// Writes a bundle. Durable after the next [`Recent::sync`].
    pub(super) fn add(&self, heading: Heading, value: &[u8]) -> Result<(), JournalError> {
        self.state().add(self, heading, value).map_err(failed(&self.folder, "write a bundle in"))
    }

    /// Makes durable all that was written before; the number of the last frame.
    ///
    /// # Errors
    /// Final: what the system dropped after a failed sync a second one would not bring back.
    pub(super) fn sync(&self) -> Result<u64, JournalError> {
        let (unsynced, last) = {
            let mut state = self.state();
            let mut unsynced = std::mem::take(&mut state.unsynced);
            if unsynced.is_empty() {
                // Who waits for a sync learns from it whether the disk still answers.
                unsynced.extend(state.current);
            }
            let files = unsynced.into_iter().map(|segment| (segment, Arc::clone(&state.segments[segment].file)));
            (files.collect::<Vec<_>>(), state.last)
        };
        for (segment, file) in unsynced {
            if cfg!(not(forebay_plant = "write_without_sync")) {
                let path = || self.state().segments[segment].path.clone();
                file.sync_data().map_err(|source| JournalError::Sync { path: path(), source })?;
            }
        }
        let mut state = self.state();
        state.synced = last.number;
        state.free_below = last.oldest;
        Ok(last.number)
    }

    /// A part of a bundle; none once it was removed.
    pub(super) fn read(&self, number: u64, part: Range<usize>) -> Result<Option<Bytes>, JournalError> {
        let Some((place, file)) = self.state().find(number) else { return Ok(None) };
        if part.end > place.length as usize {
            return Ok(None);
        }
        let mut bytes = vec![0; part.len()];
        let read = file.read_exact_at(&mut bytes, u64::from(place.offset) + part.start as u64);
        read.map_err(failed(&self.folder, "read a bundle in"))?;
        // What was removed meanwhile may be written over.
        Ok(self.state().find(number).map(|_| bytes.into()))
    }

    /// A bundle; none once it was removed.
    pub(super) fn read_whole(&self, number: u64) -> Result<Option<Bytes>, JournalError> {
        let Some((place, _)) = self.state().find(number) else { return Ok(None) };
        self.read(number, 0..place.length as usize)
    }

    /// The numbers of all bundles, in order.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.state().places.iter().map(|place| place.number).collect()
    }

    /// Those from `from` through `through`.
    pub(super) fn numbers_in(&self, from: u64, through: u64) -> Vec<u64> {
        let state = self.state();
        let (begin, end) = [from, through + 1].map(|at| state.places.partition_point(|place| place.number < at)).into();
        state.places.range(begin..end).map(|place| place.number).collect()
    }

    /// Removes a bundle. The next frame says so.
    pub(super) fn remove(&self, number: u64) {
        let mut state = self.state();
        if let Ok(at) = state.places.binary_search_by_key(&number, |place| place.number) {
            state.places.remove(at);
        }
    }

    /// Puts these bytes in the place of a bundle, which is as long, as damage that its frame's checksum does not show.
    #[cfg(test)]
    pub(super) fn spoil(&self, number: u64, value: &[u8]) {
        let mut state = self.state();
        let (place, file) = state.find(number).expect("it is there");
        let overhead = self.format.overhead();
        let mut frame = vec![0; overhead + place.length as usize];
        let at = place.offset as usize - overhead;
        file.read_exact_at(&mut frame, at as u64).expect("a sound disk");
        let said = self.format.said(&frame).expect("it is whole");
        self.format.frame(said, &mut state.frame, value);
        file.write_all_at(&state.frame, at as u64).expect("a sound disk");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics: it counts and copies")
    }
}

impl State {
    fn add(&mut self, Recent { folder, format, .. }: &Recent, heading: Heading, value: &[u8]) -> io::Result<()> {
        let Heading { number, oldest, stamp } = heading;
        if self.end + format.overhead() + value.len() > SEGMENT_BYTES {
            self.roll(folder, format)?;
        }
        if self.end == format.begins() {
            self.generation = number;
        }
        let said = Said { number, oldest, synced: self.synced, stamp: stamp.0, generation: self.generation };
        format.frame(said, &mut self.frame, value);
        let segment = self.current.expect("there is one from the opening on");
        self.segments[segment].file.write_all_at(&self.frame, self.end as u64)?;
        self.segments[segment].last = number;
        let begins = self.end + format.overhead();
        if number >= oldest {
            self.places.push_back(Place::new(number, segment, begins..begins + value.len()));
        }
        self.end += self.frame.len();
        self.last = said;
        if self.unsynced.last() != Some(&segment) {
            self.unsynced.push(segment);
        }
        Ok(())
    }

    /// Takes in the frames that are there, in order of number, up to the last that none is missing before.
    fn take(&mut self, found: &Frames, synced: u64) -> Result<(), JournalError> {
        let in_order = || found.in_order.iter().map(|frame| frame.said);
        let oldest = in_order().map(|said| said.oldest).max().unwrap_or(1).max(1);
        let synced = found.said().map(|said| said.synced).max().unwrap_or(0).max(synced);
        let mut last = oldest - 1;
        for frame in &found.in_order[found.in_order.partition_point(|frame| frame.said.number < last)..] {
            let Said { number, oldest, .. } = frame.said;
            let is_damaged = oldest == 0;
            // One that was torn before it was synced looks the same.
            if number > last + 1 || is_damaged && number > synced {
                break;
            }
            // A frame may say of itself that it is gone.
            if number > last {
                self.places.push_back(Place::of(frame, &found.format));
            }
            if is_damaged {
                tracing::error!(number, "a bundle's checksum is wrong; each of its entries has one of its own");
            } else {
                self.last = frame.said;
                self.generation = frame.said.generation;
            }
            last = number;
            (self.current, self.end) = (Some(frame.segment), frame.at.end);
        }
        if last < synced {
            let missing = last + 1;
            return Err(JournalError::Damaged(format!("bundle {missing} of {synced} that were synced is not whole")));
        }
        self.last.number = last;
        self.last.stamp = in_order().map(|said| said.stamp).max().unwrap_or(0);
        self.unsynced = (0..self.segments.len()).collect();
        Ok(())
    }

    /// Puts zeros where frames lie that are not taken: they were never acknowledged, and must not seem to follow those
    /// that will be. Synced before anything is written.
    fn clear_the_rest(&mut self, found: &Frames, format: &Format) -> io::Result<()> {
        let (last, mut bytes) = (self.last.number, Vec::new());
        for (number, segment) in self.segments.iter_mut().enumerate() {
            let taken = found.in_order.iter().rfind(|frame| frame.segment == number && frame.said.number <= last);
            segment.last = taken.map_or(0, |frame| frame.said.number);
            let end = taken.map_or(format.begins(), |frame| frame.at.end);
            let is_torn = found.numbers_in(number).any(|number| number > last);
            if (is_torn || self.current == Some(number)) && cfg!(not(forebay_plant = "keep_what_is_torn")) {
                read_whole(&segment.file, &mut bytes)?;
                let rest = &bytes[end..];
                if rest.iter().any(|&byte| byte != 0) {
                    segment.file.write_all_at(&vec![0; rest.len()], end as u64)?;
                }
            }
            if segment.file.metadata()?.len() < SEGMENT_BYTES as u64 {
                fill(&segment.file, end)?;
            }
            // Damaged, or not written yet when the segment was made.
            segment.file.write_all_at(&format.header, 0)?;
        }
        Ok(())
    }

    fn find(&self, number: u64) -> Option<(Place, Arc<File>)> {
        let at = self.places.binary_search_by_key(&number, |place| place.number).ok()?;
        let place = self.places[at];
        Some((place, Arc::clone(&self.segments[place.segment].file)))
    }

    /// Goes on in a segment of which nothing is left, or in a new one.
    fn roll(&mut self, folder: &Path, format: &Format) -> io::Result<()> {
        // What says that all before it is gone is kept, too.
        let free_below = self.free_below.min(self.synced);
        let free_below = if cfg!(forebay_plant = "reuse_too_soon") { self.last.oldest } else { free_below };
        let is_free =
            |(number, segment): &(usize, &Segment)| segment.last < free_below && self.current != Some(*number);
        let free = self.segments.iter().enumerate().find(is_free).map(|(number, _)| number);
        let segment = match free {
            Some(segment) => segment,
            None => {
                let mut paths = (0..).map(|number| folder.join(format!("{number:04}")));
                let path = paths.find(|path| !path.exists()).expect("some number is free");
                let file = opened(
                    File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?,
                )?;
                if self.current.is_none() || self.last.number - self.begun >= FEW_FRAMES || !reserve(&file)? {
                    fill(&file, 0)?;
                }
                file.write_all_at(&format.header, 0)?;
                file.sync_all()?;
                File::open(folder)?.sync_all()?;
                self.segments.push(Segment { file: Arc::new(file), path, last: 0 });
                self.segments.len() - 1
            }
        };
        (self.current, self.begun, self.end) = (Some(segment), self.last.number, format.begins());
        self.remove_free(free_below)
    }

    /// Removes a few of the last segments, where more are free than there is use for: an outage may have left them.
    fn remove_free(&mut self, free_below: u64) -> io::Result<()> {
        let current = self.current;
        let is_free = |(number, segment): (usize, &Segment)| segment.last < free_below && current != Some(number);
        let free = self.segments.iter().enumerate().filter(|(number, segment)| is_free((*number, segment))).count();
        let more = free.saturating_sub(FEW_SEGMENTS.max(self.segments.len() - free));
        for _ in 0..more.min(REMOVED_AT_ONCE) {
            let last = self.segments.len() - 1;
            let Some(segment) = self.segments.pop_if(|segment| is_free((last, segment))) else { break };
            fs::remove_file(segment.path)?;
        }
        Ok(())
    }
}

impl Place {
    fn new(number: u64, segment: usize, at: Range<usize>) -> Self {
        let narrow = |number| u32::try_from(number).expect("below SEGMENT_BYTES");
        Self { number, segment, offset: narrow(at.start), length: narrow(at.len()) }
    }

    fn of(found: &Found, format: &Format) -> Self {
        Self::new(found.said.number, found.segment, found.at.start + format.overhead()..found.at.end)
    }
}

/// The segments in their folder.
fn paths(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let files = fs::read_dir(folder)?.map(|file| Ok(file?.path()));
    let mut paths: Vec<_> = files.collect::<io::Result<_>>()?;
    let is_segment = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u16>().ok()).is_some();
    paths.retain(is_segment);
    paths.sort();
    Ok(paths)
}

/// All segments, open.
fn open_all(folder: &Path) -> io::Result<Vec<(PathBuf, File)>> {
    let open = |path: PathBuf| Ok((path.clone(), opened(File::options().read(true).write(true).open(path)?)?));
    paths(folder)?.into_iter().map(open).collect()
}

/// What each segment of the journal in `dir` begins with; zeros where the disk does not give it back.
///
/// # Errors
/// When one may not be read.
pub(in super::super) fn headers(dir: &Path) -> io::Result<Vec<Vec<u8>>> {
    let folder = dir.join(FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let read = |path| {
        let mut header = vec![0; IDENTITY_BYTES];
        let read = unreadable::read_at(&File::open(path)?, &mut header, 0, &mut Parts::new())?;
        header.truncate(read);
        Ok(header)
    };
    paths(&folder)?.into_iter().map(read).collect()
}

/// Opens a segment and looks for its frames; none where it is that of another journal, which is left as it is.
fn read_segment(
    (path, file): (PathBuf, File),
    of: Option<&Identity>,
    segment: usize,
    bytes: &mut Vec<u8>,
    found: &mut Frames,
) -> io::Result<Option<Segment>> {
    read_whole(&file, bytes)?;
    let header = Identity::decode(&bytes[..IDENTITY_BYTES]);
    if header.is_some_and(|header| of.is_some_and(|of| of.secret != header.secret)) {
        tracing::error!(path = %path.display(), "a file of another journal lies among the bundles of this; it is left out");
        return Ok(None);
    }
    found.look_at(bytes, segment);
    Ok(Some(Segment { file: Arc::new(file), path, last: 0 }))
}

fn failed(folder: &Path, action: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    move |source| JournalError::Folder { path: folder.to_owned(), action, source }
}

/// The last position that was given out, as far as any frame that is whole says it; else 0.
pub(in super::super) fn stamp(dir: &Path, seal: &Seal) -> u64 {
    let (mut found, mut bytes) = (Frames::new(Format { seal: seal.clone(), header: Vec::new() }), Vec::new());
    for path in paths(&dir.join(FOLDER)).unwrap_or_default() {
        bytes.clear();
        bytes.resize(SEGMENT_BYTES, 0);
        let read = |file: File| unreadable::read_at(&file, &mut bytes, 0, &mut Parts::new());
        // What cannot be read says nothing.
        if File::open(path).and_then(read).is_ok() {
            found.look_at(&bytes, 0);
        }
    }
    found.said().map(|said| said.stamp).max().unwrap_or(0)
}

/// The segment that was written last, and where its last frame ends.
#[cfg(test)]
pub(in super::super) fn end(dir: &Path, of: &Identity) -> Result<(PathBuf, u64), JournalError> {
    let recent = Recent::open(dir, 0, &Seal::of(&of.secret), Some(of))?;
    let state = recent.state();
    let current = state.current.expect("something was written");
    Ok((state.segments[current].path.clone(), state.end as u64))
}

#[cfg(test)]
mod tests;
