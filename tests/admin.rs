//! The admin API on a real socket, over a real service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use forebay::admin::Admin;
use forebay::config::{Settings, SinkTarget};
use forebay::service::Service;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

struct Node {
    address: SocketAddr,
    service: Service,
    stopping: CancellationToken,
    _dir: tempfile::TempDir,
}

async fn node() -> Node {
    let dir = tempfile::tempdir().expect("a folder");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut settings = Settings { node_id: 9, ..Settings::default() };
    settings.ingest.listen = any;
    settings.journal.dir = dir.path().join("journal");
    settings.flush.tick = Duration::from_millis(50);
    settings.sink.target = SinkTarget::Sqlite(dir.path().join("reports.db"));
    settings.admin.listen = any;
    let admin = Admin::bind(&settings, Arc::default(), None).await.expect("port 0 is free");
    let service = Service::open(&settings).await.expect("an empty journal opens");
    let (address, stopping) = (admin.local_addr(), CancellationToken::new());
    let connections = Arc::new(AtomicUsize::new(3));
    tokio::spawn(admin.run(service.clone(), connections, stopping.clone(), CancellationToken::new()));
    Node { address, service, stopping, _dir: dir }
}

impl Node {
    async fn ask(&self, line: &str, host: &str) -> (u16, String, Value) {
        let mut socket = TcpStream::connect(self.address).await.expect("a connection");
        let request = format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head[9..12].parse().expect("a status");
        (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> (u16, String, Value) {
        self.ask(&format!("GET {path}"), "localhost").await
    }
}

#[tokio::test]
async fn the_status_says_how_the_node_stands() {
    let node = node().await;
    let (code, head, status) = node.get("/api/v1/status").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/json"));
    assert_eq!((&status["node_id"], &status["ready"], &status["connections"]), (&json!(9), &json!(true), &json!(3)));
    assert_eq!((&status["journal"]["reports"], &status["journal"]["oldest_age_s"]), (&json!(0), &json!(0.0)));
    assert!(status["sink"]["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{status}");
    assert_eq!(status["audit"]["balanced"], true);
    let (_, _, audit) = node.get("/api/v1/audit").await;
    let names = ["recovered", "accepted", "stored", "duplicates", "dead", "discarded", "backlog", "balanced"];
    assert!(names.iter().all(|name| audit.get(name).is_some()), "{audit}");
}

#[tokio::test]
async fn a_stopping_node_is_healthy_but_not_ready() {
    let node = node().await;
    assert_eq!(node.get("/healthz").await.0, 200);
    assert_eq!(node.get("/readyz").await.0, 200);
    node.stopping.cancel();
    let (code, head, problem) = node.get("/readyz").await;
    assert_eq!((code, &problem["status"], &problem["detail"]), (503, &json!(503), &json!("the node is stopping")));
    assert!(head.contains("content-type: application/problem+json"));
    assert_eq!(node.get("/healthz").await.0, 200);
    node.service.shut_down().await.expect("the last sync works");
}

#[tokio::test]
async fn errors_are_problems() {
    let node = node().await;
    let (code, _, problem) = node.get("/nowhere").await;
    assert_eq!((code, &problem["title"]), (404, &json!("Not Found")));
    let (code, head, problem) = node.ask("POST /healthz", "localhost").await;
    assert_eq!((code, &problem["status"]), (405, &json!(405)));
    assert!(head.contains("allow: get"), "{head}");
    let (code, _, problem) = node.ask("GET /api/v1/status", "evil.example").await;
    assert_eq!((code, &problem["status"]), (403, &json!(403)));
}
