//! Server-sent events of the admin listener.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::access::token;
use crate::support::client::Client;
use crate::support::http;
use crate::support::node::Node;
use crate::support::wait::{eventually, same, within};

const EVENTS: &str = "/api/v1/events";
/// As docs/admin-api.md has it.
const MAX_SUBSCRIBERS: usize = 64;

/// One who listens.
struct Listener(BufReader<TcpStream>);

impl Listener {
    async fn connect(node: &Node) -> Self {
        Self::connect_with(node, "").await
    }

    /// With more headers, each with its end of line.
    async fn connect_with(node: &Node, headers: &str) -> Self {
        let mut socket = TcpStream::connect(node.admin()).await.expect("a connection");
        let request = format!("GET {EVENTS} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", node.admin());
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut listener = Self(BufReader::new(socket));
        let head = listener.line().await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        while !listener.line().await.is_empty() {}
        listener
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        within("a line", self.0.read_line(&mut line)).await.expect("the connection holds");
        line.trim_end().to_owned()
    }

    /// The next event, which is a status.
    async fn status(&mut self) -> Value {
        loop {
            if self.line().await == "event: status" {
                let data = self.line().await;
                let data = data.strip_prefix("data: ").expect("the data follows");
                return serde_json::from_str(data).expect("a status is JSON");
            }
        }
    }
}

#[tokio::test]
async fn all_who_listen_are_told_the_same_status_until_the_node_stops() {
    let mut node = Node::new().set("flush.tick", "1h").set("on_disconnect", "ignore").start().await;
    let (mut one, mut other) = (Listener::connect(&node).await, Listener::connect(&node).await);
    let first = one.status().await;
    assert_eq!((&first["ready"], &first["audit"]["accepted"]), (&true.into(), &0.into()), "{first}");
    Client::connect(node.ingest()).await.report("a", 1, "1").await;
    let seen = loop {
        let status = one.status().await;
        if status["audit"]["accepted"] == 1 {
            break status;
        }
    };
    assert_eq!((&seen["journal"]["streams"], &seen["audit"]["balanced"]), (&1.into(), &true.into()), "{seen}");
    let same = loop {
        let status = other.status().await;
        if status["uptime_s"] == seen["uptime_s"] {
            break status;
        }
    };
    assert_eq!(same, seen, "one snapshot for all");
    assert_eq!(node.terminate().await.code(), Some(0), "who listens holds up no stop: {}", node.stderr());
    let mut rest = Vec::new();
    within("the end of the events", one.0.read_to_end(&mut rest)).await.expect("an end, and no reset");
}

#[tokio::test]
async fn who_listens_with_a_token_that_is_withdrawn_is_told_no_more_and_others_are() {
    let [(stays, stays_entry), (goes, goes_entry)] =
        ["stays", "goes"].map(|name| token(&["--name", name, "--scope", "admin-read"]));
    let mut node = Node::new();
    let file = node.folder().join("tokens.toml");
    std::fs::write(&file, format!("{stays_entry}{goes_entry}")).expect("a file");
    node.change("access.tokens", file.display().to_string());
    let node = node.start().await;
    let listen = async |token: &str| {
        let mut listener = Listener::connect_with(&node, &format!("Authorization: Bearer {token}\r\n")).await;
        listener.status().await;
        listener
    };
    let (mut stays, mut goes) = (listen(&stays).await, listen(&goes).await);
    std::fs::write(&file, stays_entry).expect("a file");
    node.reload();
    node.said("were read anew", 1).await;
    let mut rest = Vec::new();
    within("the end of the events", goes.0.read_to_end(&mut rest)).await.expect("an end, and no reset");
    stays.status().await;
}

#[tokio::test]
async fn as_many_may_listen_as_the_limit_says_and_a_place_is_free_again_after_one_has_gone() {
    let node = Node::new().start().await;
    let mut listeners = Vec::new();
    for _ in 0..MAX_SUBSCRIBERS {
        listeners.push(Listener::connect(&node).await);
    }
    let answer = http::get(node.admin(), EVENTS).await.expect("an answer");
    assert_eq!((answer.status, answer.header("content-type")), (503, "application/problem+json"), "{answer:?}");
    listeners[MAX_SUBSCRIBERS - 1].status().await;
    listeners.pop();
    let taken = eventually("a place to be free", async || {
        let mut socket = TcpStream::connect(node.admin()).await.expect("a connection");
        let request = format!("GET {EVENTS} HTTP/1.1\r\nHost: {}\r\n\r\n", node.admin());
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut head = [0; 12];
        socket.read_exact(&mut head).await.expect("an answer");
        same(&head, b"HTTP/1.1 200")
    });
    taken.await;
}
