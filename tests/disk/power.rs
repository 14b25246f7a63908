//! Power cuts: whatever the disk holds then, a node starts on it and stores every acknowledged report once.

use crate::book::Book;
use crate::cuts::{Cuts, Recording, spread};
use crate::log::{POLICIES, Replay};
use crate::mount::Disk;
use crate::script::{self, Talk};
use crate::support::forge;
use crate::support::ledger::Sent;
use crate::support::proof::rounds;
use crate::support::wait::eventually;
use crate::tree::Tree;

/// The script, performed once on an empty disk.
async fn recorded_script() -> Recording {
    let disk = Disk::mount(Tree::new());
    let book = Book::new(&disk);
    let mut node = script::node_on(&disk);
    script::run(&mut node, &book, 0).await.expect("nothing fails");
    node.kill();
    Recording::of(&disk, Tree::new(), book)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acked_report_survives_a_power_cut_at_any_sync() {
    let recording = recorded_script().await;
    let mut cuts = Cuts::new("power cut at a sync");
    let around = recording.cuts_around_syncs(&mut cuts.random(0));
    let syncs = recording.log.iter().filter(|op| op.is_sync()).count();
    println!("{} operations, {syncs} syncs, {} places to cut", recording.log.len(), around.len());
    cuts.cut(&recording, spread(&around, rounds(60, u64::MAX))).await;
    cuts.finish();
}

/// Six clients at once, with one to eight reports in a message, while flushers drain all the time.
async fn recorded_load() -> Recording {
    let disk = Disk::mount(Tree::new());
    let book = Book::new(&disk);
    let mut node = script::node_on(&disk).set("flush.tick", "20ms").start().await;
    let clients = (0..6_u64).map(|client| {
        let (book, node) = (&book, &node);
        async move {
            let mut talk = Talk::with(node, book).await.expect("nothing fails");
            for message in 0..40 {
                let reports = (0..=(client + message) % 8).map(|n| {
                    let number = client * 1_000_000 + message * 10 + n;
                    match client {
                        0 => script::sent("free", None, number as usize),
                        1..4 => script::sent(&format!("own-{client}"), number, 300),
                        _ => script::sent(&format!("shared-{}", n % 3), number, 2_000),
                    }
                });
                talk.report(&reports.collect::<Vec<Sent>>()).await.expect("nothing fails");
            }
        }
    });
    futures_util::future::join_all(clients).await;
    node.kill();
    Recording::of(&disk, Tree::new(), book)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acked_report_survives_a_power_cut_under_load() {
    let recording = recorded_load().await;
    let mut cuts = Cuts::new("power cut under load");
    let mut random = cuts.random(1);
    let around = recording.cuts_around_syncs(&mut random);
    let count = rounds(150, 5_000);
    let mut places: Vec<usize> = (0..count).map(|_| around[random.below(around.len() as u64) as usize]).collect();
    places.sort_unstable();
    cuts.cut_by_chance(&recording, places).await;
    cuts.finish();
}

/// Reports of an attacker among others, drained again and again, so that each file of bundles is written over several
/// times; the last part of it waits.
async fn recorded_rewriting() -> Recording {
    let disk = Disk::mount(Tree::new());
    let book = Book::new(&disk);
    let node = script::node_on(&disk).set("journal.recent_bytes", "1MiB").set("flush.tick", "20ms").start().await;
    let mut talk = Talk::with(&node, &book).await.expect("nothing fails");
    for round in 0..rounds(4, 8) {
        for message in 0..60 {
            let id = format!("att-{}", round * 60 + message);
            let forged = (0..8).map(|n| forge::forged(&id, b'R', 1 + (message % 2) as u8, n));
            talk.attack(&forged.collect::<Vec<_>>()).await.expect("nothing fails");
            let large = script::sent("honest", round * 1_000 + message, 60_000);
            talk.report(&[large]).await.expect("nothing fails");
        }
        talk.done("honest").await.expect("nothing fails");
    }
    for n in 0..40 {
        talk.report(&[script::sent("waits", n, 20_000)]).await.expect("nothing fails");
    }
    drop(talk);
    let mut node = node;
    node.kill();
    Recording::of(&disk, Tree::new(), book)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acked_report_survives_a_power_cut_over_files_that_are_written_again() {
    let recording = recorded_rewriting().await;
    let mut cuts = Cuts::new("power cut over files that are written again");
    let mut random = cuts.random(4);
    let around = recording.cuts_around_syncs(&mut random);
    // The later ones have more under them.
    let later = &around[around.len() / 3..];
    let count = rounds(24, 2_000);
    let mut places: Vec<usize> = (0..count).map(|_| later[random.below(later.len() as u64) as usize]).collect();
    places.sort_unstable();
    cuts.cut_by_chance(&recording, places).await;
    cuts.finish();
}

/// What waits is sorted after each message, and merged now and then: bundles are written over, and runs removed.
async fn recorded_sorting() -> Recording {
    let disk = Disk::mount(Tree::new());
    let book = Book::new(&disk);
    let waits =
        script::node_on(&disk).set("flush.batch", 100_000).set("flush.tick", "1h").set("on_disconnect", "ignore");
    let mut node = waits.set("journal.recent_bytes", 0).start().await;
    let mut talk = Talk::with(&node, &book).await.expect("nothing fails");
    let runs = disk.path().join(script::DATA).join("journal/runs");
    let latest = || {
        let names = std::fs::read_dir(&runs).expect("a folder").filter_map(Result::ok);
        names.filter_map(|file| file.file_name().to_str()?.parse::<u64>().ok()).max().unwrap_or(0)
    };
    for message in 0..60 {
        let before = latest();
        let large = script::sent(&format!("large-{}", message % 2), message, 60_000);
        let reports = (0..4).map(|n| script::sent(&format!("small-{n}"), message, 100)).chain([large]);
        talk.report(&reports.collect::<Vec<Sent>>()).await.expect("nothing fails");
        let is_later = || if latest() > before { Ok(()) } else { Err(format!("the last run is {before}")) };
        eventually("it is sorted", async || is_later()).await;
        if message % 20 == 19 {
            // Settled in part, and some of it whole.
            talk.done(&format!("small-{}", message / 20)).await.expect("nothing fails");
        }
    }
    drop(talk);
    node.kill();
    Recording::of(&disk, Tree::new(), book)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sorted_and_merged_survives_a_power_cut_at_any_sync() {
    let recording = recorded_sorting().await;
    let mut cuts = Cuts::new("power cut while what waits is sorted and merged");
    let around = recording.cuts_around_syncs(&mut cuts.random(5));
    println!("{} operations, {} places to cut", recording.log.len(), around.len());
    cuts.cut(&recording, spread(&around, rounds(40, 5_000))).await;
    cuts.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acked_report_survives_a_power_cut_during_the_recovery_from_one() {
    let recording = recorded_script().await;
    let mut cuts = Cuts::new("power cut in a recovery");
    let mut random = cuts.random(2);
    let around = recording.cuts_around_syncs(&mut random);
    let mut replay = Replay::new(recording.base.clone());
    for cut in spread(&around, rounds(4, 60)) {
        replay.advance(&recording.log, cut);
        let image = replay.image(POLICIES[random.below(POLICIES.len() as u64) as usize], &mut random);
        let disk = Disk::mount(image.clone());
        let mut node = script::node_on(&disk);
        // It recovers, drains everything, and stops.
        script::start(&mut node).await.expect("it starts on what a power cut left");
        script::stop(&mut node).await.expect("nothing fails");
        let recovery = Recording::of(&disk, image, recording.book.frozen(cut));
        let around = recovery.cuts_around_syncs(&mut random);
        cuts.cut(&recovery, spread(&around, rounds(5, 25))).await;
    }
    cuts.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_ids_with_backlog_survive_a_power_cut() {
    const IDS_A_MESSAGE: u64 = 1_000;
    let messages = rounds(20, 100);
    let disk = Disk::mount(Tree::new());
    let book = Book::new(&disk);
    let mut node = script::node_on(&disk).start().await;
    let mut talk = Talk::with(&node, &book).await.expect("nothing fails");
    for message in 0..messages {
        let ids = (0..IDS_A_MESSAGE).map(|n| message * IDS_A_MESSAGE + n);
        let reports = ids.map(|n| Sent { id: format!("i{n}"), seq: Some(n), data: n.to_string() });
        talk.report(&reports.collect::<Vec<_>>()).await.expect("nothing fails");
    }
    node.kill();
    let recording = Recording::of(&disk, Tree::new(), book);
    let mut cuts = Cuts::new("power cut with many ids");
    let mut random = cuts.random(3);
    let end = recording.log.len();
    let mut places: Vec<usize> = (1..rounds(1, 8)).map(|_| random.below(end as u64) as usize).collect();
    places.sort_unstable();
    places.push(end);
    cuts.cut_by_chance(&recording, places).await;
    cuts.finish();
}
