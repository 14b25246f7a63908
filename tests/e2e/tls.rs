//! TLS on both listeners and to the sink, and handshakes that never end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{Client, report};
use crate::support::metrics::Page;
use crate::support::node::{Node, run};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::tls::{Own, certificate};
use crate::support::wait::within;

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}

/// A node with TLS on both listeners, not started.
pub fn with_tls(node: Node, own: &Own) -> Node {
    let (cert, key) = (text(&own.cert), text(&own.key));
    node.set("ingest.tls_cert", cert.clone())
        .set("ingest.tls_key", key.clone())
        .set("admin.tls_cert", cert)
        .set("admin.tls_key", key)
}

/// Sends reports over one WebSocket, many at a time; the slowest answer.
async fn reported(own: &Own, address: SocketAddr, rounds: u64) -> Duration {
    let stream = own.connect(address).await.expect("TLS");
    let (mut socket, _) = client_async(format!("wss://{address}/ws"), stream).await.expect("a WebSocket");
    let mut worst = Duration::ZERO;
    for round in 0..rounds {
        let some: Vec<String> = (0..100).map(|n| report(&format!("s{n}"), round, "{\"x\":1}")).collect();
        let sent = Instant::now();
        socket.send(Message::text(format!("[{}]", some.join(",")))).await.expect("sent");
        let Some(Ok(Message::Text(replies))) = within("replies", socket.next()).await else { panic!("no replies") };
        worst = worst.max(sent.elapsed());
        let replies: Vec<Value> = serde_json::from_str(&replies).expect("JSON");
        assert!(replies.len() == 100 && replies.iter().all(|reply| reply["code"] == 200), "{replies:?}");
    }
    worst
}

#[tokio::test]
async fn both_listeners_speak_tls_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = certificate(folder.path(), "own", 2100);
    let mut node = with_tls(Node::new(), &own);
    node.launch().await;
    reported(&own, node.ingest(), 20).await;
    let answer = own.request(node.ingest(), "POST /reports", report("p", 1, "1").as_bytes()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let audit = own.request(node.admin(), "GET /api/v1/audit", b"").await.json();
    assert_eq!((&audit["accepted"], &audit["balanced"]), (&2001.into(), &true.into()), "{audit}");
    for address in [node.ingest(), node.admin()] {
        assert!(crate::support::http::get(address, "/healthz").await.is_err(), "no answer without TLS");
    }
    assert!(!node.stderr().contains("expire"), "{}", node.stderr());
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_warned_of_and_clients_refuse_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = certificate(folder.path(), "own", 2020);
    let mut node = with_tls(Node::new(), &own);
    node.launch().await;
    node.said("the certificate has expired", 2).await;
    let refused = own.connect(node.ingest()).await.expect_err("it has expired");
    assert!(refused.to_string().contains("xpired"), "{refused}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_stops_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let [mut own, other] = ["own", "other"].map(|name| certificate(folder.path(), name, 2100));
    own.key = other.key;
    let mut node = with_tls(Node::new(), &own);
    assert_eq!(node.launch_to_die().await.code(), Some(2));
    let said = node.stderr();
    assert!(said.contains("ingest.tls_cert") && said.contains("admin.tls_cert"), "{said}");
}

/// Opens connections that say nothing; waits until the node has hung up on each.
async fn half_open(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(TcpStream::connect(address).await.expect("a connection"));
    }
    sockets
}

async fn hung_up(mut socket: TcpStream) {
    let mut rest = Vec::new();
    let _ = within("the node to hang up", socket.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn handshakes_that_never_end_are_cut_and_a_good_client_is_served_meanwhile() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = certificate(folder.path(), "own", 2100);
    for tls in [false, true] {
        let node = Node::new().set("ingest.handshake_timeout", "3s");
        let mut node = if tls { with_tls(node, &own) } else { node };
        node.launch().await;
        let before = node.memory();
        let silent = half_open(node.ingest(), 300).await;
        let worst = if tls {
            reported(&own, node.ingest(), 20).await
        } else {
            let mut client = Client::connect(node.ingest()).await;
            let mut worst = Duration::ZERO;
            for seq in 0..200 {
                let sent = Instant::now();
                client.report("a", seq, "1").await;
                worst = worst.max(sent.elapsed());
            }
            worst
        };
        let cost = node.memory().saturating_sub(before);
        println!("300 half-open handshakes (TLS: {tls}): {cost} KiB more memory, worst answer {worst:?}");
        for socket in silent {
            hung_up(socket).await;
        }
    }
}

#[tokio::test]
async fn one_address_has_no_more_than_its_connections() {
    let node = Node::new().set("ingest.max_connections_per_address", 2).start().await;
    let first = Client::connect(node.ingest()).await;
    let _second = Client::connect(node.ingest()).await;
    let answer = crate::support::http::get(node.ingest(), "/ws").await.expect("an answer");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text().contains("max_connections_per_address"), "{answer:?}");
    first.close().await;
    let place = crate::support::wait::eventually("a place", async || {
        Client::try_connect(node.ingest()).await.map_err(|error| error.to_string())
    });
    place.await.report("a", 1, "1").await;
}

#[tokio::test]
async fn the_admin_listener_has_no_more_than_its_connections_and_cuts_silent_ones() {
    let node = Node::new().set("admin.max_connections", 20).start().await;
    let silent = half_open(node.admin(), 20).await;
    let answer = crate::support::http::get(node.admin(), "/healthz").await.expect("an answer");
    assert_eq!(answer.status, 503, "{answer:?}");
    for socket in silent {
        hung_up(socket).await;
    }
    let answer = crate::support::http::get(node.admin(), "/healthz").await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    // The look that found the node ready may have been there still.
    assert!(Page::of(&node).await.value("forebay_admin_connections_refused_total") >= 1.0);
}

on_each_server!(reports_go_to_a_server_through_tls_with_certificates_on_both_ends);
async fn reports_go_to_a_server_through_tls_with_certificates_on_both_ends(kind: Kind) {
    let folder = tempfile::tempdir().expect("a folder");
    let [server, client, stranger] =
        ["server", "client", "stranger"].map(|name| certificate(folder.path(), name, 2100));
    let options = [
        format!("--ssl-cert={}", text(&server.cert)),
        format!("--ssl-key={}", text(&server.key)),
        format!("--ssl-ca={}", text(&client.cert)),
    ];
    let database = Server::start_with(kind, &options.each_ref().map(String::as_str)).await;
    database
        .run(&[
            "CREATE USER 'secure'@'%' REQUIRE X509",
            "GRANT ALL ON forebay.* TO 'secure'@'%'",
            "CREATE USER 'secure'@'localhost' REQUIRE X509",
            "GRANT ALL ON forebay.* TO 'secure'@'localhost'",
        ])
        .await;
    let node = Node::new()
        .set("sink.url", format!("mysql://secure@127.0.0.1:{}/forebay", database.port()))
        .set("sink.tls_ca", text(&server.cert))
        .set("sink.tls_cert", text(&client.cert))
        .set("sink.tls_key", text(&client.key))
        .start()
        .await;
    let mut reporter = Client::connect(node.ingest()).await;
    for seq in 0..20 {
        reporter.report("a", seq, "1").await;
    }
    node.drained().await;
    assert_eq!(database.row::<u64>("SELECT COUNT(*) FROM reports").await, 20);

    let node = Node::new().set("sink.url", database.url()).set("sink.tls_ca", text(&stranger.cert)).start().await;
    let status = crate::support::wait::eventually("the server to be refused", async || {
        let status = node.admin_json("/api/v1/status").await;
        if status["sink"]["last_error"].is_string() { Ok(status) } else { Err(status.to_string()) }
    });
    let status = status.await;
    assert!(status["sink"]["last_error"].as_str().is_some_and(|error| error.contains("certificate")), "{status}");
    assert_eq!(status["sink"]["state"], "blocked", "a person must act: {status}");
}

#[test]
fn files_of_the_sinks_tls_that_cannot_be_used_stop_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let [own, other] = ["own", "other"].map(|name| certificate(folder.path(), name, 2100));
    let config = folder.path().join("forebay.toml");
    let check = |ca: &std::path::Path, cert: &std::path::Path, key: &std::path::Path| {
        let [ca, cert, key] = [ca, cert, key].map(text);
        let sink = "url = \"mysql://u:p@127.0.0.1:1/d\"";
        let settings = format!("[sink]\n{sink}\ntls_ca = {ca:?}\ntls_cert = {cert:?}\ntls_key = {key:?}\n");
        std::fs::write(&config, settings).expect("a file");
        ["check-config", "serve"].map(|command| run(&[command, "--config", &text(&config)]))
    };
    let missing = folder.path().join("missing.pem");
    for (checked, keys) in [
        (check(&missing, &own.cert, &own.key), &["sink.tls_ca", "there is no such file"][..]),
        (check(&own.key, &own.cert, &own.key), &["sink.tls_ca", "has no PEM of this kind"]),
        (check(&own.cert, &own.cert, &other.key), &["sink.tls_cert", "cannot be used"]),
        (check(&missing, &missing, &own.key), &["sink.tls_ca", "sink.tls_cert"]),
    ] {
        for output in checked {
            assert_eq!(output.code, Some(2), "{output:?}");
            assert!(keys.iter().all(|key| output.stderr.contains(key)), "{keys:?}: {output:?}");
        }
    }
}
