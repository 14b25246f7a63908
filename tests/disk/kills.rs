//! kill -9 in each system call that changes or syncs the journal: before it is performed, and after.

use crate::book::Book;
use crate::check::Bench;
use crate::cuts::spread;
use crate::mount::{Disk, Fault};
use crate::script::{self, Ended};
use crate::support::ledger::{Ledger, Verdict};
use crate::support::proof::{Proof, is_long, rounds};
use crate::tree::Tree;

/// What one kill left behind.
struct Killed {
    /// The disk: nothing that was written is gone, only the process is.
    tree: Tree,
    ledger: Ledger,
    /// Whether the node got as far as the call to be killed in.
    came: bool,
}

/// The script on a disk that kills the node so.
async fn killed_in_script(fault: Option<Fault>) -> (Killed, u64) {
    let disk = Disk::mount(Tree::new());
    fault.into_iter().for_each(|fault| disk.arm(fault));
    let book = Book::new(&disk);
    let mut node = script::node_on(&disk);
    let ended = script::run(&mut node, &book, 0).await;
    node.kill();
    let came = disk.faulted();
    assert_eq!(ended.is_err(), came, "{fault:?}: {ended:?}\n{}", node.stderr());
    let ledger = book.as_of(disk.length());
    (Killed { tree: disk.contents().0, ledger, came }, disk.counts().all)
}

/// A recovery that is killed so: a start, draining, and a stop.
pub async fn killed_in_recovery(tree: &Tree, fault: Fault) -> (Tree, bool) {
    let disk = Disk::mount(tree.clone());
    disk.arm(fault);
    let mut node = script::node_on(&disk);
    let ended = recover(&mut node).await;
    node.kill();
    assert_eq!(ended.is_err(), disk.faulted(), "{fault:?}: {ended:?}\n{}", node.stderr());
    (disk.contents().0, disk.faulted())
}

async fn recover(node: &mut crate::support::node::Node) -> Result<(), Ended> {
    script::start(node).await?;
    script::stop(node).await
}

/// Adds up kills, and what nodes made of them.
struct Kills {
    proof: Proof,
    bench: Bench,
    faults: Vec<String>,
}

impl Kills {
    fn new(name: &'static str) -> Self {
        Self { proof: Proof::new(name), bench: Bench::new(), faults: Vec::new() }
    }

    async fn check(&mut self, what: &str, tree: &Tree, ledger: &Ledger) {
        match self.bench.check(tree, ledger).await {
            Ok(outcome) => {
                self.proof.verdict(1, &outcome.verdict);
                if !outcome.verdict.is_clean() || outcome.salvaged {
                    self.faults.push(format!("{what}: salvaged: {}, {}", outcome.salvaged, outcome.verdict));
                }
            }
            Err(error) => {
                self.proof.verdict(1, &Verdict::default());
                self.faults.push(format!("{what}: {error}"));
            }
        }
    }

    fn finish(self) {
        self.proof.report();
        assert!(self.faults.is_empty(), "{} kills went wrong:\n{}", self.faults.len(), self.faults.join("\n"));
    }
}

/// Before and after the calls of these numbers; in the short form one of both.
pub fn faults_at(numbers: Vec<u64>) -> impl Iterator<Item = Fault> {
    let both = numbers.into_iter().enumerate().flat_map(|(n, number)| {
        let kinds = [Fault::KillBefore(number), Fault::KillAfter(number)];
        kinds.into_iter().enumerate().filter(move |(kind, _)| is_long() || *kind == n % 2)
    });
    both.map(|(_, fault)| fault)
}

/// The numbers from 1 to the number of calls that the script makes: all, or spread evenly.
async fn calls(short: u64, long: u64) -> Vec<u64> {
    let (_, calls) = killed_in_script(None).await;
    println!("{calls} changes and syncs of the journal");
    spread(&(1..=calls).collect::<Vec<_>>(), rounds(short, long))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acked_report_survives_kill_nine_in_any_call_on_the_journal() {
    let mut kills = Kills::new("kill -9 in a call on the journal");
    for fault in faults_at(calls(24, u64::MAX).await) {
        let (killed, _) = killed_in_script(Some(fault)).await;
        // Another run may make a few calls less: commits are grouped by chance.
        if killed.came {
            kills.check(&format!("{fault:?}"), &killed.tree, &killed.ledger).await;
        }
    }
    kills.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acked_report_survives_kill_nine_in_any_call_of_the_recovery() {
    let mut kills = Kills::new("kill -9 in a recovery's call");
    for first in faults_at(calls(4, 12).await) {
        let (killed, _) = killed_in_script(Some(first)).await;
        if !killed.came {
            continue;
        }
        let mut number = 1;
        loop {
            let mut came = false;
            for second in faults_at(vec![number]) {
                let (tree, this_came) = killed_in_recovery(&killed.tree, second).await;
                came |= this_came;
                if this_came {
                    kills.check(&format!("{first:?}, then {second:?}"), &tree, &killed.ledger).await;
                }
            }
            if !came {
                break;
            }
            number += rounds(4, 1);
        }
    }
    kills.finish();
}
