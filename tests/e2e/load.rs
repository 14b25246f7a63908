//! `forebay load`: what it sends, what it says, and that it finds what is wrong with a sink.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::support::node::{FOREBAY, Node, Output, run, without_settings};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::eventually;

fn url(node: &Node) -> String {
    format!("ws://{}/ws", node.ingest())
}

fn sqlite(node: &Node) -> String {
    format!("sqlite:{}", node.sqlite_file().display())
}

fn ledger(node: &Node) -> PathBuf {
    node.folder().join("ledger.ndjson")
}

/// Runs a load with these flags, split at spaces, and `--json`.
async fn load(url: &str, flags: &str) -> (Output, Value) {
    let arguments: Vec<String> =
        ["load", url, "--json"].into_iter().chain(flags.split_whitespace()).map(str::to_owned).collect();
    run_apart(arguments).await
}

/// Holds `sink` against a ledger that an earlier load wrote.
async fn verify(sink: &str, ledger: &Path) -> (Output, Value) {
    let ledger = ledger.display().to_string();
    let arguments =
        ["load", "--verify-only", "--json", "--verify", sink, "--ledger", &ledger, "--verify-timeout", "500ms"];
    run_apart(arguments.map(str::to_owned).to_vec()).await
}

async fn run_apart(arguments: Vec<String>) -> (Output, Value) {
    let run = move || run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let output = tokio::task::spawn_blocking(run).await.expect("the command runs");
    let json = serde_json::from_str(&output.stdout).unwrap_or(Value::Null);
    (output, json)
}

#[track_caller]
fn assert_clean(output: &Output, json: &Value, reports: u64) {
    assert_eq!(output.code, Some(0), "{output:?}");
    let verdict = &json["verify"];
    assert_eq!((verdict["clean"].as_bool(), verdict["stored"].as_u64()), (Some(true), Some(reports)), "{json}");
    assert_eq!(verdict["acknowledged"], reports, "{json}");
}

#[tokio::test]
async fn a_load_by_count_is_in_the_sink_once_and_unchanged() {
    let node = Node::new().start().await;
    for flags in [
        "--count 1003 --connections 4 --in-flight 8 --ids 7",
        "--count 1003 --connections 4 --in-flight 8 --ids 7 --numbering server",
        "--count 1003 --connections 5 --in-flight 30 --array 10 --ids 2",
        "--count 1003 --connections 5 --in-flight 30 --array 10 --ids 2 --numbering server --threads 2",
    ] {
        let (output, json) = load(&url(&node), &format!("{flags} --verify {}", sqlite(&node))).await;
        assert_clean(&output, &json, 1003);
        assert_eq!((&json["sent"], &json["acked"]), (&1003.into(), &1003.into()), "{json}");
    }
}

on_each_server!(a_load_is_verified_in_a_server_too);
async fn a_load_is_verified_in_a_server_too(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    for numbering in ["client", "server"] {
        let flags = format!("--count 500 --connections 3 --ids 10 --numbering {numbering} --verify {}", server.url());
        let (output, json) = load(&url(&node), &flags).await;
        assert_clean(&output, &json, 500);
    }
}

/// Kills the node twice in the midst of a load, starts it again on its port, and ends the load by Ctrl-C.
async fn load_over_a_kill(mut node: Node, sink: &str, numbering: &str) {
    // The clients come back to where they were: the port must outlive the first start.
    node.change("ingest.listen", node.ingest().to_string());
    let mut command = without_settings(Command::new("setpriv"));
    command.args(["--pdeathsig", "KILL", "--", FOREBAY, "load", &url(&node), "--json", "--verify", sink]);
    command.args("--duration 1h --connections 4 --in-flight 16 --ids 20 --rate 2000 --numbering".split(' '));
    command.arg(numbering);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("setpriv starts it");
    for kills in 0..=2 {
        let accepted = eventually("acks", async || {
            let accepted = node.audit().await["accepted"].as_u64();
            accepted.filter(|accepted| *accepted > 500).ok_or_else(|| format!("{accepted:?} are accepted"))
        });
        accepted.await;
        if kills < 2 {
            node.kill();
            node.restart().await;
        }
    }
    let status = Command::new("sh").args(["-c", "kill -INT \"$0\"", &child.id().to_string()]).status();
    assert!(status.expect("sh runs").success(), "SIGINT cannot be sent");
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("a thread can wait");
    let ended = ended.expect("a child can be waited for");
    let output = Output {
        code: ended.status.code(),
        stdout: String::from_utf8_lossy(&ended.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
    };
    let json: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e} in {output:?}"));
    let [sent, acked, unknown] = ["sent", "acked", "unknown"].map(|name| json[name].as_u64().expect("a count"));
    assert_clean(&output, &json, acked);
    assert_eq!(acked + unknown, sent, "{json}");
    assert!(numbering == "server" || unknown == 0, "what the client numbers is sent until it is acknowledged: {json}");
    assert!(json["reconnects"].as_u64() >= Some(8), "{json}");
}

#[tokio::test]
async fn a_load_over_kill_nine_comes_back_and_verifies() {
    let node = Node::new().start().await;
    let sink = sqlite(&node);
    load_over_a_kill(node, &sink, "client").await;
}

on_each_server!(a_load_over_kill_nine_verifies_in_a_server);
async fn a_load_over_kill_nine_verifies_in_a_server(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    load_over_a_kill(node, &server.url(), "client").await;
}

/// What had no reply when the node was killed may be a row or not, and is not sent again: no report is two rows.
#[tokio::test]
async fn a_load_that_the_node_numbers_stores_nothing_twice_over_kill_nine() {
    let node = Node::new().start().await;
    let sink = sqlite(&node);
    load_over_a_kill(node, &sink, "server").await;
}

/// Each way to tamper with a sink, as SQL, and the figure of the verdict that tells of it.
const TAMPERED: [(&str, &str); 11] = [
    ("DELETE FROM reports WHERE id = 't-3' AND seq = 1000000000000005", "lost"),
    ("UPDATE reports SET data = '{\"n\":1}' WHERE id = 't-3' AND seq = 1000000000000004", "altered"),
    ("UPDATE reports SET code = 1 WHERE id = 't-3' AND seq = 1000000000000003", "altered"),
    ("UPDATE reports SET time = time + 0.000001 WHERE id = 't-3' AND seq = 1000000000000002", "altered"),
    ("UPDATE reports SET time = NULL WHERE id = 't-3' AND seq = 1000000000000001", "altered"),
    ("UPDATE reports SET peer = '127.0.0.2' WHERE id = 't-4' AND seq = 1000000000000002", "altered"),
    ("UPDATE reports SET peer = NULL WHERE id = 't-4' AND seq = 1000000000000001", "altered"),
    ("UPDATE report_streams SET state = 'done' WHERE id = 't-4'", "altered"),
    ("UPDATE report_streams SET reports = reports + 1 WHERE id = 't-5'", "miscounted"),
    ("UPDATE reports SET seq = 5 WHERE id = 't-7' AND seq = 1000000000000001", "unknown"),
    (
        "INSERT INTO reports (id, source, seq, code, accepted_at) VALUES ('t-x', 0, 1, 0, '2026-01-01 00:00:00')",
        "unknown",
    ),
];

/// Tampers with the sink by `apply`, one way after the other, and expects that each is found.
async fn find_what_is_tampered_with(node: &Node, sink: &str, apply: impl AsyncFn(&str)) {
    let file = ledger(node);
    let flags = format!("--count 100 --ids 10 --id-prefix t- --ledger {} --verify {sink}", file.display());
    let (output, json) = load(&url(node), &flags).await;
    assert_clean(&output, &json, 100);
    let (output, json) = verify(sink, &file).await;
    assert_clean(&output, &json, 100);
    let mut wanted = std::collections::BTreeMap::new();
    for (statement, figure) in TAMPERED {
        apply(statement).await;
        *wanted.entry(figure).or_insert(0_u64) += 1;
        let (output, json) = verify(sink, &file).await;
        assert_eq!((output.code, &json["verify"]["clean"]), (Some(1), &false.into()), "{statement}: {output:?}");
        let found = json["verify"][figure].as_u64();
        assert!(found >= wanted.get(figure).copied(), "{statement}: {json}");
        assert!(output.stderr.contains("the sink is not what the ledger says"), "{output:?}");
    }
}

#[tokio::test]
async fn what_is_lost_altered_or_miscounted_in_the_embedded_sink_is_found() {
    let node = Node::new().start().await;
    let file = node.sqlite_file();
    let apply = async |statement: &str| {
        let connection = rusqlite::Connection::open(&file).expect("the file opens");
        assert_eq!(connection.execute(statement, []).expect("it runs"), 1, "{statement}");
    };
    find_what_is_tampered_with(&node, &sqlite(&node), apply).await;
}

on_each_server!(what_is_lost_altered_or_miscounted_in_a_server_is_found);
async fn what_is_lost_altered_or_miscounted_in_a_server_is_found(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    let apply = async |statement: &str| server.run(&[statement]).await;
    find_what_is_tampered_with(&node, &server.url(), apply).await;
}

#[tokio::test]
async fn a_report_stored_twice_under_two_numbers_of_the_node_is_found() {
    let node = Node::new().start().await;
    let file = ledger(&node);
    let flags = format!("--count 50 --ids 5 --id-prefix t- --numbering server --ledger {}", file.display());
    let (output, _) = load(&url(&node), &format!("{flags} --verify {}", sqlite(&node))).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let connection = rusqlite::Connection::open(node.sqlite_file()).expect("the file opens");
    let copy = "INSERT INTO reports SELECT id, source, seq + 1, time, code, peer, data, accepted_at, digest FROM reports LIMIT 1";
    connection.execute(copy, []).expect("a copy");
    let (output, json) = verify(&sqlite(&node), &file).await;
    let found = (output.code, &json["verify"]["doubled"], &json["verify"]["lost"]);
    assert_eq!(found, (Some(1), &1.into(), &0.into()), "{json}");
}

/// It ends in order; and where it is killed while it writes, what it wrote is of use.
#[tokio::test]
async fn a_ledger_is_written_at_sigterm_and_read_as_far_as_it_was_written() {
    let node = Node::new().start().await;
    let file = ledger(&node);
    let mut command = without_settings(Command::new("setpriv"));
    command.args(["--pdeathsig", "KILL", "--", FOREBAY, "load", &url(&node), "--json", "--duration", "1h"]);
    command.args("--ids 20 --id-prefix t- --rate 1000 --in-flight 64 --ledger".split(' ')).arg(&file);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("setpriv starts it");
    let accepted = eventually("acks", async || {
        let accepted = node.audit().await["accepted"].as_u64();
        accepted.filter(|accepted| *accepted > 500).ok_or_else(|| format!("{accepted:?} are accepted"))
    });
    accepted.await;
    let status = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &child.id().to_string()]).status();
    assert!(status.expect("sh runs").success(), "SIGTERM cannot be sent");
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("a thread can wait");
    let ended = ended.expect("a child can be waited for");
    let json: Value = serde_json::from_slice(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    let (output, verdict) = verify(&sqlite(&node), &file).await;
    assert_clean(&output, &verdict, json["acked"].as_u64().expect("a count"));
    let whole = std::fs::read(&file).expect("a ledger");
    for cut in [1, 100, whole.len() / 2] {
        std::fs::write(&file, &whole[..whole.len() - cut]).expect("written");
        let (output, verdict) = verify(&sqlite(&node), &file).await;
        let stored = verdict["verify"]["stored"].as_u64().expect("a count");
        assert_eq!((output.code, &verdict["verify"]["cut"]), (Some(0), &true.into()), "{cut}: {output:?}");
        assert!(stored > 0 && stored < json["acked"].as_u64().expect("a count"), "{verdict}");
    }
}

#[tokio::test]
async fn a_rate_sends_as_many_as_it_says() {
    let node = Node::new().start().await;
    let (output, json) = load(&url(&node), "--rate 400 --duration 2s --connections 3 --in-flight 64").await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let sum = |names: [&str; 2]| names.map(|name| json[name].as_u64().expect("a count")).iter().sum::<u64>();
    // What was due and had no room when the time was over is said, not left out.
    assert_eq!(sum(["sent", "unsent"]), 800, "{json}");
    let seconds = json["seconds"].as_f64().expect("seconds");
    assert!(seconds > 1.9, "400 a second for 2 s are not sent in {seconds} s");
}

#[tokio::test]
async fn the_figures_have_the_names_that_are_documented() {
    let node = Node::new().start().await;
    let (_, json) = load(&url(&node), &format!("--count 10 --verify {}", sqlite(&node))).await;
    let documented = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/load.md");
    let documented = std::fs::read_to_string(documented).expect("the page is there");
    let mut wanting = Vec::new();
    let mut look = |prefix: &str, object: &Value| {
        for name in object.as_object().expect("an object").keys() {
            if !documented.contains(&format!("`{prefix}{name}`")) {
                wanting.push(format!("{prefix}{name}"));
            }
        }
    };
    look("", &json);
    for inner in ["latency_ms", "client_cpu", "verify"] {
        look(&format!("{inner}."), &json[inner]);
    }
    assert_eq!(wanting, Vec::<String>::new());
    for figure in ["acks_per_s", "bytes_sent", "bytes_received"] {
        assert!(json[figure].as_f64() > Some(0.0), "{figure} in {json}");
    }
    assert!(
        json["latency_ms"]["p50"].as_f64() > Some(0.0) && json["client_cpu"]["share"].as_f64() > Some(0.0),
        "{json}"
    );
}

#[tokio::test]
async fn a_full_backlog_is_waited_for_as_the_node_asks() {
    let node = Node::new().set("journal.max_backlog_per_id", 5).set("flush.tick", "50ms").start().await;
    let flags = format!("--count 20 --ids 1 --connections 2 --in-flight 8 --verify {}", sqlite(&node));
    for numbering in ["client", "server"] {
        let (output, json) = load(&url(&node), &format!("{flags} --numbering {numbering}")).await;
        assert_clean(&output, &json, 20);
        let (refused, resent) = (json["errors"]["backlog_full"].as_u64(), json["resent"].as_u64());
        assert!(refused > Some(0) && resent == refused, "{json}");
    }
}

#[tokio::test]
async fn reports_that_are_refused_for_good_are_counted_and_are_no_rows() {
    let node = Node::new().set("ingest.max_report_bytes", 2000).start().await;
    let file = ledger(&node);
    let flags = format!("--count 4 --size 3000 --patience 1s --ledger {}", file.display());
    let (output, json) = load(&url(&node), &flags).await;
    assert_eq!((output.code, &json["acked"], &json["refused"]), (Some(1), &0.into(), &4.into()), "{json}");
    assert_eq!(json["errors"]["too_large"], 4, "{json}");
}

#[tokio::test]
async fn a_node_that_is_not_there_is_a_failure_that_says_so() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let (output, _) = load(&format!("ws://127.0.0.1:{port}/ws"), "--count 1").await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("connection 1 of 1") && output.stderr.contains("refused"), "{output:?}");
}

#[test]
fn flags_that_make_no_load_exit_with_two() {
    for flags in [
        "--connections 0",
        "--ids 0",
        "--rate 0",
        "--rate fast",
        "--duration 0s",
        "--duration soon",
        "--count 5 --duration 1s",
        "--size 10",
        "--array 8",
        "--numbering nobody",
        "--id-prefix a/b",
        "--connections 5000 --ids 1",
        "--token-file /nonexistent",
        "--ledger /nonexistent/ledger",
        "--verify nonsense",
        "--verify-only",
        "--verify-only --verify sqlite:x --ledger /nonexistent",
        "http://127.0.0.1:1/ws",
        "wss://127.0.0.1:1/ws --ca /nonexistent",
        "wss://127.0.0.1:1/ws --ca /dev/null",
    ] {
        let arguments: Vec<&str> = ["load"].into_iter().chain(flags.split_whitespace()).collect();
        let output = run(&arguments);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{flags}: {output:?}");
        assert!(!output.stderr.is_empty(), "{flags}");
    }
}

/// A stand-in for a node, for what a node does not do: one connection, whose nth message is answered by what `answer`
/// makes of it. The `Authorization` header that came is what the task gives back.
async fn stand_in<F>(answer: F) -> (String, tokio::task::JoinHandle<String>)
where
    F: Fn(u64, &Value) -> Value + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}/ws", listener.local_addr().expect("an address"));
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut header = String::new();
        #[expect(clippy::result_large_err, reason = "the library's own type")]
        let look = |request: &Request, response: Response| {
            let found = request.headers().get("authorization").and_then(|value| value.to_str().ok());
            header = found.unwrap_or_default().to_owned();
            Ok(response)
        };
        let mut socket = accept_hdr_async(stream, look).await.expect("a handshake");
        let mut n = 0;
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message {
                let reply = answer(n, &serde_json::from_str(&text).expect("a message is JSON"));
                n += 1;
                let _ = socket.send(Message::text(reply.to_string())).await;
            }
        }
        header
    });
    (url, serving)
}

fn ack(report: &Value) -> Value {
    json!({"op": "ack", "id": report["id"], "source": 0, "seq": report["seq"], "ref": report["ref"], "code": 200})
}

#[tokio::test]
async fn a_reply_that_does_not_fit_its_report_ends_the_load() {
    for (field, wrong) in [("seq", json!(5)), ("ref", json!(5)), ("id", json!("other")), ("code", json!(201))] {
        let answer = move |n, report: &Value| {
            let mut reply = ack(report);
            if n == 3 {
                reply[field] = wrong.clone();
            }
            reply
        };
        let (url, _serving) = stand_in(answer).await;
        let (output, json) = load(&url, "--count 10").await;
        assert_eq!((output.code, &json["acked"], &json["unknown"]), (Some(1), &3.into(), &1.into()), "{field}: {json}");
        assert!(output.stderr.contains("the node broke the protocol"), "{output:?}");
    }
}

/// No coordinated omission: a node that stands still for a second makes every report slow that was due meanwhile, not
/// the one alone that was in flight.
#[tokio::test]
async fn reports_that_had_to_wait_for_those_before_them_count_as_slow() {
    let hold = |n, report: &Value| {
        if n == 0 {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        ack(report)
    };
    let (url, _serving) = stand_in(hold).await;
    let (output, json) = load(&url, "--count 50 --rate 100").await;
    assert_eq!((output.code, &json["acked"]), (Some(0), &50.into()), "{output:?}");
    // All were due within the first half of that second, and none was sent before its end.
    assert!(json["latency_ms"]["p50"].as_f64() >= Some(500.0), "{json}");
}

#[tokio::test]
async fn the_token_of_the_file_is_shown_to_the_node_and_to_nobody_else() {
    let node = Node::new();
    let file = node.folder().join("token");
    std::fs::write(&file, "s3cret\n").expect("written");
    let (url, serving) = stand_in(|_, report| ack(report)).await;
    let (output, _) = load(&url, &format!("--count 1 --token-file {}", file.display())).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(serving.await.expect("it served"), "Bearer s3cret");
    assert!(!output.stdout.contains("s3cret") && !output.stderr.contains("s3cret"), "{output:?}");
}
