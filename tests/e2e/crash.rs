//! kill -9, over and over, under load: what was acknowledged is one row, and nothing else is there.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use crate::support::load::{Load, Plan};
use crate::support::node::Node;
use crate::support::proof::{self, Proof};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::strace;

/// Four clients share four ids with others, four let the node number their reports, the rest are on their own.
pub fn sixteen_clients() -> impl Iterator<Item = Plan> {
    (0..16_u64).map(|client| Plan {
        id: match client {
            0..8 => format!("shared-{}", client % 4),
            8..12 => format!("free-{client}"),
            _ => format!("own-{client}"),
        },
        first_seq: (!(8..12).contains(&client)).then_some(client * 1_000_000_000),
        window: [1, 4, 16, 64][client as usize % 4],
        padding: [0, 100, 300, 2_000][client as usize / 4],
    })
}

fn rounds() -> u64 {
    let given = std::env::var("FOREBAY_CRASH_ROUNDS").ok();
    given.map_or(proof::rounds(10, 100), |rounds| rounds.parse().expect("FOREBAY_CRASH_ROUNDS is a number"))
}

on_each_server!(an_acked_report_survives_kill_nine);
async fn an_acked_report_survives_kill_nine(kind: Kind) {
    let mut server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).set("flush.tick", "100ms").set("sink.timeout", "5s");
    let mut node = node.start().await;
    let load = Load::start(&node.address(), sixteen_clients());
    for round in 1..=rounds() {
        // The first acks show that the node serves; the rest of the wait varies where in its work it dies.
        load.more_acks(50).await;
        tokio::time::sleep(Duration::from_millis((round * 137) % 600)).await;
        if round % 4 == 0 {
            server.kill();
        }
        node.kill();
        if round % 8 == 4 {
            // The node comes back first, and works without its sink for a while.
            node.restart().await;
            load.more_acks(50).await;
            server.restart().await;
        } else {
            if round % 8 == 0 {
                server.restart().await;
            }
            node.restart().await;
        }
    }
    let ledger = load.finish().await;
    let verdict = ledger.settle(&node).await;
    let mut proof = Proof::on(kind, "SIGKILL under load, every fourth with the server");
    proof.verdict(rounds(), &verdict);
    proof.report();
    verdict.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acked_report_survives_kill_nine_with_the_embedded_sink() {
    let mut node = Node::new().set("flush.tick", "100ms").start().await;
    let load = Load::start(&node.address(), sixteen_clients());
    let rounds = proof::rounds(5, 100);
    for round in 1..=rounds {
        load.more_acks(50).await;
        tokio::time::sleep(Duration::from_millis((round * 211) % 500)).await;
        node.kill();
        node.restart().await;
    }
    let verdict = load.finish().await.settle(&node).await;
    let mut proof = Proof::new("SIGKILL under load, the embedded sink");
    proof.verdict(rounds, &verdict);
    proof.report();
    verdict.assert_clean();
}

#[tokio::test]
async fn a_node_that_dies_while_it_starts_starts_again() {
    let mut node = Node::new().start().await;
    let load = Load::start(&node.address(), sixteen_clients().take(4));
    let rounds = proof::rounds(8, 50);
    for round in 0..rounds {
        load.more_acks(20).await;
        node.kill();
        for again in 0..3 {
            // Killed as soon as it listens, or a little later: somewhere in or after its recovery.
            node.launch().await;
            tokio::time::sleep(Duration::from_millis((round * 7 + again * 3) % 20)).await;
            node.kill();
        }
        node.restart().await;
    }
    let verdict = load.finish().await.settle(&node).await;
    let mut proof = Proof::new("SIGKILL in or after recovery, four times in a row");
    proof.verdict(rounds * 4, &verdict);
    proof.report();
    verdict.assert_clean();
}

/// A kill between two given system calls, which no clock hits on purpose: before and after a write or a sync of the
/// journal, and during recovery (low numbers). strace kills on entry; the call itself is not made.
#[tokio::test]
async fn an_acked_report_survives_kill_nine_at_a_chosen_system_call() {
    // So that entries are sorted at once: runs are written, counted, merged and removed.
    let mut node = Node::new().set("flush.tick", "100ms").set("journal.recent_bytes", 0).start().await;
    let load = Load::start(&node.address(), sixteen_clients().step_by(3));
    let calls = [
        ("fdatasync", &[1, 2, 5, 40][..]),
        ("pwrite64", &[1, 2, 5, 40]),
        ("fsync", &[1, 2, 5, 40]),
        ("renameat2", &[1, 2, 5, 20]),
        ("unlink", &[1, 5]),
    ];
    for (call, times) in calls {
        for when in times {
            load.more_acks(20).await;
            node.kill();
            let log = node.folder().join("strace.log");
            let inject = format!("inject={call}:signal=KILL:when={when}");
            let command = strace::command(&log, &["-e", &format!("trace={call}"), "-e", &inject]);
            node.under(&command.iter().map(String::as_str).collect::<Vec<_>>());
            let ended = node.launch_to_die().await;
            assert!(ended.signal() == Some(9), "{call} {when}: ended with {ended} instead");
            node.under(&[]);
            node.restart().await;
        }
    }
    let verdict = load.finish().await.settle(&node).await;
    let mut proof = Proof::new("SIGKILL at a chosen system call under load");
    proof.verdict(calls.iter().map(|(_, times)| times.len() as u64).sum(), &verdict);
    proof.report();
    verdict.assert_clean();
}
