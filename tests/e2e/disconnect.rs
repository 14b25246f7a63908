//! What the end of a connection means for the ids that reported over it.

use crate::support::client::Client;
use crate::support::node::{A_WHILE, Node};
use crate::support::wait::{eventually, same};

async fn state_becomes(node: &Node, id: &str, wanted: &str) {
    let found = eventually("the stream's state", async || {
        let stream = node.stored().stream(id).await?;
        same(stream.state.as_str(), wanted)
    });
    found.await;
}

/// Nobody may change the state for a while.
async fn state_stays(node: &Node, id: &str, wanted: &str) {
    node.drained().await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(node.stored().stream(id).await.expect("a stream").state, wanted);
}

#[tokio::test]
async fn a_connection_that_ends_marks_its_ids_disconnected() {
    let node = Node::new().set("flush.tick", "1h").start().await;
    let (mut client, mut lost) = (Client::connect(node.ingest()).await, Client::connect(node.ingest()).await);
    client.report("closed-1", 1, "1").await;
    client.report("closed-2", 1, "1").await;
    lost.report("lost", 1, "1").await;
    client.close().await;
    drop(lost);
    for id in ["closed-1", "closed-2", "lost"] {
        state_becomes(&node, id, "disconnected").await;
        assert_eq!(node.stored().rows_of(id).await.expect("a sink").len(), 1, "the marker overtook no report");
    }
}

#[tokio::test]
async fn an_id_on_another_connection_is_not_disconnected() {
    let node = Node::new().start().await;
    let (mut first, mut second) = (Client::connect(node.ingest()).await, Client::connect(node.ingest()).await);
    first.report("shared", 1, "1").await;
    first.report("witness", 1, "1").await;
    second.report("shared", 2, "2").await;
    first.close().await;
    state_becomes(&node, "witness", "disconnected").await;
    state_stays(&node, "shared", "open").await;
    second.close().await;
    state_becomes(&node, "shared", "disconnected").await;
}

#[tokio::test]
async fn a_done_stream_is_not_disconnected() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("finished", 1, "1").await;
    client.report("witness", 1, "1").await;
    client.ask(r#"{"op":"done","id":"finished"}"#).await;
    client.close().await;
    state_becomes(&node, "witness", "disconnected").await;
    state_stays(&node, "finished", "done").await;
}

#[tokio::test]
async fn a_stream_reopened_after_its_done_is_disconnected() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("again", 1, "1").await;
    client.ask(r#"{"op":"done","id":"again"}"#).await;
    client.send(crate::support::client::report("again", 2, "2")).await;
    // The event and the ack, in either order.
    client.reply().await;
    client.reply().await;
    client.close().await;
    state_becomes(&node, "again", "disconnected").await;
}

#[tokio::test]
async fn a_later_report_opens_a_disconnected_stream_again() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("back", 1, "1").await;
    client.close().await;
    state_becomes(&node, "back", "disconnected").await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("back", 2, "2").await;
    state_becomes(&node, "back", "open").await;
}

#[tokio::test]
async fn a_disconnect_can_be_ignored() {
    let node = Node::new().set("on_disconnect", "ignore").start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("ignored", 1, "1").await;
    client.close().await;
    state_stays(&node, "ignored", "open").await;
}
