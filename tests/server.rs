//! The listener on a real socket, over a real service. What is drained, and where to, is not looked at here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

use forebay::config::{OnDisconnect, Settings, SinkTarget};
use forebay::ingest::Server;
use forebay::service::Service;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Nothing here takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    address: SocketAddr,
    service: Service,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    dir: tempfile::TempDir,
}

fn settings(dir: &std::path::Path) -> Settings {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut settings = Settings::default();
    settings.ingest.listen = any;
    settings.ingest.max_report_bytes = 1024;
    settings.ingest.max_request_bytes = 64 * 1024;
    settings.ingest.max_connections = 10;
    settings.ingest.max_in_flight = 16;
    settings.ingest.max_queued_bytes = 1024 * 1024;
    settings.ingest.max_ids_per_connection = 3;
    settings.ingest.handshake_timeout = Duration::from_millis(500);
    settings.ingest.allowed_hosts = vec!["x".to_owned()];
    settings.ingest.allowed_origins = vec!["https://listed.example".to_owned()];
    settings.journal.dir = dir.join("journal");
    settings.journal.lanes = 4;
    settings.journal.max_backlog_per_id = 1000;
    settings.flush.tick = Duration::from_millis(50);
    settings.sink.target = SinkTarget::Sqlite(dir.join("reports.db"));
    settings.admin.listen = any;
    settings
}

async fn node(change: impl FnOnce(&mut Settings)) -> Node {
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = settings(dir.path());
    change(&mut settings);
    let server = Server::bind(&settings, Arc::default(), None).await.expect("port 0 is free");
    let service = Service::open(&settings).await.expect("an empty journal opens");
    let (address, stop) = (server.local_addr(), CancellationToken::new());
    let serving = tokio::spawn(server.run(service.clone(), stop.clone()));
    Node { address, service, stop, serving, dir }
}

impl Node {
    async fn connect(&self) -> Socket {
        connect_async(format!("ws://{}/ws", self.address)).await.expect("a connection").0
    }

    /// Sends a request, and nothing after it, and reads all of its answer.
    async fn http(&self, request: String) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address).await.expect("a connection");
        socket.write_all(request.as_bytes()).await.expect("sent");
        socket.shutdown().await.expect("open");
        let mut answer = String::new();
        within(socket.read_to_string(&mut answer)).await.expect("an answer");
        let status = answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_default();
        (status, answer)
    }

    async fn post(&self, content_type: &str, body: &str) -> (u16, Value) {
        let (status, answer) = self.http(request("POST /reports", &[("content-type", content_type)], body)).await;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Stops, drains, and returns the state that the sink has of each id.
    async fn states(self) -> Vec<(String, String, i64)> {
        self.stop.cancel();
        within(self.serving).await.expect("the server ends");
        self.service.shut_down().await.expect("the last sync works");
        let database = rusqlite::Connection::open(self.dir.path().join("reports.db")).expect("the sink");
        let mut rows = database.prepare("SELECT id, state, reports FROM report_streams ORDER BY id").expect("a table");
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("rows");
        rows.map(|row| row.expect("a row")).collect()
    }
}

fn request(line: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

async fn say(socket: &mut Socket, text: impl Into<String>) {
    socket.send(Message::text(text.into())).await.expect("sent");
}

async fn hear(socket: &mut Socket) -> Value {
    loop {
        match within(socket.next()).await.expect("a message").expect("no error") {
            Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn close_code(socket: &mut Socket) -> u16 {
    match within(socket.next()).await.expect("a frame").expect("no error") {
        Message::Close(Some(frame)) => frame.code.into(),
        other => panic!("{other:?}"),
    }
}

fn report(id: &str, seq: u64) -> String {
    json!({"op": "report", "id": id, "seq": seq, "data": {"x": 1}}).to_string()
}

#[tokio::test]
async fn replies_come_in_the_order_of_messages() {
    let node = node(|_| {}).await;
    let mut socket = node.connect().await;
    say(&mut socket, r#"{"op":"report","id":7,"seq":1,"ref":"a"}"#).await;
    say(&mut socket, r#"{"op":"ping","ref":2}"#).await;
    say(&mut socket, r#"[{"op":"report","id":"b"},{"op":"what"},[]]"#).await;
    say(&mut socket, "nonsense").await;
    let ack = json!({"op":"ack","id":7,"source":0,"seq":1,"ref":"a","code":200});
    assert_eq!(hear(&mut socket).await, ack);
    assert_eq!(hear(&mut socket).await["op"], "pong");
    let array = hear(&mut socket).await;
    assert_eq!(
        (&array[0]["source"], &array[1]["error"], &array[2]["error"]),
        (&json!(1), &json!("unknown_op"), &json!("bad_json"))
    );
    assert_eq!(hear(&mut socket).await["error"], "bad_json");
}

#[tokio::test]
async fn done_is_acknowledged_and_then_said_to_be_in_the_sink() {
    let node = node(|_| {}).await;
    let mut socket = node.connect().await;
    for seq in 0..3 {
        say(&mut socket, report("a", seq)).await;
    }
    say(&mut socket, r#"{"op":"done","id":"a","ref":"r"}"#).await;
    for _ in 0..3 {
        assert_eq!(hear(&mut socket).await["op"], "ack");
    }
    assert_eq!(hear(&mut socket).await, json!({"op":"ack","id":"a","ref":"r","code":200}));
    assert_eq!(hear(&mut socket).await, json!({"op":"done","id":"a","ref":"r","code":200,"reports":3,"dead":0}));
}

#[tokio::test]
async fn more_messages_than_the_window_are_all_answered() {
    let node = node(|_| {}).await;
    let (mut sink, mut stream) = node.connect().await.split();
    let sending = tokio::spawn(async move {
        for seq in 0..500 {
            sink.send(Message::text(report("a", seq))).await.expect("sent");
        }
        sink
    });
    for seq in 0..500 {
        let text = within(stream.next()).await.expect("a message").expect("no error").into_text().expect("text");
        let ack: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(ack["seq"], seq, "{ack}");
    }
    drop(sending.await.expect("all sent"));
}

/// What a connection has not handed over yet is reserved already: it must not wait for itself.
#[tokio::test]
async fn frames_that_come_together_may_need_all_the_bytes_that_may_be_queued() {
    let node = node(|settings| {
        settings.ingest.max_report_bytes = 1_000;
        settings.ingest.max_queued_bytes = 1_000;
    })
    .await;
    let mut socket = node.connect().await;
    let data = "x".repeat(600);
    for seq in 1..=3 {
        let text = format!(r#"{{"op":"report","id":"a","seq":{seq},"data":"{data}"}}"#);
        socket.feed(Message::text(text)).await.expect("room for it");
    }
    socket.flush().await.expect("sent");
    for seq in 1..=3 {
        assert_eq!(hear(&mut socket).await["seq"], seq);
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_answered_after_those_before_it() {
    let node = node(|_| {}).await;
    let mut socket = node.connect().await;
    say(&mut socket, report("a", 1)).await;
    say(&mut socket, " ".repeat(1025)).await;
    say(&mut socket, " ".repeat(100_000)).await;
    assert_eq!(hear(&mut socket).await["op"], "ack");
    assert_eq!(hear(&mut socket).await["error"], "too_large");
    assert_eq!(close_code(&mut socket).await, 1009);
}

#[tokio::test]
async fn what_breaks_the_protocol_is_closed_with_its_code() {
    let node = node(|_| {}).await;
    let mut socket = node.connect().await;
    socket.send(Message::binary(vec![0xff])).await.expect("sent");
    assert_eq!(close_code(&mut socket).await, 1007);
    let unmasked = [0x81, 0x01, b'x'];
    let misplaced = [0x80, 0x81, 0, 0, 0, 0, b'x'];
    let not_utf8 = [0x81, 0x81, 0, 0, 0, 0, 0xff];
    let reserved = [0xc1, 0x80, 0, 0, 0, 0];
    for (bytes, code) in [(&unmasked[..], 1002), (&misplaced, 1002), (&not_utf8, 1007), (&reserved, 1002)] {
        let mut socket = node.connect().await;
        let MaybeTlsStream::Plain(raw) = socket.get_mut() else { panic!("no TLS here") };
        raw.write_all(bytes).await.expect("sent");
        assert_eq!(close_code(&mut socket).await, code, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_close_is_answered_after_what_was_pending() {
    let node = node(|_| {}).await;
    let mut socket = node.connect().await;
    say(&mut socket, report("a", 1)).await;
    socket.close(None).await.expect("sent");
    assert_eq!(hear(&mut socket).await["op"], "ack");
    assert!(matches!(within(socket.next()).await, Some(Ok(Message::Close(_)))));
    assert!(within(socket.next()).await.is_none());
}

#[tokio::test]
async fn ids_without_a_connection_are_marked_unless_they_are_done() {
    let node = node(|_| {}).await;
    let mut socket = node.connect().await;
    for id in ["gone", "finished", "again"] {
        say(&mut socket, report(id, 1)).await;
        hear(&mut socket).await;
    }
    for (text, op) in [
        (r#"{"op":"done","id":"finished"}"#.to_owned(), "done"),
        (r#"{"op":"done","id":"again"}"#.to_owned(), "done"),
        (report("again", 2), "ack"),
    ] {
        say(&mut socket, text).await;
        while hear(&mut socket).await["op"] != op {}
    }
    let mut stays = node.connect().await;
    say(&mut stays, report("gone", 2)).await;
    hear(&mut stays).await;
    drop(socket);
    let (_, posted) = node.post("application/json", &report("posted", 1)).await;
    assert_eq!(posted[0]["op"], "ack");
    let mark = |id: &str, state: &str, reports| (id.to_owned(), state.to_owned(), reports);
    let expected = [
        mark("again", "disconnected", 2),
        mark("finished", "done", 1),
        mark("gone", "disconnected", 2),
        mark("posted", "open", 1),
    ];
    assert_eq!(node.states().await, expected);
}

#[tokio::test]
async fn a_connection_that_ends_leaves_no_marker_where_markers_are_ignored() {
    let node = node(|settings| settings.on_disconnect = OnDisconnect::Ignore).await;
    let mut socket = node.connect().await;
    say(&mut socket, report("a", 1)).await;
    hear(&mut socket).await;
    drop(socket);
    assert_eq!(node.states().await, [("a".to_owned(), "open".to_owned(), 1)]);
}

#[tokio::test]
async fn a_connection_may_report_for_so_many_ids() {
    let node = node(|_| {}).await;
    let mut socket = node.connect().await;
    for (id, op) in [("a", "ack"), ("b", "ack"), ("c", "ack"), ("d", "error"), ("a", "ack")] {
        say(&mut socket, report(id, 1)).await;
        assert_eq!(hear(&mut socket).await["op"], op, "{id}");
    }
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_then_closed() {
    let node = node(|settings| settings.ingest.idle_timeout = Duration::from_millis(400)).await;
    let mut socket = node.connect().await;
    // Answering pings keeps it open.
    for _ in 0..3 {
        assert!(matches!(within(socket.next()).await, Some(Ok(Message::Ping(_)))));
    }
    let (mut raw, _) = raw_websocket(&node).await;
    let mut heard = Vec::new();
    within(raw.read_to_end(&mut heard)).await.expect("an end");
    assert_eq!(heard[..2], [0x89, 0]);
    assert_eq!((heard[2], &heard[4..6]), (0x88, &1001u16.to_be_bytes()[..]));
}

/// A WebSocket by hand, which answers nothing by itself.
async fn raw_websocket(node: &Node) -> (TcpStream, String) {
    let mut raw = TcpStream::connect(node.address).await.expect("a connection");
    raw.write_all(UPGRADE.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(raw.read_u8()).await.expect("an answer"));
    }
    (raw, String::from_utf8(head).expect("text"))
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn frames_that_come_with_the_handshake_are_read() {
    let node = node(|_| {}).await;
    let mut raw = TcpStream::connect(node.address).await.expect("a connection");
    let text = br#"{"op":"ping"}"#;
    let mut bytes = UPGRADE.as_bytes().to_vec();
    bytes.extend([0x81, 0x80 | text.len() as u8, 0, 0, 0, 0]);
    bytes.extend(text);
    raw.write_all(&bytes).await.expect("sent");
    let mut heard = String::new();
    while !heard.contains("pong") {
        heard.push(char::from(within(raw.read_u8()).await.expect("an answer")));
    }
}

#[tokio::test]
async fn a_handshake_that_is_none_is_refused() {
    let node = node(|_| {}).await;
    let status = async |from: &str, to: &str| node.http(UPGRADE.replace(from, to)).await.0;
    assert_eq!(status("version: 13", "version: 8").await, 426);
    assert_eq!(status("upgrade: websocket", "upgrade: other").await, 426);
    assert_eq!(status("key: dGhlIHNhbXBsZSBub25jZQ==", "key: short").await, 400);
    assert_eq!(status("host: x", "host: x\r\norigin: http://evil").await, 403);
    assert_eq!(status("GET /ws", "DELETE /ws").await, 405);
    assert_eq!(status("GET /ws", "GET /").await, 404);
}

#[tokio::test]
async fn a_browser_may_connect_from_listed_origins() {
    let node = node(|_| {}).await;
    let headers = [("origin", "https://listed.example"), ("content-type", "application/json")];
    let (status, answer) = node.http(request("POST /reports", &headers, "[]")).await;
    assert_eq!(status, 200);
    assert!(answer.contains("access-control-allow-origin: https://listed.example"), "{answer}");
    assert_eq!(node.http(request("OPTIONS /reports", &headers, "")).await.0, 204);
    assert_eq!(node.http(request("POST /reports", &[("origin", "https://evil")], "[]")).await.0, 403);
}

#[tokio::test]
async fn a_client_that_does_not_shake_hands_is_dropped() {
    let node = node(|_| {}).await;
    for begun in ["", "GET /ws HT"] {
        let mut raw = TcpStream::connect(node.address).await.expect("a connection");
        raw.write_all(begun.as_bytes()).await.expect("sent");
        let mut rest = Vec::new();
        let _ = within(raw.read_to_end(&mut rest)).await;
    }
}

#[tokio::test]
async fn a_connection_over_the_limit_is_told_so() {
    let node = node(|settings| settings.ingest.max_connections = 1).await;
    let first = node.connect().await;
    match connect_async(format!("ws://{}/ws", node.address)).await {
        Err(tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), 503),
        other => panic!("{other:?}"),
    }
    drop(first);
    let again = async {
        while connect_async(format!("ws://{}/ws", node.address)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(again).await;
}

#[tokio::test]
async fn posted_reports_are_answered_with_an_array() {
    let node = node(|_| {}).await;
    let (status, replies) = node.post("application/json", &report("a", 1)).await;
    assert_eq!((status, &replies[0]["seq"], replies.as_array().map(Vec::len)), (200, &json!(1), Some(1)));
    let lines = format!("{}\n\nnonsense\n{}\n", report("a", 2), report("b", 3));
    let (status, replies) = node.post("application/x-ndjson", &lines).await;
    assert_eq!((status, &replies[1]["error"], &replies[2]["seq"]), (207, &json!("bad_json"), &json!(3)));
    let (status, replies) = node.post("text/plain", "{").await;
    assert_eq!((status, &replies[0]["error"]), (400, &json!("bad_json")));
    let (status, replies) = node.post("application/json", &" ".repeat(64 * 1024 + 1)).await;
    assert_eq!((status, &replies[0]["error"]), (413, &json!("too_large")));
    let many: Vec<String> = (0..900).map(|seq| report("many", seq)).collect();
    let (status, replies) = node.post("application/json", &format!("[{}]", many.join(","))).await;
    assert_eq!((status, replies.as_array().map(Vec::len)), (200, Some(900)));
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_says_goodbye() {
    let node = node(|_| {}).await;
    let mut socket = node.connect().await;
    say(&mut socket, report("a", 1)).await;
    assert_eq!(hear(&mut socket).await["op"], "ack");
    node.stop.cancel();
    tokio::time::sleep(Duration::from_millis(20)).await;
    say(&mut socket, report("a", 2)).await;
    assert_eq!(hear(&mut socket).await["error"], "shutting_down");
    assert_eq!(close_code(&mut socket).await, 1001);
    drop(socket);
    assert_eq!(node.states().await, [("a".to_owned(), "disconnected".to_owned(), 1)]);
}

#[tokio::test]
async fn a_client_that_never_reads_stops_being_read_and_is_dropped() {
    let node = node(|settings| settings.ingest.idle_timeout = Duration::from_secs(2)).await;
    let (mut raw, _) = raw_websocket(&node).await;
    let text = format!(r#"{{"op":"ping","ref":"{}"}}"#, "r".repeat(64));
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend(text.as_bytes());
    let flood = frame.repeat(10_000);
    let flooding = async { while raw.write_all(&flood).await.is_ok() {} };
    within(flooding).await;
}
