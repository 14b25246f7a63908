//! The audit: where every report is, at one instant.

use std::sync::{Mutex, MutexGuard};

/// How `recovered + accepted = stored + duplicates + dead + discarded + backlog` stands at one instant. Counts reports
/// (not markers) since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, utoipa::ToSchema)]
pub struct Audit {
    /// Found in the journal at start: backlog and dead letters.
    pub recovered: u64,
    /// Made durable since.
    pub accepted: u64,
    /// Rows that are newly in the sink.
    pub stored: u64,
    /// Reports whose key the sink (or the dead letters) had already.
    pub duplicates: u64,
    /// In the dead letters, or set aside as damaged, now.
    pub dead: u64,
    /// Dead letters that an operator discarded.
    pub discarded: u64,
    /// In the journal and not yet in the sink.
    pub backlog: u64,
}

/// Reports that are dead letters no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Revised {
    /// New rows of the sink.
    pub stored: u64,
    /// Reports whose key the sink had already.
    pub duplicates: u64,
    /// Discarded by an operator.
    pub discarded: u64,
}

impl Audit {
    /// Whether every report is accounted for.
    pub fn balanced(&self) -> bool {
        self.recovered + self.accepted == self.stored + self.duplicates + self.dead + self.discarded + self.backlog
    }
}

/// The audit's counters. One lock over all, so that a reader never sees a report in two places or in none.
#[derive(Debug, Default)]
pub struct Counters(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    audit: Audit,
    /// Reports that an operator retried or discarded between their burial and their settlement: no longer backlog, and
    /// not to be counted as dead once they are settled.
    revised_early: u64,
}

impl Counters {
    /// All counters at one instant.
    pub fn snapshot(&self) -> Audit {
        self.lock().audit
    }

    /// Notes what was found at start.
    pub fn recovered(&self, backlog: u64, dead: u64) {
        let audit = &mut self.lock().audit;
        audit.recovered += backlog + dead;
        audit.backlog += backlog;
        audit.dead += dead;
    }

    /// Notes reports that one commit made durable.
    pub fn accepted(&self, reports: u64) {
        let audit = &mut self.lock().audit;
        audit.accepted += reports;
        audit.backlog += reports;
    }

    /// Notes where reports of the backlog ended.
    pub fn settled(&self, stored: u64, duplicates: u64, dead: u64) {
        let Counted { audit, revised_early } = &mut *self.lock();
        let early = dead.min(*revised_early);
        *revised_early -= early;
        let dead = dead - early;
        audit.stored += stored;
        audit.duplicates += duplicates;
        audit.dead += if cfg!(forebay_plant = "forget_the_dead") { 0 } else { dead };
        audit.backlog -= stored + duplicates + dead;
    }

    /// Notes what became of dead letters.
    pub fn revised(&self, revised: Revised) {
        let Revised { stored, duplicates, discarded } = revised;
        let Counted { audit, revised_early } = &mut *self.lock();
        let revised = stored + duplicates + discarded;
        // A letter can be seen before its flusher has settled the report.
        let early = revised.saturating_sub(audit.dead);
        *revised_early += early;
        audit.backlog -= early;
        audit.stored += stored;
        audit.duplicates += duplicates;
        audit.discarded += discarded;
        audit.dead -= revised - early;
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().expect("no holder of the audit panics: it only adds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A letter can be listed as soon as it is buried. The count of the dead once fell below zero there.
    #[test]
    fn a_letter_that_is_discarded_before_its_report_is_settled_is_counted_once() {
        let counters = Counters::default();
        counters.accepted(2);
        counters.revised(Revised { discarded: 1, ..Revised::default() });
        assert!(counters.snapshot().balanced());
        counters.settled(1, 0, 1);
        let audit = counters.snapshot();
        assert!(audit.balanced());
        assert_eq!((audit.stored, audit.dead, audit.discarded, audit.backlog), (1, 0, 1, 0));
    }
}
