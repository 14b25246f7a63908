//! The ledger: which reports were sent, and what became of them; as a file, one line of JSON for the load and then one
//! for each id, in order of the ids.
//!
//! Reports of an id are numbers, so ranges (from, to, both included) are enough; their data follows from the number.
//! Memory: a few bytes for each connection, and for each report that was not acknowledged; 8 bytes for each id whose
//! reports the node numbers.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use super::arguments::{Numbering, Shape};
use super::message::Share;

/// The version of the file's form.
const VERSION: u32 = 1;

/// What one connection did.
#[derive(Debug, Clone)]
pub struct Part {
    share: Share,
    /// Reports that it sent at least once: the first so many.
    pub sent: u64,
    /// Those that were refused for good.
    pub refused: Vec<u64>,
    /// Those of which nobody can say whether they were kept.
    pub unknown: Vec<u64>,
    /// For each of its ids the sum of the digests of the keys that the node gave; empty where it gave none.
    pub keys: Vec<u64>,
}

impl Part {
    /// Nothing was sent yet.
    pub fn new(share: Share, numbering: Numbering) -> Self {
        let keys = if numbering == Numbering::Server { share.ids() as usize } else { 0 };
        Self { share, sent: 0, refused: Vec::new(), unknown: Vec::new(), keys: vec![0; keys] }
    }
}

/// Mixes a report's number with the key that the node gave it, so that a sum tells whether all of an id's reports have
/// the keys that their acks named (the finalizer of `SplitMix64`).
pub fn key_digest(number: u64, source: u16, seq: u64) -> u64 {
    let mix = |value: u64| {
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    };
    mix(mix(number.wrapping_add(u64::from(source) << 53)).wrapping_add(seq))
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Names the form.
    pub forebay_load_ledger: u32,
    /// The addresses that the load's connections were from; none in a ledger of an earlier version.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// What the reports look like.
    #[serde(flatten)]
    pub shape: Shape,
}

/// Numbers from one to another, both included.
pub type Numbers = (u64, u64);

/// What became of the reports of one id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The id.
    pub id: String,
    /// Acknowledged: to be rows.
    pub acked: Vec<Numbers>,
    /// Refused: to be none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Numbers>,
    /// Neither: at most one row each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Numbers>,
    /// The sum of the digests of the keys that the node gave to those that it acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
}

/// How many numbers these are.
pub fn count(ranges: &[Numbers]) -> u64 {
    ranges.iter().map(|(from, to)| to - from + 1).sum()
}

/// Whether a number is among these, which are in order.
pub fn holds(ranges: &[Numbers], number: u64) -> bool {
    let at = ranges.partition_point(|(_, to)| *to < number);
    ranges.get(at).is_some_and(|(from, _)| *from <= number)
}

/// What a whole load did.
pub struct Ledger {
    shape: Shape,
    addresses: Vec<IpAddr>,
    /// By connection.
    parts: Vec<Part>,
}

impl Ledger {
    /// Of all connections, in order.
    pub fn new(shape: Shape, addresses: Vec<IpAddr>, mut parts: Vec<Part>) -> Self {
        for part in &mut parts {
            // By id, so that those of one id are found at once however many there are.
            let share = part.share;
            part.refused.sort_unstable_by_key(|nth| (share.own(*nth), *nth));
            part.unknown.sort_unstable_by_key(|nth| (share.own(*nth), *nth));
        }
        Self { shape, addresses, parts }
    }

    /// Reports that were sent and not acknowledged, and not refused for good.
    pub fn unknown(&self) -> u64 {
        self.parts.iter().map(|part| part.unknown.len() as u64).sum()
    }

    /// Reports that were refused for good.
    pub fn refused(&self) -> u64 {
        self.parts.iter().map(|part| part.refused.len() as u64).sum()
    }

    /// The entries, by id.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let connections = self.parts.len() as u64;
        (0..self.shape.ids).map(move |id| {
            let mut entry = Entry { id: self.shape.id(id), ..Entry::default() };
            let is_server = self.shape.numbering == Numbering::Server;
            entry.keys = is_server.then_some(0);
            // Either one connection has the id, or some share it: one in every `ids`.
            let (first, step) =
                if self.shape.ids < connections { (id, self.shape.ids) } else { (id % connections, connections) };
            for part in self.parts.iter().skip(first as usize).step_by(step as usize) {
                part.add_to(&mut entry, id / connections);
            }
            entry
        })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (addresses, shape) = (self.addresses.clone(), self.shape.clone());
        let header = Header { forebay_load_ledger: VERSION, addresses, shape };
        serde_json::to_writer(&mut *out, &header)?;
        for entry in self.entries() {
            out.write_all(b"\n")?;
            serde_json::to_writer(&mut *out, &entry)?;
        }
        out.write_all(b"\n")?;
        out.flush()
    }
}

impl Part {
    /// Adds what it did with its own id number `own`.
    fn add_to(&self, entry: &mut Entry, own: u64) {
        let own_of = |nths: &[u64]| -> Vec<u64> {
            let from = nths.partition_point(|nth| self.share.own(*nth) < own);
            let own = nths[from..].iter().take_while(|nth| self.share.own(**nth) == own);
            own.map(|nth| self.share.number(*nth)).collect()
        };
        let (refused, unknown) = (own_of(&self.refused), own_of(&self.unknown));
        refused.iter().for_each(|number| append(&mut entry.refused, *number..*number + 1));
        unknown.iter().for_each(|number| append(&mut entry.unknown, *number..*number + 1));
        let mut exceptions = [refused, unknown].concat();
        exceptions.sort_unstable();
        let all = self.share.numbers(own, 0..self.sent);
        let mut from = all.start;
        for exception in exceptions {
            append(&mut entry.acked, from..exception);
            from = exception + 1;
        }
        append(&mut entry.acked, from..all.end);
        if let (Some(sum), Some(keys)) = (&mut entry.keys, self.keys.get(own as usize)) {
            *sum = sum.wrapping_add(*keys);
        }
    }
}

/// Adds numbers behind those that are there.
fn append(ranges: &mut Vec<Numbers>, numbers: Range<u64>) {
    if numbers.is_empty() {
        return;
    }
    match ranges.last_mut() {
        Some((_, to)) if *to + 1 == numbers.start => *to = numbers.end - 1,
        _ => ranges.push((numbers.start, numbers.end - 1)),
    }
}

/// Reads the first line of a ledger.
///
/// # Errors
/// Where it is none, or of another version.
pub fn read_header(lines: &mut impl BufRead) -> anyhow::Result<Header> {
    let mut line = String::new();
    lines.read_line(&mut line).context("it cannot be read")?;
    ensure!(!line.is_empty(), "it is empty: the load was killed before it could write it");
    let header: Header = serde_json::from_str(&line).context("its first line is not that of a load's ledger")?;
    if header.forebay_load_ledger != VERSION {
        bail!("it is of version {}, and this program reads version {VERSION}", header.forebay_load_ledger);
    }
    Ok(header)
}

/// Whether the file ends within a line: whoever wrote it was killed.
///
/// # Errors
/// Where it cannot be read.
pub fn is_cut(file: &File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let mut last = [0];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(length > 0 && last != [b'\n'])
}

/// Reads the other lines; of a ledger that was cut, those that are whole.
pub fn read_entries(lines: impl BufRead, is_cut: bool) -> impl Iterator<Item = anyhow::Result<Entry>> {
    let mut last = String::new();
    let mut lines = lines.split(b'\n').enumerate().peekable();
    let whole = std::iter::from_fn(move || {
        let (at, line) = lines.next()?;
        (!is_cut || lines.peek().is_some()).then_some((at, line))
    });
    whole.map(move |(at, line)| {
        let place = || format!("line {} of the ledger", at + 2);
        let entry: Entry = serde_json::from_slice(&line.with_context(place)?).with_context(place)?;
        if entry.id <= last {
            bail!("{}: the ids are not in order", place());
        }
        for ranges in [&entry.acked, &entry.refused, &entry.unknown] {
            let sound = ranges.iter().all(|(from, to)| from <= to && *to < 1 << 53)
                && ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
            if !sound {
                bail!("{}: the ranges are not in order", place());
            }
        }
        last.clone_from(&entry.id);
        Ok(entry)
    })
}

#[cfg(test)]
mod tests {
    use super::super::message::FIRST;
    use super::*;

    fn ledger(connections: u64, ids: u64, numbering: Numbering) -> Ledger {
        let shape = Shape { ids, id_prefix: "p-".to_owned(), size: 300, numbering };
        let part = |connection| Part {
            sent: 20,
            refused: vec![3],
            unknown: vec![9, 4],
            keys: vec![1; ids as usize],
            ..Part::new(Share::new(connection, connections, ids), numbering)
        };
        Ledger::new(shape, Vec::new(), (0..connections).map(part).collect())
    }

    #[test]
    fn every_report_is_in_one_range_of_its_id() {
        for (connections, ids) in [(1, 1), (2, 5), (3, 3), (5, 2), (1, 40)] {
            let ledger = ledger(connections, ids, Numbering::Client);
            let entries: Vec<Entry> = ledger.entries().collect();
            let sum = |of: fn(&Entry) -> &Vec<Numbers>| entries.iter().map(|entry| count(of(entry))).sum::<u64>();
            assert_eq!(sum(|entry| &entry.acked), 17 * connections, "{connections} {ids}");
            assert_eq!(sum(|entry| &entry.refused), connections);
            assert_eq!(sum(|entry| &entry.unknown), 2 * connections);
            let share = Share::new(0, connections, ids);
            let entry = &entries[share.id(4) as usize];
            assert!(holds(&entry.unknown, share.number(4)) && !holds(&entry.acked, share.number(4)));
        }
    }

    #[test]
    fn a_ledger_is_read_back_as_it_was_written() {
        for numbering in [Numbering::Client, Numbering::Server] {
            let ledger = ledger(2, 3, numbering);
            let mut file = Vec::new();
            ledger.write(&mut file).expect("a Vec takes it");
            let mut lines = file.as_slice();
            assert_eq!(read_header(&mut lines).expect("a header").shape, ledger.shape);
            let entries: Vec<Entry> = read_entries(lines, false).collect::<Result<_, _>>().expect("entries");
            assert_eq!(entries, ledger.entries().collect::<Vec<_>>());
            assert_eq!(entries[0].acked[0].0, FIRST);
        }
    }

    /// Wherever it was killed.
    #[test]
    fn of_a_ledger_that_was_cut_the_whole_lines_are_read() {
        let ledger = ledger(2, 3, Numbering::Client);
        let mut file = Vec::new();
        ledger.write(&mut file).expect("a Vec takes it");
        let begins = file.iter().position(|byte| *byte == b'\n').expect("a first line") + 1;
        for end in begins..file.len() {
            let cut = &file[begins..end];
            let is_cut = cut.last().is_some_and(|last| *last != b'\n');
            let entries: Vec<Entry> = read_entries(cut, is_cut).collect::<Result<_, _>>().expect("whole lines");
            assert_eq!(entries.len(), cut.iter().filter(|byte| **byte == b'\n').count());
        }
    }

    #[test]
    fn a_file_that_is_no_ledger_is_refused() {
        assert!(read_header(&mut &b"{}\n"[..]).is_err());
        assert!(read_header(&mut &b""[..]).is_err());
        let twice = "{\"id\":\"a\",\"acked\":[[1,2]]}\n{\"id\":\"a\",\"acked\":[]}\n";
        assert!(read_entries(twice.as_bytes(), false).any(|entry| entry.is_err()));
        let backwards = "{\"id\":\"a\",\"acked\":[[5,2]]}\n";
        assert!(read_entries(backwards.as_bytes(), false).any(|entry| entry.is_err()));
    }
}
