//! Bytes that clients choose are never taken for the journal's own: reports that hold whole values of its format, in
//! files that are written over and then killed in the midst of it.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::crash::sixteen_clients;
use crate::support::client::{Client, report};
use crate::support::forge::{Forged, forged};
use crate::support::http;
use crate::support::ledger::{Ledger, Sent};
use crate::support::load::Load;
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

/// One node with an attacker and honest clients over some kills; what was acknowledged, and what was found.
async fn rounds_of_kills(seed: u64, recent_bytes: &str, kills: u64, proof: &mut Proof) -> Value {
    let node = Node::new().set("flush.tick", "50ms").set("journal.recent_bytes", recent_bytes);
    let mut node = node.start().await;
    let (load, ledger) = (Load::start(&node.address(), sixteen_clients()), Ledger::default());
    for round in 0..kills {
        let mixed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(round * 7);
        let (kind, version) = (KINDS[(mixed % KINDS.len() as u64) as usize], 1 + (mixed >> 8 & 1) as u8);
        let ids = (round * 20) as u32..(round * 20 + 16) as u32;
        attack(&node, &ledger, of_kind(ids, kind, version)).await;
        load.more_acks(2_000).await;
        tokio::time::sleep(Duration::from_millis(mixed >> 16 & 127)).await;
        node.kill();
        node.restart().await;
        let position = next_position(&node, &ledger, &round.to_string()).await;
        assert!(position < END, "a position of {position}");
    }
    // Clients book what they had on their way; the attacker's rows are unknown to their ledger, and theirs to his.
    let honest = load.finish().await;
    node.drained().await;
    assert!(!node.stderr().contains("the journal is damaged"), "a sound journal was taken for a damaged one");
    let (rows, streams) = (node.stored().rows().await.expect("a sink"), node.stored().streams().await.expect("a sink"));
    let is_of_attack = |id: &str| id.starts_with("att-") || id == "numbered";
    let (theirs, ours): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| is_of_attack(&row.id));
    let (their_streams, our_streams): (Vec<_>, Vec<_>) = streams.into_iter().partition(|s| is_of_attack(&s.id));
    let mut clean = true;
    for verdict in
        [ledger.compare(Form::Bytes, &theirs, &their_streams), honest.compare(Form::Bytes, &ours, &our_streams)]
    {
        proof.verdict(0, &verdict);
        clean &= verdict.is_clean();
    }
    proof.injected(kills, 0);
    node.audit().await["balanced"].as_bool().filter(|_| clean).into()
}

/// `FOREBAY_FORGED_ROUNDS` kills in all, ten a node, by turns with small and usual `recent_bytes`. Each ten are a line
/// of the file that `FOREBAY_FORGED_RESULTS` names, and are not done again for the same commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_attacker_reports_nothing_is_lost_over_kills_and_files_that_are_written_again() {
    const KILLS: u64 = 10;
    let given = std::env::var("FOREBAY_FORGED_ROUNDS").ok();
    let rounds = given.map_or(proof::rounds(KILLS, 1_000), |rounds| rounds.parse().expect("a number of kills"));
    let commit = commit();
    let mut proof = Proof::new("SIGKILL with an attacker's reports, files written again");
    let mut failed = Vec::new();
    for seed in done(&commit)..rounds.div_ceil(KILLS) {
        let recent_bytes = if seed % 2 == 0 { "64KiB" } else { "1GiB" };
        let outcome = rounds_of_kills(seed, recent_bytes, KILLS.min(rounds), &mut proof).await;
        note(&format!(
            "{seed}\t{commit}\t{recent_bytes}\t{KILLS} kills\t{}",
            if outcome == true { "clean" } else { "BAD" }
        ));
        if outcome != true {
            failed.push(seed);
        }
    }
    proof.report();
    assert!(failed.is_empty(), "bad seeds: {failed:?}");
}

fn commit() -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let head = std::process::Command::new("git").args(["-C", root, "rev-parse", "--short", "HEAD"]).output();
    head.map_or_else(|_| "unknown".to_owned(), |head| String::from_utf8_lossy(&head.stdout).trim().to_owned())
}

fn results() -> Option<std::path::PathBuf> {
    std::env::var_os("FOREBAY_FORGED_RESULTS").map(Into::into)
}

/// How many nodes of this commit the results have.
fn done(commit: &str) -> u64 {
    let text = results().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    text.lines().filter(|line| line.split('\t').nth(1) == Some(commit)).count() as u64
}

fn note(line: &str) {
    if let Some(path) = results() {
        let mut file = File::options().append(true).create(true).open(path).expect("the file of results opens");
        writeln!(file, "{line}").expect("the file of results can be written");
    }
}
