//! Bundles, and what moves out of them into lanes.

use super::*;

/// Entries that share a value share its fate only as far as they are damaged themselves.
#[test]
fn damage_to_one_of_the_entries_that_lie_together_leaves_the_others() {
    let open = || {
        let bench = Bench::with(|s| s.recent_bytes = 150);
        (0..6).for_each(|n| drop(bench.append("a", vec![report(Some(n), &n.to_string())])));
        let lane = bench.stream("a").expect("it has backlog").lock().lane.expect("something waits for long");
        let (_, value) = bench.journal().shared.store.scan(lane).next().expect("a value").expect("a sound tree");
        assert!(
            entry::whole_values(bench.journal().shared.store.seal(), &value, [entry::ENTRY]).count() > 1,
            "they do not lie together"
        );
        change_in_lane(&bench, "a", |value| value[seal::HEADER_BYTES] ^= 1);
        bench
    };
    let rest: Vec<_> = (1..6).map(|n| Bytes::from(n.to_string())).collect();
    assert_eq!(open().drain("a", 8), rest, "found while it runs");
    let mut bench = open();
    bench.reopen();
    assert_eq!(bench.journal().status().damaged, 1);
    assert_eq!(bench.drain("a", 8), rest, "found at the start");
}

/// As a crash leaves it between a truncation and its sync, where the id was drained and came back in another lane.
#[test]
fn an_id_that_has_entries_in_two_lanes_is_drained_from_both_in_order() {
    let mut bench = three_entries(true);
    let store = &bench.journal().shared.store;
    let lane = bench.stream("a").expect("it has backlog").lock().lane.expect("something waits for long");
    let (key, value) = store.scan(lane).next().expect("an entry").expect("a sound tree");
    assert!(store.scan(lane).count() > 1, "all of it would be in the other lane");
    store.insert(1 - lane, &key, &value).expect("a sound tree");
    store.remove(lane, &key).expect("a sound tree");
    bench.reopen();
    assert_eq!(bench.stream("a").expect("it has backlog").lock().lanes().collect::<Vec<_>>(), [1 - lane, lane]);
    assert_eq!(bench.drain("a", 8), ["0", "1", "2"]);
    assert!(bench.stream("a").is_none() && bench.metrics.audit.snapshot().balanced());
}

/// As a crash leaves it before the bundle goes.
#[test]
fn an_entry_that_is_in_its_bundle_and_in_its_lane_is_drained_once() {
    let mut bench = three_entries(false);
    let (dir, before) = (bench.settings.dir.clone(), bench.dir.path().join("before"));
    damage::copy(&dir, &before);
    bench.settings.recent_bytes = 0;
    bench.reopen();
    bench.append("b", vec![report(Some(9), "9")]);
    assert!(bench.stream("a").expect("it has backlog").lock().lane.is_some(), "nothing was moved");
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
    let bench = Bench::with(|s| s.recent_bytes = 150);
    let append = |id: &str, n: u64| drop(bench.append(id, vec![report(Some(n), &n.to_string())]));
    (0..2).for_each(|n| append("a", n));
    let stream = bench.stream("a").expect("it has backlog");
    let Taken { batch, receipt } = bench.journal().read(&stream, 1, 1 << 20).expect("a sound journal");
    assert_eq!(batch.records.len(), 1);
    (2..9).for_each(|n| append("b", n));
    assert!(stream.lock().lane.is_some() && stream.lock().recent.is_empty(), "nothing moved");
    bench.journal().settle([(stream, receipt, Settlement { stored: 1, ..Settlement::default() })]);
    assert_eq!(bench.drain("a", 8), ["1"]);
    assert!(bench.stream("a").is_none() && bench.metrics.audit.snapshot().balanced());
}
