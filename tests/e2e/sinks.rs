//! The sinks as a user meets them: the embedded default without any configuration, and tables made by hand.

use std::process::{Command, Stdio};

use mysql_async::prelude::Queryable;

use crate::support::client::{Client, report};
use crate::support::node::{Node, listening_addresses, run, without_settings};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::stored::Stored;
use crate::support::wait::{eventually, same};

#[tokio::test]
async fn a_report_by_post_is_a_row_in_the_default_sink_within_the_tick() {
    let node = Node::new().set("flush.tick", "1s").start().await;
    let replies = node.post(r#"{"op":"report","id":"hello","data":{"greeting":"good day"}}"#).await;
    assert_eq!(replies[0]["code"], 200, "{replies:?}");
    let row = eventually("the row", async || same(node.stored().data_of("hello").await?.len(), 1));
    row.await;
    assert_eq!(node.stored().stream("hello").await.expect("a stream").state, "open");
}

#[tokio::test]
async fn flags_and_variables_are_enough_to_serve() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut command = without_settings(Command::new("setpriv"));
    command.args(["--pdeathsig", "KILL", "--", crate::support::node::FOREBAY, "serve"]);
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
    command.env("FOREBAY_LOG__FORMAT", "json").env("FOREBAY_FLUSH__TICK", "100ms").current_dir(folder.path());
    let errors = std::fs::File::create(folder.path().join("stderr")).expect("a file");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().expect("it starts");
    let read = async || std::fs::read_to_string(folder.path().join("stderr")).map_err(|e| e.to_string());
    let address = eventually("the node to listen", async || {
        let said = read().await?;
        let address = said.lines().find_map(listening_addresses);
        address.map(|(ingest, _)| ingest).ok_or_else(|| format!("it said {said}"))
    });
    let mut client = Client::connect(address.await).await;
    client.report("s", 1, "1").await;
    let stored = Stored::Sqlite(data.join("reports.db"));
    let row = eventually("the row", async || same(stored.data_of("s").await?, vec!["1".to_owned()]));
    row.await;
    assert!(data.join("journal").is_dir(), "the journal is in the data folder too");
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
}

on_each_server!(tables_made_by_hand_from_the_printed_schema_are_used);
async fn tables_made_by_hand_from_the_printed_schema_are_used(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).set("sink.create_tables", false).start().await;
    node.post(report("waits", 1, "1")).await;
    let blocked = eventually("the sink to be blocked", async || {
        same(node.admin_json("/api/v1/status").await["sink"]["state"].as_str(), Some("blocked"))
    });
    blocked.await;
    let schema = run(&["schema", "--sink", &server.url()]);
    assert_eq!(schema.code, Some(0), "{schema:?}");
    let mut conn = server.conn().await;
    for statement in schema.stdout.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        conn.query_drop(statement).await.unwrap_or_else(|e| panic!("{e} at {statement}"));
    }
    node.drained().await;
    assert_eq!(node.stored().data_of("waits").await.expect("a sink"), ["1"]);
}

on_each_server!(the_tables_are_as_the_contract_has_them);
async fn the_tables_are_as_the_contract_has_them(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    node.post(report("s", 1, "1")).await;
    node.drained().await;
    let query = "SELECT TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, COLUMN_KEY FROM information_schema.COLUMNS \
                 WHERE TABLE_SCHEMA = 'forebay' ORDER BY TABLE_NAME = 'reports', TABLE_NAME, ORDINAL_POSITION";
    let found: Vec<(String, String, String, String, String)> = server.rows(query).await;
    // MariaDB says how wide an integer is shown; and JSON is text there.
    let plain = |kind: String| ["(5)", "(11)", "(20)"].iter().fold(kind, |kind, width| kind.replace(width, ""));
    let found = found.into_iter().map(|(t, c, ty, n, k)| format!("{t}.{c} {} {n} {k}", plain(ty)));
    let found: Vec<String> = found.collect();
    let json = if kind == Kind::MySql { "reports.data json YES " } else { "reports.data longtext YES " };
    let wanted = [
        "report_nodes.node_id smallint unsigned NO PRI",
        "report_nodes.journal bigint unsigned NO ",
        "report_nodes.start bigint unsigned NO ",
        "report_nodes.nonce bigint unsigned NO ",
        "report_nodes.claimed_at datetime(6) NO ",
        "report_streams.id varchar(64) NO PRI",
        "report_streams.state enum('open','done','disconnected') NO ",
        "report_streams.reports bigint unsigned NO ",
        "report_streams.first_at datetime(6) ",
        "report_streams.last_at datetime(6) ",
        "report_streams.state_position bigint unsigned ",
        "report_streams.settled varbinary(240) YES ",
        "reports.id varchar(64) NO PRI",
        "reports.source smallint unsigned NO PRI",
        "reports.seq bigint unsigned NO PRI",
        "reports.time decimal(17,6) YES ",
        "reports.code int NO ",
        "reports.peer varchar(45) YES ",
        json,
        "reports.accepted_at datetime(6) NO ",
        "reports.digest binary(16) YES ",
    ];
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    // MySQL shows integers without the widths of their digits, and has JSON as a type.
    let shown = |wanted: &str| match kind {
        Kind::MariaDb => wanted.to_owned(),
        Kind::MySql => {
            let plain = ["(20)", "(5)", "(11)"].iter().fold(wanted.to_owned(), |text, width| text.replace(width, ""));
            plain.replace("longtext", "json")
        }
    };
    for (found, wanted) in found.iter().zip(wanted.map(shown)) {
        assert!(found.starts_with(&wanted), "{found} is not {wanted}");
    }
    let query = "SELECT COLLATION_NAME FROM information_schema.COLUMNS \
                 WHERE TABLE_SCHEMA = 'forebay' AND COLUMN_NAME = 'id'";
    let collations: Vec<String> = server.rows(query).await;
    assert_eq!(collations, ["ascii_bin", "ascii_bin"]);
}

#[tokio::test]
async fn the_schema_of_the_embedded_sink_is_printed_too() {
    let schema = run(&["schema", "--sink", "sqlite:anywhere.db"]);
    assert_eq!(schema.code, Some(0), "{schema:?}");
    let connection = rusqlite::Connection::open_in_memory().expect("SQLite in memory");
    connection.execute_batch(&schema.stdout).unwrap_or_else(|e| panic!("{e} in {}", schema.stdout));
    for table in ["reports", "report_streams"] {
        let count = connection.query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
        assert_eq!(count, Ok(0), "{table}");
    }
}

on_each_server!(another_table_name_is_used_for_both_tables);
async fn another_table_name_is_used_for_both_tables(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).set("sink.table", "measurements").start().await;
    node.post(report("s", 1, "1")).await;
    node.drained().await;
    assert_eq!(server.row::<u64>("SELECT COUNT(*) FROM measurements").await, 1);
    assert_eq!(server.row::<u64>("SELECT reports FROM measurement_streams WHERE id = 's'").await, 1);
}
