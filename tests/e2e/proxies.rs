//! Proxies before the ingest listener: whom a connection is from, and who is believed.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::client::report;
use crate::support::http::{self, Answer};
use crate::support::node::{Node, run};
use crate::support::tls::certificate;
use crate::support::wait::{eventually, within};
use crate::tls::with_tls;

/// What makes a request one for a WebSocket.
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// Version 2 of the PROXY protocol: 192.0.2.1 by TCP, with a TLV behind the addresses.
const SECOND: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x01\x0a\0\0\x01\x12\x67\x01\xbb\x04\0\x01x";

fn node(proxy: &str, trusted: &[&str]) -> Node {
    Node::new().set("ingest.proxy", proxy).set("ingest.trusted_proxies", trusted.to_vec())
}

/// A connection from an address of loopback, of which Linux has many.
async fn from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((IpAddr::from(source), 0).into()).expect("an address of loopback");
    socket.connect(address).await.expect("a connection")
}

/// One report for an id over a connection that is kept; the answer.
async fn post(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), id: &str, headers: &str) -> Answer {
    let body = report(id, 1, "1");
    let length = body.len();
    let request =
        format!("POST /reports HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
    socket.write_all(request.as_bytes()).await.expect("taken");
    let mut received = Vec::new();
    loop {
        let count = within("an answer", socket.read_buf(&mut received)).await.expect("an answer");
        match http::parse(&received) {
            Some(answer) => return answer,
            None => assert!(count > 0, "the connection ended: {:?}", String::from_utf8_lossy(&received)),
        }
    }
}

/// The status of a WebSocket's handshake; the socket stays open.
async fn handshake(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), headers: &str) -> u16 {
    let request = format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{headers}\r\n");
    socket.write_all(request.as_bytes()).await.expect("taken");
    let mut line = [0; 12];
    within("an answer", socket.read_exact(&mut line)).await.expect("a status line");
    String::from_utf8_lossy(&line[9..]).parse().expect("a status")
}

/// What the node says before it hangs up.
async fn last_words(mut socket: TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let _ = within("the end of the connection", socket.read_to_end(&mut received)).await;
    received
}

/// The peer of an id's first row, once it is stored.
async fn peer(node: &Node, id: &str) -> String {
    node.drained().await;
    let rows = node.stored().rows().await.expect("a sink");
    let row = rows.into_iter().find(|row| row.id == id).expect("a row");
    row.peer.expect("a peer")
}

#[tokio::test]
async fn whom_a_report_is_from_is_what_the_trusted_proxy_says_and_nothing_else() {
    for (proxy, headers) in [
        ("x-forwarded-for", "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\nForwarded: for=6.6.6.6\r\n"),
        ("x-forwarded-for", "X-Forwarded-For: 192.0.2.1:4711, 127.0.0.9\r\nX-Real-IP: 6.6.6.6\r\n"),
        ("x-forwarded-for", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.1\r\n"),
        ("forwarded", "Forwarded: for=6.6.6.6, for=192.0.2.1;proto=https\r\nX-Forwarded-For: 6.6.6.6\r\n"),
        ("forwarded", "Forwarded: for=\"6.6.6.6\r\nForwarded: for=\"192.0.2.1:80\", for=127.0.0.9\r\n"),
    ] {
        let node = node(proxy, &["127.0.0.0/8"]).start().await;
        let mut socket = TcpStream::connect(node.ingest()).await.expect("a connection");
        assert_eq!(post(&mut socket, "named", headers).await.status, 200);
        assert_eq!(post(&mut socket, "unnamed", "").await.status, 200, "a health check of the proxy's own");
        assert_eq!(peer(&node, "named").await, "192.0.2.1", "{headers}");
        assert_eq!(peer(&node, "unnamed").await, "127.0.0.1", "{headers}");
        let broken = format!("{}: nonsense\r\n", if proxy == "forwarded" { "Forwarded" } else { "X-Forwarded-For" });
        let answer = post(&mut socket, "broken", &broken).await;
        assert!(answer.status == 400 && answer.text().contains("ingest.proxy"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_of_a_proxy_has_a_client_for_each_request() {
    let node = node("x-forwarded-for", &["127.0.0.1"]).start().await;
    let mut socket = TcpStream::connect(node.ingest()).await.expect("a connection");
    for n in 1..=3 {
        let headers = format!("X-Forwarded-For: 192.0.2.{n}\r\n");
        assert_eq!(post(&mut socket, &format!("c{n}"), &headers).await.status, 200);
    }
    for n in 1..=3 {
        assert_eq!(peer(&node, &format!("c{n}")).await, format!("192.0.2.{n}"));
    }
}

#[tokio::test]
async fn the_headers_of_whoever_is_no_trusted_proxy_are_not_looked_at() {
    for proxy in ["x-forwarded-for", "forwarded"] {
        let node = node(proxy, &["127.0.0.1", "10.0.0.0/8"]).start().await;
        let mut socket = from([127, 0, 0, 2], node.ingest()).await;
        let forged = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n";
        assert_eq!(post(&mut socket, "forged", forged).await.status, 200);
        let broken = "X-Forwarded-For: nonsense\r\nForwarded: nonsense\r\n";
        assert_eq!(post(&mut socket, "broken", broken).await.status, 200);
        for id in ["forged", "broken"] {
            assert_eq!(peer(&node, id).await, "127.0.0.2");
        }
    }
    // Without the setting nobody is a proxy.
    let node = Node::new().start().await;
    let mut socket = TcpStream::connect(node.ingest()).await.expect("a connection");
    assert_eq!(post(&mut socket, "none", "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n").await.status, 200);
    assert_eq!(peer(&node, "none").await, "127.0.0.1");
}

#[tokio::test]
async fn connections_are_counted_for_the_client_and_never_for_the_proxy() {
    let node = node("x-forwarded-for", &["127.0.0.1"]).set("ingest.max_connections_per_address", 2).start().await;
    let client = |n: u8| format!("X-Forwarded-For: 6.6.6.6, 192.0.2.{n}\r\n");
    let mut open = Vec::new();
    for n in [1, 1, 2, 2] {
        let mut socket = TcpStream::connect(node.ingest()).await.expect("a connection");
        assert_eq!(handshake(&mut socket, &client(n)).await, 101);
        open.push(socket);
    }
    let mut socket = TcpStream::connect(node.ingest()).await.expect("a connection");
    assert_eq!(handshake(&mut socket, &client(1)).await, 503, "two are open from there");
    let mut socket = TcpStream::connect(node.ingest()).await.expect("a connection");
    assert_eq!(post(&mut socket, "third", &client(2)).await.status, 503);
    assert_eq!(post(&mut socket, "third", &client(3)).await.status, 200, "the connection is the proxy's");
    drop(open);
    let freed = eventually("the places to be free again", async || {
        let mut socket = TcpStream::connect(node.ingest()).await.expect("a connection");
        let status = post(&mut socket, "freed", &client(1)).await.status;
        if status == 200 { Ok(()) } else { Err(format!("{status}")) }
    });
    freed.await;
}

#[tokio::test]
async fn a_proxy_header_says_whom_a_connection_is_from_before_tls_and_http() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = certificate(folder.path(), "own", 2100);
    let plain = node("proxy-protocol", &["127.0.0.1"]).start().await;
    let mut secure = with_tls(node("proxy-protocol", &["127.0.0.1"]), &own);
    secure.launch().await;
    for (n, (header, client)) in [
        (&b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n"[..], "192.0.2.1"),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (SECOND, "192.0.2.1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("c{n}");
        let mut socket = TcpStream::connect(plain.ingest()).await.expect("a connection");
        socket.write_all(header).await.expect("taken");
        let forged = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n";
        assert_eq!(post(&mut socket, &id, forged).await.status, 200, "{client}");
        assert_eq!(peer(&plain, &id).await, client);
        let mut socket = TcpStream::connect(secure.ingest()).await.expect("a connection");
        socket.write_all(header).await.expect("taken");
        let mut socket = own.over(socket, secure.ingest()).await.expect("TLS behind the header");
        assert_eq!(post(&mut socket, &id, "").await.status, 200, "{client} by TLS");
    }
    let audit = own.request(secure.admin(), "GET /api/v1/audit", b"").await.json();
    assert_eq!(audit["accepted"], 5, "{audit}");
}

#[tokio::test]
async fn a_proxy_header_is_required_and_never_guessed() {
    let node = node("proxy-protocol", &["127.0.0.1"]).set("ingest.handshake_timeout", "2s").start().await;
    let request = "POST /reports HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n[]";
    for start in [
        &b""[..],
        b"PROXY TCP4 192.0.2.1 10.0.0.1 4711\r\n",
        b"PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc0\0\x02\x01\x0a\0\0\x01\x12\x67\x01\xbb",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        &[&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat(),
    ] {
        let mut socket = TcpStream::connect(node.ingest()).await.expect("a connection");
        let _ = socket.write_all(&[start, request.as_bytes()].concat()).await;
        let said = last_words(socket).await;
        assert!(said.is_empty(), "{start:?}: {:?}", String::from_utf8_lossy(&said));
    }
    node.said("does it send the PROXY protocol", 1).await;
    // Half of one that never goes on is given up.
    for half in [&b"PROXY TCP4 192"[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0", b"P", b""] {
        let mut socket = TcpStream::connect(node.ingest()).await.expect("a connection");
        socket.write_all(half).await.expect("taken");
        assert!(last_words(socket).await.is_empty(), "{half:?}");
    }
    // Who is no proxy is told so, whatever he begins with.
    for start in [&b""[..], b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n"] {
        let mut socket = from([127, 0, 0, 2], node.ingest()).await;
        socket.write_all(&[start, request.as_bytes()].concat()).await.expect("taken");
        let said = String::from_utf8_lossy(&last_words(socket).await).into_owned();
        assert!(said.starts_with("HTTP/1.1 403") && said.contains("ingest.trusted_proxies"), "{said}");
    }
    assert_eq!(node.audit().await["accepted"], 0);
}

#[tokio::test]
async fn a_client_behind_a_proxy_header_is_counted_and_the_proxy_is_not() {
    let node = node("proxy-protocol", &["127.0.0.1"]).set("ingest.max_connections_per_address", 1).start().await;
    let connect = async |n: u8| {
        let mut socket = TcpStream::connect(node.ingest()).await.expect("a connection");
        let header = format!("PROXY TCP4 192.0.2.{n} 10.0.0.1 4711 443\r\n");
        socket.write_all(header.as_bytes()).await.expect("taken");
        socket
    };
    let mut open = Vec::new();
    for n in 1..=3 {
        let mut socket = connect(n).await;
        assert_eq!(handshake(&mut socket, "").await, 101);
        open.push(socket);
    }
    assert_eq!(handshake(&mut connect(1).await, "").await, 503);
    assert_eq!(handshake(&mut connect(4).await, "").await, 101);
}

#[tokio::test]
async fn settings_of_proxies_that_do_not_go_together_are_faults() {
    for (settings, key) in [
        ("proxy = \"forwarded\"", "ingest.proxy"),
        ("trusted_proxies = [\"10.0.0.0/8\"]", "ingest.trusted_proxies"),
        ("proxy = \"x-real-ip\"\ntrusted_proxies = [\"10.0.0.0/8\"]", "ingest.proxy"),
        ("proxy = [\"forwarded\", \"proxy-protocol\"]\ntrusted_proxies = [\"10.0.0.0/8\"]", "ingest.proxy"),
        ("proxy = \"forwarded\"\ntrusted_proxies = [\"10.0.0.1/8\"]", "ingest.trusted_proxies"),
        ("proxy = \"forwarded\"\ntrusted_proxies = [\"proxy.example\"]", "ingest.trusted_proxies"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("forebay.toml");
        std::fs::write(&file, format!("[ingest]\n{settings}\n")).expect("a file");
        let checked = run(&["check-config", "--config", &file.display().to_string()]);
        assert_eq!(checked.code, Some(2), "{settings}: {checked:?}");
        assert!(checked.stderr.contains(&format!("  {key}")) && checked.stderr.contains("has a fault"), "{checked:?}");
    }
}
