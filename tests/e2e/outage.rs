//! A sink that is down, slow or locked stops no ack; nothing is lost, and no person is needed after.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::crash::sixteen_clients;
use crate::support::client::Client;
use crate::support::load::Load;
use crate::support::node::Node;
use crate::support::proof::{self, Proof};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::eventually;

async fn sink_becomes(node: &Node, wanted: &[&str]) {
    let state = eventually("the sink's state", async || {
        let status = node.admin_json("/api/v1/status").await;
        let state = status["sink"]["state"].as_str().unwrap_or("missing").to_owned();
        if wanted.contains(&state.as_str()) { Ok(()) } else { Err(format!("it is {status}, not one of {wanted:?}")) }
    });
    state.await;
}

fn outage() -> Duration {
    let given = std::env::var("FOREBAY_OUTAGE_SECONDS").ok();
    Duration::from_secs(given.map_or(proof::rounds(5, 60), |seconds| seconds.parse().expect("a number of seconds")))
}

on_each_server!(acks_go_on_while_the_server_is_down_and_the_backlog_drains_by_itself);
async fn acks_go_on_while_the_server_is_down_and_the_backlog_drains_by_itself(kind: Kind) {
    let mut server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    let load = Load::start(&node.address(), sixteen_clients());
    load.more_acks(500).await;
    server.kill();
    sink_becomes(&node, &["down"]).await;
    let before = load.ledger.acks();
    load.more_acks(500).await;
    tokio::time::sleep(outage()).await;
    load.more_acks(500).await;
    println!("{} acks while the sink was down", load.ledger.acks() - before);
    server.restart().await;
    load.more_acks(500).await;
    let ledger = load.finish().await;
    let verdict = ledger.settle(&node).await;
    let mut proof = Proof::on(kind, "the server away under load");
    proof.verdict(1, &verdict);
    proof.report();
    verdict.assert_clean();
    sink_becomes(&node, &["up"]).await;
}

on_each_server!(acks_go_on_while_the_server_says_nothing);
async fn acks_go_on_while_the_server_says_nothing(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).set("sink.timeout", "1s").start().await;
    let load = Load::start(&node.address(), sixteen_clients());
    load.more_acks(500).await;
    server.pause();
    load.more_acks(2_000).await;
    sink_becomes(&node, &["down"]).await;
    load.more_acks(500).await;
    server.resume();
    load.finish().await.settle(&node).await.assert_clean();
}

on_each_server!(a_read_only_sink_loses_nothing);
async fn a_read_only_sink_loses_nothing(kind: Kind) {
    let server = Server::start(kind).await;
    server.run(&["CREATE USER plain@'127.0.0.1'", "GRANT ALL ON forebay.* TO plain@'127.0.0.1'"]).await;
    let url = server.url().replace("root@", "plain@");
    let node = Node::new().set("sink.url", url).start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("before", 1, "1").await;
    node.drained().await;
    server.run(&["SET GLOBAL read_only = 1"]).await;
    client.report("during", 1, "1").await;
    sink_becomes(&node, &["down", "blocked"]).await;
    let audit = node.audit().await;
    assert_eq!((&audit["backlog"], &audit["dead"]), (&1.into(), &0.into()), "{audit}");
    server.run(&["SET GLOBAL read_only = 0"]).await;
    let audit = node.drained().await;
    assert_eq!(audit["stored"], 2, "{audit}");
}

on_each_server!(a_wrong_password_blocks_the_sink_until_it_is_right_and_loses_nothing);
async fn a_wrong_password_blocks_the_sink_until_it_is_right_and_loses_nothing(kind: Kind) {
    let server = Server::start(kind).await;
    server.run(&["CREATE USER u@'127.0.0.1' IDENTIFIED BY 'another'", "GRANT ALL ON forebay.* TO u@'127.0.0.1'"]).await;
    let url = server.url().replace("root@", "u:hunter2-secret@");
    let node = Node::new().set("sink.url", url).start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("blocked", 1, "1").await;
    sink_becomes(&node, &["blocked"]).await;
    let status = node.admin_json("/api/v1/status").await;
    assert!(status["sink"]["last_error"].is_string(), "it says why: {status}");
    assert_eq!((&status["audit"]["backlog"], &status["audit"]["dead"]), (&1.into(), &0.into()), "{status}");
    server.run(&["ALTER USER u@'127.0.0.1' IDENTIFIED BY 'hunter2-secret'"]).await;
    let audit = node.drained().await;
    assert_eq!(audit["stored"], 1, "{audit}");
    let said = format!("{}{status}", node.stderr());
    assert!(!said.contains("hunter2"), "a password is never said");
}

on_each_server!(a_table_that_vanishes_loses_nothing);
async fn a_table_that_vanishes_loses_nothing(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("before", 1, "1").await;
    node.drained().await;
    server.run(&["RENAME TABLE reports TO hidden"]).await;
    client.report("during", 1, "1").await;
    sink_becomes(&node, &["blocked"]).await;
    let audit = node.audit().await;
    assert_eq!((&audit["backlog"], &audit["dead"]), (&1.into(), &0.into()), "{audit}");
    server.run(&["RENAME TABLE hidden TO reports"]).await;
    node.drained().await;
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 2);
}

on_each_server!(a_locked_table_delays_reports_and_loses_none);
async fn a_locked_table_delays_reports_and_loses_none(kind: Kind) {
    let server = Server::start_with(kind, &["--innodb-lock-wait-timeout=1", "--lock-wait-timeout=1"]).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("locked", 1, "1").await;
    node.drained().await;
    let mut holder = server.conn().await;
    holder.query_drop("BEGIN").await.expect("a transaction");
    holder.query_drop("UPDATE report_streams SET state = state WHERE id = 'locked'").await.expect("a statement");
    holder.query_drop("SELECT * FROM reports FOR UPDATE").await.expect("a statement");
    for seq in 2..30 {
        client.report("locked", seq, "1").await;
    }
    // Long enough for lock waits to time out at the server.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    holder.query_drop("ROLLBACK").await.expect("a statement");
    let audit = node.drained().await;
    assert_eq!(audit["dead"], 0, "{audit}");
    assert_eq!(node.stored().stream("locked").await.expect("a stream").reports, 29);
}

on_each_server!(a_batch_on_its_way_to_a_dead_server_survives_kill_nine);
/// A batch that a transaction was tried with, and not confirmed, is in the journal still.
async fn a_batch_on_its_way_to_a_dead_server_survives_kill_nine(kind: Kind) {
    let mut server = Server::start(kind).await;
    let mut node = Node::new().set("sink.url", server.url()).start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("s", 0, "0").await;
    node.drained().await;
    server.kill();
    for seq in 1..=10 {
        client.report("s", seq, "1").await;
    }
    sink_becomes(&node, &["down"]).await;
    // Its commit makes durable whatever was written before, right or wrong.
    client.report("another", 1, "1").await;
    node.kill();
    server.restart().await;
    node.restart().await;
    node.drained().await;
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 12);
}
