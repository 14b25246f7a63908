//! `GET /ws?events=dead`: who sent a report is told that it is a dead letter, if it asked for that.

use serde_json::{Value, json};

use crate::support::client::{Client, report};
use crate::support::node::Node;

async fn connect(node: &Node) -> Client {
    let url = format!("ws://{}/ws?events=dead", node.ingest());
    Client::connect_to(&url, &[]).await.expect("the node takes a WebSocket")
}

async fn done(client: &mut Client, id: &str) -> Vec<Value> {
    client.send(format!(r#"{{"op":"done","id":"{id}"}}"#)).await;
    let mut replies = vec![client.reply().await];
    while replies.last().is_none_or(|reply| reply["op"] != "done") {
        replies.push(client.reply().await);
    }
    replies
}

#[tokio::test]
async fn who_asked_is_told_of_its_own_reports_that_are_dead_letters_and_nobody_else() {
    let mut node = Node::new().set("flush.tick", "1h").start().await;
    let (mut first, mut asked, mut silent) =
        (connect(&node).await, connect(&node).await, Client::connect(node.ingest()).await);
    first.report("gate", 1, "1").await;
    first.report("gate", 2, "1").await;
    assert_eq!(done(&mut first, "gate").await.last().expect("an event")["dead"], 0);
    // Three use numbers that are taken; two of them asked.
    asked.report("gate", 1, "2").await;
    silent.report("gate", 2, "3").await;
    asked.report("gate", 3, "4").await;
    let replies = done(&mut asked, "gate").await;
    let dead = json!({"op": "dead", "id": "gate", "source": 0, "seq": 1, "kind": "key_taken"});
    assert_eq!(replies.iter().filter(|reply| reply["op"] == "dead").collect::<Vec<_>>(), [&dead], "{replies:?}");
    let event = replies.last().expect("an event");
    assert_eq!((&event["reports"], &event["dead"]), (&json!(3), &json!(2)), "{event}");
    assert!(
        done(&mut silent, "gate").await.iter().all(|reply| reply["op"] != "dead"),
        "clients of today see nothing new"
    );
    assert!(done(&mut first, "gate").await.iter().all(|reply| reply["op"] != "dead"), "they were none of its own");
    // How many there are outlives the process.
    drop((first, asked, silent));
    node.kill();
    node.restart().await;
    let mut late = Client::connect(node.ingest()).await;
    assert_eq!(done(&mut late, "gate").await.last().expect("an event")["dead"], 2);
    let text = report("gate", 4, "1");
    assert_eq!(late.ask(text).await["op"], "ack");
}

#[tokio::test]
async fn the_parameter_of_a_handshake_is_checked() {
    let node = Node::new().start().await;
    for (query, taken) in
        [("?events=dead", true), ("?x=1&events=dead", true), ("?later=1", true), ("?events=all", false)]
    {
        let url = format!("ws://{}/ws{query}", node.ingest());
        assert_eq!(Client::connect_to(&url, &[]).await.is_ok(), taken, "{query}");
    }
}
