//! What an operator sees of the journal as a whole.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Journal;

/// What an operator sees of the journal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JournalStatus {
    /// Bytes of entries and dead letters.
    pub bytes: u64,
    /// Bytes of entries alone.
    pub backlog_bytes: u64,
    /// Bytes of its files.
    pub bytes_on_disk: u64,
    /// Free bytes of its disk; 0 where that is not known.
    pub free_disk: u64,
    /// Ids with backlog.
    pub streams: u64,
    /// Age of the oldest record that is not in the sink.
    pub oldest_age: Option<Duration>,
    /// Entries that were set aside since start.
    pub damaged: u64,
}

impl Journal {
    /// What an operator sees.
    pub fn status(&self) -> JournalStatus {
        let bytes = self.shared.bytes();
        JournalStatus {
            bytes,
            // Two counters that change beside each other.
            backlog_bytes: bytes.saturating_sub(self.shared.dead_bytes.load(Ordering::Relaxed)),
            bytes_on_disk: self.shared.store.bytes_on_disk(),
            free_disk: self.shared.store.free_disk().unwrap_or(0),
            streams: self.streams() as u64,
            oldest_age: self.oldest().map(|oldest| oldest.elapsed()),
            damaged: self.shared.damaged.load(Ordering::Relaxed),
        }
    }

    /// When the oldest record that is not in the sink was accepted. With many streams the answer is up to a second old:
    /// looking at each of them takes milliseconds.
    fn oldest(&self) -> Option<Instant> {
        const MANY: usize = 1_000;
        let mut known = self.shared.oldest.lock().expect("no holder panics: it only looks");
        match *known {
            Some((at, oldest)) if self.streams() > MANY && at.elapsed() < Duration::from_secs(1) => oldest,
            _ => {
                let streams = self.parts().flat_map(|part| part.streams);
                let oldest = streams.filter_map(|stream| stream.lock().oldest).min();
                *known = Some((Instant::now(), oldest));
                oldest
            }
        }
    }
}
