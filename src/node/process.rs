//! What the process is given by whoever starts it: how many files it may have open, and who may read what it writes.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

use crate::config::{Settings, SinkTarget};

/// Bytes of a file of the journal's that is kept open.
const SEGMENT_BYTES: u64 = 2 << 20;
/// Files of the journal's besides those: of its runs, its lock, and what it opens for a moment.
const JOURNAL_FILES: u64 = 32;
/// Files of a connection to SQLite: the database, its log and the index of that.
const SQLITE_FILES: u64 = 3;
/// Connections to the sink besides `sink.connections`: the prober's, and that of retries.
const SINK_SPARES: u64 = 2;
/// Listeners, standard streams, what the runtime has, connections that are being refused, certificates being read.
const OTHER_FILES: u64 = 160;

/// Lets nobody but the node's own user read what it writes, whatever was inherited.
pub(super) fn keep_to_itself() {
    umask(Mode::RWXG | Mode::RWXO);
}

/// Raises the limit of open files as far as it may be, and says so where it is too low for the settings all the same.
pub(super) fn provide(settings: &Settings) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised to the hard one");
    }
    warn_of_few(settings);
}

/// Says so where the limit of open files is too low for the settings.
pub(super) fn warn_of_few(settings: &Settings) {
    // No limit is one that is high enough.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let needed = Needed::by(settings);
    if limit < needed.all() {
        let Needed { ingest, admin, journal, sink, other } = needed;
        tracing::warn!(
            limit,
            needed = needed.all(),
            ingest,
            admin,
            journal,
            sink,
            other,
            "the process may have fewer files open than its settings need: connections past the limit are not accepted. \
             Raise the hard limit (LimitNOFILE= of systemd, `ulimit -Hn`, --ulimit nofile= of a container) to what is \
             needed, or lower ingest.max_connections"
        );
    }
}

/// Files that are open at a time, at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Needed {
    ingest: u64,
    admin: u64,
    journal: u64,
    sink: u64,
    other: u64,
}

impl Needed {
    fn by(settings: &Settings) -> Self {
        let each = match settings.sink.target {
            SinkTarget::Sqlite(_) => SQLITE_FILES,
            SinkTarget::Mysql(_) => 1,
        };
        Self {
            ingest: settings.ingest.max_connections as u64,
            admin: settings.admin.max_connections as u64,
            journal: settings.journal.recent_bytes / SEGMENT_BYTES + JOURNAL_FILES,
            sink: (settings.sink.connections as u64 + SINK_SPARES) * each,
            other: OTHER_FILES,
        }
    }

    fn all(self) -> u64 {
        let Self { ingest, admin, journal, sink, other } = self;
        ingest + admin + journal + sink + other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_and_every_segment_is_a_file() {
        let settings = Settings::default();
        let needed = Needed::by(&settings);
        assert_eq!(needed, Needed { ingest: 10_000, admin: 256, journal: 544, sink: 18, other: 160 });
        assert_eq!(needed.all(), 10_978);
    }
}
