//! The order in which a cycle writes, syncs and lets go, one cycle at a time.

use tempfile::TempDir;

use super::*;
use crate::config::{self, Settings};
use crate::journal::{Opened, State, Surroundings};

struct Idle;

impl Drain for Idle {
    fn backlog_grew(&self, _: &Arc<Stream>, _: &mut State) {}
}

/// A committer whose cycles are the test's.
fn committer() -> (TempDir, Committer) {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let settings = config::Journal { dir: dir.path().join("journal"), ..Settings::default().journal };
    let around = Surroundings { node_id: 3, max_queued_bytes: 1 << 20, max_entry_records: 1 };
    let opened = loop {
        match Opened::open(&settings, around, Arc::default()) {
            // Threads of sled's own may hold its lock for a moment more.
            Err(JournalError::InUse { .. }) => std::thread::yield_now(),
            opened => break opened.expect("a sound journal"),
        }
    };
    let Opened { shared, positions, bundles } = opened;
    (dir, Committer::new(shared, Arc::new(Idle), positions, bundles))
}

fn bundles(committer: &Committer) -> Vec<u64> {
    committer.shared.store.bundles().map(|bundle| bundle.expect("sound files").0).collect()
}

/// Places of bundles that cannot be sorted would take memory without end.
#[test]
fn appends_are_refused_once_far_more_waits_than_is_sorted() {
    let (_dir, mut committer) = committer();
    let id = Id::new("a").expect("an id");
    let append = Append { id, content: Content::Marker(Marker::Disconnected), reply_to: None };
    let refusal = |committer: &mut Committer| committer.weigh(&append, &mut Cycle::default()).refusal;
    (0..3).for_each(|_| committer.bundles.add(1, 1 << 30));
    assert_eq!(refusal(&mut committer), None);
    committer.bundles.add(1, 1);
    let refusal = refusal(&mut committer).expect("it is refused");
    assert!(refusal.to_string().contains("journal.recent_bytes"), "{refusal}");
}

/// An ack waits for what its cycle removes.
#[test]
fn one_cycle_removes_a_bounded_number_of_bundles_and_the_next_ones_the_rest() {
    let (_dir, mut committer) = committer();
    let most = REMOVED_AT_ONCE as u64;
    for _ in 1..=2 * most {
        let heading = committer.bundles.heading(Position(0));
        committer.shared.store.add_bundle(heading, b"").expect("a sound disk");
        committer.bundles.add(0, 1);
    }
    committer.bundles.added();
    committer.cycle(std::iter::empty(), false).expect("a sound journal");
    assert_eq!(bundles(&committer).len() as u64, most);
    committer.cycle(std::iter::empty(), false).expect("a sound journal");
    assert_eq!(bundles(&committer).len(), 0);
}
