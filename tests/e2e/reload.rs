//! SIGHUP: other settings, tokens and certificates while the node runs, all or nothing.

use crate::access::token;
use crate::support::client::{Client, report};
use crate::support::node::Node;
use crate::support::tls::certificate;

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
    let reply = before.ask(report("a", 3, "1")).await;
    assert_eq!(reply["error"], "forbidden_id", "the connection outlives its token and may write nothing: {reply}");

    node.change("log.level", "debug");
    node.change("ingest.max_connections", 2);
    node.reload();
    node.said(DONE, 2).await;
    assert!(Client::connect_with(node.ingest(), &[("authorization", &new)]).await.is_err(), "two are there");
    drop(before);
    node.said("client leaves", 1).await;
}

#[tokio::test]
async fn a_token_that_is_withdrawn_gets_no_event_any_more() {
    let [(old, old_entry), (new, new_entry)] = [(); 2].map(|()| token(&["--name", "gateway"]));
    let mut node = Node::new().set("flush.tick", "1h");
    let file = node.folder().join("tokens.toml");
    std::fs::write(&file, &old_entry).expect("a file");
    node.change("access.tokens", file.display().to_string());
    let node = node.start().await;
    let connect = async |token: &str| {
        let header = format!("Bearer {token}");
        Client::connect_with(node.ingest(), &[("authorization", &header)]).await.expect("let in")
    };
    let mut before = connect(&old).await;
    before.report("a", 1, "1").await;
    // The sink takes nothing while somebody else has its lock.
    let database = rusqlite::Connection::open(node.sqlite_file()).expect("the sink");
    database.execute_batch("BEGIN IMMEDIATE").expect("the lock is free");
    assert_eq!(before.ask(r#"{"op":"done","id":"a"}"#).await["op"], "ack");
    std::fs::write(&file, &new_entry).expect("a file");
    node.hang_up();
    node.said(DONE, 1).await;
    let mut after = connect(&new).await;
    assert_eq!(after.ask(r#"{"op":"done","id":"a"}"#).await["op"], "ack");
    database.execute_batch("ROLLBACK").expect("the lock is given back");
    assert_eq!(after.reply().await["op"], "done");
    let reply = before.ask(r#"{"op":"ping"}"#).await;
    assert_eq!(reply["op"], "pong", "the event of the one before was due by now");
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
