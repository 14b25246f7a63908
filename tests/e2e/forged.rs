//! Bytes that clients choose are never taken for the journal's own: reports that hold whole values of its format, in
//! files that are written over and then killed in the midst of it.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::crash::sixteen_clients;
use crate::support::client::{Client, report};
use crate::support::forge::{Forged, forged};
use crate::support::http;
use crate::support::ledger::{Ledger, Sent};
use crate::support::load::{Load, Plan};
use crate::support::node::Node;
use crate::support::proof::{self, Proof};
use crate::support::stored::Form;

/// Kinds of values: bundles, entries, settlements, dead letters, stamps, pauses and identities.
const KINDS: &[u8] = b"RJSDTPI";
/// Messages in one request.
const AT_ONCE: usize = 256;
/// The first position that is none.
const END: u64 = 1 << 53;

/// Sends what an attacker has, and books it.
async fn attack(node: &Node, ledger: &Ledger, attack: impl Iterator<Item = Forged>) {
    let all: Vec<Forged> = attack.collect();
    for some in all.chunks(AT_ONCE) {
        some.iter().for_each(|forged| ledger.sent(&forged.sent));
        let messages: Vec<&str> = some.iter().map(|forged| forged.text.as_str()).collect();
        let replies = node.post(format!("[{}]", messages.join(","))).await;
        for (forged, reply) in some.iter().zip(&replies) {
            assert!(ledger.replied(&forged.sent, reply), "{reply}");
        }
    }
}

/// 256 reports of each id, of one kind and version.
fn of_kind(ids: std::ops::Range<u32>, kind: u8, version: u8) -> impl Iterator<Item = Forged> {
    ids.flat_map(move |id| (0..=255).map(move |last| forged(&format!("att-{id}"), kind, version, last)))
}

/// The number that the node gives a report of its own numbering.
async fn next_position(node: &Node, ledger: &Ledger, data: &str) -> u64 {
    let sent = Sent { id: "numbered".to_owned(), seq: None, data: data.to_owned() };
    ledger.sent(&sent);
    let reply = Client::connect(node.ingest()).await.ask(report(&sent.id, None, data)).await;
    assert!(ledger.replied(&sent, &reply), "{reply}");
    reply["seq"].as_u64().expect("a position")
}

/// Reports of an id that is paused, so that they wait, and lie in bundles over what was there before.
async fn ordinary(node: &Node, ledger: &Ledger, reports: u64) {
    let data = |n: u64| format!("\"{n}-{}\"", "x".repeat(300));
    let sent: Vec<Sent> = (0..reports).map(|n| Sent { id: "waits".to_owned(), seq: Some(n), data: data(n) }).collect();
    for some in sent.chunks(AT_ONCE) {
        some.iter().for_each(|sent| ledger.sent(sent));
        let messages: Vec<String> = some.iter().map(|sent| report(&sent.id, sent.seq, &sent.data)).collect();
        for (sent, reply) in some.iter().zip(node.post(format!("[{}]", messages.join(","))).await) {
            assert!(ledger.replied(sent, &reply), "{reply}");
        }
    }
}

async fn order(node: &Node, what: &str) {
    let answer = http::post(node.admin(), &format!("/api/v1/streams/waits/{what}"), "text/plain", "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The start once believed the forged frames that a half overwritten file has behind its own: all that was acknowledged
/// was gone, positions were beyond 2^53, and nobody said a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_holds_a_whole_frame_is_a_report_after_a_kill_over_a_half_overwritten_file() {
    for version in [1, 2] {
        let (mut node, ledger) = (Node::new().start().await, Ledger::default());
        attack(&node, &ledger, of_kind(0..40, b'R', version)).await;
        node.drained().await;
        order(&node, "pause").await;
        ordinary(&node, &ledger, 5_000).await;
        node.kill();
        node.restart().await;
        let backlog = node.audit().await["backlog"].clone();
        assert_eq!(backlog, 5_000, "acknowledged reports are gone");
        let position = next_position(&node, &ledger, "\"after\"").await;
        assert!(position < END, "a position of {position}");
        order(&node, "resume").await;
        ledger.settle(&node).await.assert_clean();
        assert_eq!(node.admin_json("/api/v1/damaged").await["damaged"], serde_json::json!([]));
    }
}

/// The first frames that the segments of a journal were seen to begin with: one more each time that one is written
/// again.
#[derive(Default)]
struct Begun(HashSet<(PathBuf, Vec<u8>)>);

impl Begun {
    fn look(&mut self, node: &Node) {
        for entry in std::fs::read_dir(node.journal().join("recent")).expect("the folder of segments").flatten() {
            let mut frame = vec![0; 64];
            let file = std::fs::File::open(entry.path()).expect("a segment");
            file.read_exact_at(&mut frame, 4096).expect("a segment is longer than its first page");
            self.0.insert((entry.path(), frame));
        }
    }

    /// How often each segment was written over.
    fn again(&self) -> HashMap<&Path, usize> {
        let mut again = HashMap::new();
        self.0.iter().for_each(|(path, _)| *again.entry(path.as_path()).or_insert(0) += 1);
        again.values_mut().for_each(|times| *times -= 1);
        again
    }
}

/// Kills before a node may drain all that it has, so that its segments are written again.
const KILLS: u64 = 5;

/// One node with an attacker and honest clients over some kills; whether all that was acknowledged is there once.
async fn rounds_of_kills(seed: u64, recent_bytes: &str, kills: u64, proof: &mut Proof) -> bool {
    let node = Node::new().set("flush.tick", "50ms").set("journal.recent_bytes", recent_bytes);
    let mut node = node.start().await;
    let (ledger, mut honest, mut begun) = (Ledger::default(), Vec::new(), Begun::default());
    for turn in 0..kills / KILLS {
        let of_turn = |plan: Plan| Plan { id: format!("{}-{turn}", plan.id), ..plan };
        let load = Load::start(&node.address(), sixteen_clients().map(of_turn));
        for round in turn * KILLS..(turn + 1) * KILLS {
            let mixed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(round * 7);
            let (kind, version) = (KINDS[(mixed % KINDS.len() as u64) as usize], 1 + (mixed >> 8 & 1) as u8);
            let ids = (round * 20) as u32..(round * 20 + 16) as u32;
            attack(&node, &ledger, of_kind(ids, kind, version)).await;
            begun.look(&node);
            load.more_acks(2_000).await;
            tokio::time::sleep(Duration::from_millis(mixed >> 16 & 127)).await;
            node.kill();
            begun.look(&node);
            node.restart().await;
            let position = next_position(&node, &ledger, &round.to_string()).await;
            assert!(position < END, "a position of {position}");
        }
        honest.push(load.finish().await);
        node.drained().await;
    }
    assert!(!node.stderr().contains("the journal is damaged"), "a sound journal was taken for a damaged one");
    let (rows, streams) = (node.stored().rows().await.expect("a sink"), node.stored().streams().await.expect("a sink"));
    // Each ledger knows its own ids alone.
    let turn_of = |id: &str| match id.split('-').next() {
        Some("att" | "numbered") => None,
        _ => id.rsplit('-').next().and_then(|turn| turn.parse::<usize>().ok()),
    };
    let mut clean = true;
    for (turn, ledger) in std::iter::once((None, &ledger)).chain(honest.iter().enumerate().map(|(n, l)| (Some(n), l))) {
        let rows: Vec<_> = rows.iter().filter(|row| turn_of(&row.id) == turn).cloned().collect();
        let streams: Vec<_> = streams.iter().filter(|stream| turn_of(&stream.id) == turn).cloned().collect();
        let verdict = ledger.compare(Form::Bytes, &rows, &streams);
        proof.verdict(0, &verdict);
        clean &= verdict.is_clean();
    }
    proof.injected(kills, 0);
    let again = begun.again();
    println!("{recent_bytes}: {kills} kills, segments were written over so often: {:?}", again.values());
    let most = again.values().copied().max().unwrap_or(0);
    assert!(most >= if proof::is_long() { 5 } else { 1 }, "a load that leaves the files as they are shows nothing");
    clean && node.audit().await["balanced"] == true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_attacker_reports_nothing_is_lost_over_kills_and_files_that_are_written_again() {
    let mut proof = Proof::new("SIGKILL with an attacker's reports, files written again");
    let mut clean = true;
    for recent_bytes in ["64KiB", "1GiB"] {
        clean &= rounds_of_kills(proof::seed(), recent_bytes, proof::rounds(10, 50), &mut proof).await;
    }
    proof.report();
    assert!(clean, "see the verdicts");
}
