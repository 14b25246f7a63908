//! One file: its blocks, and what is in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::Errno;

/// What one file has.
pub(in super::super::super) const SEGMENT_BYTES: usize = 2 << 20;
/// A page of the system's cache. Where it has larger ones, a sync takes a third longer.
pub(super) const PAGE_BYTES: usize = 4096;

/// Keeps the system from reading large pages ahead.
pub(super) fn opened(file: File) -> io::Result<File> {
    fadvise(&file, 0, None, Advice::Random)?;
    Ok(file)
}

/// Has the system read a segment while another is looked at; whether it does so changes nothing else.
pub(super) fn will_need(file: &File) {
    let _ = fadvise(file, 0, None, Advice::WillNeed);
}

/// Gives a segment all its blocks from there on, a page at a time.
pub(super) fn fill(file: &File, from: usize) -> io::Result<()> {
    (from..SEGMENT_BYTES).step_by(PAGE_BYTES).try_for_each(|at| {
        let bytes = &[0; PAGE_BYTES][..PAGE_BYTES.min(SEGMENT_BYTES - at)];
        file.write_all_at(bytes, at as u64)
    })
}

/// Gives a segment all its blocks without writing to them; they read as zeros. False where the file system cannot.
pub(super) fn reserve(file: &File) -> io::Result<bool> {
    match fallocate(file, FallocateFlags::empty(), 0, SEGMENT_BYTES as u64) {
        Ok(()) => Ok(true),
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::IO)) => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// Reads a segment into `bytes`, with zeros behind the end of its file. One buffer serves for many segments: one of its
/// size that is taken anew each time is pages that the system has to clear.
pub(super) fn read_whole(file: &File, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.resize(SEGMENT_BYTES, 0);
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    bytes[read..].fill(0);
    Ok(())
}
