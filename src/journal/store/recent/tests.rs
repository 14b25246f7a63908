//! The files of the bundles, without anything around them.

use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;

use super::*;
use crate::journal::store::recent::frames::OVERHEAD_BYTES;
use crate::report::{JournalId, Position};

/// A log in a folder of its own; each bundle has the bytes of its number.
struct Bench {
    dir: TempDir,
    recent: Recent,
    identity: Identity,
}

fn open(dir: &Path, synced: u64, identity: &Identity) -> Result<Recent, JournalError> {
    Recent::open(dir, synced, &Seal::of(&identity.secret), Some(identity))
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let identity = Identity { id: JournalId(1), starts: 1, secret: [7; 32] };
        let recent = open(dir.path(), 0, &identity).expect("a sound disk");
        Self { dir, recent, identity }
    }

    fn add(&self, number: u64, oldest: u64, bytes: usize) {
        let heading = Heading { number, oldest, stamp: Position(10 * number) };
        self.recent.add(heading, &value(number, bytes)).expect("a sound disk");
    }

    fn reopen(&mut self, synced: u64) -> Result<(), JournalError> {
        self.recent = open(self.dir.path(), synced, &self.identity)?;
        Ok(())
    }

    /// Puts zeros over the beginning of a frame.
    fn behead(&self, number: u64) {
        let (place, file) = self.recent.state().find(number).expect("it is there");
        file.write_all_at(&[0; 8], u64::from(place.offset) - OVERHEAD_BYTES as u64).expect("a sound disk");
    }

    /// Puts zeros over a part of what a bundle has.
    fn tear(&self, number: u64) {
        let (place, file) = self.recent.state().find(number).expect("it is there");
        file.write_all_at(&[0; 8], u64::from(place.offset)).expect("a sound disk");
    }

    fn segments(&self) -> usize {
        self.recent.state().segments.len()
    }
}

fn value(number: u64, bytes: usize) -> Vec<u8> {
    vec![b'0' + (number % 10) as u8; bytes]
}

#[test]
fn bundles_read_back_in_whole_and_in_part_and_after_a_restart() {
    let mut bench = Bench::new();
    (1..=50).for_each(|number| bench.add(number, 1, 90_000));
    for synced in [0, 50] {
        assert_eq!(bench.recent.numbers(), (1..=50).collect::<Vec<_>>());
        assert_eq!(bench.recent.read_whole(47).expect("a sound disk").as_deref(), Some(&value(47, 90_000)[..]));
        assert_eq!(bench.recent.read(3, 10..20).expect("a sound disk").as_deref(), Some(&b"3333333333"[..]));
        assert_eq!(bench.recent.read(3, 10..90_001).expect("a sound disk"), None);
        assert_eq!(bench.recent.read_whole(51).expect("a sound disk"), None);
        bench.recent.sync().expect("a sound disk");
        bench.reopen(synced).expect("a sound log");
        assert_eq!((bench.recent.next_and_oldest(), bench.recent.stamp()), ((51, 1), 500));
    }
}

/// Few frames and many lead to files that are made in two ways; into neither may a write find the disk full.
#[test]
fn a_segment_has_all_its_blocks_before_it_is_written() {
    for (frames, bytes) in [(70, 90_000), (60_000, 60)] {
        let bench = Bench::new();
        (1..=frames).for_each(|number| bench.add(number, 1, bytes));
        let state = bench.recent.state();
        assert!(state.segments.len() > 2);
        for segment in &state.segments {
            let blocks = segment.file.metadata().expect("a sound disk").blocks();
            assert!(blocks * 512 >= SEGMENT_BYTES as u64, "{blocks} blocks after segments of {bytes} bytes a frame");
        }
    }
}

#[test]
fn what_is_removed_stays_so_once_a_later_frame_says_it() {
    let mut bench = Bench::new();
    (1..=5).for_each(|number| bench.add(number, 1, 100));
    (1..=3).for_each(|number| bench.recent.remove(number));
    assert_eq!(bench.recent.numbers(), [4, 5]);
    bench.reopen(5).expect("a sound log");
    assert_eq!(bench.recent.numbers(), [1, 2, 3, 4, 5], "nobody has said so yet");
    bench.add(6, 4, 100);
    bench.reopen(6).expect("a sound log");
    assert_eq!(bench.recent.numbers(), [4, 5, 6]);
    // A frame that says that all are gone, itself too.
    bench.add(7, 8, 0);
    bench.reopen(7).expect("a sound log");
    assert_eq!((bench.recent.numbers(), bench.recent.next_and_oldest()), (vec![], (8, 8)));
    bench.add(8, 8, 100);
    bench.reopen(8).expect("a sound log");
    assert_eq!(bench.recent.numbers(), [8]);
}

/// As long as nothing waits, a few files do for ever.
#[test]
fn segments_are_written_again() {
    let mut bench = Bench::new();
    for number in 1..=500 {
        bench.add(number, number, 60_000);
        bench.recent.sync().expect("a sound disk");
        bench.recent.remove(number);
    }
    assert!(bench.segments() <= 3, "{} segments", bench.segments());
    bench.reopen(500).expect("a sound log");
    assert_eq!(bench.recent.numbers(), [500]);
}

/// Else a power cut could leave neither what was written over, nor what says that it was gone.
#[test]
fn a_segment_is_written_again_only_once_it_is_on_disk_that_all_of_it_is_gone() {
    let bench = Bench::new();
    (1..=40).for_each(|number| bench.add(number, 1, 90_000));
    bench.recent.sync().expect("a sound disk");
    let before = bench.segments();
    // Each says that all before it are gone, and none of them is on disk.
    (41..=80).for_each(|number| bench.add(number, number, 90_000));
    assert!(bench.segments() > before, "a segment was written over");
    bench.recent.sync().expect("a sound disk");
    let before = bench.segments();
    (81..=100).for_each(|number| bench.add(number, number, 90_000));
    assert_eq!(bench.segments(), before, "all but one are free now");
}

#[test]
fn a_bundle_that_is_missing_and_was_synced_is_damage() {
    let mut bench = Bench::new();
    (1..=60).for_each(|number| bench.add(number, 1, 90_000));
    bench.recent.sync().expect("a sound disk");
    bench.add(61, 1, 100);
    // The first of a segment, the last of one, and the last of all that are known to be synced.
    for number in [1, 23, 60] {
        let (place, file) = bench.recent.state().find(number).expect("it is there");
        let at = u64::from(place.offset) - OVERHEAD_BYTES as u64;
        let mut before = [0; 8];
        file.read_exact_at(&mut before, at).expect("a sound disk");
        bench.behead(number);
        let error = open(bench.dir.path(), 0, &bench.identity).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(&format!("bundle {number} of 60")), "{number}: {error:?}");
        file.write_all_at(&before, at).expect("a sound disk");
    }
    bench.reopen(61).expect("a sound log");
    assert!(bench.reopen(62).is_err(), "one more was synced than there is");
}

/// Its neighbours show where it is, and its entries have checksums of their own.
#[test]
fn a_bundle_that_is_damaged_between_others_is_read() {
    let mut bench = Bench::new();
    (1..=4).for_each(|number| bench.add(number, 1, 100));
    bench.recent.sync().expect("a sound disk");
    for number in [1, 3] {
        bench.tear(number);
        bench.reopen(4).expect("its place is known");
        assert_eq!(bench.recent.numbers(), [1, 2, 3, 4]);
        let damaged = bench.recent.read_whole(number).expect("a sound disk").expect("it is there");
        assert_eq!((&damaged[..8], damaged.len()), (&[0; 8][..], 100));
    }
    assert_eq!((bench.recent.next_and_oldest(), bench.recent.stamp()), ((5, 1), 40));
}

#[test]
fn what_was_torn_before_it_was_synced_never_comes_back() {
    let mut bench = Bench::new();
    bench.add(1, 1, 100);
    bench.recent.sync().expect("a sound disk");
    (2..=4).for_each(|number| bench.add(number, 1, 100));
    bench.behead(2);
    bench.reopen(1).expect("a torn end");
    assert_eq!((bench.recent.numbers(), bench.recent.next_and_oldest()), (vec![1], (2, 1)));
    // As long as the one that was torn, so that those behind it would follow.
    bench.add(2, 1, 100);
    bench.reopen(2).expect("a sound log");
    assert_eq!(bench.recent.numbers(), [1, 2]);
}

#[test]
fn what_was_torn_at_the_beginning_of_a_segment_never_comes_back() {
    let mut bench = Bench::new();
    (1..=23).for_each(|number| bench.add(number, 1, 90_000));
    bench.recent.sync().expect("a sound disk");
    (24..=26).for_each(|number| bench.add(number, 1, 90_000));
    bench.behead(24);
    bench.reopen(23).expect("a torn end");
    assert_eq!(bench.recent.numbers().last(), Some(&23));
    bench.add(24, 1, 90_000);
    bench.reopen(24).expect("a sound log");
    assert_eq!(bench.recent.numbers().last(), Some(&24));
}

/// Its followers in the same segment know of it, whatever the file `synced` says.
#[test]
fn a_bundle_whose_frame_is_damaged_is_missed_though_others_lie_behind_it() {
    let mut bench = Bench::new();
    for number in 1..=5 {
        bench.add(number, 1, 100);
        bench.recent.sync().expect("a sound disk");
    }
    bench.behead(3);
    let error = bench.reopen(0).expect_err("damage").to_string();
    assert!(error.contains("bundle 3 of 4"), "{error}");
}

/// A frame behind a torn one says more than those before it, and is in no chain: what it says is gone comes back, as
/// after a power cut a moment before.
#[test]
fn what_a_torn_commit_said_is_not_believed() {
    let mut bench = Bench::new();
    (1..=3).for_each(|number| bench.add(number, 1, 100));
    bench.recent.sync().expect("a sound disk");
    (4..=5).for_each(|number| bench.add(number, 4, 100));
    bench.behead(4);
    bench.reopen(3).expect("a torn end");
    assert_eq!((bench.recent.numbers(), bench.recent.next_and_oldest()), (vec![1, 2, 3], (4, 1)));
}

/// It may be the only frame on disk that says so.
#[test]
fn the_segment_of_the_frame_that_says_that_all_are_gone_is_kept() {
    let bench = Bench::new();
    (1..=22).for_each(|number| bench.add(number, 1, 90_000));
    bench.add(23, 24, 90_000);
    bench.recent.sync().expect("a sound disk");
    (24..=47).for_each(|number| bench.add(number, 24, 90_000));
    assert_eq!(bench.segments(), 3, "it was written over");
}

/// A crash while a segment is made leaves a short file.
#[test]
fn a_segment_that_was_not_finished_is_no_damage() {
    let mut bench = Bench::new();
    bench.add(1, 1, 100);
    fs::write(bench.dir.path().join(FOLDER).join("0001"), [0; 5_000]).expect("written");
    fs::write(bench.dir.path().join(FOLDER).join("a-note"), "not ours").expect("written");
    bench.reopen(1).expect("a sound log");
    (2..=40).for_each(|number| bench.add(number, 1, 90_000));
    bench.reopen(40).expect("a sound log");
    assert_eq!(bench.recent.numbers().len(), 40);
}
