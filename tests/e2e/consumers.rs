//! Who else writes to the sink's tables: a consumer that removes what it has read, and a device that counts anew.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::Value;

use crate::support::client::{Client, report};
use crate::support::load::{Load, Plan};
use crate::support::node::Node;
use crate::support::proof::{self, Proof};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::stored::Row;

/// Rows that a consumer takes at a time.
const AT_ONCE: usize = 200;
/// The columns of a [`Row`] as text, but for those that are numbers.
const COLUMNS: &str = "id, source, seq, code, data";

/// Where a consumer reads.
#[derive(Clone)]
enum Table {
    Server(String),
    File(PathBuf),
}

impl Table {
    /// Removes some rows, and says which; none where the table cannot be had now.
    async fn consume(&self) -> Option<Vec<Row>> {
        match self {
            Self::Server(url) => consume_server(url).await.ok(),
            Self::File(file) => consume_file(file).ok(),
        }
    }

    /// Removes rows as soon as they are there, until it is stopped and none is left.
    async fn consume_all(self, stop: Arc<AtomicBool>) -> Vec<Row> {
        let mut consumed = Vec::new();
        loop {
            let is_last = stop.load(Ordering::SeqCst);
            match self.consume().await {
                Some(rows) if rows.is_empty() && is_last => return consumed,
                Some(rows) if rows.is_empty() => tokio::time::sleep(Duration::from_millis(1)).await,
                Some(rows) => consumed.extend(rows),
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }
}

fn row((id, source, seq, code, data): (String, u64, u64, i64, Option<String>)) -> Row {
    Row { id, source, seq, time: None, code, peer: None, data, accepted_at: String::new() }
}

async fn consume_server(url: &str) -> mysql_async::Result<Vec<Row>> {
    let mut conn = mysql_async::Conn::from_url(url).await?;
    conn.query_drop("BEGIN").await?;
    let select = format!("SELECT {COLUMNS} FROM reports LIMIT {AT_ONCE} FOR UPDATE");
    let rows: Vec<Row> = conn.query_map(select, row).await?;
    for Row { id, source, seq, .. } in &rows {
        let delete = format!("DELETE FROM reports WHERE id = '{id}' AND source = {source} AND seq = {seq}");
        conn.query_drop(delete).await?;
    }
    conn.query_drop("COMMIT").await?;
    conn.disconnect().await?;
    Ok(rows)
}

fn consume_file(file: &PathBuf) -> rusqlite::Result<Vec<Row>> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
    let mut connection = rusqlite::Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut select = transaction.prepare(&format!("SELECT {COLUMNS} FROM reports LIMIT {AT_ONCE}"))?;
    let number = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(|number| number as u64);
    let rows = select
        .query_map([], |found| {
            Ok(row((found.get(0)?, number(found, 1)?, number(found, 2)?, found.get(3)?, found.get(4)?)))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    drop(select);
    for Row { id, source, seq, .. } in &rows {
        let key = (id, *source as i64, *seq as i64);
        transaction.execute("DELETE FROM reports WHERE id = ?1 AND source = ?2 AND seq = ?3", key)?;
    }
    transaction.commit()?;
    Ok(rows)
}

/// Clients that let the node number their reports, and so send none twice.
fn plans() -> impl Iterator<Item = Plan> {
    (0..8_u64).map(|client| Plan {
        id: format!("free-{}", client % 3),
        first_seq: None,
        window: [1, 16, 64, 4][client as usize % 4],
        padding: 50,
    })
}

async fn nothing_that_was_consumed_comes_back(node: Node, table: Table, name: &str) {
    let mut node = node.set("flush.tick", "20ms").start().await;
    let load = Load::start(&node.address(), plans());
    let stop = Arc::new(AtomicBool::new(false));
    let consumer = tokio::spawn(table.consume_all(Arc::clone(&stop)));
    let rounds = proof::rounds(6, 200);
    for round in 1..=rounds {
        load.more_acks(200).await;
        tokio::time::sleep(Duration::from_millis((round * 137) % 400)).await;
        node.kill();
        node.restart().await;
    }
    let ledger = load.finish().await;
    node.drained().await;
    stop.store(true, Ordering::SeqCst);
    let consumed = consumer.await.expect("no panic");
    let (form, streams) = (node.stored().form().await.expect("a sink"), node.stored().streams().await.expect("a sink"));
    let mut keys: Vec<_> = consumed.iter().map(|row| (&row.id, row.source, row.seq)).collect();
    keys.sort_unstable();
    let came_back = keys.windows(2).filter(|pair| pair[0] == pair[1]).count();
    let verdict = ledger.compare(form, &consumed, &streams);
    let mut proof = Proof::new(name);
    proof.verdict(rounds, &verdict);
    proof.report();
    assert_eq!(came_back, 0, "rows that were consumed were inserted again: {verdict}");
    verdict.assert_clean();
}

/// Promise 2c: up to half a second of settled reports used to be inserted again.
async fn a_row_that_a_consumer_removed_never_comes_back(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url());
    let name = format!("SIGKILL while a consumer removes the rows, {kind}");
    nothing_that_was_consumed_comes_back(node, Table::Server(server.url()), &name).await;
}
on_each_server!(a_row_that_a_consumer_removed_never_comes_back);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_a_consumer_removed_from_the_file_never_comes_back() {
    let node = Node::new();
    let table = Table::File(node.sqlite_file());
    nothing_that_was_consumed_comes_back(node, table, "SIGKILL while a consumer removes the rows, SQLite").await;
}

/// Promise 2a: its second life was acknowledged, counted as duplicates, and gone.
async fn a_device_that_begins_to_count_anew_loses_nothing(kind: Option<Kind>) {
    let server = match kind {
        Some(kind) => Some(Server::start(kind).await),
        None => None,
    };
    let mut node = Node::new();
    if let Some(server) = &server {
        node.change("sink.url", server.url());
    }
    let mut node = node.start().await;
    for life in 1..=3 {
        let mut device = Client::connect(node.ingest()).await;
        for seq in 1..=25 {
            device.report("device", seq, &format!(r#"{{"life":{life},"n":{seq}}}"#)).await;
            // And each is resent, as after a lost connection.
            device.report("device", seq, &format!(r#"{{"life":{life},"n":{seq}}}"#)).await;
        }
        node.drained().await;
        if life == 2 {
            node.kill();
            node.restart().await;
        }
    }
    let audit = node.drained().await;
    assert_eq!(audit["balanced"], true, "{audit}");
    assert_eq!(node.stored().rows_of("device").await.expect("a sink").len(), 25);
    let letters = node.admin_json("/api/v1/dead-letters?id=device&limit=1000").await;
    let letters = letters["dead_letters"].as_array().expect("a list").clone();
    assert_eq!(letters.len(), 50, "each report of the second and third life is there, once");
    for letter in &letters {
        assert_eq!(letter["kind"], "key_taken", "{letter}");
        let whole = node.admin_json(&format!("/api/v1/dead-letters/{}", letter["key"].as_str().expect("a key"))).await;
        let holder: Value =
            serde_json::from_str(whole["holder"]["data"].as_str().expect("what the sink has")).expect("JSON");
        assert_eq!((&holder["life"], &holder["n"]), (&1.into(), &whole["data"]["n"]), "both are shown: {whole}");
        assert_ne!(whole["data"]["life"], 1, "{whole}");
    }
    assert_eq!(node.terminate().await.code(), Some(0));
}

async fn a_device_counts_anew_on_a_server(kind: Kind) {
    a_device_that_begins_to_count_anew_loses_nothing(Some(kind)).await;
}
on_each_server!(a_device_counts_anew_on_a_server);

#[tokio::test]
async fn a_device_counts_anew_with_the_embedded_sink() {
    a_device_that_begins_to_count_anew_loses_nothing(None).await;
}

/// Two nodes, one id, one number: the first wins, and the second report is shown beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_are_told_one_number_of_two_reports_keep_both() {
    let server = Server::start(Kind::MariaDb).await;
    let mut nodes = Vec::new();
    for node_id in 1..=2 {
        nodes.push(Node::new().set("node_id", node_id).set("sink.url", server.url()).start().await);
    }
    for (n, node) in nodes.iter().enumerate() {
        for seq in 0..50 {
            node.post(report("shared", seq, &format!("{n}"))).await;
        }
    }
    let (mut stored, mut dead) = (0, 0);
    for node in &nodes {
        let audit = node.drained().await;
        stored += audit["stored"].as_u64().expect("a number");
        dead += audit["dead"].as_u64().expect("a number");
    }
    assert_eq!((stored, dead), (50, 50));
    assert_eq!(server.row::<u64>("SELECT reports FROM report_streams WHERE id = 'shared'").await, 50);
}
