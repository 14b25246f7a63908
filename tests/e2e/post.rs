//! `POST /reports`: the same messages and replies without a WebSocket.

use serde_json::{Value, json};

use crate::support::client::report;
use crate::support::http;
use crate::support::node::Node;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

async fn post(node: &Node, content_type: &str, body: &str) -> (u16, Vec<Value>) {
    let answer = http::post(node.ingest(), "/reports", content_type, body).await;
    let replies = answer.json();
    let replies = replies.as_array().unwrap_or_else(|| panic!("an array of replies is due, not {answer:?}")).clone();
    (answer.status, replies)
}

fn codes(replies: &[Value]) -> Vec<u64> {
    replies.iter().map(|reply| reply["code"].as_u64().unwrap_or_else(|| panic!("no code in {reply}"))).collect()
}

#[tokio::test]
async fn one_object_is_answered_by_an_array_of_one() {
    let node = Node::new().start().await;
    let body = r#"{"op":"report","id":7,"seq":42,"ref":"a1","data":{"a": 1}}"#;
    let (status, replies) = post(&node, JSON, body).await;
    assert_eq!(status, 200);
    assert_eq!(replies, [json!({"op": "ack", "id": 7, "source": 0, "seq": 42, "ref": "a1", "code": 200})]);
    node.drained().await;
    assert_eq!(node.stored().data_of("7").await.expect("a sink"), [r#"{"a": 1}"#]);
}

#[tokio::test]
async fn an_array_is_answered_in_its_order() {
    let node = Node::new().start().await;
    let body = r#"[{"op":"report","id":"b","seq":1,"ref":0},{"op":"report","id":"a","seq":1,"ref":1},
        {"op":"ping","ref":2},{"op":"report","id":"b","ref":3}]"#;
    let (status, replies) = post(&node, "application/json; charset=utf-8", body).await;
    assert_eq!(status, 200, "{replies:?}");
    let refs: Vec<&Value> = replies.iter().map(|reply| &reply["ref"]).collect();
    assert_eq!(refs, [&json!(0), &json!(1), &json!(2), &json!(3)]);
    node.drained().await;
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 3);
}

#[tokio::test]
async fn ndjson_is_one_message_a_line() {
    let node = Node::new().start().await;
    for (n, end) in ["", "\n", "\r\n"].into_iter().enumerate() {
        let lines: Vec<String> = (0..3).map(|seq| report(&format!("lines-{n}"), seq, "[1, 2]")).collect();
        let body = lines.join(if end.is_empty() { "\n" } else { end }) + end;
        let (status, replies) = post(&node, NDJSON, &body).await;
        assert_eq!((status, codes(&replies)), (200, vec![200, 200, 200]), "{replies:?}");
    }
    node.drained().await;
    assert_eq!(node.stored().data_of("lines-2").await.expect("a sink"), ["[1, 2]"; 3]);
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 9);
}

#[tokio::test]
async fn a_bad_line_leaves_the_others() {
    let node = Node::new().start().await;
    let body = [report("mixed", 1, "1"), "{nope".to_owned(), report("mixed", 3, "3")].join("\n");
    let (status, replies) = post(&node, NDJSON, &body).await;
    assert_eq!((status, codes(&replies)), (207, vec![200, 400, 200]), "{replies:?}");
    assert_eq!(replies[1]["error"], "bad_json");
    node.drained().await;
    assert_eq!(node.stored().data_of("mixed").await.expect("a sink"), ["1", "3"]);
}

#[tokio::test]
async fn some_kept_is_207_and_none_kept_is_400() {
    let node = Node::new().start().await;
    let (status, replies) = post(&node, JSON, r#"[{"op":"report","id":1},{"op":"report"}]"#).await;
    assert_eq!((status, codes(&replies)), (207, vec![200, 400]));
    let (status, replies) = post(&node, JSON, r#"[{"op":"what"},{"op":"report"}]"#).await;
    assert_eq!((status, codes(&replies)), (400, vec![400, 400]));
    let (status, replies) = post(&node, JSON, "{").await;
    assert_eq!((status, codes(&replies)), (400, vec![400]));
    node.drained().await;
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 1);
}

#[tokio::test]
async fn a_report_that_is_too_large_is_413() {
    let node = Node::new().set("ingest.max_report_bytes", "4KiB").start().await;
    let large = report("large", 1, &format!("\"{}\"", "x".repeat(5_000)));
    let (status, replies) = post(&node, JSON, &large).await;
    assert_eq!((status, &replies[0]["error"]), (413, &json!("too_large")), "{replies:?}");
    let (status, replies) = post(&node, NDJSON, &[report("small", 1, "1"), large].join("\n")).await;
    assert_eq!((status, codes(&replies)), (207, vec![200, 413]), "{replies:?}");
    node.drained().await;
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 1);
}

#[tokio::test]
async fn a_body_without_end_is_413() {
    let node = Node::new().start().await;
    let body = vec![b' '; 64 << 20];
    let answer = http::post(node.ingest(), "/reports", JSON, body).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
}

#[tokio::test]
async fn the_status_is_the_refusals_own_where_nothing_is_kept() {
    let node = Node::new().set("journal.min_free_disk", "1000TiB").start().await;
    let (status, replies) = post(&node, JSON, &report("full", 1, "1")).await;
    assert_eq!((status, &replies[0]["error"]), (507, &json!("journal_full")), "{replies:?}");
}

#[tokio::test]
async fn a_done_by_post_marks_the_stream() {
    let node = Node::new().set("flush.tick", "1h").start().await;
    let body = [report("posted", 1, "1"), r#"{"op":"done","id":"posted","ref":"d"}"#.to_owned()].join("\n");
    let (status, replies) = post(&node, NDJSON, &body).await;
    assert_eq!((status, &replies[1]), (200, &json!({"op": "ack", "id": "posted", "ref": "d", "code": 200})));
    node.drained().await;
    let stream = crate::support::wait::eventually("the state", async || {
        let stream = node.stored().stream("posted").await?;
        crate::support::wait::same(stream.state.as_str(), "done").map(|()| stream)
    });
    assert_eq!(stream.await.reports, 1);
}

#[tokio::test]
async fn the_end_of_a_post_is_no_disconnect() {
    let node = Node::new().start().await;
    node.post(report("posted", 1, "1")).await;
    node.post(r#"[{"op":"report","id":"witness","seq":1},{"op":"done","id":"witness"}]"#).await;
    node.drained().await;
    tokio::time::sleep(crate::support::node::A_WHILE).await;
    assert_eq!(node.stored().stream("posted").await.expect("a stream").state, "open");
}
