//! The order in which a cycle writes, syncs and lets go, one cycle at a time.

use tempfile::TempDir;

use super::*;
use crate::config::{self, Settings};
use crate::journal::{Opened, State, Surroundings, shelving};
use crate::report::Draft;

struct Idle;

impl Drain for Idle {
    fn backlog_grew(&self, _: &Arc<Stream>, _: &mut State) {}
}

/// A committer whose cycles are the test's, and which keeps nothing in bundles that it may move.
fn committer() -> (TempDir, Committer) {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let committer = open(&dir, 0);
    (dir, committer)
}

fn open(dir: &TempDir, recent_bytes: u64) -> Committer {
    let settings =
        config::Journal { dir: dir.path().join("journal"), lanes: 2, recent_bytes, ..Settings::default().journal };
    let around = Surroundings { node_id: 3, max_queued_bytes: 1 << 20, max_entry_records: 1 };
    let opened = loop {
        match Opened::open(&settings, around, Arc::default()) {
            // Threads of sled's own may hold its lock for a moment more.
            Err(JournalError::InUse { .. }) => std::thread::yield_now(),
            opened => break opened.expect("a sound journal"),
        }
    };
    let Opened { shared, positions, bundles } = opened;
    Committer::new(shared, Arc::new(Idle), positions, bundles)
}

fn append(id: &str) -> Command {
    append_of(id, 0)
}

fn append_of(id: &str, bytes: usize) -> Command {
    let data = Some(bytes::Bytes::from("x".repeat(bytes)));
    let draft = Draft { seq: None, time: None, code: 0, peer: None, data };
    let id = Id::new(id).expect("an id");
    Command::Append(vec![Append { id, content: Content::Report(draft), reply_to: None }], 0)
}

fn bundles(committer: &Committer) -> Vec<u64> {
    committer.shared.store.bundles().map(|bundle| bundle.expect("sound files").0).collect()
}

/// Lets go of its files, and opens them anew with as many bytes for bundles.
fn reopened(committer: Committer, dir: &TempDir, recent_bytes: u64) -> Committer {
    committer.shared.store.sync_bundles().expect("a sound disk");
    drop(committer);
    open(dir, recent_bytes)
}

/// An ack waits for what its cycle moves.
#[test]
fn one_cycle_moves_a_bounded_number_of_bytes_and_the_next_ones_the_rest() {
    const BYTES: usize = 60_000;
    let dir = tempfile::tempdir().expect("a folder for the test");
    let mut committer = open(&dir, 1 << 30);
    (0..20).for_each(|id| drop(committer.cycle([append_of(&id.to_string(), BYTES)].into_iter(), false)));
    let mut committer = reopened(committer, &dir, 0);
    let moved = |committer: &Committer| -> u64 {
        let lanes = (0..2).flat_map(|lane| committer.shared.store.scan(lane));
        lanes.map(|pair| pair.expect("a sound tree").1.len() as u64).sum()
    };
    let mut before = 0;
    for _ in 0..3 {
        committer.cycle(std::iter::empty(), false).expect("a sound journal");
        let after = moved(&committer);
        assert!(after > before, "it does not go on");
        assert!(after - before <= shelving::MOVED_AT_ONCE + 2 * BYTES as u64, "{} bytes at once", after - before);
        before = after;
    }
    assert!(before > 20 * BYTES as u64, "not all has moved");
}

/// Invariant 11: a crash before the sync finds the entry in its bundle, whatever it finds in the lane.
#[test]
fn a_bundle_is_kept_until_a_sync_covers_what_moved_out_of_it() {
    let (_dir, mut committer) = committer();
    committer.cycle([append("a")].into_iter(), false).expect("a sound journal");
    committer.cycle(std::iter::empty(), false).expect("a sound journal");
    let stream = committer.shared.index.stream(&Id::new("a").expect("an id")).expect("it has backlog");
    assert!(stream.lock().recent.is_empty(), "nothing has moved");
    for _ in 0..3 {
        committer.cycle(std::iter::empty(), false).expect("a sound journal");
        assert_eq!(bundles(&committer), [1], "no sync covers the lane yet");
    }
    committer.cycle(std::iter::empty(), true).expect("a sound journal");
    committer.cycle(std::iter::empty(), false).expect("a sound journal");
    assert_eq!(bundles(&committer), [0_u64; 0]);
}

/// Whoever opens the journal takes it that a lane has all of the id before the last that it finds there.
#[test]
fn a_move_is_taken_back_youngest_first() {
    let (_dir, committer) = committer();
    let keys: Vec<Vec<u8>> = (0..3_u8).map(|n| vec![n]).collect();
    keys.iter().for_each(|key| committer.shared.store.insert(0, key, b"value").expect("a sound tree"));
    let removals = committer.shared.store.removals(0);
    committer.take_back(0, &keys).expect("a sound tree");
    assert_eq!(removals.take(3).collect::<Vec<_>>(), [[2], [1], [0]]);
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
