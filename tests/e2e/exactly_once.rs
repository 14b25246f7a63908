//! One report is one row: resent, over other ways, and with all its columns.

use crate::support::client::{Client, report};
use crate::support::node::Node;
use crate::support::servers::{Kind, Server, on_each_server};

#[tokio::test]
async fn one_seq_over_two_connections_and_by_post_is_one_row() {
    let node = Node::new().set("flush.batch", 2).start().await;
    let (mut first, mut second) = (Client::connect(node.ingest()).await, Client::connect(node.ingest()).await);
    for _ in 0..5 {
        first.report("once", 1, "\"same\"").await;
        second.report("once", 1, "\"same\"").await;
        let replies = node.post(report("once", 1, "\"same\"")).await;
        assert_eq!(replies[0]["code"], 200, "a resend is acknowledged: {replies:?}");
    }
    let audit = node.drained().await;
    assert_eq!((&audit["stored"], &audit["duplicates"]), (&1.into(), &14.into()), "{audit}");
    assert_eq!(node.stored().data_of("once").await.expect("a sink"), ["\"same\""]);
    assert_eq!(node.stored().stream("once").await.expect("a stream").reports, 1);
}

on_each_server!(one_seq_before_and_after_a_restart_is_one_row_in_a_server);
async fn one_seq_before_and_after_a_restart_is_one_row_in_a_server(kind: Kind) {
    let server = Server::start(kind).await;
    let mut node = Node::new().set("sink.url", server.url()).start().await;
    for round in 0..3 {
        for seq in 0..15 {
            Client::connect(node.ingest()).await.report("once", seq, &format!("{{\"seq\": {seq}}}")).await;
        }
        node.drained().await;
        assert_eq!(node.stored().rows_of("once").await.expect("a sink").len(), 15);
        assert_eq!(node.stored().stream("once").await.expect("a stream").reports, 15);
        match round {
            0 => node.kill(),
            _ => assert!(node.terminate().await.success()),
        }
        node.restart().await;
    }
}

on_each_server!(the_first_write_of_a_key_wins);
async fn the_first_write_of_a_key_wins(kind: Kind) {
    let server = Server::start(kind).await;
    for url in [None, Some(server.url())] {
        let mut node = Node::new();
        if let Some(url) = url {
            node.change("sink.url", url);
        }
        let node = node.start().await;
        let mut client = Client::connect(node.ingest()).await;
        client.report("first", 1, "\"first, in one batch\"").await;
        client.report("first", 1, "\"second\"").await;
        node.drained().await;
        client.report("first", 1, "\"third, in another batch\"").await;
        node.drained().await;
        assert_eq!(node.stored().data_of("first").await.expect("a sink"), ["\"first, in one batch\""]);
    }
}

#[tokio::test]
async fn one_seq_of_two_ids_is_two_rows() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("a", 1, "1").await;
    client.report("A", 1, "2").await;
    node.drained().await;
    let rows = node.stored().rows().await.expect("a sink");
    assert_eq!(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["A", "a"]);
}

#[tokio::test]
async fn reports_without_seq_are_rows_each_even_where_their_data_is_the_same() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    for _ in 0..25 {
        client.report("same", None, "{}").await;
    }
    node.drained().await;
    assert_eq!(node.stored().rows_of("same").await.expect("a sink").len(), 25);
}

on_each_server!(every_column_is_as_it_was_sent);
async fn every_column_is_as_it_was_sent(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for (seq, rest) in [
        r#""time":"1714972800","code":0"#,
        r#""time":1714972800,"code":-5"#,
        r#""time":"1714972800.25","code":2147483647"#,
        r#""time":1714972800.123456,"code":-2147483648"#,
        r#""data":{"conn_ip":"10.0.0.1:5000"}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let ack = client.ask(format!(r#"{{"op":"report","id":"columns","seq":{seq},{rest}}}"#)).await;
        assert_eq!(ack["code"], 200, "{ack}");
    }
    node.drained().await;
    let rows = node.stored().rows_of("columns").await.expect("a sink");
    let form = node.stored().form().await.expect("a sink");
    let data: Vec<_> = rows.iter().map(|row| row.data.as_deref().map(|data| form.of(data))).collect();
    let columns: Vec<_> =
        rows.iter().zip(&data).map(|(row, data)| (row.time.as_deref(), row.code, data.as_deref())).collect();
    let wanted = [
        (Some("1714972800.000000"), 0, None),
        (Some("1714972800.000000"), -5, None),
        (Some("1714972800.250000"), 2_147_483_647, None),
        (Some("1714972800.123456"), -2_147_483_648, None),
        (None, 0, Some(r#"{"conn_ip":"10.0.0.1:5000"}"#)),
    ];
    assert_eq!(columns, wanted);
    assert!(rows.iter().all(|row| row.peer.as_deref() == Some("127.0.0.1")), "{rows:?}");
    let query = "SELECT COUNT(*) FROM reports WHERE ABS(TIMESTAMPDIFF(SECOND, accepted_at, UTC_TIMESTAMP(6))) < 600";
    assert_eq!(server.row::<u64>(query).await, 5, "accepted_at is in UTC: {rows:?}");
}
