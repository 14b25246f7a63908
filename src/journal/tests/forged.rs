//! Bytes that clients choose are never taken for the journal's own.
//!
//! The attacker of these tests knows the format, and not the secret: what it makes has no mask, and checksums as they
//! would be without a secret ([`Seal::guessed`]). What is no text it cannot put into `data`; numbers of positions as
//! they are given out are none, so settlements are forged over the wire alone (`tests/e2e/forged.rs`).

use std::fs;
use std::path::{Path, PathBuf};

use super::damage::identity;
use super::store::recent;
use super::*;
use crate::report::{LetterKind, Report};

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path());
    found.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copied(copied: std::io::Result<u64>) {
    assert!(copied.expect("copied") > 0);
}

/// A text with a value in it; its like until one of them is a text, which a value need not be.
fn as_text(make: impl Fn(u64) -> Vec<u8>) -> String {
    (0..100_000).find_map(|n| String::from_utf8(make(n)).ok()).expect("one of so many has no byte beyond ASCII")
}

/// An entry of `victim` that a client made.
fn forged_entry(victim: &str) -> String {
    as_text(|n| {
        let stamp = entry::Stamp { first: Position(1 + n % 100), accepted_at: 5, node_id: 3 };
        let mut value = Vec::new();
        let contents = [report(Some(1), &format!("forged-{n}"))];
        entry::encode(&Seal::guessed(), &id_of(victim), stamp, contents.iter(), &mut value);
        value
    })
}

pub(super) fn letter_of(id: &str, seq: u64, data: String, reason: &str) -> DeadLetter {
    let number = Number { source: 0, seq };
    let report = Report { number, time: None, code: 0, peer: None, data: Some(data.into()), accepted_at: 1 };
    let (kind, reason) = (LetterKind::Refused, reason.to_owned());
    DeadLetter { id: id_of(id), report, kind, holder: None, code: None, reason, dead_at: 2, is_twin: false }
}

fn forged_letter(victim: &str) -> String {
    as_text(|n| {
        let mut value = Vec::new();
        value::Value::DeadLetter(letter_of(victim, 1, n.to_string(), "forged")).encode(&Seal::guessed(), &mut value);
        value
    })
}

/// In bundles, in runs, in dead letters with their reasons, in pauses, in what was set aside, and in the keys of all.
#[tokio::test]
async fn nothing_that_a_client_chose_lies_on_disk_as_it_chose_it() {
    const DATA: &str = "\"chosen-by-a-client-to-lie-here\"";
    const SEQ: u64 = 0x0012_3456_789a_bcde;
    let id = "an-id-that-a-client-chose-and-that-is-long-enough-to-be-seen";
    for recent_bytes in [0, 1 << 20] {
        let mut bench = Bench::with(|settings| settings.recent_bytes = recent_bytes);
        for n in 0..20 {
            bench.append(id, vec![report(Some(SEQ), DATA), report(None, DATA)]);
            bench.append("other", vec![report(Some(n), DATA)]);
        }
        assert!(bench.journal().bury(vec![letter_of(id, SEQ, DATA.to_owned(), DATA)]).await.is_some());
        bench.journal().set_paused(id_of(id), true).await.expect("a sound journal");
        if recent_bytes == 0 {
            // Set aside.
            change_in_run(&bench, "other", flip_last);
        } else {
            change_bundle(&bench, flip_last);
        }
        bench.drain("other", 1);
        bench.reopen();
        bench.drain(id, 1);
        // Settlements go with the next commit.
        bench.append("last", vec![report(Some(SEQ), DATA)]);
        bench.open.take().expect("open").stop().expect("a sound journal");
        let seqs = [SEQ.to_be_bytes(), SEQ.to_le_bytes()];
        for path in files(&bench.settings.dir) {
            let bytes = fs::read(&path).expect("a file");
            let holds = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
            for chosen in [&DATA.as_bytes()[1..17], &id.as_bytes()[..16], &seqs[0][1..], &seqs[1][..7]] {
                assert!(!holds(chosen), "{} has {:?}", path.display(), String::from_utf8_lossy(chosen));
            }
        }
    }
}

/// A bundle is read entry by entry where its frame is damaged, and what a report holds lies behind the damage.
#[test]
fn what_a_report_holds_is_no_entry_where_its_bundle_is_damaged() {
    for forged in [forged_entry("victim"), forged_letter("victim")] {
        let mut bench = Bench::new();
        bench.append("victim", vec![report(Some(1), "1")]);
        bench.append("attacker", vec![report(Some(1), &format!("\"{forged}\""))]);
        bench.append("victim", vec![report(Some(2), "2")]);
        let (number, value) = {
            let store = &bench.journal().shared.store;
            let (number, value) = store.bundles().nth(1).expect("there is one").expect("sound files");
            (number, value.to_vec())
        };
        let mut value = value;
        // The header of the attacker's entry: what is behind it is searched for values.
        value[6] ^= 1;
        bench.journal().shared.store.spoil_bundle(number, &value);
        bench.reopen();
        assert_eq!(bench.drain("victim", 8), ["1", "2"]);
        assert_eq!(bench.journal().status().damaged, 1);
        let aside = bench.journal().set_aside(None, 10).expect("a sound journal");
        assert_eq!(aside.len(), 1, "{aside:?}");
    }
}

/// A salvage searches every byte of every file, and what a report holds lies behind a header that is damaged.
#[test]
fn a_salvage_finds_no_entry_nor_dead_letter_in_what_a_report_holds() {
    for (recent_bytes, forged) in [(0, forged_entry("victim")), (1 << 20, forged_letter("victim"))] {
        let mut bench = Bench::with(|settings| settings.recent_bytes = recent_bytes);
        bench.append("attacker", vec![report(Some(1), &format!("\"{forged}\""))]);
        bench.append("victim", vec![report(Some(1), "1")]);
        if recent_bytes == 0 {
            change_in_run(&bench, "attacker", |value| value[6] ^= 1);
        } else {
            change_bundle(&bench, |value| value[6] ^= 1);
        }
        let dir = bench.settings.dir.clone();
        bench.reopen_after(|| fs::write(dir.join("conf"), "torn by a power cut").expect("written"));
        assert_eq!(bench.drain("victim", 8), ["1"]);
        assert_eq!(bench.journal().dead_letters(None, None, None, 10).expect("a sound journal"), []);
    }
}

/// A stamp says how far the log was synced, and so below what no position is given out.
#[test]
fn a_stamp_in_a_report_or_in_the_file_of_stamps_is_none() {
    let far = 0x001C_7F7F_7F00_0000;
    let mut bench = Bench::with(|settings| settings.recent_bytes = 0);
    let forged = as_text(|n| log::stamp(&Seal::guessed(), far + n));
    for n in 0..40 {
        bench.append("attacker", vec![report(Some(n), &format!("\"{forged}\""))]);
    }
    let dir = bench.settings.dir.clone();
    bench.reopen_after(|| {
        let file = fs::File::options().write(true).open(dir.join("synced")).expect("a file");
        std::os::unix::fs::FileExt::write_all_at(&file, forged.as_bytes(), 0).expect("written");
    });
    let next = ack(&bench.append("a", vec![report(None, "1")])[0]).position();
    assert!(next < Position(far), "a stamp that a client made was believed");
    assert!(!bench.settings.dir.join("damaged-1").exists(), "and it was taken for damage");
}

/// Frames of another journal, put beside those of this or over them.
#[test]
fn a_segment_of_another_journal_is_left_out() {
    let other = three_entries(false);
    let theirs = other.settings.dir.join(recent::FOLDER).join("0000");
    let mut bench = three_entries(false);
    let ours = bench.settings.dir.join(recent::FOLDER);
    bench.reopen_after(|| copied(fs::copy(&theirs, ours.join("0001"))));
    assert_eq!(bench.metrics.audit.snapshot().recovered, 3);
    assert_eq!(fs::read(ours.join("0001")).expect("kept"), fs::read(&theirs).expect("a file"), "it was written over");
    // In the place of ours: that is damage, which is said, and not theirs.
    bench.reopen_after(|| copied(fs::copy(&theirs, ours.join("0000"))));
    assert_eq!(bench.metrics.audit.snapshot().recovered, 0);
    assert!(bench.settings.dir.join("damaged-1").exists());
}

/// As a backup brings it back: what it says is gone, and what it lacks is missed.
#[test]
fn an_old_segment_of_the_same_journal_brings_nothing_back_and_is_missed_where_it_lies_over_a_newer_one() {
    let mut bench = three_entries(false);
    let (dir, old) = (bench.settings.dir.clone(), bench.dir.path().join("old-0000"));
    fs::copy(dir.join("recent/0000"), &old).expect("copied");
    assert_eq!(bench.drain("a", 8).len(), 3);
    bench.append("b", vec![report(Some(1), "1")]);
    bench.reopen();
    bench.reopen_after(|| copied(fs::copy(&old, dir.join("recent/0007"))));
    assert!(bench.stream("a").is_none(), "settled reports are back");
    assert_eq!(bench.metrics.audit.snapshot().recovered, 1);
    bench.reopen_after(|| {
        fs::remove_file(dir.join("recent/0007")).expect("removed");
        fs::copy(&old, dir.join("recent/0000")).expect("copied");
    });
    assert!(bench.settings.dir.join("damaged-1").exists(), "what was synced is missing, and nobody says so");
}

/// The secret lies in three kinds of places.
#[test]
fn the_secret_is_found_whichever_place_of_it_is_lost() {
    let mut bench = three_entries(false);
    let owner = bench.journal().renew().expect("a sound disk");
    let dir = bench.settings.dir.clone();
    let secret = identity(&dir).secret;
    let zeros = |name: &str, at: u64| {
        let file = fs::File::options().write(true).open(dir.join(name)).expect("a file");
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 64], at).expect("written");
    };
    for loses in
        [&["identity"][..], &["synced"], &["recent/0000"], &["identity", "recent/0000"], &["identity", "synced"]]
    {
        bench.reopen_after(|| {
            for name in loses {
                match *name {
                    "synced" => zeros("synced", 4096),
                    name => zeros(name, 0),
                }
            }
        });
        assert_eq!(bench.metrics.audit.snapshot().recovered, 3, "{loses:?}");
        assert_eq!(identity(&dir).secret, secret, "{loses:?}");
        if !loses.contains(&"synced") {
            assert_eq!(bench.journal().owner().journal, owner.journal, "{loses:?}");
        }
    }
    // Another journal's is outvoted.
    let other = Bench::new();
    bench.reopen_after(|| copied(fs::copy(other.settings.dir.join("identity"), dir.join("identity"))));
    assert_eq!((bench.metrics.audit.snapshot().recovered, identity(&dir).secret), (3, secret));
}

/// The list and the audit count the same reports.
#[test]
fn what_is_dead_by_damage_is_listed_with_what_is_known_of_it() {
    for in_runs in [true, false] {
        let mut bench = three_entries(in_runs);
        let spoil = |value: &mut [u8]| value.iter_mut().for_each(|byte| *byte = b'x');
        if in_runs {
            change_in_run(&bench, "a", spoil)
        } else {
            change_bundle(&bench, spoil)
        }
        assert_eq!(bench.drain("a", 8), ["1", "2"]);
        let dead = bench.metrics.audit.snapshot().dead;
        bench.reopen();
        let aside = bench.journal().set_aside(None, 10).expect("a sound journal");
        let listed: u64 = aside.iter().filter_map(|aside| aside.reports).sum();
        assert_eq!((listed, dead), (1, 1), "{aside:?}");
        assert!(aside.iter().all(|aside| aside.id == Some(id_of("a"))), "{aside:?}");
        let entry = aside.iter().find(|aside| aside.bytes > 0).expect("the entry");
        assert!(entry.first.is_some() && !entry.damage.is_empty(), "{entry:?}");
        let behind = bench.journal().set_aside(Some(&aside[0].key), 10).expect("a sound journal");
        assert_eq!(behind, aside[1..]);
    }
}

/// What a frame says of itself has bounds.
#[test]
fn a_frame_that_says_what_cannot_be_is_damage() {
    let heading = |number, oldest, stamp| bundle::Heading { number, oldest, stamp: Position(stamp) };
    for impossible in [heading(4, 6, 5), heading(4, 1, 1 << 53), heading(4, 1, u64::MAX)] {
        let mut bench = three_entries(false);
        assert_eq!(bench.journal().shared.store.next_and_oldest_bundle().0, 4);
        bench.journal().shared.store.add_bundle(impossible, b"").expect("a sound disk");
        bench.reopen();
        assert_eq!(bench.drain("a", 8), ["0", "1", "2"], "{impossible:?}");
        let next = ack(&bench.append("a", vec![report(None, "1")])[0]).position();
        assert!(next.0 < 1 << 52, "{impossible:?}: a position of {next:?}");
    }
}
