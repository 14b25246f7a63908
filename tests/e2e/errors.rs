//! Messages that are refused: each says why, nothing of it is kept, and the connection goes on.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::node::Node;

/// Asserts that a reply is this error, for a person too.
fn assert_error(reply: &Value, code: u64, error: &str) {
    assert_eq!(
        (&reply["op"], &reply["code"], &reply["error"]),
        (&json!("error"), &json!(code), &json!(error)),
        "{reply}"
    );
    assert!(reply["message"].as_str().is_some_and(|message| !message.is_empty()), "it tells a person: {reply}");
}

/// The connection still takes reports, and nothing of what was refused is in the sink.
async fn assert_goes_on(node: &Node, client: &mut Client) {
    client.report("after", 1, "true").await;
    node.drained().await;
    let ids: Vec<String> = node.stored().rows().await.expect("a sink").into_iter().map(|row| row.id).collect();
    assert_eq!(ids, ["after"]);
}

#[tokio::test]
async fn what_is_not_json_is_bad_json() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let cut = r#"{"op":"report","id":1,"data":{"a":1}"#;
    let twice = r#"{"op":"report","id":1} {"op":"report","id":1}"#;
    let data = r#"{"op":"report","id":1,"data":{a:1}}"#;
    for bad in ["", " ", "{", cut, twice, data, "nope", "7", r#""text""#, "null", "[{]"] {
        let reply = client.ask(bad).await;
        assert_error(&reply, 400, "bad_json");
    }
    assert_goes_on(&node, &mut client).await;
}

#[tokio::test]
async fn a_bad_field_is_named() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let (long_id, long_ref) = (format!("\"{}\"", "i".repeat(65)), format!("\"{}\"", "r".repeat(65)));
    let fields: [(&str, &[&str]); 5] = [
        (
            "id",
            &["\"\"", &long_id, "\"a b\"", "\"é\"", "\"a/b\"", "\"a~b\"", "\"7\\u0000\"", "true", "1.5", "[]", "{}"],
        ),
        ("seq", &["-1", "1.5", "\"1\"", "9007199254740992", "1e30", "true", "[1]", "{}"]),
        ("ref", &[&long_ref, "1.5", "true", "[]", "{}"]),
        ("time", &["\"\"", "\"soon\"", "\"1 2\"", "\"1e400\"", "\"NaN\"", "1e300", "true", "[]", "{}"]),
        ("code", &["2147483648", "-2147483649", "\"0\"", "1.5", "true", "[]", "{}"]),
    ];
    for (field, values) in fields {
        for value in values {
            let rest = ["\"id\":1", "\"seq\":1", "\"ref\":1"].into_iter().filter(|part| !part.contains(field));
            let rest: String = rest.map(|part| format!(",{part}")).collect();
            let reply = client.ask(format!(r#"{{"op":"report","{field}":{value}{rest}}}"#)).await;
            assert_error(&reply, 400, "bad_field");
            assert_eq!(reply["field"], field, "{value}: {reply}");
        }
    }
    let reply = client.ask(r#"{"op":"report","data":{}}"#).await;
    assert_error(&reply, 400, "bad_field");
    assert_eq!(reply["field"], "id", "{reply}");
    let reply = client.ask(r#"{"op":"done","ref":4}"#).await;
    assert_error(&reply, 400, "bad_field");
    assert_eq!(reply["ref"], 4, "{reply}");
    for bad in [r#"{"id":1}"#, r#"{"op":7,"id":1}"#, r#"{"op":null,"id":1}"#] {
        let reply = client.ask(bad).await;
        assert_error(&reply, 400, "bad_field");
        assert_eq!(reply["field"], "op", "{reply}");
    }
    assert_goes_on(&node, &mut client).await;
}

#[tokio::test]
async fn an_unknown_op_is_refused_with_its_id_and_ref() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    for op in ["", "Report", "ack", "reports", "disconnected"] {
        let reply = client.ask(format!(r#"{{"op":"{op}","id":"x","ref":"r"}}"#)).await;
        assert_error(&reply, 400, "unknown_op");
        assert_eq!((&reply["id"], &reply["ref"]), (&json!("x"), &json!("r")), "{reply}");
    }
    assert_goes_on(&node, &mut client).await;
}

#[tokio::test]
async fn two_ids_that_differ_are_refused_where_they_must_agree() {
    let node = Node::new().set("ingest.same_id", true).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for ids in [("7", "8"), ("7", r#""8""#), (r#""07""#, "7"), (r#""a""#, r#""A""#)] {
        let reply = client.ask(format!(r#"{{"op":"report","id":{},"ref":1,"data":{{"id":{}}}}}"#, ids.0, ids.1)).await;
        assert_error(&reply, 400, "id_mismatch");
        assert_eq!(reply["ref"], 1, "{reply}");
    }
    assert_goes_on(&node, &mut client).await;
}

#[tokio::test]
async fn a_refusal_for_good_does_not_ask_for_a_retry() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    for bad in ["nope", r#"{"op":"what"}"#, r#"{"op":"report"}"#, r#"{"op":"report","data":{"id":[]}}"#] {
        let reply = client.ask(bad).await;
        assert!(reply["retry_after_ms"].is_null(), "{reply}");
    }
}
