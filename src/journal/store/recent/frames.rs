//! Frames: how they lie in a segment, and which of those that are found belong together.

use std::ops::Range;

use super::super::super::positions::MAX_FOUND;
use super::super::super::seal::{HEADER_BYTES, MAX_BODY_BYTES, Magic, Seal, body_length};
use super::segment::PAGE_BYTES;
use crate::report::key::MAX_EXACT;

pub(super) const FRAME: Magic = *b"FBR";
/// Header, number, oldest, synced, stamp, generation.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + 40;

/// How frames lie in segments.
#[derive(Clone)]
pub(super) struct Format {
    pub(super) seal: Seal,
    /// What a segment begins with; nothing in version 1.
    pub(super) header: Vec<u8>,
}

/// What a frame says of itself.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) number: u64,
    pub(super) oldest: u64,
    pub(super) synced: u64,
    pub(super) stamp: u64,
    pub(super) generation: u64,
}

/// A frame as it was found. One that is damaged says no more than its number, by its place between others.
pub(super) struct Found {
    pub(super) said: Said,
    pub(super) segment: usize,
    pub(super) at: Range<usize>,
}

impl Format {
    /// Puts the frame of a bundle into `frame`.
    pub(super) fn frame(&self, said: Said, frame: &mut Vec<u8>, value: &[u8]) {
        frame.clear();
        self.seal.enclose(FRAME, frame, |bytes| {
            let Said { number, oldest, synced, stamp, generation } = said;
            let fields = [number, oldest, synced, stamp, generation];
            let stored = self.overhead() - HEADER_BYTES;
            bytes.extend(fields.iter().flat_map(|field| field.to_be_bytes()).take(stored));
            bytes.extend_from_slice(value);
        });
    }

    /// What a frame says of itself, if it is whole and can be so.
    pub(super) fn said(&self, frame: &[u8]) -> Option<Said> {
        let body = self.seal.check(FRAME, frame).ok()?;
        let stored = body.get(..self.overhead() - HEADER_BYTES)?;
        let mut fields = stored.chunks_exact(8).map(|field| u64::from_be_bytes(field.try_into().expect("eight bytes")));
        let [number, oldest, synced, stamp, generation] = std::array::from_fn(|_| fields.next().unwrap_or(0));
        let said = Said { number, oldest, synced, stamp, generation };
        if !said.is_possible() {
            tracing::error!(?said, "a bundle says of itself what cannot be; it is taken for damaged");
            return None;
        }
        Some(said)
    }

    /// Where the frame ends that seems to begin there.
    pub(super) fn end_of(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let header = bytes.get(at..at + self.overhead())?;
        let end = at + HEADER_BYTES + body_length(header).min(MAX_BODY_BYTES + 1);
        let is_frame = self.seal.is_header_of(FRAME, header) && end >= at + self.overhead() && end <= bytes.len();
        is_frame.then_some(end)
    }

    /// Bytes of a frame before its bundle.
    pub(super) fn overhead(&self) -> usize {
        if self.seal.is_sealed() { OVERHEAD_BYTES } else { OVERHEAD_BYTES - 8 }
    }

    /// Where the first frame of a segment begins.
    pub(super) fn begins(&self) -> usize {
        if self.seal.is_sealed() { PAGE_BYTES } else { 0 }
    }
}

impl Said {
    /// Whether a frame may say so: what is beyond these bounds was never written.
    pub(super) fn is_possible(&self) -> bool {
        let Self { number, oldest, synced, stamp, generation } = *self;
        let is_number = (1..=MAX_EXACT).contains(&number) && generation <= number;
        is_number && (1..=number + 1).contains(&oldest) && synced < number && stamp <= MAX_FOUND
    }

    /// Whether it begins the chain of its segment.
    pub(super) fn is_first(&self, format: &Format) -> bool {
        !format.seal.is_sealed() || self.generation == self.number
    }
}

/// All frames that were found.
pub(super) struct Frames {
    pub(super) format: Format,
    /// Those that lie one behind the other from the beginning of their segment on. One that is damaged is among them
    /// where the next one begins as it says.
    pub(super) in_order: Vec<Found>,
    /// Whole ones behind those, with their segment. They are not taken.
    pub(super) others: Vec<(usize, Said)>,
}

impl Frames {
    pub(super) fn new(format: Format) -> Self {
        Self { format, in_order: Vec::new(), others: Vec::new() }
    }

    pub(super) fn look_at(&mut self, bytes: &[u8], segment: usize) {
        let begun = self.in_order.len();
        let format = self.format.clone();
        let mut at = format.begins();
        while let Some(end) = format.end_of(bytes, at) {
            let last = self.in_order[begun..].last().map(|last| last.said);
            let follows = |said: &Said, gap| match last {
                None if gap == 1 => said.is_first(&format),
                None => Said { number: said.number - 1, ..*said }.is_first(&format),
                Some(last) => said.number == last.number + gap && said.generation == last.generation,
            };
            let said = match format.said(&bytes[at..end]) {
                Some(said) if follows(&said, 1) => said,
                Some(_) => break,
                None => match format.end_of(bytes, end).and_then(|next| format.said(&bytes[end..next])) {
                    Some(next) if next.number > 1 && follows(&next, 2) => {
                        Said { number: next.number - 1, generation: next.generation, ..Said::default() }
                    }
                    _ => break,
                },
            };
            self.in_order.push(Found { said, segment, at: at..end });
            at = end;
        }
        while at < bytes.len() {
            if bytes[at..].starts_with(&[0; PAGE_BYTES]) {
                at += PAGE_BYTES - 1;
                continue;
            }
            let whole = format.end_of(bytes, at).and_then(|end| Some((end, format.said(&bytes[at..end])?)));
            self.others.extend(whole.map(|(_, said)| (segment, said)));
            at = whole.map_or(at + 1, |(end, _)| end);
        }
    }

    /// What the whole ones say.
    pub(super) fn said(&self) -> impl Iterator<Item = Said> {
        self.in_order.iter().map(|frame| frame.said).chain(self.others.iter().map(|(_, said)| *said))
    }

    pub(super) fn numbers_in(&self, segment: usize) -> impl Iterator<Item = u64> {
        let in_order = self.in_order.iter().filter(move |frame| frame.segment == segment);
        let others = self.others.iter().filter(move |(of, _)| *of == segment);
        in_order.map(|frame| frame.said.number).chain(others.map(|(_, said)| said.number))
    }
}
