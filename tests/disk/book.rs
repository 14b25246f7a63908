//! The ledger as of any cut: what clients did, and how long the disk's log was when they did it.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::mount::Disk;
use crate::support::ledger::{Ledger, Sent};

/// Notes of all clients; a cheap handle.
#[derive(Clone)]
pub struct Book {
    notes: Arc<Mutex<Vec<(usize, Note)>>>,
    length: Arc<dyn Fn() -> usize + Send + Sync>,
}

#[derive(Debug, Clone)]
enum Note {
    /// About to be sent.
    Sent(Sent),
    /// The reply was received: an ack binds every cut from here on.
    Replied(Sent, Value),
}

impl Book {
    /// Notes beside the log of `disk`.
    pub fn new(disk: &Disk) -> Self {
        Self { notes: Arc::default(), length: Arc::new(disk.meter()) }
    }

    /// What clients knew at this length, and nothing more after it: for what a node does without clients.
    pub fn frozen(&self, length: usize) -> Self {
        let notes = self.notes.lock().expect("no thread panics while it notes");
        let known = notes.iter().take_while(|(at, _)| *at <= length).map(|(_, note)| (0, note.clone())).collect();
        Self { notes: Arc::new(Mutex::new(known)), length: Arc::new(|| 0) }
    }

    /// A report is about to be sent.
    pub fn sent(&self, report: &Sent) {
        self.note(Note::Sent(report.clone()));
    }

    /// The reply to a report came.
    pub fn replied(&self, report: &Sent, reply: &Value) {
        self.note(Note::Replied(report.clone(), reply.clone()));
    }

    /// What clients knew when the log had this length.
    pub fn as_of(&self, length: usize) -> Ledger {
        let ledger = Ledger::default();
        let notes = self.notes.lock().expect("no thread panics while it notes");
        for (_, note) in notes.iter().take_while(|(at, _)| *at <= length) {
            match note {
                Note::Sent(report) => ledger.sent(report),
                Note::Replied(report, reply) => drop(ledger.replied(report, reply)),
            }
        }
        ledger
    }

    fn note(&self, note: Note) {
        let mut notes = self.notes.lock().expect("no thread panics while it notes");
        notes.push(((self.length)(), note));
    }
}
