//! Requests as they should not be: hosts of others, lengths that nobody means, encodings, clients that stop writing.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::client::report;
use crate::support::http::{self, Answer};
use crate::support::node::Node;
use crate::support::raw::{Frame, Received, TEXT};
use crate::support::tls::certificate;
use crate::support::wait::{eventually, same, within};
use crate::tls::with_tls;

/// What makes a request one for a WebSocket.
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The status of the answer to a request of these lines.
async fn status(address: SocketAddr, request: &[u8]) -> u16 {
    answer(address, request).await.status
}

async fn answer(address: SocketAddr, request: &[u8]) -> Answer {
    let shown = String::from_utf8_lossy(request).into_owned();
    http::exchange(address, request).await.unwrap_or_else(|e| panic!("{e} to {shown}"))
}

/// The status that a WebSocket's handshake gets; one that is let in would not end.
async fn handshake(address: SocketAddr, target: &str, hosts: &[u8]) -> u16 {
    let mut request = format!("GET {target} HTTP/1.1\r\n{UPGRADE}").into_bytes();
    request.extend_from_slice(hosts);
    request.extend_from_slice(b"\r\n");
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("a connection");
    socket.write_all(&request).await.expect("taken");
    let mut line = [0; 12];
    within("an answer", socket.read_exact(&mut line)).await.expect("a status line");
    String::from_utf8_lossy(&line[9..]).parse().expect("a status")
}

/// A `POST /reports` with these lines for its host.
async fn posted(address: SocketAddr, target: &str, hosts: &[u8]) -> u16 {
    let body = report("rebound", 1, "1");
    let mut request = format!("POST {target} HTTP/1.1\r\nConnection: close\r\n").into_bytes();
    request.extend_from_slice(hosts);
    request.extend_from_slice(format!("Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    status(address, &request).await
}

/// A page whose name was pointed at this machine names itself as `Origin` and as `Host`.
#[tokio::test]
async fn a_page_that_pointed_its_name_here_writes_no_report() {
    let node = Node::new().start().await;
    let ours = node.ingest();
    let evil = b"Host: evil.example\r\nOrigin: http://evil.example\r\n";
    assert_eq!((handshake(ours, "/ws", evil).await, posted(ours, "/reports", evil).await), (403, 403));
    for hosts in [
        &b"Host: evil.example\r\n"[..],
        b"Host: localhost.evil.example\r\n",
        b"Host: 127.0.0.1.evil.example\r\n",
        b"Host: 192.0.2.1\r\n",
        b"Host: \r\n",
    ] {
        let shown = String::from_utf8_lossy(hosts);
        assert_eq!((handshake(ours, "/ws", hosts).await, posted(ours, "/reports", hosts).await), (403, 403), "{shown}");
    }
    let port = ours.port();
    for host in ["127.0.0.1", "LOCALHOST", "localhost.", "[::1]", &format!("127.0.0.1:{port}"), "localhost:1"] {
        let hosts = format!("Host: {host}\r\nOrigin: http://{host}\r\n").into_bytes();
        assert_eq!(handshake(ours, "/ws", &hosts).await, 101, "{host}");
        assert_eq!(posted(ours, "/reports", &hosts).await, 200, "{host}");
    }
    let answer = answer(ours, b"POST /reports HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert!(answer.text().contains("ingest.allowed_hosts"), "{answer:?}");
}

#[tokio::test]
async fn a_name_of_the_ingest_listener_is_served_once_it_is_allowed() {
    let node = Node::new().set("ingest.allowed_hosts", vec!["reports.example"]).start().await;
    for host in ["reports.example", "Reports.Example:7001", "reports.example."] {
        let hosts = format!("Host: {host}\r\n").into_bytes();
        assert_eq!(handshake(node.ingest(), "/ws", &hosts).await, 101, "{host}");
    }
    assert_eq!(handshake(node.ingest(), "/ws", b"Host: other.example\r\n").await, 403);
}

/// `Host: \xe9vil.example` was once served, because no name could be read in it.
#[tokio::test]
async fn a_host_that_cannot_be_read_or_is_there_twice_or_not_is_refused_by_both_listeners() {
    let node = Node::new().start().await;
    for hosts in [
        &b"Host: \xe9vil.example\r\n"[..],
        b"Host: evil.example@localhost\r\n",
        b"Host: localhost:x\r\n",
        b"Host: localhost:70000\r\n",
        b"Host: localhost:1:2\r\n",
        b"Host: localhost/evil\r\n",
        b"Host: local host\r\n",
        b"Host: [::1\r\n",
        b"Host: [::1]x\r\n",
        b"Host: localhost,evil.example\r\n",
        b"Host: localhost\r\nHost: localhost\r\n",
        b"Host: localhost\r\nHost: evil.example\r\n",
        b"",
    ] {
        let shown = String::from_utf8_lossy(hosts);
        let got = (handshake(node.ingest(), "/ws", hosts).await, posted(node.ingest(), "/reports", hosts).await);
        assert_eq!(got, (400, 400), "ingest: {shown}");
        let request = [b"GET /api/v1/audit HTTP/1.1\r\nConnection: close\r\n", hosts, b"\r\n"].concat();
        assert_eq!(status(node.admin(), &request).await, 400, "admin: {shown}");
    }
    // A health check by HTTP/1.0 may name none; no browser speaks that.
    assert_eq!(status(node.admin(), b"GET /healthz HTTP/1.0\r\n\r\n").await, 200);
}

#[tokio::test]
async fn a_target_that_names_a_host_counts_as_that_host() {
    let node = Node::new().start().await;
    for (target, hosts, wanted) in [
        ("http://evil.example/ws", "Host: evil.example\r\n", 403),
        ("http://evil.example/ws", "Host: localhost\r\n", 400),
        ("http://localhost/ws", "Host: evil.example\r\n", 400),
        ("http://evil.example@localhost/ws", "Host: localhost\r\n", 400),
        ("http://localhost/ws", "Host: localhost\r\n", 101),
    ] {
        assert_eq!(handshake(node.ingest(), target, hosts.as_bytes()).await, wanted, "{target} {hosts}");
        let admin = target.replace("/ws", "/api/v1/audit");
        let request = format!("GET {admin} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        let wanted = if wanted == 101 { 200 } else { wanted };
        assert_eq!(status(node.admin(), request.as_bytes()).await, wanted, "admin: {request}");
    }
}

#[tokio::test]
async fn a_length_beyond_all_limits_is_413_before_the_body() {
    let node = Node::new().start().await;
    for length in [
        "8388609",
        "18446744073709551613",
        // Those that hyper has no number for were once 431, or the end of the connection without an answer.
        "18446744073709551614",
        "18446744073709551615",
        "18446744073709551616",
        "123456789012345678901234567890",
        "00000000000000000000000000000000000018446744073709551616",
    ] {
        let request = format!("POST /reports HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n[");
        assert_eq!(status(node.ingest(), request.as_bytes()).await, 413, "{length}");
        // A request before it, over the same connection, is answered first.
        let both = format!("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n{request}");
        assert_eq!(answer(node.ingest(), both.as_bytes()).await.status, 404, "{length}");
    }
    let body = report("zeros", 1, "1");
    let request = format!(
        "POST /reports HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {:040}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(status(node.ingest(), request.as_bytes()).await, 200, "zeros before a length say nothing");
    for length in ["18446744073709551616x", "-1", "1, 18446744073709551616", ""] {
        let request = format!("POST /reports HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n[");
        assert_eq!(status(node.ingest(), request.as_bytes()).await, 400, "{length:?} is no number");
    }
}

#[tokio::test]
async fn a_chunk_that_claims_more_than_there_may_be_is_refused_at_once() {
    let node = Node::new().start().await;
    for chunk in ["10000000000000000", "FFFFFFFFFFFFFFFFFFFF", "ffffffffffffffff", "7fffffff"] {
        let request =
            format!("POST /reports HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}\r\n[");
        let status = status(node.ingest(), request.as_bytes()).await;
        assert!(matches!(status, 400 | 413), "{chunk}: {status}");
        // A request before it, over the same connection, is answered.
        let both = format!("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n{request}");
        let answer = answer(node.ingest(), both.as_bytes()).await;
        assert_eq!(answer.status, 404, "{chunk}");
    }
}

#[tokio::test]
async fn a_body_in_an_encoding_that_is_not_decoded_is_refused() {
    let node = Node::new().start().await;
    for encoding in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
    ] {
        let body = report("coded", 1, "1");
        let request = format!(
            "POST /reports HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{encoding}\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        assert_eq!(status(node.ingest(), request.as_bytes()).await, 501, "{encoding}");
    }
    let both =
        "POST /reports HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(status(node.ingest(), both.as_bytes()).await, 400);
    assert_eq!(node.audit().await["accepted"], 0);
}

#[tokio::test]
async fn no_answer_of_the_admin_api_is_kept_guessed_at_or_embedded() {
    let node = Node::new().start().await;
    for (path, kept) in [
        ("/healthz", "no-store"),
        ("/readyz", "no-store"),
        ("/metrics", "no-store"),
        ("/api/v1/status", "no-store"),
        ("/api/v1/streams", "no-store"),
        ("/api/v1/streams?limit=x", "no-store"),
        ("/api/v1/dead-letters", "no-store"),
        ("/api/openapi.json", "no-store"),
        ("/nothing", "no-store"),
        ("/", "no-cache"),
        ("/assets/app.js", "no-cache"),
    ] {
        let answer = http::get(node.admin(), path).await.expect("an answer");
        let found = ["cache-control", "x-content-type-options", "cross-origin-resource-policy"];
        assert_eq!(found.map(|name| answer.header(name)), [kept, "nosniff", "same-origin"], "{path}");
    }
    let answer =
        answer(node.admin(), b"GET /api/v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.await.header("x-content-type-options"), "nosniff");
}

/// All that a stream says until its end.
async fn rest(mut socket: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut received = Vec::new();
    // What was received counts, not how the connection ended.
    let _ = within("the end", socket.read_to_end(&mut received)).await;
    received
}

/// The handshake of a WebSocket and so many reports, as bytes.
fn session(reports: u64) -> Vec<u8> {
    let mut bytes = format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n").into_bytes();
    for seq in 0..reports {
        bytes.extend(Frame::text(&report("half", seq, "1")).bytes());
    }
    bytes
}

/// The frames behind the answer to a handshake.
fn acks(received: &[u8]) -> usize {
    let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an answer") + 4;
    let frames = Received::all(&received[end..]);
    frames.iter().filter(|frame| frame.opcode == TEXT && frame.json()["op"] == "ack").count()
}

/// A client may stop writing and read on. One that ends TLS without `close_notify` once got nothing, though all was
/// kept.
#[tokio::test]
async fn who_stops_writing_gets_the_acks_of_what_came_whole_with_and_without_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = certificate(folder.path(), "own", 2100);
    let plain = Node::new().start().await;
    let mut socket = tokio::net::TcpStream::connect(plain.ingest()).await.expect("a connection");
    socket.write_all(&session(50)).await.expect("taken");
    socket.shutdown().await.expect("half closed");
    assert_eq!(acks(&rest(socket).await), 50, "plain");
    let mut node = with_tls(Node::new(), &own);
    node.launch().await;
    for notified in [true, false] {
        let mut socket = own.connect(node.ingest()).await.expect("TLS");
        socket.write_all(&session(50)).await.expect("taken");
        socket.flush().await.expect("sent");
        if notified {
            socket.shutdown().await.expect("half closed");
        } else {
            let tcp = socket.get_ref().0;
            rustix::net::shutdown(tcp, rustix::net::Shutdown::Write).expect("half closed");
        }
        assert_eq!(acks(&rest(socket).await), 50, "TLS, with close_notify: {notified}");
    }
}

#[tokio::test]
async fn who_stops_writing_after_a_request_gets_its_answer_with_and_without_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = certificate(folder.path(), "own", 2100);
    let body = report("half", 1, "1");
    let request = format!("POST /reports HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let plain = Node::new().start().await;
    for _ in 0..20 {
        let mut socket = tokio::net::TcpStream::connect(plain.ingest()).await.expect("a connection");
        socket.write_all(request.as_bytes()).await.expect("taken");
        socket.shutdown().await.expect("half closed");
        assert_eq!(http::parse(&rest(socket).await).map(|answer| answer.status), Some(200), "plain");
    }
    let mut node = with_tls(Node::new(), &own);
    node.launch().await;
    for _ in 0..20 {
        let mut socket = own.connect(node.ingest()).await.expect("TLS");
        socket.write_all(request.as_bytes()).await.expect("taken");
        socket.flush().await.expect("sent");
        rustix::net::shutdown(socket.get_ref().0, rustix::net::Shutdown::Write).expect("half closed");
        assert_eq!(http::parse(&rest(socket).await).map(|answer| answer.status), Some(200), "TLS");
    }
}

/// An end in the middle of something is no end of it.
#[tokio::test]
async fn what_did_not_come_whole_before_the_end_is_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = certificate(folder.path(), "own", 2100);
    let mut node = with_tls(Node::new(), &own);
    node.launch().await;
    let whole = session(2);
    let body = report("half", 9, "1");
    let posted =
        format!("POST /reports HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len() + 1);
    for cut in [&whole[..whole.len() - 1], posted.as_bytes()] {
        let mut socket = own.connect(node.ingest()).await.expect("TLS");
        socket.write_all(cut).await.expect("taken");
        socket.flush().await.expect("sent");
        rustix::net::shutdown(socket.get_ref().0, rustix::net::Shutdown::Write).expect("half closed");
        rest(socket).await;
    }
    let audit = own.request(node.admin(), "GET /api/v1/audit", b"").await.json();
    assert_eq!(audit["accepted"], 1, "the first report of the session: {audit}");
}

/// A request that waits with so many `done`s of an id that nothing is stored of.
fn waiting(time: &str, dones: usize) -> String {
    let body = report("held", 1, "1") + &"\n{\"op\":\"done\",\"id\":\"held\"}".repeat(dones);
    format!(
        "POST /reports?wait={time} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What a request with `wait` holds was once held for as long as it said, with nobody there.
#[tokio::test]
async fn who_leaves_is_waited_for_no_more_and_what_it_held_is_free_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = certificate(folder.path(), "own", 2100);
    let node = || Node::new().set("ingest.max_waiting_dones", 3);
    let (plain, mut tls) = (node().start().await, with_tls(node(), &own));
    tls.launch().await;
    let pause = "/api/v1/streams/held/pause";
    assert_eq!(http::post(plain.admin(), pause, "application/json", "").await.status, 200);
    assert_eq!(own.request(tls.admin(), &format!("POST {pause}"), b"").await.status, 200);
    let over_tcp = async || tokio::net::TcpStream::connect(plain.ingest()).await.expect("a connection");
    let over_tls = async || own.connect(tls.ingest()).await.expect("TLS");
    leaves(over_tcp).await;
    leaves(over_tls).await;
    // A client that stops writing is told at once, however long it would have waited.
    let mut socket = over_tcp().await;
    socket.write_all(waiting("300s", 1).as_bytes()).await.expect("taken");
    socket.shutdown().await.expect("half closed");
    let answer = http::parse(&rest(socket).await).expect("an answer");
    assert_eq!((answer.status, &answer.json()[1]["op"]), (202, &"ack".into()), "{answer:?}");
    let mut socket = over_tls().await;
    socket.write_all(waiting("300s", 1).as_bytes()).await.expect("taken");
    socket.shutdown().await.expect("half closed");
    assert_eq!(http::parse(&rest(socket).await).map(|answer| answer.status), Some(202));
}

/// Waits with a `done`, beside which there is no room for two, and leaves.
async fn leaves<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(connect: impl AsyncFn() -> S) {
    let ask = async |time: &str, dones| {
        let mut socket = connect().await;
        socket.write_all(waiting(time, dones).as_bytes()).await.expect("taken");
        socket.flush().await.expect("sent");
        socket
    };
    let second = async || {
        let answer = http::parse(&rest(ask("0s", 2).await).await).expect("an answer");
        answer.json()[2]["code"].as_u64()
    };
    let first = ask("300s", 1).await;
    eventually("the place to be taken", async || same(second().await, Some(429))).await;
    drop(first);
    eventually("the place to be free", async || same(second().await, Some(200))).await;
}
