//! What an operator sees of an id's way to the sink. Kept only while there is something to see, and only while the id
//! has backlog.

use tokio::time::Instant;

use super::commit::now_micros;
use super::stream::State;
use crate::report::Position;

/// Bytes of an error's text that are kept for each id; the log has all of it.
const MAX_ERROR_BYTES: usize = 256;

/// How an id's last batches went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The last batch that was settled.
    pub last_batch: Option<LastBatch>,
    /// What the sink said last, unless a batch went through without an error since.
    pub last_error: Option<LastError>,
    /// When a batch that was put back is stored again; none where there is no such batch.
    pub next_attempt: Option<Instant>,
    /// All records up to here are in the sink or dead letters, though their batch was put back and is not settled.
    pub stored_through: Option<Position>,
}

/// A batch that was settled, in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastBatch {
    /// When, in microseconds of the epoch.
    pub at: u64,
    /// All that it had.
    pub reports: u64,
    /// New in the sink.
    pub stored: u64,
    /// In the sink or the dead letters before.
    pub duplicates: u64,
    /// New in the dead letters, or lost to damage.
    pub dead: u64,
}

/// What the sink said of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// When, in microseconds of the epoch.
    pub at: u64,
    /// Its text, at most 256 bytes of it.
    pub message: Box<str>,
    /// The sink's error number.
    pub code: Option<u32>,
}

impl LastError {
    /// An error of now.
    pub fn new(message: &str, code: Option<u32>) -> Self {
        let message = message[..message.floor_char_boundary(MAX_ERROR_BYTES)].into();
        Self { at: now_micros(), message, code }
    }
}

impl State {
    /// How the id's last batches went.
    pub fn progress(&self) -> Progress {
        self.progress.as_deref().cloned().unwrap_or_default()
    }

    /// Notes that the sink failed over the id's batch, which is stored again at `next_attempt`.
    pub fn put_back(&mut self, error: LastError, next_attempt: Instant) {
        let progress = self.progress.get_or_insert_default();
        progress.last_error = Some(error);
        progress.next_attempt = Some(next_attempt);
        self.taken = false;
    }

    /// Notes that of a batch that is put back all records up to here are in the sink or dead letters.
    pub fn note_stored(&mut self, through: Position) {
        self.progress.get_or_insert_default().stored_through = Some(through);
    }

    /// Notes what the sink refused of the batch that is about to be settled.
    pub fn refused(&mut self, error: LastError) {
        self.progress.get_or_insert_default().last_error = Some(error);
    }

    /// Notes a batch. Of an id that has nothing left nothing is kept.
    pub(super) fn note_batch(&mut self, batch: LastBatch) {
        if self.is_quiet() {
            self.progress = None;
            return;
        }
        let progress = self.progress.get_or_insert_default();
        progress.last_batch = Some(batch);
        progress.next_attempt = None;
        if batch.dead == 0 {
            progress.last_error = None;
        }
    }
}
