//! Positions are never given twice: not after the journal has drained to empty, a restart, or a clock that steps back.

use std::path::PathBuf;

use crate::support::client::{Client, report};
use crate::support::ledger::{Ledger, Sent};
use crate::support::node::Node;

/// Sends reports that the node numbers, books them, and waits until they are in the sink.
async fn send_and_drain(node: &Node, ledger: &Ledger, round: usize) -> Vec<u64> {
    let mut client = Client::connect(node.ingest()).await;
    let mut seqs = Vec::new();
    for n in 0..7 {
        let data = format!("{{\"round\": {round}, \"n\": {n}}}");
        let sent = Sent { id: format!("free-{}", n % 2), seq: None, data };
        ledger.sent(&sent);
        let ack = client.ask(report(&sent.id, None, &sent.data)).await;
        assert!(ledger.replied(&sent, &ack), "{ack}");
        seqs.push(ack["seq"].as_u64().expect("a seq"));
    }
    client.close().await;
    ledger.settle(node).await.assert_clean();
    seqs
}

#[tokio::test]
async fn no_key_is_reused_after_draining_to_empty_and_restarting_six_times() {
    let (mut node, ledger) = (Node::new().start().await, Ledger::default());
    let mut seqs = Vec::new();
    for round in 0..=6 {
        seqs.extend(send_and_drain(&node, &ledger, round).await);
        match round % 2 {
            0 => assert!(node.terminate().await.success(), "a clean end"),
            _ => node.kill(),
        }
        node.restart().await;
    }
    assert!(seqs.is_sorted_by(|a, b| a < b), "positions only rise: {seqs:?}");
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 49);
}

#[tokio::test]
async fn no_key_is_reused_when_the_node_is_killed_before_anything_drains() {
    let (mut node, ledger) = (Node::new().set("flush.tick", "1h").start().await, Ledger::default());
    for round in 0..6 {
        let mut client = Client::connect(node.ingest()).await;
        for n in 0..4 {
            let sent = Sent { id: "free".to_owned(), seq: None, data: format!("[{round},{n}]") };
            ledger.sent(&sent);
            assert!(ledger.replied(&sent, &client.ask(report("free", None, &sent.data)).await));
        }
        node.kill();
        node.restart().await;
    }
    assert!(node.terminate().await.success(), "a clean end drains");
    node.restart().await;
    ledger.settle(&node).await.assert_clean();
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 24);
}

#[tokio::test]
async fn no_key_is_reused_when_the_clock_steps_back() {
    // `tests/run.sh` installs it; there is no other way to set the clock of one process.
    let Some(library) = libfaketime() else {
        println!("skipped: libfaketime is not installed");
        return;
    };
    let (mut node, ledger) = (Node::new().start().await, Ledger::default());
    let mut seqs = send_and_drain(&node, &ledger, 0).await;
    for (round, clock) in ["-1d", "-400d", "-1h"].into_iter().enumerate() {
        if round % 2 == 0 {
            node.kill();
        } else {
            assert!(node.terminate().await.success(), "a clean end");
        }
        let (preload, offset) = (format!("LD_PRELOAD={}", library.display()), format!("FAKETIME={clock}"));
        node.under(&["env", &preload, &offset, "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
        node.restart().await;
        seqs.extend(send_and_drain(&node, &ledger, round + 1).await);
    }
    assert!(seqs.is_sorted_by(|a, b| a < b), "positions only rise: {seqs:?}");
}

pub fn libfaketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok).map(|entry| entry.path());
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.exists())
}
