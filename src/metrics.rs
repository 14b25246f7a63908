//! What is counted, and under which names.

use std::sync::{Mutex, MutexGuard};

/// How `recovered + accepted = stored + duplicates + dead + discarded + backlog` stands at one instant. Counts reports
/// (not markers) since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
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
pub struct Counters(Mutex<Audit>);

impl Counters {
    /// All counters at one instant.
    pub fn snapshot(&self) -> Audit {
        *self.lock()
    }

    /// Notes what was found at start.
    pub fn recovered(&self, backlog: u64, dead: u64) {
        let mut audit = self.lock();
        audit.recovered += backlog + dead;
        audit.backlog += backlog;
        audit.dead += dead;
    }

    /// Notes reports that one commit made durable.
    pub fn accepted(&self, reports: u64) {
        let mut audit = self.lock();
        audit.accepted += reports;
        audit.backlog += reports;
    }

    /// Notes where reports of the backlog ended.
    pub fn settled(&self, stored: u64, duplicates: u64, dead: u64) {
        let mut audit = self.lock();
        audit.stored += stored;
        audit.duplicates += duplicates;
        audit.dead += if cfg!(forebay_plant = "forget_the_dead") { 0 } else { dead };
        audit.backlog -= stored + duplicates + dead;
    }

    /// Notes what became of dead letters.
    pub fn revised(&self, revised: Revised) {
        let Revised { stored, duplicates, discarded } = revised;
        let mut audit = self.lock();
        audit.stored += stored;
        audit.duplicates += duplicates;
        audit.discarded += discarded;
        audit.dead -= stored + duplicates + discarded;
    }

    fn lock(&self) -> MutexGuard<'_, Audit> {
        self.0.lock().expect("no holder of the audit panics: it only adds")
    }
}
