//! Limits that refuse a report with a reason, and take it again when there is room.

use serde_json::{Value, json};

use crate::support::client::{Client, report};
use crate::support::node::Node;
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::eventually;

/// A sink at which nobody listens: port 1 of the loopback.
pub const DEAD: &str = "mysql://nobody:nothing@127.0.0.1:1/none";

fn assert_refused(reply: &Value, code: u64, error: &str) {
    assert_eq!(
        (&reply["op"], &reply["code"], &reply["error"]),
        (&json!("error"), &json!(code), &json!(error)),
        "{reply}"
    );
    assert!(reply["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "it says when to retry: {reply}");
}

#[tokio::test]
async fn a_sink_that_is_down_stops_neither_start_nor_acks() {
    let node = Node::new().set("sink.url", DEAD).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..50 {
        client.report("waiting", seq, "1").await;
    }
    let audit = node.audit().await;
    assert_eq!(
        (&audit["backlog"], &audit["dead"], &audit["balanced"]),
        (&json!(50), &json!(0), &json!(true)),
        "{audit}"
    );
}

#[tokio::test]
async fn an_id_at_its_backlog_limit_is_refused_and_the_others_are_not() {
    let node = Node::new().set("sink.url", DEAD).set("journal.max_backlog_per_id", 5).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..5 {
        client.report("full", seq, "1").await;
    }
    let reply = client.ask(r#"{"op":"report","id":"full","seq":5,"ref":"sixth"}"#).await;
    assert_refused(&reply, 429, "backlog_full");
    assert_eq!((&reply["id"], &reply["ref"]), (&json!("full"), &json!("sixth")), "{reply}");
    client.report("other", 1, "1").await;
    assert_eq!(node.audit().await["accepted"], 6);
}

#[tokio::test]
async fn a_backlog_limit_holds_for_reports_that_come_at_once() {
    let node = Node::new().set("sink.url", DEAD).set("journal.max_backlog_per_id", 5).start().await;
    let mut client = Client::connect(node.ingest()).await;
    let all: Vec<String> = (0..12).map(|seq| report("full", seq, "1")).collect();
    let replies = client.ask(format!("[{}]", all.join(","))).await;
    let codes: Vec<u64> = replies.as_array().expect("an array").iter().filter_map(|r| r["code"].as_u64()).collect();
    assert_eq!(codes, [[200; 5].as_slice(), [429; 7].as_slice()].concat());
    let audit = node.audit().await;
    assert_eq!((&audit["accepted"], &audit["backlog"]), (&json!(5), &json!(5)), "{audit}");
}

#[tokio::test]
async fn a_backlog_limit_holds_after_a_restart() {
    let mut node = Node::new().set("sink.url", DEAD).set("journal.max_backlog_per_id", 5).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..5 {
        client.report("full", seq, "1").await;
    }
    node.kill();
    node.restart().await;
    let mut client = Client::connect(node.ingest()).await;
    assert_refused(&client.ask(report("full", 5, "1")).await, 429, "backlog_full");
}

on_each_server!(a_refused_report_is_taken_once_the_backlog_has_drained);
async fn a_refused_report_is_taken_once_the_backlog_has_drained(kind: Kind) {
    let mut server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).set("journal.max_backlog_per_id", 5).start().await;
    server.kill();
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..5 {
        client.report("full", seq, "1").await;
    }
    assert_refused(&client.ask(report("full", 5, "1")).await, 429, "backlog_full");
    server.restart().await;
    let taken = eventually("the report to be taken", async || {
        let reply = client.ask(report("full", 5, "1")).await;
        if reply["code"] == 200 { Ok(()) } else { Err(format!("the reply is {reply}")) }
    });
    taken.await;
    node.drained().await;
    assert_eq!(node.stored().rows_of("full").await.expect("a sink").len(), 6);
}

on_each_server!(a_full_journal_refuses_reports_until_it_has_drained);
async fn a_full_journal_refuses_reports_until_it_has_drained(kind: Kind) {
    let mut server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).set("journal.max_bytes", "1MiB").start().await;
    server.kill();
    let mut client = Client::connect(node.ingest()).await;
    let data = format!("\"{}\"", "x".repeat(2_000));
    let mut kept = 0;
    let refusal = loop {
        let reply = client.ask(report(&format!("id-{}", kept % 7), kept, &data)).await;
        if reply["code"] != 200 {
            break reply;
        }
        kept += 1;
        assert!(kept < 1_000, "2 MB are in a journal of 1 MiB");
    };
    assert_refused(&refusal, 507, "journal_full");
    assert!(kept > 100, "{kept} reports of 2 kB filled a journal of 1 MiB");
    server.restart().await;
    node.drained().await;
    client.report("id-0", 10_000, &data).await;
    node.drained().await;
    assert_eq!(node.stored().rows().await.expect("a sink").len() as u64, kept + 1);
}

#[tokio::test]
async fn the_disks_reserve_is_not_used_up() {
    let node = Node::new().set("journal.min_free_disk", "1000TiB").start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..20 {
        assert_refused(&client.ask(report("reserve", seq, "1")).await, 507, "journal_full");
    }
    let audit = node.audit().await;
    assert_eq!((&audit["accepted"], &audit["backlog"]), (&json!(0), &json!(0)), "{audit}");
}
