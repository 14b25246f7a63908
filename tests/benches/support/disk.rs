//! What the disk itself takes for 4 KiB that must be durable: the limit of every acknowledgement.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::stats::{median, percentile};

/// The bytes of one write.
const BLOCK: usize = 4096;

/// Blocks that are written over, round and round: 16 MiB.
const BLOCKS: u64 = 4096;

/// Milliseconds for a write and `fdatasync`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SyncTimes {
    /// Over blocks that were written before: the median.
    pub overwrite_p50_ms: f64,
    /// The same, 99th percentile.
    pub overwrite_p99_ms: f64,
    /// At the end of a file that grows: the median.
    pub append_p50_ms: f64,
    /// The same, 99th percentile.
    pub append_p99_ms: f64,
}

/// Measures both kinds in this folder, each for as long as `time`.
pub fn sync_times(folder: &Path, time: Duration) -> SyncTimes {
    let file = |name: &str| {
        OpenOptions::new().create_new(true).write(true).open(folder.join(name)).expect("the folder takes files")
    };
    let written = file("overwritten");
    for block in 0..BLOCKS {
        written.write_all_at(&[1; BLOCK], block * BLOCK as u64).expect("the disk takes writes");
    }
    written.sync_all().expect("the disk syncs");
    let overwrites = repeat(&written, time, |n| n % BLOCKS);
    let appends = repeat(&file("grown"), time, |n| n);
    for name in ["overwritten", "grown"] {
        std::fs::remove_file(folder.join(name)).expect("its own file");
    }
    let ms = |times: &[u32], p: f64| f64::from(percentile(times, p)) / 1000.0;
    SyncTimes {
        overwrite_p50_ms: ms(&overwrites, 50.0),
        overwrite_p99_ms: ms(&overwrites, 99.0),
        append_p50_ms: ms(&appends, 50.0),
        append_p99_ms: ms(&appends, 99.0),
    }
}

/// Microseconds of each write and sync, sorted.
fn repeat(file: &File, time: Duration, block: impl Fn(u64) -> u64) -> Vec<u32> {
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed() < time {
        let began = Instant::now();
        let at = block(times.len() as u64) * BLOCK as u64;
        file.write_all_at(&[times.len() as u8; BLOCK], at).expect("the disk takes writes");
        file.sync_data().expect("the disk syncs");
        times.push(began.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
    }
    times.sort_unstable();
    times
}

/// Bytes that a folder takes on disk, all in it together.
pub fn used(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("the folder can be listed");
    let used = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("an entry can be read");
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => used(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            // Removed since it was listed.
            Err(_) => 0,
        }
    };
    entries.map(used).sum()
}

/// Prints the medians; gives back that of a write over a block that was written before, in milliseconds.
pub fn print(syncs: &[SyncTimes]) -> f64 {
    let of = |figure: fn(&SyncTimes) -> f64| median(syncs.iter().map(figure));
    let overwrite = of(|times| times.overwrite_p50_ms);
    println!(
        "bare 4 KiB pwrite + fdatasync: over written blocks p50 {overwrite:.2} ms, p99 {:.2} ms; \
         file grows p50 {:.2} ms, p99 {:.2} ms",
        of(|times| times.overwrite_p99_ms),
        of(|times| times.append_p50_ms),
        of(|times| times.append_p99_ms)
    );
    overwrite
}
