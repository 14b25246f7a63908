//! The engine: the one front of journal, flushers and sink.

use crate::config::Settings;
use crate::journal::Append;

/// A running engine; a cheap handle.
#[derive(Clone)]
pub struct Engine {}

/// How `recovered + accepted = stored + duplicates + dead + discarded + backlog` stands, at one instant. Reports, since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Audit {
    /// Found in the journal at start (backlog and dead letters).
    pub recovered: u64,
    /// Made durable since.
    pub accepted: u64,
    /// Rows newly in the sink.
    pub stored: u64,
    /// Found in the sink already.
    pub duplicates: u64,
    /// In the dead letters now.
    pub dead: u64,
    /// Dead letters that an operator discarded.
    pub discarded: u64,
    /// In the journal and not yet in the sink.
    pub backlog: u64,
}

impl Audit {
    /// Whether nothing is unaccounted for.
    pub fn balanced(&self) -> bool {
        self.recovered + self.accepted == self.stored + self.duplicates + self.dead + self.discarded + self.backlog
    }
}

/// What an operator sees first.
#[derive(Debug, Clone)]
pub struct Status {
    /// Whether reports are taken: the journal is open and sound, and the node is not stopping.
    pub ready: bool,
    /// Why not, where it is not.
    pub not_ready_because: Option<String>,
    /// Reports in the journal that are not in the sink.
    pub reports: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Ids that have some.
    pub streams: u64,
    /// Age of the oldest, in seconds.
    pub oldest_age_s: f64,
    /// Entries that were damaged and set aside since start.
    pub damaged: u64,
    /// `up`, `down` or `blocked`.
    pub sink_state: &'static str,
    /// The sink's last error, for a person.
    pub sink_last_error: Option<String>,
    /// Since when the sink's state holds, in microseconds of the epoch.
    pub sink_since: u64,
    /// The audit of the same instant.
    pub audit: Audit,
}

impl Engine {
    /// Opens the journal, recovers it, connects to the sink and starts draining.
    ///
    /// # Errors
    /// When the journal cannot be opened.
    pub async fn open(_settings: &Settings) -> anyhow::Result<Self> {
        unimplemented!("skeleton")
    }

    /// Waits until `bytes` more may be queued (`max_queued_bytes`). Given back by the journal once they are committed or refused.
    pub async fn reserve(&self, _bytes: usize) {
        unimplemented!("skeleton")
    }

    /// Hands appends to the commit thread, in order. Never blocks. Each with a `reply_to` is answered once, in order,
    /// unless the journal fails. `bytes` were reserved for them by [`Engine::reserve`].
    pub fn append(&self, _appends: Vec<Append>, _bytes: usize) {
        unimplemented!("skeleton")
    }

    /// Refuses all further appends with `shutting_down`.
    pub fn stop_accepting(&self) {
        unimplemented!("skeleton")
    }

    /// Status and audit at one instant.
    pub fn status(&self) -> Status {
        unimplemented!("skeleton")
    }

    /// Resolves when the journal has failed: no ack was or will be given after it, the process must exit non-zero.
    pub async fn failed(&self) -> anyhow::Error {
        unimplemented!("skeleton")
    }

    /// Drains for at most `shutdown.drain`, stops flushers and the commit thread, syncs once more.
    ///
    /// # Errors
    /// When the last sync fails.
    pub async fn shut_down(&self) -> anyhow::Result<()> {
        unimplemented!("skeleton")
    }
}
