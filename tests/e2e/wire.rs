//! Messages that are as they should be, over `/ws`.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{Client, Incoming, report};
use crate::support::node::Node;
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::PATIENCE;

/// Data whose bytes a parser that writes JSON anew would change.
const DATA: &[&str] = &[
    r#"{ "b" : 1,"a":	[ 1 , 2 ] }"#,
    "{\n  \"lines\" :\r\n [ ] }",
    r#"{"twice":1,"twice":2}"#,
    r#"{"number":12345678901234567890123456789.000100}"#,
    r#"[1.0,1E5,1e-7,-0,0.10]"#,
    r#""\u0041\u00e9\/\t é 🙂 \ud83d\ude42""#,
    r#"{"k\u0065y":"\u2028"}"#,
    "null",
    "false",
    r#""""#,
    "0",
    "[]",
    "{}",
];

#[tokio::test]
async fn an_ack_echoes_id_and_ref_and_names_source_and_seq() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let ack = client
        .ask(
            r#"{"op":"report","id":7,"seq":42,"ref":"a1","time":"1714972800",
                "data":{"conn_ip":"10.0.0.1:5000","id":7},"code":0}"#,
        )
        .await;
    assert_eq!(ack, json!({"op": "ack", "id": 7, "source": 0, "seq": 42, "ref": "a1", "code": 200}));
    let ack = client.ask(r#"{"op":"report","id":"7","seq":43,"ref":-12}"#).await;
    assert_eq!(ack, json!({"op": "ack", "id": "7", "source": 0, "seq": 43, "ref": -12, "code": 200}));
    let ack = client.ask(r#"{"op":"report","id":"a.B_c:d-9","seq":0}"#).await;
    assert_eq!(ack, json!({"op": "ack", "id": "a.B_c:d-9", "source": 0, "seq": 0, "code": 200}));
    let ack = client.ask(r#"{"op":"report","id":1,"seq":9007199254740991,"ref":"é","code":-2147483648}"#).await;
    assert_eq!(
        ack,
        json!({"op": "ack", "id": 1, "source": 0, "seq": 9_007_199_254_740_991_u64, "ref": "é", "code": 200})
    );
}

#[tokio::test]
async fn an_id_as_number_and_as_string_is_one_id() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.ask(r#"{"op":"report","id":7,"seq":1,"data":1}"#).await;
    client.ask(r#"{"op":"report","id":"7","seq":2,"data":2}"#).await;
    client.ask(r#"{"op":"report","id":"7","data":{"id":7},"seq":3}"#).await;
    node.drained().await;
    assert_eq!(node.stored().data_of("7").await.expect("a sink"), ["1", "2", r#"{"id":7}"#]);
}

#[tokio::test]
async fn an_id_may_be_in_data_alone() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let ack = client.ask(r#"{"op":"report","seq":5,"ref":1,"data":{"conn_ip":"10.0.0.1:5000","id":7}}"#).await;
    assert_eq!((&ack["op"], &ack["source"], &ack["seq"]), (&json!("ack"), &json!(0), &json!(5)), "{ack}");
    node.drained().await;
    assert_eq!(node.stored().rows_of("7").await.expect("a sink").len(), 1);
}

/// Payloads have ids of their own, and reports with them were once refused.
#[tokio::test]
async fn id_wins_over_the_one_in_data() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    for (seq, other) in ["8", "\"a b\"", "{\"x\":1}", "1.5"].into_iter().enumerate() {
        let ack = client.ask(format!(r#"{{"op":"report","id":7,"seq":{seq},"data":{{"id":{other}}}}}"#)).await;
        assert_eq!((&ack["op"], &ack["id"]), (&json!("ack"), &json!(7)), "{ack}");
    }
    node.drained().await;
    assert_eq!(node.stored().rows_of("7").await.expect("a sink").len(), 4);
}

#[tokio::test]
async fn a_report_without_seq_is_numbered_and_its_ack_says_how() {
    let node = Node::new().set("node_id", 321).start().await;
    let mut client = Client::connect(node.ingest()).await;
    let mut numbers = Vec::new();
    for n in 0..5 {
        let ack = client.report("free", None, &n.to_string()).await;
        assert_eq!(ack["source"], 321, "{ack}");
        numbers.push(ack["seq"].as_u64().expect("the seq that it got"));
    }
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert!(numbers.iter().all(|&n| n < 1 << 53), "{numbers:?} are below 2^53");
    node.drained().await;
    let rows = node.stored().rows_of("free").await.expect("a sink");
    let found: Vec<(u64, u64)> = rows.iter().map(|row| (row.source, row.seq)).collect();
    assert_eq!(found, numbers.iter().map(|&n| (321, n)).collect::<Vec<_>>());
}

#[tokio::test]
async fn data_is_kept_byte_for_byte_in_sqlite() {
    let node = Node::new().start().await;
    // No MySQL takes these; SQLite keeps them.
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let more = [deep.as_str(), r#"{"a":"\ud800"}"#, r#"[1e400,"\u0000"]"#];
    data_is_kept(&node, DATA.iter().chain(&more)).await;
}

on_each_server!(data_is_kept_byte_for_byte_or_as_the_json_that_it_is);
async fn data_is_kept_byte_for_byte_or_as_the_json_that_it_is(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    data_is_kept(&node, DATA.iter()).await;
}

async fn data_is_kept<'a>(node: &Node, data: impl Iterator<Item = &'a &'a str>) {
    let data: Vec<&str> = data.copied().collect();
    let mut client = Client::connect(node.ingest()).await;
    for (seq, data) in data.iter().enumerate() {
        client.report("bytes", seq as u64, data).await;
    }
    let audit = node.drained().await;
    assert_eq!(audit["dead"], 0, "{audit}");
    // The same bytes, or the same JSON where the sink keeps no more.
    let form = node.stored().form().await.expect("a sink");
    let found = node.stored().data_of("bytes").await.expect("a sink");
    let values = |texts: &[&str]| texts.iter().map(|text| form.of(text)).collect::<Vec<_>>();
    assert_eq!(values(&found.iter().map(String::as_str).collect::<Vec<_>>()), values(&data));
}

#[tokio::test]
async fn missing_data_is_null_in_the_sink() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.ask(r#"{"op":"report","id":"bare","seq":1}"#).await;
    node.drained().await;
    let rows = node.stored().rows_of("bare").await.expect("a sink");
    assert_eq!((rows.len(), &rows[0].data, &rows[0].time), (1, &None, &None));
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let ack = client.ask(r#"{"v":[2],"op":"report","id":1,"seq":1,"later":{"op":"done","id":9},"data":{}}"#).await;
    assert_eq!((&ack["op"], &ack["id"]), (&json!("ack"), &json!(1)), "{ack}");
}

#[tokio::test]
async fn a_ping_is_answered() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let pong = client.ask(r#"{"op":"ping","ref":"p"}"#).await;
    assert_eq!((&pong["op"], &pong["ref"]), (&json!("pong"), &json!("p")), "{pong}");
    let pong = client.ask(r#"{"op":"ping"}"#).await;
    assert_eq!(pong["op"], "pong", "{pong}");
}

#[tokio::test]
async fn an_array_is_answered_by_an_array_of_the_same_length_and_order() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let message = r#" [{"op":"report","id":"x","seq":1,"ref":1},{"op":"report","id":"y","ref":2},
        {"op":"ping","ref":3},{"op":"nonsense","ref":4},{"op":"report","id":"x","seq":-1,"ref":5},5,
        {"op":"report","id":"x","seq":2,"ref":7}]"#;
    let replies = client.ask(message).await;
    let replies = replies.as_array().unwrap_or_else(|| panic!("an array is due, not {replies}"));
    let ops: Vec<(&Value, &Value)> = replies.iter().map(|reply| (&reply["op"], &reply["ref"])).collect();
    let (ack, pong, error) = (json!("ack"), json!("pong"), json!("error"));
    let none = Value::Null;
    let wanted = [
        (&ack, &json!(1)),
        (&ack, &json!(2)),
        (&pong, &json!(3)),
        (&error, &json!(4)),
        (&error, &json!(5)),
        (&error, &none),
        (&ack, &json!(7)),
    ];
    assert_eq!(ops, wanted);
    assert_eq!(client.ask("[]").await, json!([]));
    node.drained().await;
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 3);
}

#[tokio::test]
async fn replies_come_in_the_order_of_the_messages() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let kinds = [
        r#""op":"report","id":"a""#,
        r#""op":"ping""#,
        r#""op":"report""#,
        r#""op":"what""#,
        r#""op":"report","id":"b","seq":7"#,
    ];
    for n in 0..500 {
        client.send(format!(r#"{{"ref":{n},{}}}"#, kinds[n % kinds.len()])).await;
    }
    for n in 0..500 {
        let reply = client.reply().await;
        let wanted = ["ack", "pong", "error", "error", "ack"][n % kinds.len()];
        assert_eq!((&reply["ref"], &reply["op"]), (&json!(n), &json!(wanted)), "{reply}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_for_long_loses_nothing() {
    const REPORTS: usize = 5_000;
    let node = Node::new().set("ingest.max_in_flight", 64).start().await;
    let (mut send, mut receive) = Client::connect(node.ingest()).await.into_socket().split();
    let sending = tokio::spawn(async move {
        for n in 0..REPORTS {
            send.send(Message::text(report("flood", n as u64, &n.to_string())))
                .await
                .expect("the node takes it, in time");
        }
        send
    });
    // All of it may fit into the sockets' buffers, or the node may stop reading: then reading is what frees it.
    let _ = tokio::time::timeout(PATIENCE / 20, async {
        while !sending.is_finished() {
            tokio::task::yield_now().await
        }
    })
    .await;
    let mut next = 0_u64;
    while next < REPORTS as u64 {
        let message = tokio::time::timeout(PATIENCE, receive.next()).await.expect("an ack within patience");
        let Some(Ok(Message::Text(text))) = message else { panic!("after {next} acks: {message:?}") };
        let ack: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&ack["op"], &ack["seq"]), (&json!("ack"), &json!(next)), "{ack}");
        next += 1;
    }
    drop(sending.await.expect("all were sent"));
    node.drained().await;
    assert_eq!(node.stored().rows_of("flood").await.expect("a sink").len(), REPORTS);
}

#[tokio::test]
async fn a_pinging_client_is_answered_with_its_payload() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.send_message(Message::Ping(b"are you there".as_slice().into())).await;
    assert_eq!(client.next().await, Incoming::Pong(b"are you there".to_vec()));
}
