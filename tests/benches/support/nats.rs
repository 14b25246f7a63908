//! NATS JetStream with one stream in files: each report is published with a reply subject, to which its ack comes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Buf as _, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{Protocol, tcp};
use super::message::{MESSAGE_BYTES, Template, put_digits};
use super::server::{Server, installed};

/// Stream and subject.
const STREAM: &str = "reports";

/// A server with its stream.
pub struct Nats {
    /// The process.
    pub server: Server,
    /// What an ack of it is worth.
    pub meaning: &'static str,
}

impl Nats {
    /// Starts it, so that it syncs before it answers where its version can (2.10), and makes the stream.
    pub async fn start() -> Self {
        let program = given().unwrap_or_else(|| installed("nats-server"));
        let syncs = takes(&program, ", sync_interval: always");
        let server = Server::start(&program, |folder, port| settings(folder, port, sync(syncs))).await;
        let stream = serde_json::json!({
            "name": STREAM, "subjects": [STREAM], "storage": "file", "retention": "limits", "num_replicas": 1,
            "duplicate_window": 0, "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "discard": "old",
        });
        let made = request(server.address(), "CREATE", &stream.to_string()).await;
        assert!(made["error"].is_null(), "{made}");
        let meaning = if syncs { "synced" } else { "in the page cache: this version cannot sync before it answers" };
        Self { server, meaning }
    }

    /// Messages of the stream.
    pub async fn length(&self) -> u64 {
        let info = request(self.server.address(), "INFO", "").await;
        info["state"]["messages"].as_u64().unwrap_or_else(|| panic!("no count: {info}"))
    }
}

/// The program that `BENCH_NATS_SERVER` names instead of the installed one.
pub fn given() -> Option<PathBuf> {
    std::env::var_os("BENCH_NATS_SERVER").map(Into::into)
}

fn sync(syncs: bool) -> &'static str {
    if syncs { ", sync_interval: always" } else { "" }
}

/// Writes the settings; the arguments that name them.
fn settings(folder: &Path, port: u16, sync: &str) -> Vec<String> {
    let file = folder.join("nats.conf").display().to_string();
    let store = folder.join("store");
    let text = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}{sync} }}\n");
    std::fs::write(&file, text).expect("the settings can be written");
    vec!["-c".to_owned(), file]
}

/// Whether this version knows the setting.
fn takes(program: &Path, sync: &str) -> bool {
    let folder = super::folder("nats-");
    let mut command = Command::new(program);
    command.arg("-t").args(settings(folder.path(), 4222, sync));
    command.output().expect("nats-server runs").status.success()
}

/// One request to JetStream's API, over a connection of its own.
async fn request(address: SocketAddr, verb: &str, body: &str) -> Value {
    let mut socket = introduced(address, "_INBOX.ask").await;
    let ask = format!("PUB $JS.API.STREAM.{verb}.{STREAM} _INBOX.ask {}\r\n{body}\r\n", body.len());
    socket.write_all(ask.as_bytes()).await.expect("the server reads");
    let mut received = BytesMut::new();
    loop {
        assert!(socket.read_buf(&mut received).await.expect("the server answers") > 0, "the server closed");
        if let Some((head, length, _)) = message(&received) {
            return serde_json::from_slice(&received[head..head + length]).expect("the API speaks JSON");
        }
    }
}

/// A connection that gets what is sent to the subject.
async fn introduced(address: SocketAddr, subject: &str) -> TcpStream {
    let mut socket = tcp(address).await;
    let hello = format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {subject} 1\r\nPING\r\n");
    socket.write_all(hello.as_bytes()).await.expect("the server reads");
    let mut said = Vec::new();
    while !said.ends_with(b"PONG\r\n") {
        said.push(socket.read_u8().await.expect("the server answers"));
    }
    socket
}

/// A whole `MSG SUBJECT SID LENGTH\r\n…\r\n` at the front: where its payload begins, how long it is, and its subject.
fn message(received: &[u8]) -> Option<(usize, usize, &str)> {
    let line = received.iter().position(|byte| *byte == b'\n')?;
    let text = std::str::from_utf8(&received[..line]).expect("NATS speaks ASCII").trim_end();
    let mut words = text.split(' ');
    assert_eq!(words.next(), Some("MSG"), "not a message: {text}");
    let (subject, length) = (words.next()?, words.next_back()?);
    let length: usize = length.parse().expect("a length is a number");
    (received.len() >= line + 1 + length + 2).then_some((line + 1, length, subject))
}

/// A report published to the stream, its ack to a subject that ends in the report's number.
pub struct Publish {
    head: Vec<u8>,
    template: Template,
    sent: u64,
    acked: u64,
    /// Whether the server asked if somebody is there.
    pinged: bool,
}

/// Digits of a number in a reply subject.
const DIGITS: usize = 10;

impl Protocol for Publish {
    const GOODBYE: &'static [u8] = b"";

    async fn connect(address: SocketAddr) -> (TcpStream, Self) {
        static CONNECTIONS: AtomicU32 = AtomicU32::new(0);
        let inbox = format!("_INBOX.{:06}", CONNECTIONS.fetch_add(1, Ordering::Relaxed));
        let socket = introduced(address, &format!("{inbox}.*")).await;
        let head = format!("PUB {STREAM} {inbox}.{:0DIGITS$}", 0).into_bytes();
        let template = Template::new(format!(" {MESSAGE_BYTES}\r\n").as_bytes(), b"\r\n");
        (socket, Self { head, template, sent: 0, acked: 0, pinged: false })
    }

    fn write(&mut self, out: &mut Vec<u8>, id: u32, seq: u64) {
        if std::mem::take(&mut self.pinged) {
            out.extend_from_slice(b"PONG\r\n");
        }
        let number_at = self.head.len() - DIGITS;
        put_digits(&mut self.head[number_at..], self.sent);
        self.sent += 1;
        out.extend_from_slice(&self.head);
        self.template.write(out, id, seq);
    }

    fn take_ack(&mut self, received: &mut BytesMut) -> bool {
        if received.starts_with(b"PING\r\n") {
            self.pinged = true;
            received.advance(6);
        }
        let Some((head, length, subject)) = message(received) else { return false };
        let payload = &received[head..head + length];
        assert!(payload.starts_with(br#"{"stream":"#), "not an ack: {}", String::from_utf8_lossy(payload));
        let number = subject.get(subject.len() - DIGITS..).and_then(|digits| digits.parse().ok());
        assert_eq!(number, Some(self.acked), "acks come in the order of the reports");
        self.acked += 1;
        received.advance(head + length + 2);
        true
    }
}
