//! A disk that is full: a small file system of the kernel's own (tmpfs) for the journal, the sink elsewhere.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::script;
use crate::support::client::{Client, Incoming, report};
use crate::support::ledger::Ledger;
use crate::support::node::Node;
use crate::support::proof::{Proof, rounds};
use crate::support::wait::eventually;

/// Nobody listens there: all backlog stays in the journal.
const DEAD: &str = "mysql://nobody:nothing@127.0.0.1:1/none";

/// A small file system; dropping it unmounts it.
struct Small {
    folder: tempfile::TempDir,
}

impl Small {
    fn mount() -> Self {
        let folder = tempfile::Builder::new().prefix("forebay-small-").tempdir().expect("a folder to mount on");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "forebay-small"]).arg(folder.path());
        assert!(mount.status().expect("mount runs").success(), "root can mount a tmpfs");
        Self { folder }
    }

    /// Takes all space but these bytes.
    fn fill_but(&self, left: u64) {
        let free = rustix::fs::statvfs(self.folder.path()).expect("it is mounted");
        let taken = (free.f_bavail * free.f_frsize).saturating_sub(left);
        let mut file = File::options().append(true).create(true).open(self.filler()).expect("the filler opens");
        let block = vec![1; 1 << 16];
        let mut written = 0;
        while written < taken {
            // The last block may not fit, or the node was faster: full is full.
            match file.write(&block[..block.len().min((taken - written) as usize)]) {
                Ok(bytes) => written += bytes as u64,
                Err(_) => break,
            }
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("the filler can be removed");
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }

    /// A node with its journal here.
    fn node(&self) -> Node {
        Node::new()
            .set("journal.dir", self.folder.path().join("journal").display().to_string())
            .set("ingest.max_report_bytes", script::MAX_REPORT)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}

#[tokio::test]
async fn reports_are_refused_at_the_disks_reserve_and_taken_again_without_a_restart() {
    let small = Small::mount();
    let node = small.node().set("journal.min_free_disk", "16MiB").start().await;
    let mut client = Client::connect(node.ingest()).await;
    let (ledger, mut proof) = (Ledger::default(), Proof::new("disk at its reserve"));
    for round in 0..rounds(3, 20) {
        let first = round * 1_000;
        let before = script::sent("reserve", first, 500);
        ledger.sent(&before);
        ledger.replied(&before, &client.report("reserve", first, &before.data).await);
        small.fill_but(8 << 20);
        let mut next = first + 1;
        // The answer about the free disk may be a moment old.
        let refusal = eventually("a refusal", async || {
            next += 1;
            let sent = script::sent("reserve", next, 500);
            ledger.sent(&sent);
            let reply = client.ask(report("reserve", next, &sent.data)).await;
            if ledger.replied(&sent, &reply) { Err(format!("it is {reply}")) } else { Ok(reply) }
        });
        let refusal = refusal.await;
        assert_eq!((&refusal["code"], &refusal["error"]), (&json!(507), &json!("journal_full")), "{refusal}");
        assert!(refusal["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{refusal}");
        small.empty();
        let again = script::sent("reserve", next, 500);
        let taken = eventually("an ack", async || {
            ledger.sent(&again);
            let reply = client.ask(report("reserve", next, &again.data)).await;
            if ledger.replied(&again, &reply) { Ok(()) } else { Err(format!("it is {reply}")) }
        });
        taken.await;
    }
    let verdict = ledger.settle(&node).await;
    proof.verdict(rounds(3, 20), &verdict);
    proof.report();
    verdict.assert_clean();
}

/// Sends until the node ends; what it acknowledged is in the ledger.
async fn send_until_it_ends(node: &Node, ledger: &Ledger, first: u64) {
    let mut client = Client::connect(node.ingest()).await;
    for n in first.. {
        let sent = script::sent(&format!("full-{}", n % 7), n, 3_000);
        ledger.sent(&sent);
        client.send(report(&sent.id, sent.seq, &sent.data)).await;
        match client.next().await {
            Incoming::Reply(reply) => assert!(ledger.replied(&sent, &reply), "{reply}"),
            _ => return,
        }
        assert!(n < first + 100_000, "300 MB are in a file system of 64 MiB");
    }
}

#[tokio::test]
async fn a_journal_on_a_disk_that_is_full_to_the_last_byte_ends_the_node_and_loses_nothing() {
    let (ledger, mut proof) = (Ledger::default(), Proof::new("disk full to the last byte"));
    for round in 0..rounds(4, 20) {
        let small = Small::mount();
        let ledger = if round == 0 { ledger.clone() } else { Ledger::default() };
        let mut node = small.node().set("journal.min_free_disk", 0).set("sink.url", DEAD).start().await;
        let mut client = Client::connect(node.ingest()).await;
        for n in 0..20 {
            let sent = script::sent("before", n, 3_000);
            ledger.sent(&sent);
            ledger.replied(&sent, &client.report("before", n, &sent.data).await);
        }
        // From nothing left at all to a few pages, which end the write in its middle.
        small.fill_but(round * 4096);
        send_until_it_ends(&node, &ledger, 0).await;
        let status = node.ended().await;
        assert!(status.code().is_some_and(|code| code != 0), "it ended with {status}");
        let said = node.stderr();
        assert!(said.contains("ERROR") && said.contains("No space left"), "it does not say that:\n{said}");
        // Nothing is made of it while the disk is full: it is no damage.
        small.fill_but(0);
        let status = node.launch_to_die().await;
        let said = node.stderr().split_off(said.len());
        assert!(status.code().is_some_and(|code| code != 0), "it ended with {status}");
        assert!(said.contains("No space left"), "it does not say that:\n{said}");
        let journal = small.folder.path().join("journal");
        let names: Vec<_> = std::fs::read_dir(journal).expect("it is mounted").flatten().collect();
        let is_salvage = |name: &str| name.contains("damaged") || name.contains("salvag");
        assert!(!names.iter().any(|e| is_salvage(&e.file_name().to_string_lossy())), "it was searched: {names:?}");
        assert!(!said.contains("is damaged"), "{said}");
        small.empty();
        node.change("sink.url", format!("sqlite:{}", node.sqlite_file().display()));
        node.restart().await;
        let verdict = ledger.settle(&node).await;
        proof.verdict(1, &verdict);
        if round + 1 == rounds(4, 20) || !verdict.is_clean() {
            proof.report();
        }
        verdict.assert_clean();
    }
}
