//! An ack comes after its report is on the disk, by the system calls; a sync that fails is the end.

use std::path::PathBuf;

use serde_json::json;

use crate::limits::DEAD;
use crate::support::client::{Client, Incoming};
use crate::support::http;
use crate::support::node::Node;
use crate::support::raw::{Frame, Raw, TEXT};
use crate::support::strace::{self, Call};

const WATCHED: &str = "trace=fsync,fdatasync,sync_file_range,read,readv,recvfrom,recvmsg,\
                       write,writev,sendto,sendmsg,pwrite64,pwritev,pwritev2,fallocate";

/// A node under strace, with a sink at which nobody listens: every sync is the journal's own.
fn traced(more: &[&str]) -> (Node, PathBuf) {
    let mut node = Node::new().set("sink.url", DEAD);
    let log = node.folder().join("strace.log");
    let command = strace::command(&log, &[&["-e", WATCHED], more].concat());
    node.under(&command.iter().map(String::as_str).collect::<Vec<_>>());
    (node, log)
}

/// Whether the call carries this ref; strace escapes quotes.
fn carries(call: &Call, reference: &str) -> bool {
    call.text.contains(&format!(r#"\"ref\":\"{reference}\""#))
}

fn is_ack(call: &Call) -> bool {
    call.writes() && call.text.contains(r#"\"op\":\"ack\""#)
}

/// Between the last byte of the report and the first of its ack, the journal's file was written, and then synced.
fn assert_synced_before_ack(calls: &[Call], node: &Node, reference: &str) {
    let ack = calls.iter().find(|call| is_ack(call) && carries(call, reference));
    let ack = ack.unwrap_or_else(|| panic!("no write of the ack of {reference}"));
    let arrival = calls.iter().find(|call| call.reads() && carries(call, reference));
    let arrival = arrival.unwrap_or_else(|| panic!("no read of {reference}")).ended;
    let between = |call: &&Call| call.began > arrival && call.ended < ack.began && call.succeeded();
    let journal = node.journal();
    let write = calls.iter().filter(between).find(|call| call.writes() && call.on_journal(&journal));
    let write = write.unwrap_or_else(|| panic!("{reference}: the journal was not written before {ack:?}")).ended;
    let sync =
        calls.iter().filter(between).find(|call| call.syncs() && call.on_journal(&journal) && call.began > write);
    assert!(sync.is_some(), "{reference}: the journal was not synced after line {write} and before {ack:?}");
}

#[tokio::test]
async fn an_ack_is_written_only_after_the_journals_file_was_synced() {
    let (node, log) = traced(&[]);
    let mut node = node.start().await;
    // A mask of zeros leaves the messages readable in the trace.
    let mut raw = Raw::connect(node.ingest()).await;
    for n in 0..30 {
        let text = format!(r#"{{"op":"report","id":"s{}","seq":{n},"ref":"ws-{n}-","data":{n}}}"#, n % 3);
        raw.send(Frame { mask: Some([0; 4]), ..Frame::text(&text) }).await;
        let reply = raw.next().await.expect("an ack");
        assert_eq!((reply.opcode, &reply.json()["code"]), (TEXT, &json!(200)));
    }
    for n in 0..10 {
        node.post(format!(r#"{{"op":"report","id":"p","seq":{n},"ref":"post-{n}-","data":{n}}}"#)).await;
    }
    let done = r#"{"op":"done","id":"s0","ref":"marker-"}"#;
    raw.send(Frame { mask: Some([0; 4]), ..Frame::text(done) }).await;
    assert_eq!(raw.next().await.expect("an ack").json()["code"], 200);
    node.kill();
    let calls = strace::finished(&log).await;
    for n in 0..30 {
        assert_synced_before_ack(&calls, &node, &format!("ws-{n}-"));
    }
    for n in 0..10 {
        assert_synced_before_ack(&calls, &node, &format!("post-{n}-"));
    }
    assert_synced_before_ack(&calls, &node, "marker-");
}

#[tokio::test]
async fn the_journals_files_and_folders_are_synced_before_the_first_ack() {
    let (node, log) = traced(&[]);
    let mut node = node.start().await;
    node.post(r#"{"op":"report","id":"s","ref":"first-"}"#).await;
    node.kill();
    let calls = strace::finished(&log).await;
    let ack = calls.iter().find(|call| is_ack(call)).expect("a write of the ack").began;
    let journal = node.journal();
    let parent = journal.parent().expect("the journal's folder is in one").to_owned();
    for path in [journal.join("conf"), journal.join("db"), journal.join("recent"), journal.clone(), parent] {
        let name = format!("<{}>", path.display());
        let synced = |call: &&Call| call.syncs() && call.succeeded() && call.ended < ack && call.text.contains(&name);
        assert!(calls.iter().any(|call| synced(&call)), "{name} was not synced before the first ack");
    }
}

#[tokio::test]
async fn a_new_file_of_bundles_has_its_name_on_disk_before_an_ack_that_is_in_it() {
    let (node, log) = traced(&[]);
    let mut node = node.start().await;
    let data = "x".repeat(60_000);
    for n in 0..40 {
        node.post(format!(r#"{{"op":"report","id":"s","seq":{n},"data":"{data}"}}"#)).await;
    }
    node.kill();
    let calls = strace::finished(&log).await;
    let folder = node.journal().join("recent");
    let [second, name] = [folder.join("0001"), folder].map(|path| format!("<{}>", path.display()));
    let makes = |call: &&Call| (call.name == "fallocate" || call.writes()) && call.text.contains(&second);
    let made = calls.iter().find(makes).expect("a second file");
    let ack = calls.iter().find(|call| is_ack(call) && call.began > made.began).expect("an ack behind it").began;
    let synced = |call: &Call| call.syncs() && call.succeeded() && call.began > made.began && call.ended < ack;
    assert!(calls.iter().any(|call| synced(call) && call.text.contains(&name)), "{name} was not synced before the ack");
}

#[tokio::test]
async fn no_ack_comes_after_a_sync_that_failed_and_the_node_ends_with_an_error() {
    // One single sync of its thread fails, all others work: to go on would look well.
    let (node, log) = traced(&["-e", "inject=fdatasync:error=EIO:when=12"]);
    let mut node = node.start().await;
    let mut client = Client::connect(node.ingest()).await;
    let mut acked = 0;
    loop {
        client.send(format!(r#"{{"op":"report","id":"s","seq":{acked},"data":{acked}}}"#)).await;
        match client.next().await {
            Incoming::Reply(reply) if reply["op"] == "ack" => acked += 1,
            other => break println!("after {acked} acks: {other:?}"),
        }
        assert!(acked < 1_000, "no sync failed: the journal is not synced by fdatasync");
    }
    let address = node.ingest();
    let late = http::request(address, "POST", "/reports", &[], br#"{"op":"report","id":"late","seq":1}"#).await;
    assert!(late.is_err() || late.is_ok_and(|answer| answer.status >= 500), "nothing is taken any more");
    let status = node.ended().await;
    assert!(status.code().is_some_and(|code| code != 0), "it ended with {status}");
    let calls = strace::finished(&log).await;
    let failed = calls.iter().find(|call| call.name == "fdatasync" && call.text.contains("EIO"));
    let failed = failed.expect("the sync that failed").ended;
    let late: Vec<&Call> = calls.iter().filter(|call| is_ack(call) && call.began > failed).collect();
    assert!(late.is_empty(), "acks after the sync that failed: {late:?}");
    assert!(node.stderr().contains("ERROR"), "the node says so");
    node.under(&[]);
    let sqlite = format!("sqlite:{}", node.sqlite_file().display());
    node.change("sink.url", sqlite);
    node.restart().await;
    node.drained().await;
    let found: Vec<u64> = node.stored().rows_of("s").await.expect("a sink").iter().map(|row| row.seq).collect();
    let wanted: Vec<u64> = (0..acked).collect();
    assert!(found.starts_with(&wanted), "{acked} acked, these are there: {found:?}");
}
