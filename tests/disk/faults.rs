//! A disk that fails: syncs or writes of the journal give EIO from some one on. Nothing is acknowledged after that, the
//! node says so and ends, and all that was acknowledged is there when the disk is well again.

use crate::book::Book;
use crate::check::Bench;
use crate::cuts::spread;
use crate::log::{Policy, Random, Replay};
use crate::mount::{Counts, Disk, Fault};
use crate::script;
use crate::support::proof::{Proof, rounds};
use crate::tree::Tree;

/// How often the script writes and syncs the journal.
async fn counted() -> Counts {
    let disk = Disk::mount(Tree::new());
    let mut node = script::node_on(&disk);
    script::run(&mut node, &Book::new(&disk), 0).await.expect("nothing fails");
    node.kill();
    disk.counts()
}

/// Lets the script meet each of these faults.
async fn fail(name: &'static str, faults: impl Iterator<Item = Fault>) {
    let (mut proof, mut bench, mut wrong) = (Proof::new(name), Bench::new(), Vec::new());
    for fault in faults {
        let disk = Disk::mount(Tree::new());
        disk.arm(fault);
        let book = Book::new(&disk);
        let mut node = script::node_on(&disk);
        let ended = script::run(&mut node, &book, 0).await;
        if !disk.faulted() {
            // Commits are grouped by chance: this run came to its end with fewer calls.
            ended.expect("nothing fails");
            continue;
        }
        let status = match ended {
            Err(ended) if ended.status.is_some() => ended.status.expect("just seen"),
            Err(_) => node.ended().await,
            Ok(()) => {
                // What sorts may have met it alone, and tries again: the next commit ends the node.
                node.ask_to_stop();
                node.ended().await
            }
        };
        // A node that does not even start says so in its last line, not in the log.
        let said = node.stderr();
        let says_why = said.contains("Input/output error") && (said.contains("ERROR") || said.contains("forebay: "));
        if status.code().is_none_or(|code| code == 0) || !says_why {
            wrong.push(format!("{fault:?}: it ended with {status} and said\n{said}"));
        }
        // What a failed sync was to make durable may be gone: an ack that came after it is one that is lost here.
        let ledger = book.as_of(disk.length());
        let (live, log) = disk.contents();
        let mut replay = Replay::new(Tree::new());
        replay.advance(&log, log.len());
        for (what, tree) in [("synced", replay.image(Policy::Gone, &mut Random::new(0, 0))), ("written", live)] {
            match bench.check(&tree, &ledger).await {
                Ok(outcome) => {
                    proof.verdict(u64::from(what == "synced"), &outcome.verdict);
                    if !outcome.verdict.is_clean() || outcome.salvaged {
                        let (salvaged, verdict) = (outcome.salvaged, outcome.verdict);
                        wrong.push(format!("{fault:?}, what was {what}: salvaged: {salvaged}, {verdict}"));
                    }
                }
                Err(error) => wrong.push(format!("{fault:?}, what was {what}: {error}")),
            }
        }
    }
    proof.report();
    assert!(wrong.is_empty(), "{} faults went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_after_any_sync_that_fails() {
    let syncs: Vec<u64> = (1..=counted().await.syncs).collect();
    fail("EIO from a sync on", spread(&syncs, rounds(12, u64::MAX)).into_iter().map(Fault::Syncs)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_after_any_write_that_fails() {
    let writes: Vec<u64> = (1..=counted().await.writes).collect();
    fail("EIO from a write on", spread(&writes, rounds(12, u64::MAX)).into_iter().map(Fault::Writes)).await;
}
