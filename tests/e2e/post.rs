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

async fn post_to(node: &Node, path: &str, headers: &[(&str, &str)], body: &[u8]) -> http::Answer {
    http::request(node.ingest(), "POST", path, headers, body).await.expect("an answer to a POST")
}

#[tokio::test]
async fn all_of_an_atomic_request_is_kept_or_none_of_it() {
    let node = Node::new().set("flush.tick", "1h").set("flush.batch", 1000).set("journal.max_backlog_per_id", 3);
    let node = node.start().await;
    let of = |ids: &[(&str, u64)]| {
        let lines = ids.iter().map(|(id, seq)| report(id, *seq, "1"));
        lines.chain([r#"{"op":"ping"}"#.to_owned()]).collect::<Vec<_>>().join("\n")
    };
    let atomic = async |body: String| {
        let answer = post_to(&node, "/reports?atomic=true", &[("Content-Type", NDJSON)], body.as_bytes()).await;
        let replies = answer.json().as_array().unwrap_or_else(|| panic!("{answer:?}")).clone();
        (answer.status, answer.header("retry-after").to_owned(), replies)
    };
    // Members count for each other: four of one id are one too many.
    let (status, retry_after, replies) = atomic(of(&[("a", 1), ("b", 1), ("a", 2), ("a", 3), ("a", 4)])).await;
    assert_eq!((status, codes(&replies)), (429, vec![429, 429, 429, 429, 429, 200]), "{replies:?}");
    assert_eq!(retry_after, "1");
    assert!(replies[4]["message"].as_str().expect("a text").contains("max_backlog_per_id"));
    assert!(replies[0]["message"].as_str().expect("a text").contains("its message 5 was refused"), "{replies:?}");
    let (status, retry_after, replies) = atomic(of(&[("a", 1), ("no id", 1), ("b", 1)])).await;
    assert_eq!((status, codes(&replies)), (400, vec![400, 400, 400, 200]), "{replies:?}");
    assert_eq!(retry_after, "");
    assert_eq!(node.audit().await["accepted"], 0, "nothing was kept");
    let (status, _, replies) = atomic(of(&[("a", 1), ("b", 1), ("a", 2), ("a", 3)])).await;
    assert_eq!((status, codes(&replies)), (200, vec![200; 5]), "{replies:?}");
    let (status, ..) = atomic(of(&[("b", 2), ("a", 4)])).await;
    assert_eq!(status, 429);
    assert_eq!(node.audit().await["accepted"], 4);
    let (status, replies) = post(&node, NDJSON, &of(&[("b", 2), ("a", 4)])).await;
    assert_eq!((status, codes(&replies)), (207, vec![200, 429, 200]), "what is not atomic is kept in part");
}

#[tokio::test]
async fn a_request_waits_for_its_dones_and_no_longer_than_it_says() {
    let node = Node::new().set("flush.tick", "1h").start().await;
    let body =
        [report("waited", 1, "1"), report("waited", 2, "1"), r#"{"op":"done","id":"waited","ref":"d"}"#.to_owned()];
    let answer = post_to(&node, "/reports?wait=60s", &[("Content-Type", NDJSON)], body.join("\n").as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let done = json!({"op": "done", "id": "waited", "ref": "d", "code": 200, "reports": 2, "dead": 0});
    assert_eq!(answer.json()[2], done);
    assert_eq!(node.stored().rows_of("waited").await.expect("a sink").len(), 2);
    let answer = http::post(node.admin(), "/api/v1/streams/held/pause", JSON, "").await;
    assert!(answer.status < 300, "{answer:?}");
    let body = [report("held", 1, "1"), r#"{"op":"done","id":"held"}"#.to_owned()].join("\n");
    let answer = post_to(&node, "/reports?wait=50ms", &[("Content-Type", NDJSON)], body.as_bytes()).await;
    assert_eq!((answer.status, codes(answer.json().as_array().expect("an array"))), (202, vec![200, 200]));
    assert_eq!(answer.json()[1]["op"], "ack");
    // What nothing waits for is answered at once.
    let answer = post_to(&node, "/reports?wait=60s", &[], report("held", 2, "1").as_bytes()).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn dones_that_wait_have_a_limit() {
    let node = Node::new().set("flush.tick", "1h").set("ingest.max_waiting_dones", 2).start().await;
    http::post(node.admin(), "/api/v1/streams/held/pause", JSON, "").await;
    let mut client = crate::support::client::Client::connect(node.ingest()).await;
    let replies =
        client.ask(r#"[{"op":"report","id":"held"},{"op":"done","id":"held"},{"op":"done","id":"held"}]"#).await;
    assert_eq!((&replies[1]["op"], &replies[2]["error"]), (&json!("ack"), &json!("backlog_full")), "{replies}");
    assert!(replies[2]["message"].as_str().expect("a text").contains("max_waiting_dones"), "{replies}");
    let two = format!("[{0},{0}]", r#"{"op":"done","id":"held"}"#);
    let answer = post_to(&node, "/reports?wait=1ms", &[], two.as_bytes()).await;
    assert_eq!((answer.status, codes(answer.json().as_array().expect("an array"))), (202, vec![200, 429]));
    client.close().await;
    let (status, _) = post(&node, JSON, &two).await;
    assert_eq!(status, 200, "one that is not waited for is no event");
}

#[tokio::test]
async fn what_nobody_asked_to_know_is_refused() {
    let node = Node::new().start().await;
    for query in ["x=1", "atomic=yes", "wait=1h", "wait", "atomic=true&atomic=true"] {
        let answer = post_to(&node, &format!("/reports?{query}"), &[], report("a", 1, "1").as_bytes()).await;
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/problem+json"), "{query}");
    }
    assert_eq!(node.audit().await["accepted"], 0);
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::read::GzEncoder::new(text, flate2::Compression::default());
    let mut packed = Vec::new();
    std::io::Read::read_to_end(&mut encoder, &mut packed).expect("a text can be packed");
    packed
}

#[tokio::test]
async fn a_body_may_be_packed_with_gzip_and_with_nothing_else() {
    let node = Node::new().set("ingest.max_request_bytes", "128KiB").start().await;
    let send = async |encoding: &str, body: &[u8]| {
        let headers = [("Content-Type", "application/jsonl"), ("Content-Encoding", encoding)];
        post_to(&node, "/reports", &headers, body).await
    };
    let lines = (0..100).map(|seq| report("packed", seq, "[1, 2]")).collect::<Vec<_>>().join("\n");
    let packed = gzip(lines.as_bytes());
    assert_eq!(send("gzip", &packed).await.status, 200);
    assert_eq!(send("X-GZIP", &packed).await.status, 200);
    assert_eq!(send("identity", lines.as_bytes()).await.status, 200);
    for (encoding, body, status) in [
        ("br", &packed[..], 415),
        ("gzip, gzip", &packed, 415),
        ("gzip", &packed[..packed.len() - 1], 400),
        ("gzip", &[&packed[..], b"\n"].concat(), 400),
        ("gzip", lines.as_bytes(), 400),
        ("gzip", b"", 400),
        ("gzip", &gzip(&vec![b' '; 64 << 20]), 413),
    ] {
        let answer = send(encoding, body).await;
        assert_eq!(answer.status, status, "{encoding} {}: {}", body.len(), answer.text());
        assert!(status != 415 || answer.header("accept-encoding") == "gzip");
    }
    node.drained().await;
    assert_eq!(node.stored().data_of("packed").await.expect("a sink"), ["[1, 2]"; 100]);
}

#[tokio::test]
async fn lines_have_many_types_and_perhaps_a_byte_order_mark() {
    let node = Node::new().start().await;
    for (n, media) in
        ["application/ndjson", "Application/JSONL; charset=utf-8", "application/x-jsonlines", "text/x-ndjson"]
            .into_iter()
            .enumerate()
    {
        let body =
            format!("\u{feff}{}\n{}\n", report("typed", 2 * n as u64, "1"), report("typed", 2 * n as u64 + 1, "1"));
        let (status, replies) = post(&node, media, &body).await;
        assert_eq!((status, replies.len()), (200, 2), "{media}: {replies:?}");
    }
    let body = [report("typed", 100, "1"), report("typed", 101, "1")].join("\n");
    for media in [JSON, "text/plain"] {
        let (status, replies) = post(&node, media, &body).await;
        assert_eq!(status, 400);
        let message = replies[0]["message"].as_str().expect("a text");
        assert!(message.contains("application/x-ndjson"), "{message}");
    }
    let (status, _) = post(&node, JSON, &format!("\u{feff}{}", report("typed", 200, "1"))).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn every_answer_says_what_a_browser_may_not_do_with_it() {
    let node = Node::new().set("ingest.keep_alive", "42s").start().await;
    let answers = [
        http::post(node.ingest(), "/reports", JSON, report("a", 1, "1")).await,
        http::post(node.ingest(), "/reports", JSON, "nope").await,
        http::get(node.ingest(), "/nowhere").await.expect("an answer"),
        http::get(node.ingest(), "/ws").await.expect("an answer"),
        http::get(node.ingest(), "/reports").await.expect("an answer"),
        {
            // Written by hand, before there is HTTP.
            let full = Node::new().set("ingest.max_connections_per_address", 1).start().await;
            let _first = crate::support::client::Client::connect(full.ingest()).await;
            http::get(full.ingest(), "/nowhere").await.expect("an answer")
        },
    ];
    assert_eq!(answers[5].status, 503, "{:?}", answers[5]);
    for answer in answers {
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{answer:?}");
        assert_eq!(answer.header("cache-control"), "no-store", "{answer:?}");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin", "{answer:?}");
        assert_eq!(answer.header("keep-alive"), "", "the request said that it is the last: {answer:?}");
    }
    let request = format!("GET /nowhere HTTP/1.1\r\nHost: {}\r\n\r\n", node.ingest());
    let last = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let answer = http::exchange(node.ingest(), (request + &last).as_bytes()).await.expect("an answer");
    assert_eq!((answer.header("keep-alive"), answer.header("connection")), ("timeout=42", "keep-alive"));
}

#[tokio::test]
async fn a_plain_connection_is_kept_between_requests_for_longer_than_a_head_may_take() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = Node::new().set("ingest.handshake_timeout", "1s").set("ingest.keep_alive", "30s").start().await;
    let mut socket = tokio::net::TcpStream::connect(node.ingest()).await.expect("a connection");
    let request = format!("GET /nowhere HTTP/1.1\r\nHost: {}\r\n\r\n", node.ingest());
    for _ in 0..2 {
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut received = Vec::new();
        while http::parse(&received).is_none() {
            let mut some = [0; 1024];
            let read = crate::support::wait::within("an answer", socket.read(&mut some)).await.expect("an answer");
            assert!(read > 0, "the connection ended");
            received.extend_from_slice(&some[..read]);
        }
        // Longer than a head may take.
        tokio::time::sleep(crate::support::node::A_WHILE).await;
    }
    // A head that is begun is held to its bound, and ends the connection.
    socket.write_all(b"GET").await.expect("sent");
    let mut rest = Vec::new();
    let _ = crate::support::wait::within("the end", socket.read_to_end(&mut rest)).await;
}
