//! Frames and handshakes: sizes, fragments, broken protocol, origins, idleness, too many connections.

use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::client::{Client, Incoming, report};
use crate::support::http;
use crate::support::node::Node;
use crate::support::raw::{CONTINUATION, Frame, PING, Raw, Received, TEXT, header};
use crate::support::wait::eventually;

/// A masked piece of a message.
fn piece(last: bool, opcode: u8, payload: &[u8]) -> Frame<'_> {
    Frame { last, opcode, mask: Some([1, 2, 3, 4]), payload }
}

/// A report of exactly this many bytes.
fn report_of(bytes: usize) -> String {
    let empty = report("sized", 1, "\"\"");
    report("sized", 1, &format!("\"{}\"", "x".repeat(bytes - empty.len())))
}

/// The error 413 came, and then close 1009.
fn assert_too_large((before, code): (Vec<Received>, Option<u16>)) {
    let replies: Vec<_> = before.iter().filter(|frame| frame.opcode == TEXT).map(Received::json).collect();
    assert_eq!(replies.len(), 1, "{replies:?}");
    assert_eq!((&replies[0]["code"], &replies[0]["error"]), (&json!(413), &json!("too_large")), "{replies:?}");
    assert_eq!(code, Some(1009));
}

async fn assert_nothing_stored(node: &Node) {
    let audit = node.drained().await;
    assert_eq!(audit["accepted"], 0, "{audit}");
}

#[tokio::test]
async fn a_message_of_the_largest_size_is_taken() {
    let node = Node::new().set("ingest.max_report_bytes", "4KiB").start().await;
    let mut client = Client::connect(node.ingest()).await;
    let ack = client.ask(report_of(4_096)).await;
    assert_eq!(ack["code"], 200, "{ack}");
}

#[tokio::test]
async fn the_largest_size_of_all_is_taken_and_kept() {
    let node = Node::new().set("ingest.max_report_bytes", "96KiB").start().await;
    let mut client = Client::connect(node.ingest()).await;
    let ack = client.ask(report_of(96 * 1024)).await;
    assert_eq!(ack["code"], 200, "{ack}");
    node.drained().await;
    let data = node.stored().data_of("sized").await.expect("a sink");
    assert!(data[0].len() > 96 * 1000, "{} bytes", data[0].len());
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_closed_1009() {
    let node = Node::new().set("ingest.max_report_bytes", "4KiB").start().await;
    let mut raw = Raw::connect(node.ingest()).await;
    raw.send(Frame::text(&report_of(4_097))).await;
    assert_too_large(raw.until_closed().await);
    assert_nothing_stored(&node).await;
}

#[tokio::test]
async fn a_frame_that_claims_a_huge_length_is_refused_before_it_arrives() {
    let node = Node::new().start().await;
    for length in [1 << 20, 1 << 40, i64::MAX as u64] {
        let mut raw = Raw::connect(node.ingest()).await;
        raw.send_bytes(&header(true, TEXT, true, length)).await;
        raw.send_bytes(&[0; 4]).await;
        assert_too_large(raw.until_closed().await);
    }
}

#[tokio::test]
async fn fragments_that_add_up_to_too_much_are_refused() {
    let node = Node::new().set("ingest.max_report_bytes", "4KiB").start().await;
    let mut raw = Raw::connect(node.ingest()).await;
    let text = report_of(5_000);
    let (first, rest) = text.as_bytes().split_at(2_000);
    let (second, third) = rest.split_at(2_000);
    raw.send(piece(false, TEXT, first)).await;
    raw.send(piece(false, CONTINUATION, second)).await;
    raw.send(piece(true, CONTINUATION, third)).await;
    assert_too_large(raw.until_closed().await);
    assert_nothing_stored(&node).await;
}

#[tokio::test]
async fn endless_fragments_are_refused() {
    let node = Node::new().set("ingest.max_report_bytes", "4KiB").start().await;
    let mut raw = Raw::connect(node.ingest()).await;
    raw.send(piece(false, TEXT, &[b' '; 100])).await;
    for _ in 0..45 {
        raw.send(piece(false, CONTINUATION, &[b' '; 100])).await;
    }
    assert_too_large(raw.until_closed().await);
}

#[tokio::test]
async fn a_fragmented_message_is_one_message() {
    let node = Node::new().start().await;
    let mut raw = Raw::connect(node.ingest()).await;
    let text = report("pieces", 1, r#""é🙂""#);
    // Cut everywhere, within characters too, with an empty piece and a ping in between.
    raw.send(piece(false, TEXT, b"")).await;
    for byte in text.as_bytes() {
        raw.send(piece(false, CONTINUATION, &[*byte])).await;
    }
    raw.send(piece(true, PING, b"")).await;
    raw.send(piece(true, CONTINUATION, b"")).await;
    let ack = loop {
        let frame = raw.next().await.expect("an ack");
        if frame.opcode == TEXT {
            break frame.json();
        }
    };
    assert_eq!((&ack["op"], &ack["seq"]), (&json!("ack"), &json!(1)), "{ack}");
    node.drained().await;
    assert_eq!(node.stored().data_of("pieces").await.expect("a sink"), [r#""é🙂""#]);
}

#[tokio::test]
async fn an_unmasked_frame_ends_the_connection_1002() {
    let node = Node::new().start().await;
    let mut raw = Raw::connect(node.ingest()).await;
    let text = report("bare", 1, "1");
    raw.send(Frame { mask: None, ..Frame::text(&text) }).await;
    let (before, code) = raw.until_closed().await;
    assert_eq!((before, code), (vec![], Some(1002)));
    assert_nothing_stored(&node).await;
}

#[tokio::test]
async fn a_second_message_inside_an_unfinished_one_ends_the_connection_1002() {
    let node = Node::new().start().await;
    let mut raw = Raw::connect(node.ingest()).await;
    raw.send(piece(false, TEXT, br#"{"op":"report","id":"#)).await;
    raw.send(Frame::text(&report("second", 1, "1"))).await;
    let (before, code) = raw.until_closed().await;
    assert_eq!((before, code), (vec![], Some(1002)));
    assert_nothing_stored(&node).await;
}

#[tokio::test]
async fn a_continuation_of_nothing_ends_the_connection_1002() {
    let node = Node::new().start().await;
    let mut raw = Raw::connect(node.ingest()).await;
    raw.send(piece(true, CONTINUATION, report("lone", 1, "1").as_bytes())).await;
    let (before, code) = raw.until_closed().await;
    assert_eq!((before, code), (vec![], Some(1002)));
    assert_nothing_stored(&node).await;
}

#[tokio::test]
async fn a_text_that_is_not_utf8_is_refused() {
    let node = Node::new().start().await;
    let mut raw = Raw::connect(node.ingest()).await;
    let mut text = report("broken", 1, "\"?\"").into_bytes();
    let at = text.iter().position(|&byte| byte == b'?').expect("it is there");
    text[at] = 0xff;
    raw.send(piece(true, TEXT, &text)).await;
    // RFC 6455, 8.1: the connection fails. An error before it says why.
    let (before, code) = raw.until_closed().await;
    assert!(before.iter().all(|frame| frame.json()["op"] == "error"), "{before:?}");
    assert_eq!(code, Some(1007));
    assert_nothing_stored(&node).await;
}

#[tokio::test]
async fn a_binary_message_is_taken_like_text() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.send_message(Message::binary(report("binary", 1, "\"é\"").into_bytes())).await;
    assert_eq!(client.reply().await["code"], 200);
    client.send_message(Message::binary([b"{\"op\":\"ping\",\"x\":\"".as_slice(), b"\xff\"}"].concat())).await;
    assert_eq!(client.next().await, Incoming::Closed(1007), "it is UTF-8, or nothing");
    node.drained().await;
    assert_eq!(node.stored().data_of("binary").await.expect("a sink"), ["\"é\""]);
}

#[tokio::test]
async fn a_handshake_that_says_a_length_is_refused_whenever_the_frame_comes() {
    let node = Node::new().start().await;
    let frame = Frame::text(&report("swallowed", 1, "1")).bytes();
    for head in ["Content-Length: 3", "Content-Length: 0", "Transfer-Encoding: chunked"] {
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{head}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            node.ingest()
        );
        for behind in [&frame[..], b""] {
            let answer =
                http::exchange(node.ingest(), &[request.as_bytes(), behind].concat()).await.expect("an answer");
            assert_eq!(answer.status, 400, "{head}");
        }
    }
    assert_nothing_stored(&node).await;
}

#[tokio::test]
async fn only_listed_origins_and_the_same_origin_connect() {
    let node = Node::new().set("ingest.allowed_origins", vec!["https://good.example"]).start().await;
    let same = format!("http://{}", node.ingest());
    for (origin, allowed) in [
        ("https://good.example", true),
        (same.as_str(), true),
        ("https://evil.example", false),
        ("http://good.example", false),
        ("https://good.example.evil.example", false),
        ("https://good.example:8443", false),
        ("null", false),
    ] {
        match Client::connect_with(node.ingest(), &[("origin", origin)]).await {
            Ok(_) => assert!(allowed, "{origin} connected"),
            Err(Error::Http(response)) => {
                assert_eq!((response.status().as_u16(), allowed), (403, false), "{origin}");
            }
            Err(other) => panic!("{origin}: {other}"),
        }
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_refused() {
    let node = Node::new().start().await;
    let key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let (upgrade, connection) = (("Upgrade", "websocket"), ("Connection", "Upgrade"));
    let version = ("Sec-WebSocket-Version", "13");
    for headers in [
        vec![],
        vec![upgrade, key, version],
        vec![connection, key, version],
        vec![connection, upgrade, version],
        vec![connection, upgrade, key],
        vec![connection, upgrade, key, ("Sec-WebSocket-Version", "8")],
    ] {
        let answer = http::request(node.ingest(), "GET", "/ws", &headers, b"").await.expect("an answer");
        assert!((400..500).contains(&answer.status), "{headers:?}: {answer:?}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused() {
    let node = Node::new().start().await;
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/nope", 404),
        ("POST", "/nope", 404),
        ("GET", "/reports", 405),
        ("POST", "/ws", 405),
    ] {
        let answer = http::request(node.ingest(), method, path, &[], b"").await.expect("an answer");
        assert_eq!(answer.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn more_connections_than_allowed_are_refused_until_one_ends() {
    let node = Node::new().set("ingest.max_connections", 2).start().await;
    let (mut first, second) = (Client::connect(node.ingest()).await, Client::connect(node.ingest()).await);
    assert!(Client::try_connect(node.ingest()).await.is_err(), "a third connection is one too many");
    first.report("x", 1, "1").await;
    second.close().await;
    let third = eventually("room for a connection", async || {
        Client::try_connect(node.ingest()).await.map_err(|e| e.to_string())
    });
    third.await.report("x", 2, "2").await;
}

#[tokio::test]
async fn a_silent_connection_is_pinged_and_then_closed() {
    let node = Node::new().set("ingest.idle_timeout", "1s").start().await;
    let mut raw = Raw::connect(node.ingest()).await;
    let (mut pings, mut closed) = (0, None);
    // No ping is answered.
    while let Some(frame) = raw.next().await {
        pings += usize::from(frame.opcode == PING);
        closed = frame.close_code().or(closed);
    }
    assert!(pings > 0, "it was asked whether it is there");
    println!("closed with {closed:?} after {pings} pings");
}

#[tokio::test]
async fn a_connection_that_answers_pings_stays() {
    let node = Node::new().set("ingest.idle_timeout", "1s").start().await;
    let mut raw = Raw::connect(node.ingest()).await;
    for _ in 0..5 {
        let frame = raw.next().await.expect("a ping");
        assert_eq!(frame.opcode, PING, "{frame:?}");
        raw.send(piece(true, 10, &frame.payload)).await;
    }
    raw.send(Frame::text(&report("alive", 1, "1"))).await;
    loop {
        let frame = raw.next().await.expect("an ack");
        if frame.opcode == TEXT {
            assert_eq!(frame.json()["op"], "ack");
            break;
        }
    }
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_off() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = Node::new().set("ingest.handshake_timeout", "500ms").start().await;
    let mut socket = tokio::net::TcpStream::connect(node.ingest()).await.expect("a connection");
    socket.write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\n").await.expect("half a head");
    let mut said = Vec::new();
    let _ = crate::support::wait::within("the server to hang up", socket.read_to_end(&mut said)).await;
    assert!(!String::from_utf8_lossy(&said).starts_with("HTTP/1.1 101"));
}
