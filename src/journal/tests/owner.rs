//! Who a journal is, over restarts, copies and new names; and that nobody else reads it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

#[test]
fn a_journal_keeps_its_name_and_counts_its_starts() {
    let mut bench = Bench::new();
    let first = bench.journal().owner();
    assert_eq!((first.node_id, first.start), (3, 1));
    bench.reopen();
    let second = bench.journal().owner();
    assert_eq!((second.journal, second.start), (first.journal, 2));
    assert_ne!(second.nonce, first.nonce);
    let other = Bench::new();
    assert_ne!(other.journal().owner().journal, first.journal);
}

/// Two processes on copies of one journal: the same name, and the same number of starts.
#[test]
fn two_copies_of_a_journal_differ_by_their_nonce() {
    let mut bench = Bench::new();
    bench.copy_and_reopen();
    let first = bench.journal().owner();
    let original = bench.dir.path().join("journal");
    let (journal, _) = open(&config::Journal { dir: original, ..bench.settings.clone() });
    let second = journal.owner();
    assert_eq!((second.journal, second.start), (first.journal, first.start));
    assert_ne!(second.nonce, first.nonce);
    journal.stop().expect("a sound journal");
}

#[test]
fn a_new_name_holds_over_restarts_and_starts_go_on_being_counted() {
    let mut bench = Bench::new();
    let before = bench.journal().owner();
    let renewed = bench.journal().renew().expect("a sound disk");
    assert_ne!(renewed.journal, before.journal);
    assert_eq!((renewed.start, renewed.nonce), (before.start, before.nonce));
    assert_eq!(bench.journal().owner(), renewed);
    bench.reopen();
    let after = bench.journal().owner();
    assert_eq!((after.journal, after.start), (renewed.journal, before.start + 1));
}

#[test]
fn what_was_found_at_open_is_at_or_below_what_the_journal_says() {
    let mut bench = Bench::new();
    assert_eq!(bench.journal().recovered_through(), Position(0));
    let last = ack(&bench.append("a", vec![report(None, "1"), report(None, "2")])[1]).position();
    bench.reopen();
    assert_eq!(bench.journal().recovered_through(), last);
    let next = ack(&bench.append("a", vec![report(None, "3")])[0]).position();
    assert!(next > bench.journal().recovered_through());
}

fn assert_private(folder: &Path) {
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!(mode(folder), 0o700, "{}", folder.display());
    for path in fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path()) {
        if path.is_dir() {
            assert_private(&path);
        } else {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
}

#[test]
fn nobody_else_reads_a_journal_nor_one_that_was_open_to_all_before() {
    let mut bench = Bench::new();
    bench.append("a", vec![report(None, "1")]);
    assert_private(&bench.settings.dir);
    let dir = bench.settings.dir.clone();
    bench.reopen_after(|| {
        for (path, mode) in [("", 0o755), ("db", 0o644), ("recent", 0o755), ("recent/0000", 0o666), ("conf", 0o644)] {
            fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).expect("its owner");
        }
    });
    assert_private(&bench.settings.dir);
    bench.open.take().expect("open").stop().expect("a sound journal");
    assert_private(&bench.settings.dir);
}
