//! The commands that ask a running node, as people and programs use them: against real backlog and real dead letters.

use std::io::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::limits::DEAD;
use crate::support::client::Client;
use crate::support::node::{FOREBAY, Node, Output, run};
use crate::support::servers::{Kind, NARROW, Server, WIDE, on_each_server};
use crate::support::wait::{eventually, same};

/// Runs the program against the admin listener at `admin`, on a thread that may wait for it.
pub async fn ask(admin: SocketAddr, arguments: &[&str]) -> Output {
    let url = format!("http://{admin}");
    let arguments: Vec<String> =
        arguments.iter().map(|&argument| argument.to_owned()).chain(["--admin".into(), url]).collect();
    let asked = tokio::task::spawn_blocking(move || run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()));
    asked.await.expect("running a program does not panic")
}

/// What a command that works says.
async fn ok(admin: SocketAddr, arguments: &[&str]) -> String {
    let output = ask(admin, arguments).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{arguments:?}: {}", output.stdout);
    output.stdout
}

/// What a command that fails with 1 says why.
async fn fails(admin: SocketAddr, arguments: &[&str]) -> String {
    let output = ask(admin, arguments).await;
    assert_eq!(output.code, Some(1), "{arguments:?}: {output:?}");
    assert!(output.stderr.starts_with("forebay: "), "{}", output.stderr);
    output.stderr
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"))).collect()
}

/// The words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// Five dead letters of two ids, refused for their code, the first with data that would like to move the cursor.
pub async fn with_dead_letters(server: &Server) -> Node {
    let node = Node::new().set("sink.url", server.url()).start().await;
    node.post(r#"{"op":"report","id":"first","seq":0}"#).await;
    node.drained().await;
    server.run(&[NARROW]).await;
    let mut client = Client::connect(node.ingest()).await;
    for n in 0..5 {
        let data = format!("{{\"n\": {n},\n \"text\": \"\u{9b}2J\u{202e}\\u001b[2J\"}}");
        let id = format!("s{}", n % 2);
        client.ask(format!(r#"{{"op":"report","id":"{id}","seq":{n},"code":100000,"data":{data}}}"#)).await;
    }
    assert_eq!(node.drained().await["dead"], 5);
    node
}

on_each_server!(dead_letters_are_listed_for_people_and_for_programs);
async fn dead_letters_are_listed_for_people_and_for_programs(kind: Kind) {
    let server = Server::start(kind).await;
    let node = with_dead_letters(&server).await;
    let table = ok(node.admin(), &["dead-letters"]).await;
    let rows = words(&table);
    assert_eq!(rows[0], ["KEY", "KIND", "AGE", "SIZE", "CODE", "REASON"]);
    let keys: Vec<&str> = rows[1..6].iter().map(|row| row[0]).collect();
    assert_eq!(keys, ["s0~0~0", "s0~0~2", "s0~0~4", "s1~0~1", "s1~0~3"]);
    assert_eq!(table.lines().last(), Some("5 dead letters"));
    assert!(rows[1].contains(&"1264") && table.contains("Out of range"), "{table}");
    let aligned = table.lines().next().and_then(|line| line.find("REASON"));
    assert!(table.lines().take(6).all(|line| aligned.is_some_and(|at| line.as_bytes()[at - 1] == b' ')), "{table}");

    assert_eq!(ok(node.admin(), &["dead-letters", "list"]).await.lines().count(), 7);
    let two = ok(node.admin(), &["dead-letters", "list", "--id", "s1"]).await;
    assert_eq!(two.lines().last(), Some("2 dead letters"));
    let cut = ok(node.admin(), &["dead-letters", "list", "--limit", "2"]).await;
    assert!(cut.ends_with("2 dead letters, and there are more; --limit shows them\n"), "{cut}");
    let none = ok(node.admin(), &["dead-letters", "list", "--id", "other"]).await;
    assert_eq!(none, "no dead letters\n");
    let all = lines(&ok(node.admin(), &["dead-letters", "list", "--json"]).await);
    let page = node.admin_json("/api/v1/dead-letters").await;
    assert_eq!(Value::from(all), page["dead_letters"], "the API's own JSON");
    assert_eq!(lines(&ok(node.admin(), &["dead-letters", "--json", "list", "--limit", "3"]).await).len(), 3);
}

on_each_server!(a_dead_letter_is_shown_and_its_data_moves_no_cursor);
async fn a_dead_letter_is_shown_and_its_data_moves_no_cursor(kind: Kind) {
    let server = Server::start(kind).await;
    let node = with_dead_letters(&server).await;
    let shown = ok(node.admin(), &["dead-letters", "show", "s0~0~2"]).await;
    for part in ["s0~0~2", "Out of range", "1264", "100000", "127.0.0.1", r#"{"n": 2,"#] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(shown.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')), "{shown:?}");
    let json: Value =
        serde_json::from_str(&ok(node.admin(), &["dead-letters", "show", "s0~0~2", "--json"]).await).expect("JSON");
    assert_eq!((&json["key"], &json["data"]["text"]), (&json!("s0~0~2"), &json!("\u{9b}2J\u{202e}\u{1b}[2J")));
    let export = ok(node.admin(), &["dead-letters", "export", "--id", "s0"]).await;
    assert_eq!(lines(&export).len(), 3, "a letter a line, though their data has line ends");
    assert!(export.contains("\"data\":{\"n\": 0,  \"text\": "), "as it was sent but for those: {export}");
}

on_each_server!(dead_letters_are_retried_and_discarded_by_command);
async fn dead_letters_are_retried_and_discarded_by_command(kind: Kind) {
    let mut server = Server::start(kind).await;
    let node = with_dead_letters(&server).await;
    let again = fails(node.admin(), &["dead-letters", "retry", "s0~0~0"]).await;
    assert!(again.contains("refuses it again") && again.contains("(409)"), "{again}");
    let output = ask(node.admin(), &["dead-letters", "retry", "--all"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), "0 stored, 5 refused again\n"));
    assert!(output.stderr.contains("5 dead letters again, last s1~0~3: "), "{}", output.stderr);
    server.kill();
    let down = fails(node.admin(), &["dead-letters", "retry", "--all"]).await;
    assert!(down.contains("takes nothing now") && down.contains("(503)"), "{down}");
    server.restart().await;
    server.run(&[WIDE]).await;

    assert_eq!(ok(node.admin(), &["dead-letters", "retry", "s0~0~0"]).await, "1 stored, 0 refused again\n");
    let gone = fails(node.admin(), &["dead-letters", "retry", "s0~0~0"]).await;
    assert!(gone.contains("no dead letter with the key s0~0~0 (404)"), "{gone}");
    let of_id = ok(node.admin(), &["dead-letters", "retry", "--all", "--id", "s1", "--json"]).await;
    assert_eq!(lines(&of_id)[0]["stored"], 2, "{of_id}");
    assert_eq!(node.stored().rows_of("s1").await.expect("a sink").len(), 2);

    let unasked = ask(node.admin(), &["dead-letters", "discard", "s0~0~2"]).await;
    assert_eq!(unasked.code, Some(2), "nobody can be asked: {unasked:?}");
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    assert_eq!(node.audit().await["dead"], 2, "and nothing was discarded");
    assert_eq!(ok(node.admin(), &["dead-letters", "discard", "s0~0~2", "--yes"]).await, "s0~0~2 is discarded\n");
    let gone = fails(node.admin(), &["dead-letters", "discard", "s0~0~2", "--yes"]).await;
    assert!(gone.contains("(404)"), "{gone}");
    let audit = node.audit().await;
    assert_eq!(
        (&audit["dead"], &audit["discarded"], &audit["balanced"]),
        (&json!(1), &json!(1), &json!(true)),
        "{audit}"
    );
}

on_each_server!(more_than_a_page_of_dead_letters_is_listed_whole);
/// Pages are followed past the largest that the API gives.
async fn more_than_a_page_of_dead_letters_is_listed_whole(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    node.post(r#"{"op":"report","id":"first","seq":0}"#).await;
    node.drained().await;
    server.run(&[NARROW]).await;
    let many: Vec<Value> =
        (0..1_203).map(|n| json!({"op": "report", "id": "many", "seq": n, "code": 100_000})).collect();
    node.post(serde_json::to_string(&many).expect("JSON")).await;
    assert_eq!(node.drained().await["dead"], 1_203);
    let letters = lines(&ok(node.admin(), &["dead-letters", "list", "--json"]).await);
    let seqs: Vec<u64> = letters.iter().map(|letter| letter["seq"].as_u64().expect("a number")).collect();
    assert_eq!(seqs, (0..1_203).collect::<Vec<_>>());
    assert_eq!(lines(&ok(node.admin(), &["dead-letters", "list", "--json", "--limit", "1100"]).await).len(), 1_100);
}

#[tokio::test]
async fn the_status_is_told_to_people_and_to_programs() {
    let node = Node::new().set("sink.url", DEAD).set("node_id", 17).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..3 {
        client.report("a", seq, "1").await;
    }
    let down = eventually("the sink to be seen as down", async || {
        same(node.admin_json("/api/v1/status").await["sink"]["state"].as_str(), Some("down"))
    });
    down.await;
    let status = ok(node.admin(), &["status"]).await;
    assert!(status.starts_with(&format!("forebay {}, node 17, up ", env!("CARGO_PKG_VERSION"))), "{status}");
    for part in
        ["ready         yes", "sink          down for ", "backlog       3 reports of 1 id, ", "3 accepted = 0 stored"]
    {
        assert!(status.contains(part), "{part} in {status}");
    }
    let json: Value = serde_json::from_str(&ok(node.admin(), &["status", "--json"]).await).expect("JSON");
    assert_eq!((&json["node_id"], &json["audit"]["balanced"]), (&json!(17), &json!(true)));
    assert_eq!(ok(node.admin(), &["status", "--ready"]).await, "ready\n");
}

#[tokio::test]
async fn a_node_that_is_not_there_is_told_with_what_to_do() {
    let mut node = Node::new().start().await;
    let admin = node.admin();
    node.kill();
    for command in [&["status"][..], &["streams"], &["stream", "a"], &["dead-letters"], &["dead-letters", "export"]] {
        let why = fails(admin, command).await;
        assert!(why.contains(&format!("cannot reach the node at http://{admin}: Connection refused")), "{why}");
        assert!(why.contains("is it running") && why.contains("--admin"), "{why}");
    }
}

#[tokio::test]
async fn ids_with_backlog_are_listed_for_people_and_for_programs() {
    let node = Node::new().set("sink.url", DEAD).set("on_disconnect", "ignore").start().await;
    let many: Vec<Value> = (0..1_203).map(|n| json!({"op": "report", "id": format!("id-{n:04}"), "seq": 1})).collect();
    node.post(serde_json::to_string(&many).expect("JSON")).await;
    let big: Vec<Value> = (0..7).map(|n| json!({"op": "report", "id": "big", "seq": n, "data": {"n": n}})).collect();
    node.post(serde_json::to_string(&big).expect("JSON")).await;
    let table = ok(node.admin(), &["streams", "--limit", "5"]).await;
    let rows = words(&table);
    assert_eq!(rows[0], ["ID", "STATE", "BACKLOG", "MARKERS", "SIZE", "OLDEST", "NEXT", "LAST", "ERROR"]);
    assert_eq!((rows[1][0], rows[1][2], rows.len()), ("big", "7", 7), "{table}");
    assert!(table.ends_with("5 of 1,204 ids; --limit shows more\n"), "{table}");
    let ids =
        |text: &str| lines(text).iter().map(|line| line["id"].as_str().unwrap_or("?").to_owned()).collect::<Vec<_>>();
    let all = ids(&ok(node.admin(), &["streams", "--sort", "id", "--json"]).await);
    let wanted = std::iter::once("big".to_owned()).chain((0..1_203).map(|n| format!("id-{n:04}")));
    assert_eq!(all, wanted.collect::<Vec<_>>(), "pages are followed");
    let some =
        ids(&ok(node.admin(), &["streams", "--json", "--sort", "id", "--prefix", "id-000", "--limit", "3"]).await);
    assert_eq!(some, ["id-0000", "id-0001", "id-0002"]);
    let oldest = ids(&ok(node.admin(), &["streams", "--json", "--sort", "oldest"]).await);
    assert_eq!(oldest.last().map(String::as_str), Some("big"));
    assert_eq!(ok(node.admin(), &["streams", "--prefix", "other"]).await, "no id has backlog\n");
    // A reader that has seen enough is no failure.
    let pipe =
        format!("'{FOREBAY}' streams --json --admin http://{} | head -n 1; echo ${{PIPESTATUS[0]}}", node.admin());
    let output = tokio::process::Command::new("bash").args(["-c", &pipe]).output().await.expect("bash starts");
    let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((said.lines().count(), said.lines().last(), why.as_ref()), (2, Some("0"), ""), "{said}");
}

#[tokio::test]
async fn an_id_is_shown_with_its_error_and_what_waits_of_it() {
    let node = Node::new().set("sink.url", DEAD).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for n in 0..3 {
        client.report("a", n, &format!("{{\"n\":\n{n}, \"text\": \"\u{9b}2J{}\"}}", "x".repeat(100))).await;
    }
    let failing = eventually("the sink to have said something", async || {
        let stream = node.admin_json("/api/v1/streams/a").await;
        if stream["last_error"].is_null() { Err(stream.to_string()) } else { Ok(()) }
    });
    failing.await;
    let shown = ok(node.admin(), &["stream", "a"]).await;
    let error = shown.lines().find(|line| line.starts_with("last error")).expect("a line");
    assert!(error.contains("Connection refused") && error.contains(" ago: "), "{shown}");
    assert!(shown.contains("state         retrying\nbacklog       3 reports, 0 markers, "), "{shown}");
    assert!(shown.contains("last batch    none since start"), "{shown}");
    let json: Value = serde_json::from_str(&ok(node.admin(), &["stream", "a", "--json"]).await).expect("JSON");
    assert_eq!((&json["id"], &json["backlog"]), (&json!("a"), &json!(3)));
    let with_reports = ok(node.admin(), &["stream", "a", "--reports", "2"]).await;
    let (_, table) = with_reports.split_once("\n\n").expect("a table below");
    let rows = words(table);
    assert_eq!((rows[0][0], rows[1][0], rows[2][0]), ("KEY", "a~0~0", "a~0~1"), "{table}");
    assert!(table.contains("{\"n\": 0, \"text\": \"\\u009b2Jxxx") && table.contains("xx…"), "{table}");
    assert!(table.ends_with("and more wait behind them\n"), "{table}");
    let reports = lines(&ok(node.admin(), &["stream", "a", "--reports", "9", "--json"]).await);
    assert_eq!(reports.len(), 3, "a report a line, though the data has line ends");
    assert_eq!((&reports[2]["key"], &reports[2]["data"]["n"]), (&json!("a~0~2"), &json!(2)));
    assert!(ok(node.admin(), &["stream", "never-seen"]).await.contains("state         drained\n"));
}

#[tokio::test]
async fn an_id_is_paused_resumed_and_drained_at_once_by_command() {
    let mut node = Node::new().set("flush.tick", "1h").set("on_disconnect", "ignore").start().await;
    assert!(ok(node.admin(), &["stream", "a", "pause"]).await.contains("state         paused\n"));
    node.post(r#"{"op":"report","id":"a","seq":1}"#).await;
    node.kill();
    node.restart().await;
    let row = ok(node.admin(), &["streams"]).await;
    assert_eq!(words(&row)[1][..3], ["a", "paused", "1"], "{row}");
    let refused = fails(node.admin(), &["stream", "a", "flush"]).await;
    assert!(refused.contains("paused") && refused.contains("(409)"), "{refused}");
    let resumed: Value =
        serde_json::from_str(&ok(node.admin(), &["stream", "a", "resume", "--json"]).await).expect("JSON");
    assert_eq!(resumed["paused"], false, "{resumed}");
    ok(node.admin(), &["stream", "a", "flush"]).await;
    assert_eq!(node.drained().await["stored"], 1);
    let drained = ok(node.admin(), &["stream", "a"]).await;
    assert!(drained.contains("backlog       0 reports"), "{drained}");
}

/// A listener that gives every request the same answer; the heads that it was sent.
async fn answers(answer: &'static str) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    answers_in_turn(vec![answer.to_owned()]).await
}

/// The same with one answer after the other, the last of them for ever.
async fn answers_in_turn(answers: Vec<String>) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let mut answers = answers.into_iter().peekable();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let (heard, heads) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match socket.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let _ = heard.send(String::from_utf8_lossy(&head).into_owned());
            let Some(answer) = answers.next() else { return };
            let _ = socket.write_all(answer.as_bytes()).await;
            if answers.peek().is_none() {
                answers = vec![answer].into_iter().peekable();
            }
        }
    });
    (address, heads)
}

#[tokio::test]
async fn the_token_is_sent_and_never_shown() {
    const WANTED: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\
                          \r\n{\"status\":401,\"detail\":\"a token,\\u001b[2J\"}";
    let (admin, mut heads) = answers(WANTED).await;
    let why = fails(admin, &["status"]).await;
    assert_eq!(why, "forebay: a token,\\u{1b}[2J; give --token-file (401)\n");
    assert!(!heads.recv().await.expect("a request").to_ascii_lowercase().contains("authorization"));
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "hunter2").expect("written");
    let path = file.path().display().to_string();
    let why = fails(admin, &["status", "--token-file", &path]).await;
    assert_eq!(why, "forebay: a token,\\u{1b}[2J; the token of --token-file is not taken (401)\n");
    assert!(heads.recv().await.expect("a request").contains("uthorization: Bearer hunter2\r\n"));

    for content in ["", "two words", "a\nb"] {
        std::fs::write(&path, content).expect("written");
        let output = ask(admin, &["status", "--token-file", &path]).await;
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains("one token") && !output.stderr.contains("words"), "{}", output.stderr);
    }
    assert_eq!(ask(admin, &["status", "--token-file", "/nowhere"]).await.code, Some(2));
}

#[tokio::test]
async fn what_is_no_node_is_not_believed() {
    let (admin, _heads) =
        answers("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno\n").await;
    assert!(fails(admin, &["status"]).await.contains("is not Forebay's admin API"));
    let (admin, _heads) = answers("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await;
    assert!(fails(admin, &["dead-letters"]).await.contains("JSON of another kind (`{}`)"));
    let (admin, _heads) = answers("SSH-2.0-OpenSSH_9.2\r\n").await;
    assert!(fails(admin, &["status"]).await.contains("gave no whole answer"));
    let (admin, _heads) = answers("HTTP/1.1 200 OK\r\ncontent-length: 20\r\nconnection: close\r\n\r\n{}").await;
    assert!(fails(admin, &["dead-letters", "export"]).await.contains("gave no whole answer"));
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let admin = silent.local_addr().expect("it is bound");
    let why = fails(admin, &["status", "--timeout", "50ms"]).await;
    assert!(why.contains("did not answer within 50ms; --timeout"), "{why}");
}

fn good(body: &str) -> String {
    let head = "content-type: application/json\r\nconnection: close";
    format!("HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Such as a web server that answers every path with its page, or another program's API.
#[tokio::test]
async fn whatever_answers_instead_of_a_node_is_named_as_such() {
    for body in ["<!doctype html><p>\u{1b}[2Jhello", "7", r#"{"streams":[7],"dead_letters":[7],"reports":[7]}"#] {
        let (admin, _heads) = answers_in_turn(vec![good(body)]).await;
        let is_page = body.starts_with('{');
        for (arguments, reads_lists) in [
            (&["status"][..], false),
            (&["stream", "a", "pause"], false),
            (&["dead-letters", "show", "a~0~1"], false),
            (&["dead-letters", "retry", "a~0~1"], false),
            (&["dead-letters", "discard", "a~0~1", "--yes"], false),
            (&["streams"], true),
            (&["streams", "--json"], true),
            (&["dead-letters"], true),
        ] {
            // An object without a key that is known is read as one that says nothing.
            if is_page && !reads_lists && !matches!(arguments[1..], ["retry" | "discard", ..]) {
                continue;
            }
            let why = fails(admin, arguments).await;
            assert!(why.contains("is not Forebay's admin API, or of another version"), "{arguments:?}: {why}");
            assert!(!why.contains("line 1") && !why.contains("expected") && !why.contains('\u{1b}'), "{why}");
        }
    }
}

/// An id whose backlog grows between two pages comes again on the second.
#[tokio::test]
async fn an_id_that_is_on_two_pages_is_listed_once() {
    let page = |ids: [&str; 2], next: &str| {
        let streams = ids.map(|id| format!(r#"{{"id":"{id}","state":"waiting","backlog":1}}"#)).join(",");
        good(&format!(r#"{{"streams":[{streams}],"next":{next},"total":3}}"#))
    };
    let pages = || vec![page(["a", "b"], r#""x""#), page(["b", "c"], "null")];
    let (admin, _heads) = answers_in_turn(pages()).await;
    let listed = ok(admin, &["streams", "--json"]).await;
    assert_eq!(lines(&listed).iter().map(|line| line["id"].clone()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let (admin, _heads) = answers_in_turn(pages()).await;
    let table = ok(admin, &["streams", "--sort", "oldest", "--limit", "2000"]).await;
    assert_eq!(words(&table)[1..4].iter().map(|row| row[0]).collect::<Vec<_>>(), ["a", "b", "c"], "{table}");
    assert!(table.ends_with("3 ids\n"), "{table}");
}

#[test]
fn what_cannot_be_meant_is_usage() {
    for arguments in [
        &["streams", "--sort", "colour"][..],
        &["streams", "--limit", "0"],
        &["streams", "--prefix", "a b"],
        &["stream"],
        &["stream", "a b"],
        &["stream", "a", "explode"],
        &["stream", "a", "flush", "--reports", "1"],
        &["dead-letters", "show"],
        &["dead-letters", "show", "no-key"],
        &["dead-letters", "retry"],
        &["dead-letters", "retry", "a~0~1", "--all"],
        &["dead-letters", "retry", "--id", "a"],
        &["dead-letters", "list", "--id", "ü"],
        &["status", "--admin", "localhost"],
        &["status", "--admin", "ftp://localhost"],
        &["status", "--admin", "http://user:password@localhost"],
        &["status", "--timeout", "soon"],
    ] {
        let output = run(arguments);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{arguments:?}: {}", output.stderr);
        assert!(!output.stderr.contains("password"), "{}", output.stderr);
    }
}
