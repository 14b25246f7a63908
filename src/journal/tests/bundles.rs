//! Bundles, and what moves out of them into runs.

use super::*;

/// Entries that share a block share its fate only as far as they are damaged themselves.
#[test]
fn damage_to_one_of_the_entries_that_lie_together_leaves_the_others() {
    let open = || {
        let bench = Bench::with(|s| s.recent_bytes = 4096);
        (0..60).for_each(|n| drop(bench.append("a", vec![report(Some(n), &n.to_string())])));
        bench.append("b", vec![report(Some(1), &format!("\"{}\"", "x".repeat(4096)))]);
        change_in_run(&bench, "a", |value| value[seal::HEADER_BYTES] ^= 1);
        bench
    };
    let rest: Vec<_> = (1..60).map(|n| Bytes::from(n.to_string())).collect();
    let drained = |bench: &Bench| std::iter::repeat_with(|| bench.drain("a", 8)).take(60).flatten().collect::<Vec<_>>();
    assert_eq!(drained(&open()), rest);
    let mut bench = open();
    bench.reopen();
    assert_eq!(drained(&bench), rest);
    assert_eq!(bench.journal().status().damaged, 1, "it is found once");
}

/// As a crash leaves it before the bundle goes.
#[test]
fn an_entry_that_is_in_its_bundle_and_in_its_run_is_drained_once() {
    let mut bench = three_entries(false);
    let (dir, before) = (bench.settings.dir.clone(), bench.dir.path().join("before"));
    damage::copy(&dir, &before);
    bench.settings.recent_bytes = 0;
    bench.reopen();
    bench.append("b", vec![report(Some(9), "9")]);
    bench.is_sorted("a");
    bench.settings.recent_bytes = 1 << 20;
    bench.reopen_after(|| {
        std::fs::copy(before.join("synced"), dir.join("synced")).expect("copied");
        std::fs::remove_dir_all(dir.join("recent")).expect("removed");
        std::fs::rename(before.join("recent"), dir.join("recent")).expect("renamed");
    });
    assert_eq!(bench.drain("a", 8), ["0", "1", "2"]);
    assert!(bench.stream("a").is_none());
}

/// A batch that ends before anything whole was found reaches no further than what was looked at.
#[test]
fn a_batch_of_damage_alone_settles_nothing_behind_it() {
    let mut bench = three_entries(false);
    change_bundle(&bench, flip_last);
    assert!(bench.drain("a", 1).is_empty(), "the first entry is damaged");
    bench.append("b", vec![report(Some(1), "1")]);
    bench.copy_and_reopen();
    assert_eq!(bench.drain("a", 8), ["1", "2"]);
}

/// What is settled stays so although its bundle is kept for a neighbour that waits.
#[test]
fn a_bundle_that_is_kept_for_one_id_brings_back_nothing_of_another() {
    for end in [Bench::reopen as fn(&mut Bench), Bench::copy_and_reopen] {
        let mut bench = Bench::new();
        bench.append("waits", vec![report(Some(1), "1")]);
        for n in 0..40 {
            bench.append("a", vec![report(Some(n), &n.to_string())]);
            assert_eq!(bench.drain("a", 8).len(), 1);
        }
        // Settlements go with the next commit.
        bench.append("b", vec![report(Some(1), "1")]);
        end(&mut bench);
        assert_eq!(bench.metrics.audit.snapshot().recovered, 2);
        assert!(bench.stream("a").is_none());
    }
}

#[test]
fn what_moves_while_it_is_drained_is_settled_where_it_went() {
    let mut bench = Bench::with(|s| s.recent_bytes = 150);
    let append = |bench: &Bench, id: &str, n: u64| drop(bench.append(id, vec![report(Some(n), &n.to_string())]));
    append(&bench, "a", 0);
    append(&bench, "a", 1);
    let stream = bench.stream("a").expect("it has backlog");
    let Taken { batch, receipt } = bench.journal().read(&stream, 1, 1 << 20).expect("a sound journal");
    assert_eq!(batch.records.len(), 1);
    (2..9).for_each(|n| append(&bench, "b", n));
    bench.is_sorted("a");
    bench.journal().settle([(stream, receipt, Settlement { stored: 1, ..Settlement::default() })]);
    // Settlements go with the next commit.
    append(&bench, "b", 9);
    bench.copy_and_reopen();
    assert_eq!(bench.drain("a", 8), ["1"]);
    assert!(bench.stream("a").is_none() && bench.metrics.audit.snapshot().balanced());
}

/// The settlements of what is in runs are kept, although all bundles before them are gone.
#[test]
fn what_is_settled_of_a_run_stays_so_over_a_kill() {
    let mut bench = Bench::new();
    for n in 0..6 {
        bench.append("a", vec![report(Some(n), &n.to_string())]);
        bench.append("b", vec![report(Some(n), &n.to_string())]);
    }
    bench.settings.recent_bytes = 0;
    bench.reopen();
    // Fewer runs than are merged, which would note what is settled.
    for n in 0..4 {
        bench.append("c", vec![report(Some(n), &n.to_string())]);
        ["a", "b", "c"].iter().filter(|id| bench.stream(id).is_some()).for_each(|id| bench.is_sorted(id));
        if n == 0 {
            assert_eq!(bench.drain("a", 4), ["0", "1", "2", "3"]);
            assert_eq!(bench.drain("b", 8).len(), 6);
        }
    }
    bench.copy_and_reopen();
    assert_eq!(bench.metrics.audit.snapshot().recovered, 6);
    assert!(bench.stream("b").is_none(), "what was settled is back");
    assert_eq!(bench.drain("a", 8), ["4", "5"]);
}

/// One id that waits keeps no more of the others on disk than it has itself.
#[test]
fn what_is_drained_of_many_runs_leaves_the_disk_though_one_id_waits() {
    let bench = Bench::with(|s| s.recent_bytes = 0);
    let data = format!("\"{}\"", "x".repeat(2_000));
    for n in 0..200 {
        bench.append("waits", vec![report(Some(n), "1")]);
        bench.append("a", vec![report(Some(n), &data)]);
        bench.is_sorted("a");
        assert_eq!(bench.drain("a", 8).len(), 1);
    }
    let since = Instant::now();
    while bench.journal().shared.store.runs().counted().len() > 16 {
        assert!(since.elapsed() < Duration::from_secs(60), "the runs are as many as before");
        std::thread::sleep(Duration::from_millis(1));
    }
    let drained: Vec<_> = std::iter::repeat_with(|| bench.drain("waits", 64)).take(4).flatten().collect();
    assert_eq!(drained.len(), 200);
}

/// A manifest of another day knows nothing of the last runs, which have what no bundle has any more.
#[test]
fn an_old_manifest_loses_no_run() {
    let mut bench = Bench::with(|s| s.recent_bytes = 0);
    let manifest = bench.settings.dir.join("runs/manifest");
    let mut old = std::fs::read(&manifest).expect("a file");
    for n in 0..4 {
        bench.append("a", vec![report(Some(n), &n.to_string())]);
        bench.is_sorted("a");
        if n == 1 {
            old = std::fs::read(&manifest).expect("a file");
        }
    }
    bench.append("b", vec![report(Some(1), "1")]);
    bench.is_sorted("b");
    bench.reopen_after(|| std::fs::write(&manifest, old).expect("written"));
    assert_eq!(bench.metrics.audit.snapshot().recovered, 5);
    assert_eq!(bench.drain("a", 8), ["0", "1", "2", "3"]);
    assert!(!bench.settings.dir.join("damaged-1").exists(), "it was taken for damage");
}

/// What a run says of its blocks is not believed where it was changed: all that is whole is searched for.
#[test]
fn a_page_that_is_damaged_is_damage() {
    let mut bench = three_entries(true);
    let runs = bench.settings.dir.join("runs");
    bench.reopen_after(|| {
        let files = std::fs::read_dir(&runs).expect("a folder").map(|file| file.expect("a file").path());
        let path = files.filter(|path| !path.ends_with("manifest")).min().expect("a run");
        let mut bytes = std::fs::read(&path).expect("a file");
        let page = bytes.windows(3).position(|magic| magic == b"FBG").expect("a page") - 1;
        let length = u32::from_le_bytes(bytes[page + 8..page + 12].try_into().expect("four bytes"));
        // When the last block of it was accepted.
        bytes[page + seal::HEADER_BYTES + length as usize - 1] ^= 1;
        std::fs::write(&path, bytes).expect("written");
    });
    assert!(bench.settings.dir.join("damaged-1").exists(), "it was believed");
    assert_eq!(bench.drain("a", 8), ["0", "1", "2"]);
}

/// Who else has an entry in the same bundles, or the same id in others, is not held up by it.
#[test]
fn what_is_damaged_before_it_is_sorted_is_listed_and_the_rest_is_served() {
    let bench = Bench::with(|s| s.recent_bytes = 1_000);
    (0..3).for_each(|n| drop(bench.append("a", vec![report(Some(n), &n.to_string())])));
    change_bundle(&bench, flip_last);
    bench.append("b", vec![report(Some(1), &format!("\"{}\"", "x".repeat(1_000)))]);
    bench.is_sorted("a");
    assert_eq!(bench.drain("a", 8), ["1", "2"]);
    assert_eq!(bench.drain("b", 8).len(), 1);
    let audit = bench.metrics.audit.snapshot();
    assert_eq!((audit.stored, audit.dead, audit.backlog), (3, 1, 0));
    assert!(audit.balanced());
}

/// Somebody put it there.
#[test]
fn what_is_no_run_is_left_where_it_lies_among_them() {
    let mut bench = three_entries(true);
    let runs = bench.settings.dir.join("runs");
    std::fs::write(runs.join("notes"), "of a person").expect("written");
    std::fs::create_dir(runs.join("lost+found")).expect("made");
    bench.reopen();
    assert_eq!(bench.drain("a", 8), ["0", "1", "2"]);
    assert!(runs.join("notes").exists() && runs.join("lost+found").exists());
}

/// What cannot be sorted stays where it is.
#[test]
fn a_sort_that_fails_loses_nothing() {
    let bench = Bench::with(|s| s.recent_bytes = 0);
    let runs = bench.settings.dir.join("runs");
    std::fs::remove_dir_all(&runs).expect("removed");
    std::fs::write(&runs, "no folder").expect("written");
    let begun = bench.journal().shared.store.runs().begun();
    (0..3).for_each(|n| drop(bench.append("a", vec![report(Some(n), &n.to_string())])));
    let since = Instant::now();
    while bench.journal().shared.store.runs().begun() == begun {
        assert!(since.elapsed() < Duration::from_secs(60), "nothing is sorted");
        std::thread::sleep(Duration::from_millis(1));
    }
    bench.append("b", vec![report(Some(1), "1")]);
    assert_eq!(bench.drain("a", 8), ["0", "1", "2"]);
}
