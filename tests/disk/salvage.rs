//! A salvage that is cut off: by kill -9 in each system call that it makes, and by power cuts around each of its syncs.

use std::path::{Path, PathBuf};

use crate::book::Book;
use crate::check::{Bench, Outcome};
use crate::cuts::{Recording, spread};
use crate::kills::{faults_at, killed_in_recovery};
use crate::log::{POLICIES, Random, Replay};
use crate::mount::Disk;
use crate::script::{self, DATA};
use crate::support::client::{Client, report};
use crate::support::ledger::Ledger;
use crate::support::node::Node;
use crate::support::proof::{Proof, rounds, seed};
use crate::support::wait::eventually;
use crate::tree::Tree;

/// Nobody listens there: all backlog stays in the journal.
const DEAD: &str = "mysql://nobody:nothing@127.0.0.1:1/none";

/// Reports in each of its two starts; of so few a page has some.
pub const REPORTS: u64 = 40;

/// A node with its journal on the disk. The sink is elsewhere: this process reads it, and must not wait for a page of
/// memory that it has itself to serve.
pub fn on_disk(disk: &Disk) -> Node {
    let mut node = script::node_on(disk);
    node.change("sink.url", format!("sqlite:{}", node.sqlite_file().display()));
    node
}

/// A journal with backlog in bundles and in runs, stopped once and killed once.
pub async fn backlog() -> (Tree, Ledger) {
    let disk = Disk::mount(Tree::new());
    let ledger = Ledger::default();
    let mut node = on_disk(&disk).set("shutdown.drain", "0s");
    // It claims its row in the sink.
    node.restart().await;
    let claims = disk.path().join(journal()).join("claims");
    let claimed = async || if claims.exists() { Ok(()) } else { Err("there is no such file".to_owned()) };
    eventually("the claim", claimed).await;
    assert!(node.terminate().await.success(), "it has nothing to drain");
    node.change("sink.url", DEAD);
    for start in 0..2 {
        node.restart().await;
        let mut client = Client::connect(node.ingest()).await;
        for n in start * REPORTS..(start + 1) * REPORTS {
            let sent = script::sent(&format!("id-{}", n % 7), n, 400);
            ledger.sent(&sent);
            assert!(ledger.replied(&sent, &client.ask(report(&sent.id, sent.seq, &sent.data)).await));
        }
        if start == 0 {
            assert!(node.terminate().await.success(), "it stops with its backlog");
        }
    }
    node.kill();
    (disk.contents().0, ledger)
}

/// The journal's folder on a disk.
pub fn journal() -> PathBuf {
    Path::new(DATA).join("journal")
}

/// A journal whose log sled cannot open, though all that was acknowledged is in it.
async fn damaged() -> (Tree, Ledger) {
    let (mut tree, ledger) = backlog().await;
    let conf = tree.find(&journal().join("conf"));
    tree.content(conf).write(0, b"torn by a power cut");
    (tree, ledger)
}

/// A start on the damaged journal, with draining and a stop.
async fn salvaged(tree: &Tree) -> Disk {
    let disk = Disk::mount(tree.clone());
    let mut node = script::node_on(&disk);
    script::start(&mut node).await.expect("it starts on what is whole");
    script::stop(&mut node).await.expect("nothing fails");
    disk
}

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, proof: &mut Proof, what: String, outcome: Result<Outcome, String>) {
        match outcome {
            Ok(outcome) => {
                proof.verdict(1, &outcome.verdict);
                if !outcome.verdict.is_clean() || !outcome.salvaged {
                    self.0.push(format!("{what}: salvaged: {}, {}", outcome.salvaged, outcome.verdict));
                }
            }
            Err(error) => {
                proof.injected(1, 0);
                self.0.push(format!("{what}: {error}"));
            }
        }
    }

    fn assert_none(self) {
        assert!(self.0.is_empty(), "{} went wrong:\n{}", self.0.len(), self.0.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acked_report_survives_kill_nine_in_any_call_of_a_salvage() {
    let (tree, ledger) = damaged().await;
    let calls = salvaged(&tree).await.counts().all;
    println!("{calls} changes and syncs of the journal");
    let (mut proof, mut bench) = (Proof::new("kill -9 in a salvage's call"), Bench::new());
    let mut faults = Faults::default();
    for fault in faults_at(spread(&(1..=calls).collect::<Vec<_>>(), rounds(10, u64::MAX))) {
        let (killed, came) = killed_in_recovery(&tree, fault).await;
        if came {
            let outcome = bench.check(&killed, &ledger).await;
            faults.add(&mut proof, format!("{fault:?}"), outcome);
        }
    }
    proof.report();
    faults.assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acked_report_survives_a_power_cut_at_any_sync_of_a_salvage() {
    let (tree, ledger) = damaged().await;
    let disk = salvaged(&tree).await;
    let recording = Recording::of(&disk, tree, Book::new(&disk));
    let mut random = Random::new(seed(), 5);
    let (mut proof, mut bench) = (Proof::new("power cut in a salvage"), Bench::new());
    let (mut faults, mut replay) = (Faults::default(), Replay::new(recording.base.clone()));
    let around = recording.cuts_around_syncs(&mut random);
    for cut in spread(&around, rounds(20, u64::MAX)) {
        replay.advance(&recording.log, cut);
        let policy = POLICIES[random.below(POLICIES.len() as u64) as usize];
        let image = replay.image(policy, &mut random);
        let outcome = bench.check(&image, &ledger).await;
        faults.add(&mut proof, format!("cut {cut} ({policy:?})"), outcome);
    }
    proof.report();
    faults.assert_none();
}
