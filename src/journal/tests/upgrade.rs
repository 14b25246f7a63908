//! A journal of version 1, which had no secret: opened once, rewritten, and never believed again.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::store::Store;
use super::*;
use crate::report::{LetterKind, Report};

/// A journal as version 0.1.0 left it when it was killed: 14 reports of `a`, some of them in its lane, and of `b`,
/// which is paused, three that the node numbered and a `done`.
const VERSION_1: &str = include_str!("fixtures/version-1.txt");

/// Writes the files of a fixture: `file NAME LENGTH`, and lines of an offset and bytes, both in hexadecimal.
fn unpack(fixture: &str, dir: &Path) {
    fs::create_dir_all(dir.join("recent")).expect("a folder");
    let mut file = None;
    for line in fixture.lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        if let ["file", name, length] = parts[..] {
            let made = fs::File::create(dir.join(name)).expect("a file");
            made.set_len(length.parse().expect("a length")).expect("a length");
            file = Some(made);
            continue;
        }
        let at = u64::from_str_radix(parts[0], 16).expect("an offset");
        let digit = |at: usize| u8::from_str_radix(&parts[1][at..at + 2], 16).expect("hexadecimal");
        let bytes: Vec<u8> = (0..parts[1].len()).step_by(2).map(digit).collect();
        file.as_ref().expect("a file").write_all_at(&bytes, at).expect("written");
    }
}

fn in_place_of_a_new_one(make: impl FnOnce(&Path)) -> Bench {
    let mut bench = Bench::new();
    let dir = bench.settings.dir.clone();
    bench.reopen_after(|| {
        fs::remove_dir_all(&dir).expect("removed");
        fs::create_dir(&dir).expect("made");
        make(&dir);
    });
    bench
}

#[test]
fn a_journal_that_the_version_before_left_goes_on_with_all_it_had() {
    let mut bench = in_place_of_a_new_one(|dir| unpack(VERSION_1, dir));
    assert_eq!(bench.metrics.audit.snapshot().recovered, 17);
    assert!(bench.journal().is_paused(&id_of("b")), "its pause is forgotten");
    let found = bench.journal().recovered_through();
    let next = ack(&bench.append("c", vec![report(None, "new")])[0]).position();
    assert!(next > found && found > Position(0), "a position is given out again");
    let numbers: Vec<_> = (0..14).map(|n| Bytes::from(format!("{{\"n\":{n}}}"))).collect();
    let drained: Vec<_> = std::iter::repeat_with(|| bench.drain("a", 8)).take(14).flatten().collect();
    assert_eq!(drained, numbers);
    let free: Vec<_> = std::iter::repeat_with(|| bench.drain("b", 8)).take(4).flatten().collect();
    assert_eq!(free, ["{\"free\":0}", "{\"free\":1}", "{\"free\":2}", ""]);
    assert!(!bench.settings.dir.join("replaced").exists(), "the old files are left");
    assert!(!bench.settings.dir.join("damaged-1").exists(), "it was taken for damaged");
    bench.reopen();
    assert_eq!((bench.metrics.audit.snapshot().recovered, bench.journal().owner().start), (1, 2));
}

/// Dead letters, trees and bundles, whose settled entries do not come back.
#[test]
fn dead_letters_and_what_is_not_settled_move_into_the_new_form() {
    let number = Number { source: 0, seq: 9 };
    let report_of = |data: &'static str| {
        let data = Some(Bytes::from_static(data.as_bytes()));
        Report { number, time: Some(5), code: 1, peer: None, data, accepted_at: 1 }
    };
    let letter = DeadLetter {
        id: id_of("dead"),
        report: report_of("[1]"),
        kind: LetterKind::Refused,
        holder: None,
        code: Some(1),
        reason: "no".into(),
        dead_at: 2,
        is_twin: false,
    };
    let mut bench = in_place_of_a_new_one(|dir| {
        let store = Store::open(dir, 1 << 20, None).expect("a sound disk");
        value::Value::DeadLetter(letter.clone()).put(&store);
        store.sync_trees(Position(7_000_000)).expect("a sound disk");
    });
    let kept = bench.journal().dead_letters(None, None, None, 10).expect("a sound journal");
    assert_eq!(kept, [letter]);
    assert_eq!(bench.metrics.audit.snapshot().dead, 1);
    bench.reopen();
    assert_eq!(bench.metrics.audit.snapshot().dead, 1);
}

/// Before there were runs, what waited for long was in trees: several entries in a value, an id in more than one tree
/// after a crash, and some of it in bundles, too.
#[test]
fn what_waits_in_trees_of_a_sealed_journal_moves_into_runs() {
    let mut bench = three_entries(false);
    let first = bench.stream("a").expect("it has backlog").lock().recent[0].first;
    bench.append("b", vec![report(Some(7), "7")]);
    bench.open.take().expect("open").stop().expect("a sound journal");
    let (dir, identity) = (bench.settings.dir.clone(), damage::identity(&bench.settings.dir));
    let store = Store::open(&dir, 1 << 20, Some(&identity)).expect("a sound journal");
    let value = |position: u64, data: &str| {
        let stamp = entry::Stamp { first: Position(position), accepted_at: 1, node_id: 3 };
        let mut value = Vec::new();
        entry::encode(store.seal(), &id_of("a"), stamp, [report(None, data)].iter(), &mut value);
        value
    };
    let put = |lane: &str, position: u64, value: &[u8]| {
        let mut key = Vec::new();
        entry::encode_key(store.seal(), &id_of("a"), Position(position), &mut key);
        store.put_earlier(lane, &key, value);
    };
    put("lane-0000", first.0 - 3, &[value(first.0 - 3, "x"), value(first.0 - 2, "y")].concat());
    put("lane-0001", first.0 - 1, &value(first.0 - 1, "z"));
    let spot = store.bundles().next().expect("there is one").expect("sound files").1;
    let (_, twice) = entry::whole_values(store.seal(), &spot, [entry::ENTRY]).next().expect("an entry").expect("whole");
    put("lane-0001", first.0, &twice);
    store.sync_trees(Position(1)).expect("a sound disk");
    store.close().expect("a sound disk");
    for _ in 0..2 {
        let (journal, metrics) = open(&bench.settings);
        (bench.open, bench.metrics) = (Some(journal), metrics);
        assert_eq!(bench.metrics.audit.snapshot().recovered, 7);
        assert!(!bench.journal().shared.store.has_earlier_entries().expect("a sound log"), "they are there still");
        bench.reopen();
        bench.open.take().expect("open").stop().expect("a sound journal");
    }
    bench.open = Some(open(&bench.settings).0);
    assert_eq!(bench.drain("a", 16), ["x", "y", "z", "0", "1", "2"]);
    assert_eq!(bench.drain("b", 8), ["7"]);
}

impl value::Value {
    /// Keeps a dead letter in `store`, as the version of its seal does.
    fn put(&self, store: &Store) {
        let mut bytes = Vec::new();
        self.encode(store.seal(), &mut bytes);
        store.keep_dead(&self.key(store.seal()), &bytes).expect("a sound tree");
    }
}

/// What has the form of version 1 in a journal that has a secret was sent by a client.
#[test]
fn what_has_the_form_of_version_1_is_not_believed_once_there_is_a_secret() {
    let mut bench = three_entries(false);
    let (dir, old) = (bench.settings.dir.clone(), bench.dir.path().join("old"));
    unpack(VERSION_1, &old);
    bench.reopen_after(|| {
        // Its bundles lie beside those of the journal, and its file of trees is gone.
        fs::copy(old.join("recent/0000"), dir.join("recent/0001")).expect("copied");
    });
    assert_eq!(bench.metrics.audit.snapshot().recovered, 3);
    assert_eq!(bench.drain("a", 8), ["0", "1", "2"]);
    assert!(bench.stream("b").is_none());
}

/// A crash while a journal of version 1 was rewritten by the version before left it as it was, or the new one, beside
/// its folder.
#[test]
fn a_rewriting_that_was_cut_off_begins_again_or_is_finished() {
    let bench = in_place_of_a_new_one(|dir| {
        unpack(VERSION_1, dir);
        let half = dir.with_file_name("journal.salvaging");
        fs::create_dir(&half).expect("made");
        fs::write(half.join("identity"), "torn").expect("written");
    });
    assert_eq!(bench.metrics.audit.snapshot().recovered, 17);
    let mut bench = bench;
    let dir = bench.settings.dir.clone();
    bench.reopen_after(|| {
        fs::rename(&dir, dir.with_file_name("journal.salvaging")).expect("renamed");
        unpack(VERSION_1, &dir.with_file_name("journal.replaced"));
    });
    assert_eq!(bench.metrics.audit.snapshot().recovered, 17);
    assert!(!dir.with_file_name("journal.replaced").exists());
}

/// Files that the version before could not have opened are searched by its rules.
#[test]
fn a_damaged_journal_of_the_version_before_is_salvaged_by_its_rules() {
    let bench = in_place_of_a_new_one(|dir| {
        unpack(VERSION_1, dir);
        fs::write(dir.join("conf"), "torn by a power cut").expect("written");
    });
    assert_eq!(bench.metrics.audit.snapshot().recovered, 17);
    assert!(bench.settings.dir.join("damaged-1").exists());
}
