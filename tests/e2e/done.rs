//! `done`: a durable marker, and an event once everything before it is in the sink.

use serde_json::{Value, json};

use crate::support::client::{Client, report};
use crate::support::node::Node;
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::eventually;

/// A node whose tick never comes: what leaves, leaves for its marker.
fn patient_node() -> Node {
    Node::new().set("flush.tick", "1h").set("flush.batch", 1_000)
}

async fn done(client: &mut Client, id: &str) -> Value {
    let ack = client.ask(format!(r#"{{"op":"done","id":"{id}","ref":"a2"}}"#)).await;
    assert_eq!(ack, json!({"op": "ack", "id": id, "ref": "a2", "code": 200}));
    client.reply().await
}

#[tokio::test]
async fn a_done_is_acknowledged_and_then_comes_its_event() {
    let node = patient_node().start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..3 {
        client.report("s", seq, "1").await;
    }
    let event = done(&mut client, "s").await;
    assert_eq!(event, json!({"op": "done", "id": "s", "ref": "a2", "code": 200, "reports": 3, "dead": 0}));
    // All of it is in the sink when the event comes, not some time after.
    assert_eq!(node.stored().rows_of("s").await.expect("a sink").len(), 3);
    let stream = node.stored().stream("s").await.expect("a stream");
    assert_eq!((stream.state.as_str(), stream.reports), ("done", 3));
}

on_each_server!(the_event_comes_after_the_rows_are_in_a_server);
async fn the_event_comes_after_the_rows_are_in_a_server(kind: Kind) {
    let server = Server::start(kind).await;
    let node = patient_node().set("sink.url", server.url()).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for round in 1..=20_u64 {
        client.send(report("s", round, "1")).await;
        client.send(r#"{"op":"done","id":"s"}"#).await;
        let ops: Vec<Value> = vec![client.reply().await, client.reply().await];
        assert!(ops.iter().all(|reply| reply["op"] == "ack"), "{ops:?}");
        let event = client.reply().await;
        assert_eq!((&event["op"], &event["reports"]), (&json!("done"), &json!(round)), "{event}");
        assert_eq!(node.stored().rows_of("s").await.expect("a sink").len() as u64, round);
    }
}

#[tokio::test]
async fn the_event_counts_rows_and_not_messages() {
    let node = patient_node().start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in [1, 2, 1, 2, 1] {
        client.report("s", seq, "1").await;
    }
    assert_eq!(done(&mut client, "s").await["reports"], 2);
    client.report("s", 2, "1").await;
    client.report("s", 3, "1").await;
    assert_eq!(done(&mut client, "s").await["reports"], 3);
}

#[tokio::test]
async fn the_event_counts_what_came_over_other_connections() {
    let node = patient_node().start().await;
    let mut first = Client::connect(node.ingest()).await;
    first.report("s", 1, "1").await;
    node.post(report("s", 2, "2")).await;
    let mut second = Client::connect(node.ingest()).await;
    second.report("s", 3, "3").await;
    assert_eq!(done(&mut second, "s").await["reports"], 3);
}

#[tokio::test]
async fn a_done_without_any_report_has_its_event_too() {
    let node = patient_node().start().await;
    let mut client = Client::connect(node.ingest()).await;
    assert_eq!(done(&mut client, "never").await["reports"], 0);
}

#[tokio::test]
async fn the_id_of_a_done_is_echoed_as_sent() {
    let node = patient_node().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let ack = client.ask(r#"{"op":"done","id":7}"#).await;
    assert_eq!(ack, json!({"op": "ack", "id": 7, "code": 200}));
    assert_eq!(client.reply().await, json!({"op": "done", "id": 7, "code": 200, "reports": 0, "dead": 0}));
}

#[tokio::test]
async fn a_later_report_opens_a_done_stream_again() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("s", 1, "1").await;
    done(&mut client, "s").await;
    client.report("s", 2, "2").await;
    node.drained().await;
    let stream = node.stored().stream("s").await.expect("a stream");
    assert_eq!((stream.state.as_str(), stream.reports), ("open", 2));
}

on_each_server!(a_done_survives_kill_nine);
async fn a_done_survives_kill_nine(kind: Kind) {
    let mut server = Server::start(kind).await;
    let mut node = patient_node().set("sink.url", server.url()).start().await;
    server.kill();
    let mut client = Client::connect(node.ingest()).await;
    client.report("s", 1, "1").await;
    let ack = client.ask(r#"{"op":"done","id":"s"}"#).await;
    assert_eq!(ack["code"], 200, "{ack}");
    node.kill();
    server.restart().await;
    node.restart().await;
    let stream = eventually("the state done", async || {
        let stream = node.stored().stream("s").await?;
        if stream.state == "done" { Ok(stream) } else { Err(format!("it is {stream:?}")) }
    });
    assert_eq!(stream.await.reports, 1);
}

/// All in one message, and so most likely in one commit.
#[tokio::test]
async fn a_marker_never_overtakes_the_reports_before_it() {
    let node = patient_node().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let reports: Vec<_> = (0..3).map(|seq| report("s", seq, "1")).collect();
    let acks = client.ask(format!(r#"[{},{{"op":"done","id":"s"}}]"#, reports.join(","))).await;
    assert!(acks.as_array().is_some_and(|acks| acks.len() == 4 && acks.iter().all(|ack| ack["op"] == "ack")), "{acks}");
    assert_eq!(client.reply().await["reports"], 3);
    let stream = node.stored().stream("s").await.expect("a stream");
    assert_eq!((stream.state.as_str(), stream.reports), ("done", 3));
}
