//! SIGHUP: other settings, tokens and certificates while the node runs, all or nothing.

use crate::access::token;
use crate::support::client::{Client, Incoming, report};
use crate::support::http;
use crate::support::node::Node;
use crate::support::tls::certificate;
use crate::support::wait::{eventually, same};

const DONE: &str = "were read anew";
const NOTHING: &str = "nothing was changed by SIGHUP";

#[tokio::test]
async fn tokens_limits_and_log_level_change_while_connections_stay() {
    let [(old, old_entry), (new, new_entry)] = [(); 2].map(|()| token(&["--name", "gateway"]));
    let mut node = Node::new();
    let file = node.folder().join("tokens.toml");
    std::fs::write(&file, &old_entry).expect("a file");
    node.change("access.tokens", file.display().to_string());
    let mut node = node.start().await;
    let [old, new] = [old, new].map(|token| format!("Bearer {token}"));
    let connect = async |token: &str| Client::connect_with(node.ingest(), &[("authorization", token)]).await;
    let mut before = connect(&old).await.expect("let in");
    before.report("a", 1, "1").await;
    std::fs::write(&file, &new_entry).expect("a file");
    node.reload();
    node.said(DONE, 1).await;
    assert!(connect(&old).await.is_err(), "it was withdrawn");
    let mut after = connect(&new).await.expect("let in");
    after.report("a", 2, "1").await;
    assert_eq!(before.next().await, Incoming::Closed(1008));

    node.change("log.level", "debug");
    node.change("ingest.max_connections", 2);
    node.reload();
    node.said(DONE, 2).await;
    assert!(Client::connect_with(node.ingest(), &[("authorization", &new)]).await.is_err(), "two are there");
    drop(after);
    node.said("client leaves", 1).await;
}

/// It once stayed open: whoever had the token was answered with errors and pongs.
#[tokio::test]
async fn the_socket_of_a_withdrawn_token_is_closed_and_told_nothing_more() {
    let [(old, old_entry), (new, new_entry)] = [(); 2].map(|()| token(&["--name", "gateway"]));
    let (reads, reads_entry) = token(&["--name", "reads", "--scope", "admin-read"]);
    let mut node = Node::new().set("flush.tick", "1h");
    let file = node.folder().join("tokens.toml");
    std::fs::write(&file, old_entry + &reads_entry).expect("a file");
    node.change("access.tokens", file.display().to_string());
    let node = node.start().await;
    let [old, new, reads] = [old, new, reads].map(|token| format!("Bearer {token}"));
    let connect = async |token: &str| Client::connect_with(node.ingest(), &[("authorization", token)]).await;
    let (mut before, mut silent) = (connect(&old).await.expect("let in"), connect(&old).await.expect("let in"));
    before.report("a", 1, "1").await;
    assert_eq!(before.ask(r#"{"op":"done","id":"a"}"#).await["op"], "ack");
    assert_eq!(before.reply().await["op"], "done", "the sink is there");
    // It takes nothing while somebody else has its lock.
    let database = rusqlite::Connection::open(node.sqlite_file()).expect("the sink");
    database.execute_batch("BEGIN IMMEDIATE").expect("the lock is free");
    assert_eq!(before.ask(r#"{"op":"done","id":"a"}"#).await["op"], "ack");
    let headers = [("Authorization", old.as_str())];
    let body = br#"[{"op":"report","id":"b","seq":1},{"op":"done","id":"b"}]"#;
    let waiting = http::request(node.ingest(), "POST", "/reports?wait=300s", &headers, body);
    let accepted = async || {
        let headers = [("Authorization", reads.as_str())];
        let audit = http::request(node.admin(), "GET", "/api/v1/audit", &headers, b"").await.expect("an answer").json();
        same(&audit["accepted"], &2.into())
    };
    let withdrawn = async {
        eventually("the request to wait", accepted).await;
        std::fs::write(&file, new_entry + &reads_entry).expect("a file");
        node.hang_up();
        node.said(DONE, 1).await;
    };
    let (answer, ()) = tokio::join!(waiting, withdrawn);
    assert_eq!(answer.expect("an answer").status, 202, "it waits no longer, and is told what was kept");
    before.send(r#"{"op":"ping"}"#).await;
    before.send(report("a", 2, "1")).await;
    assert_eq!(before.next().await, Incoming::Closed(1008));
    assert_eq!(silent.next().await, Incoming::Closed(1008));
    let mut after = connect(&new).await.expect("let in");
    assert_eq!(after.ask(r#"{"op":"done","id":"a"}"#).await["op"], "ack");
    database.execute_batch("ROLLBACK").expect("the lock is given back");
    assert_eq!(after.reply().await["op"], "done");
    assert!(matches!(before.next().await, Incoming::Lost(_)), "nothing follows");
    assert_eq!(node.stored().rows_of("a").await.expect("a sink").len(), 1, "what came later was not taken");
}

#[tokio::test]
async fn a_reload_with_a_fault_changes_nothing_and_says_why() {
    let (good, entry) = token(&[]);
    let mut node = Node::new();
    let file = node.folder().join("tokens.toml");
    std::fs::write(&file, &entry).expect("a file");
    node.change("access.tokens", file.display().to_string());
    let mut node = node.start().await;
    let good = format!("Bearer {good}");

    std::fs::write(&file, "[[token]]\nname = 7\n").expect("a file");
    node.reload();
    node.said(NOTHING, 1).await;
    assert!(node.stderr().contains("line 2"), "{}", node.stderr());

    std::fs::write(&file, "").expect("a file");
    node.change("journal.lanes", 7);
    node.reload();
    node.said("these want a restart: journal.lanes = 7", 1).await;

    node.change("journal.lanes", 256);
    node.change("flush.batch", "many");
    node.reload();
    node.said(NOTHING, 3).await;
    let mut client = Client::connect_with(node.ingest(), &[("authorization", &good)]).await.expect("still let in");
    client.report("a", 1, "1").await;
}

#[tokio::test]
async fn another_certificate_is_served_to_those_who_come_after() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = certificate(folder.path(), "own", 2100);
    let mut node = Node::new()
        .set("ingest.tls_cert", old.cert.display().to_string())
        .set("ingest.tls_key", old.key.display().to_string());
    node.launch().await;
    old.connect(node.ingest()).await.expect("the old one");
    let new = certificate(folder.path(), "own", 2101);
    node.reload();
    node.said(DONE, 1).await;
    new.connect(node.ingest()).await.expect("the new one");
    assert!(old.connect(node.ingest()).await.is_err(), "the old one is gone");
}

/// Without its file all would be at its default: no tokens, another journal.
#[tokio::test]
async fn a_reload_without_the_file_that_was_there_at_the_start_changes_nothing_and_says_why() {
    for node in [Node::new(), Node::new().untold()] {
        let node = node.set("log.level", "debug").start().await;
        std::fs::remove_file(node.config_file()).expect("it was there");
        node.hang_up();
        node.said(NOTHING, 1).await;
        let said = node.stderr();
        assert!(said.contains("cannot read the configuration file") && said.contains("forebay.toml"), "{said}");
        Client::connect(node.ingest()).await.report("a", 1, "1").await;
        node.said("client leaves", 1).await;
    }
}
