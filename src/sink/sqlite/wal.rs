//! Whether a `-wal` belongs to the database that it lies beside. SQLite does not ask: it lays the pages of any `-wal`
//! of the right name over any database.
//!
//! ```text
//! database   … | at 24: change counter | … | at 40: schema cookie | …                          (u32, big-endian)
//! -wal       magic | version | page size | sequence | two salts | two checksums                (u32 each, big-endian)
//!            frames: page number | pages of the database | the salts | two checksums | the page
//! ```
//!
//! The change counter grows by one with each transaction that writes page 1, and each of ours does ([`super::file`]).
//! So the first page 1 in a `-wal` says of which database it is the next state. Formats: sqlite.org/fileformat2.html.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// How often both are looked at: a file that changes all the time is at work, with a `-wal` of its own.
const LOOKS: usize = 10;
/// Of page 1, as much as is looked at.
const DATABASE_HEADER: usize = 100;

/// What page 1 says of the database that it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    /// Bytes of a page.
    pub(super) page_size: u32,
    /// Transactions that wrote page 1.
    pub(super) counter: u32,
    /// Changes of the schema.
    cookie: u32,
}

/// What a `-wal` says of the database that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Log {
    page_size: u32,
    /// The first and the last page 1 that it has; none where no transaction in it wrote that.
    states: Option<(State, State)>,
}

/// Why a `-wal` does not belong to the database beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stranger {
    /// The `-wal` goes on from a later state.
    #[error("the file is an older copy than the one that its -wal goes on from")]
    OlderFile,
    /// The database was changed after the `-wal`.
    #[error("the -wal is an older one than the file")]
    OlderLog,
    /// The database was made anew, as by VACUUM INTO, or is another.
    #[error("the file is another than the one that its -wal belongs to")]
    Another,
}

impl State {
    /// What the first bytes of a database say; `None` where they are not those of one.
    pub(super) fn of(file: &File) -> io::Result<Option<Self>> {
        let mut head = [0; DATABASE_HEADER];
        match file.read_exact_at(&mut head, 0) {
            Ok(()) => Ok(Self::read(&head)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(page: &[u8; DATABASE_HEADER]) -> Option<Self> {
        let page_size = match u16::from_be_bytes([page[16], page[17]]) {
            1 => 65_536,
            size => u32::from(size),
        };
        let is_database = page.starts_with(b"SQLite format 3\0");
        is_database.then(|| Self { page_size, counter: number(page, 24), cookie: number(page, 40) })
    }

    /// Whether the database went back to what it was earlier.
    pub(super) fn is_before(&self, earlier: &Self) -> bool {
        is_less(self.counter, earlier.counter)
    }
}

/// How a `-wal` begins: told from what it was before a checkpoint after which it began anew.
pub(super) fn generation(wal: &Path) -> Option<[u8; HEADER]> {
    let mut header = [0; HEADER];
    File::open(wal).ok()?.read_exact_at(&mut header, 0).ok()?;
    Some(header)
}

/// Holds the `-wal` at a path against the database `file`, which others may have open.
///
/// # Errors
/// Where one of them cannot be read. What is no database, and a `-wal` without a transaction, are SQLite's affair.
pub(super) fn belongs(file: &File, wal: &Path) -> io::Result<Result<(), Stranger>> {
    for _ in 0..LOOKS {
        let before = State::of(file)?;
        let log = match File::open(wal) {
            Ok(log) => Log::read(&log)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let after = State::of(file)?;
        // Else somebody carried the -wal into the database meanwhile.
        if before == after {
            return Ok(after.zip(log).map_or(Ok(()), |(state, log)| log.is_of(&state)));
        }
    }
    Ok(Ok(()))
}

impl Log {
    fn read(file: &File) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        let length = file.metadata()?.len();
        if length < HEADER as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut header, 0)?;
        let page_size = number(&header, 8);
        let frame_size = FRAME_HEADER as u64 + u64::from(page_size);
        let mut log = Self { page_size, states: None };
        let mut at = HEADER as u64;
        let mut frame = [0; FRAME_HEADER + DATABASE_HEADER];
        let mut is_any = false;
        while page_size >= 512 && at + frame_size <= length {
            file.read_exact_at(&mut frame, at)?;
            if frame[8..16] != header[16..24] {
                break;
            }
            is_any = true;
            let page = frame.last_chunk().expect("a frame's header is in front of it");
            if let (1, Some(state)) = (number(&frame, 0), State::read(page)) {
                let (_, last) = log.states.get_or_insert((state, state));
                *last = state;
            }
            at += frame_size;
        }
        Ok(is_any.then_some(log))
    }

    fn is_of(&self, file: &State) -> Result<(), Stranger> {
        if self.page_size != file.page_size {
            return Err(Stranger::Another);
        }
        let Some((first, last)) = self.states else { return Ok(()) };
        if is_less(file.counter.wrapping_add(1), first.counter) {
            return Err(Stranger::OlderFile);
        }
        if is_less(last.counter, file.counter) {
            return Err(Stranger::OlderLog);
        }
        // A transaction may change the schema many times, so the file may be far behind; it is never ahead.
        if is_less(last.cookie, file.cookie) { Err(Stranger::Another) } else { Ok(()) }
    }
}

/// Whether a counter that begins anew at its end is behind another.
fn is_less(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(counter: u32, cookie: u32) -> State {
        State { page_size: 4096, counter, cookie }
    }

    #[test]
    fn a_log_belongs_to_the_states_that_it_goes_on_from_and_through() {
        let log = Log { page_size: 4096, states: Some((state(8, 3), state(10, 3))) };
        for (counter, wanted) in
            [(6, Err(Stranger::OlderFile)), (7, Ok(())), (8, Ok(())), (10, Ok(())), (11, Err(Stranger::OlderLog))]
        {
            assert_eq!(log.is_of(&state(counter, 3)), wanted, "{counter}");
        }
        assert_eq!(log.is_of(&state(8, 4)), Err(Stranger::Another), "VACUUM INTO counts the schema up");
        assert_eq!(log.is_of(&state(8, 0)), Ok(()), "three tables may have been made in one transaction");
        assert_eq!(log.is_of(&State { page_size: 512, ..state(8, 3) }), Err(Stranger::Another));
        assert_eq!(Log { states: None, ..log }.is_of(&state(1, 1)), Ok(()), "nothing in it says so");
        let anew = Log { page_size: 4096, states: Some((state(u32::MAX, 3), state(1, 3))) };
        assert_eq!((anew.is_of(&state(u32::MAX - 1, 3)), anew.is_of(&state(0, 3))), (Ok(()), Ok(())));
        assert_eq!(anew.is_of(&state(2, 3)), Err(Stranger::OlderLog));
    }
}
