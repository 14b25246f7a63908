//! SIGTERM: nothing new, answers for what is durable, 1001, a drain, exit 0.

use serde_json::json;

use crate::crash::sixteen_clients;
use crate::limits::DEAD;
use crate::support::client::{Client, Incoming, report};
use crate::support::load::Load;
use crate::support::node::Node;
use crate::support::raw::Raw;
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::strace;

on_each_server!(sigterm_under_load_exits_zero_and_every_acked_report_is_there);
async fn sigterm_under_load_exits_zero_and_every_acked_report_is_there(kind: Kind) {
    let server = Server::start(kind).await;
    let mut node = Node::new().set("sink.url", server.url()).start().await;
    let load = Load::start(&node.address(), sixteen_clients());
    for _ in 0..3 {
        load.more_acks(300).await;
        let status = node.terminate().await;
        assert_eq!(status.code(), Some(0), "{}", node.stderr());
        node.restart().await;
    }
    load.finish().await.settle(&node).await.assert_clean();
}

#[tokio::test]
async fn sigterm_closes_connections_with_1001() {
    let mut node = Node::new().start().await;
    let mut idle = Raw::connect(node.ingest()).await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("s", 1, "1").await;
    node.ask_to_stop();
    assert_eq!(client.close_code().await, 1001);
    let (_, code) = idle.until_closed().await;
    assert_eq!(code, Some(1001));
    assert_eq!(node.ended().await.code(), Some(0));
}

#[tokio::test]
async fn every_report_that_was_sent_before_sigterm_is_answered_or_not_kept() {
    let mut node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..2_000 {
        client.send(report("s", seq, "1")).await;
    }
    client.reply().await;
    node.ask_to_stop();
    let (mut acked, mut refused) = (1, 0);
    loop {
        match client.next().await {
            Incoming::Reply(reply) if reply["op"] == "ack" => acked += 1,
            Incoming::Reply(reply) => {
                assert_eq!((&reply["code"], &reply["error"]), (&json!(503), &json!("shutting_down")), "{reply}");
                refused += 1;
            }
            Incoming::Closed(code) => break assert_eq!(code, 1001),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(node.ended().await.code(), Some(0));
    let rows = node.stored().rows().await.expect("a sink").len();
    assert!(rows >= acked, "{acked} acked, {refused} refused, {rows} rows");
    assert!(rows <= 2_000 - refused, "{acked} acked, {refused} refused, {rows} rows");
}

on_each_server!(shutdown_drains_what_its_tick_has_not_come_for);
async fn shutdown_drains_what_its_tick_has_not_come_for(kind: Kind) {
    let server = Server::start(kind).await;
    let mut node = Node::new().set("sink.url", server.url()).set("flush.tick", "1h").set("shutdown.drain", "60s");
    node = node.start().await;
    node.post(report("s", 1, "1")).await;
    node.post(report("t", 1, "1")).await;
    assert_eq!(node.terminate().await.code(), Some(0));
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 2);
}

#[tokio::test]
async fn what_cannot_be_drained_stays_for_the_next_start() {
    let mut node = Node::new().set("sink.url", DEAD).set("shutdown.drain", "500ms").start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..30 {
        client.report("s", seq, "1").await;
    }
    assert_eq!(node.terminate().await.code(), Some(0));
    let sqlite = format!("sqlite:{}", node.sqlite_file().display());
    node.change("sink.url", sqlite);
    node.restart().await;
    assert_eq!(node.audit().await["recovered"], 30);
    node.drained().await;
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 30);
}

#[tokio::test]
async fn a_second_signal_ends_the_drain_at_once() {
    let mut node = Node::new().set("sink.url", DEAD).set("shutdown.drain", "1h").start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..5 {
        client.report("s", seq, "1").await;
    }
    node.ask_to_stop();
    // The first signal has been heard when connections close.
    assert_eq!(client.close_code().await, 1001);
    node.ask_to_stop();
    println!("ended with {}", node.ended().await);
    node.restart().await;
    assert_eq!(node.audit().await["recovered"], 5);
}

/// sled syncs once more when its files are closed, after the last commit. That this failed was once swallowed: somebody
/// else still had the journal then, and the node ended with 0.
#[tokio::test]
async fn a_sync_that_fails_last_when_the_journal_is_closed_is_said_and_ends_the_node_with_an_error() {
    let mut node = Node::new().set("sink.url", DEAD).set("shutdown.drain", "10ms").start().await;
    Client::connect(node.ingest()).await.report("s", 1, "1").await;
    // Commits are synced with fdatasync, which goes on to work.
    let strace = strace::attach(node.pid(), &["-e", "trace=fsync", "-e", "inject=fsync:error=EIO"]).await;
    assert_eq!(node.terminate().await.code(), Some(1), "{}", node.stderr());
    drop(strace);
    assert!(node.stderr().contains("Input/output error"), "{}", node.stderr());
    node.restart().await;
    assert_eq!(node.audit().await["recovered"], 1, "what was acknowledged is there");
}
