//! What the journal refuses, and how it says so.

use std::time::Duration;

use super::append::Content;
use crate::config;
use crate::report::{Id, Marker, Refusal};

/// When a refused client should come back, at the earliest.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The journal's limits.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Backlog and dead letters, in bytes.
    pub(super) max_bytes: u64,
    /// Backlog of one id, in records.
    pub(super) max_backlog_per_id: u64,
    /// Ids with backlog.
    pub(super) max_ids: u64,
    /// Free disk, in bytes.
    pub(super) min_free_disk: u64,
}

/// Where the journal would stand with one append more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    /// Records of the append's id, itself among them.
    pub(super) backlog: u64,
    /// What is held in memory with it, in ids, where it takes more than before; else 0.
    pub(super) held: u64,
    /// Bytes of the journal, with it.
    pub(super) journal_bytes: u64,
    /// Whether free disk is below the reserve.
    pub(super) disk_is_low: bool,
    /// Whether bundles have far more than is to be in them.
    pub(super) sorting_is_behind: bool,
    /// Whether the node is stopping.
    pub(super) stopping: bool,
}

/// Places of entries in bundles for each id that there may be: as much memory as a fifth of what the ids take.
const PLACES_AN_ID: u64 = 8;
/// The fewest places that are kept: what is drained soon is never moved, however few ids there may be.
const FEWEST_PLACES: u64 = 100_000;

impl Limits {
    pub(super) fn of(settings: &config::Journal) -> Self {
        let config::Journal { max_bytes, max_backlog_per_id, max_ids, min_free_disk, .. } = *settings;
        Self { max_bytes, max_backlog_per_id, max_ids, min_free_disk }
    }

    /// Places of entries in bundles beyond which the oldest bundles are sorted into runs.
    pub(super) fn max_places(&self) -> u64 {
        self.max_ids.saturating_mul(PLACES_AN_ID).max(FEWEST_PLACES)
    }

    /// Why this append is refused, if it is. A `disconnected` marker, which nobody could send again, is held only to
    /// the limits of journal, memory and disk.
    pub(super) fn refusal(&self, id: &Id, content: &Content, level: Level) -> Option<Refusal> {
        let from_client = *content != Content::Marker(Marker::Disconnected);
        let retry_after_ms = RETRY_AFTER.as_millis() as u64;
        if level.stopping && from_client {
            return Some(Refusal::shutting_down());
        }
        if level.journal_bytes > self.max_bytes {
            let reason = format!("the journal holds {} bytes, its limit (journal.max_bytes)", self.max_bytes);
            return Some(Refusal::journal_full(reason, retry_after_ms));
        }
        if level.held > self.max_ids && cfg!(not(forebay_plant = "take_any_id")) {
            let max_ids = self.max_ids;
            let reason = format!(
                "the journal holds {max_ids} ids, its limit (journal.max_ids); two that wait for a `done` count as one"
            );
            return Some(Refusal::journal_full(reason, retry_after_ms));
        }
        if level.disk_is_low {
            let reserve = self.min_free_disk;
            let reason = format!("the journal's disk has less than {reserve} bytes free (journal.min_free_disk)");
            return Some(Refusal::journal_full(reason, retry_after_ms));
        }
        if level.sorting_is_behind {
            let reason = "more comes than can be sorted of what waits (journal.recent_bytes): the disk is slow, or the log \
                          says why it cannot be written";
            return Some(Refusal::journal_full(reason.to_owned(), retry_after_ms));
        }
        let full = from_client && level.backlog > self.max_backlog_per_id;
        full.then(|| Refusal::backlog_full(id, self.max_backlog_per_id, retry_after_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::RefusalKind;

    const LIMITS: Limits = Limits { max_bytes: 100, max_backlog_per_id: 10, max_ids: 5, min_free_disk: 1 };
    const FINE: Level = Level {
        backlog: 10,
        held: 5,
        journal_bytes: 100,
        disk_is_low: false,
        sorting_is_behind: false,
        stopping: false,
    };

    fn kind(marker: Marker, level: Level) -> Option<RefusalKind> {
        let id = Id::new("a").expect("an id");
        LIMITS.refusal(&id, &Content::Marker(marker), level).map(|r| r.kind)
    }

    #[test]
    fn an_append_is_taken_up_to_each_limit_and_refused_past_it() {
        assert_eq!(kind(Marker::Done, FINE), None);
        assert_eq!(kind(Marker::Done, Level { backlog: 11, ..FINE }), Some(RefusalKind::BacklogFull));
        assert_eq!(kind(Marker::Done, Level { journal_bytes: 101, ..FINE }), Some(RefusalKind::JournalFull));
        assert_eq!(kind(Marker::Done, Level { held: 6, ..FINE }), Some(RefusalKind::JournalFull));
        assert_eq!(kind(Marker::Done, Level { disk_is_low: true, ..FINE }), Some(RefusalKind::JournalFull));
        assert_eq!(kind(Marker::Done, Level { sorting_is_behind: true, ..FINE }), Some(RefusalKind::JournalFull));
        assert_eq!(kind(Marker::Done, Level { stopping: true, ..FINE }), Some(RefusalKind::ShuttingDown));
    }

    #[test]
    fn a_disconnected_marker_is_held_only_to_journal_memory_and_disk() {
        let level = Level { backlog: 11, stopping: true, ..FINE };
        assert_eq!(kind(Marker::Disconnected, level), None);
        assert_eq!(kind(Marker::Disconnected, Level { held: 6, ..level }), Some(RefusalKind::JournalFull));
        assert_eq!(kind(Marker::Disconnected, Level { disk_is_low: true, ..level }), Some(RefusalKind::JournalFull));
    }
}
