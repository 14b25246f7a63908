//! Dead letters in an operator's hands: listed, shown, exported, retried once the cause is gone, discarded on purpose.

use std::net::SocketAddr;

use mysql_async::prelude::Queryable as _;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::commands::ask as ask_by_command;
use crate::support::client::Client;
use crate::support::http::{self, Answer};
use crate::support::node::Node;
use crate::support::servers::{Kind, NARROW, Server, WIDE, on_each_server};
use crate::support::wait::{eventually, same};

const LIST: &str = "/api/v1/dead-letters";

/// Valid JSON that every server refuses for good.
fn too_deep() -> String {
    format!("{}1{}", "[".repeat(101), "]".repeat(101))
}

async fn ask(node: &Node, method: &str, path: &str) -> Answer {
    http::request(node.admin(), method, path, &[], b"").await.expect("the admin listener answers")
}

async fn ok(node: &Node, method: &str, path: &str) -> Value {
    let answer = ask(node, method, path).await;
    assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    answer.json()
}

/// The detail of an answer that is a problem of this status.
async fn problem(node: &Node, method: &str, path: &str, status: u16) -> String {
    let answer = ask(node, method, path).await;
    assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    assert_eq!(answer.header("content-type"), "application/problem+json");
    answer.json()["detail"].as_str().expect("a detail").to_owned()
}

/// Three ids with eight reports each, all refused for their code, and one more whose data is refused.
pub(crate) async fn with_dead_letters(server: &Server) -> Node {
    with_dead_letters_of(server, Node::new()).await
}

async fn with_dead_letters_of(server: &Server, node: Node) -> Node {
    let node = node.set("sink.url", server.url()).start().await;
    // The tables are there once a row is.
    node.post(r#"{"op":"report","id":"first","seq":0}"#).await;
    node.drained().await;
    server.run(&[NARROW]).await;
    let mut client = Client::connect(node.ingest()).await;
    for n in 0..24_u64 {
        let report = json!({"op": "report", "id": format!("s{}", n % 3), "seq": n, "code": 100_000, "data": {"n": n}});
        client.send(report.to_string()).await;
    }
    client.send(format!(r#"{{"op":"report","id":"s3","seq":24,"time":1.5,"data":{}}}"#, too_deep())).await;
    for _ in 0..25 {
        client.reply().await;
    }
    let audit = node.drained().await;
    assert_eq!(audit["dead"], 25, "{audit}");
    node
}

on_each_server!(dead_letters_are_listed_shown_and_exported);
async fn dead_letters_are_listed_shown_and_exported(kind: Kind) {
    let server = Server::start(kind).await;
    let node = with_dead_letters(&server).await;
    let (mut found, mut path) = (Vec::new(), format!("{LIST}?limit=10"));
    loop {
        let page = ok(&node, "GET", &path).await;
        let letters = page["dead_letters"].as_array().expect("a list");
        assert!(letters.len() <= 10);
        found.extend(letters.iter().map(|letter| letter["key"].as_str().expect("a key").to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("{LIST}?limit=10&after={next}");
    }
    let mut wanted: Vec<String> = (0..25).map(|n| format!("s{}~0~{n}", if n == 24 { 3 } else { n % 3 })).collect();
    wanted.sort_by_key(|key| key.split('~').map(|part| format!("{part:0>9}")).collect::<Vec<_>>());
    assert_eq!(found, wanted);
    let of_one = ok(&node, "GET", &format!("{LIST}?id=s1")).await;
    assert_eq!(of_one["dead_letters"].as_array().expect("a list").len(), 8);
    assert_eq!(of_one["next"], Value::Null);

    let letter = ok(&node, "GET", &format!("{LIST}/s1~0~7")).await;
    assert_eq!((&letter["id"], &letter["seq"], &letter["code"]), (&json!("s1"), &json!(7), &json!(100_000)));
    assert_eq!((&letter["error_code"], &letter["data"]), (&json!(1264), &json!({"n": 7})), "{letter}");
    assert!(letter["reason"].as_str().expect("a reason").contains("Out of range"), "{letter}");
    let deep = ask(&node, "GET", &format!("{LIST}/s3~0~24")).await;
    assert!(deep.text().contains(&format!(r#""data":{}"#, too_deep())), "byte for byte: {}", deep.text());
    assert!(deep.text().contains(r#""time":1.5"#), "{}", deep.text());

    let export = ask(&node, "GET", &format!("{LIST}/export")).await;
    assert_eq!(export.header("content-type"), "application/x-ndjson");
    let lines: Vec<String> = export.text().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 25);
    assert!(lines.iter().all(|line| line.contains(r#""data":"#) && line.contains(r#""reason":"#)));
}

on_each_server!(a_dead_letter_is_retried_once_its_cause_is_gone);
async fn a_dead_letter_is_retried_once_its_cause_is_gone(kind: Kind) {
    let mut server = Server::start(kind).await;
    let mut node = with_dead_letters(&server).await;
    let refusal = problem(&node, "POST", &format!("{LIST}/s0~0~0/retry"), 409).await;
    assert!(refusal.contains("Out of range"), "{refusal}");
    let all = ok(&node, "POST", &format!("{LIST}/retry")).await;
    assert_eq!((&all["stored"], &all["refused"]), (&json!(0), &json!(25)), "{all}");

    server.kill();
    let down = problem(&node, "POST", &format!("{LIST}/retry"), 503).await;
    assert!(down.contains("takes nothing now"), "{down}");
    server.restart().await;
    server.run(&[WIDE]).await;

    let one = ok(&node, "POST", &format!("{LIST}/s0~0~0/retry")).await;
    assert_eq!((&one["stored"], &one["duplicates"]), (&json!(1), &json!(0)));
    assert!(problem(&node, "POST", &format!("{LIST}/s0~0~0/retry"), 404).await.contains("s0~0~0"));
    let rows = node.stored().rows_of("s0").await.expect("a sink");
    let form = node.stored().form().await.expect("a sink");
    let data = rows[0].data.as_deref().map(|data| form.of(data));
    assert_eq!((rows.len(), data.as_deref()), (1, Some(r#"{"n":0}"#)));
    let of_id = ok(&node, "POST", &format!("{LIST}/retry?id=s1")).await;
    assert_eq!((&of_id["stored"], &of_id["refused"]), (&json!(8), &json!(0)), "{of_id}");

    // Durable: a kill forgets none of it.
    node.kill();
    node.restart().await;
    let audit = node.drained().await;
    assert_eq!((&audit["dead"], &audit["balanced"]), (&json!(16), &json!(true)), "{audit}");
    let rest = ok(&node, "POST", &format!("{LIST}/retry")).await;
    assert_eq!((&rest["stored"], &rest["refused"]), (&json!(15), &json!(1)), "{rest}");
    assert_eq!(rest["last_refusal"]["key"], "s3~0~24", "{rest}");
    let audit = node.audit().await;
    assert_eq!(
        (&audit["dead"], &audit["stored"], &audit["balanced"]),
        (&json!(1), &json!(15), &json!(true)),
        "{audit}"
    );
    for id in ["s0", "s1", "s2"] {
        assert_eq!(node.stored().stream(id).await.expect("a stream").reports, 8, "{id}");
    }
}

/// Waits until the node has closed its end of a connection to its admin listener.
async fn left(node: &Node, client: SocketAddr) {
    let ports = (format!(":{:04X}", node.admin().port()), format!(":{:04X}", client.port()));
    let closed = eventually("the node to see that its client left", async || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").map_err(|e| e.to_string())?;
        let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut open = fields.filter(|of| of[1].ends_with(&ports.0) && of[2].ends_with(&ports.1));
        // 01 is open, 08 that only the client has closed.
        open.find(|of| matches!(of[3], "01" | "08")).map_or(Ok(()), |of| Err(format!("it is in state {}", of[3])))
    });
    closed.await;
}

on_each_server!(a_retry_whose_client_leaves_midway_is_settled_as_one_row_all_the_same);
/// The retry's row is in its transaction, and the letter still there, when nobody waits for the answer any more.
async fn a_retry_whose_client_leaves_midway_is_settled_as_one_row_all_the_same(kind: Kind) {
    let server = Server::start(kind).await;
    // A tenth of it is how long a lock is waited for.
    let node = with_dead_letters_of(&server, Node::new().set("sink.timeout", "2m")).await;
    server.run(&[WIDE]).await;
    let mut holder = server.conn().await;
    for lock in ["BEGIN", "SELECT * FROM report_streams WHERE id = 's0' FOR UPDATE"] {
        holder.query_drop(lock).await.expect("nobody else has the row");
    }
    let mut socket = TcpStream::connect(node.admin()).await.expect("a connection");
    let head = format!("POST {LIST}/s0~0~0/retry HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", node.admin());
    socket.write_all(head.as_bytes()).await.expect("sent");
    let waits = eventually("the retry to wait for the lock", async || {
        // The holder has the row, so this statement cannot get on. (innodb_trx stays as it is while it is asked often.)
        let waiting =
            "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'INSERT INTO %report_streams%'";
        same(server.row::<u64>(waiting).await, 1)
    });
    waits.await;
    let client = socket.local_addr().expect("it is connected");
    drop(socket);
    left(&node, client).await;
    holder.query_drop("ROLLBACK").await.expect("it lives");
    let settled = eventually("the retry to be settled", async || {
        let audit = node.audit().await;
        let now = (audit["dead"].clone(), audit["stored"].clone(), audit["balanced"].clone());
        same(now, (json!(24), json!(2), json!(true)))
    });
    settled.await;
    assert_eq!(node.stored().rows_of("s0").await.expect("a sink").len(), 1);
    problem(&node, "GET", &format!("{LIST}/s0~0~0"), 404).await;
}

on_each_server!(a_letter_whose_row_is_there_already_is_a_duplicate);
/// The sink has the row, and the letter is still there: as after a crash between the two.
async fn a_letter_whose_row_is_there_already_is_a_duplicate(kind: Kind) {
    let server = Server::start(kind).await;
    let node = with_dead_letters(&server).await;
    server.run(&[WIDE]).await;
    let values = r#"('s2', 0, 2, 100000, '{"n":2}', NOW(6))"#;
    server.run(&[&format!("INSERT INTO reports (id, source, seq, code, data, accepted_at) VALUES {values}")]).await;
    let one = ok(&node, "POST", &format!("{LIST}/s2~0~2/retry")).await;
    assert_eq!((&one["stored"], &one["duplicates"]), (&json!(0), &json!(1)), "{one}");
    let audit = node.audit().await;
    assert_eq!((&audit["dead"], &audit["duplicates"], &audit["balanced"]), (&json!(24), &json!(1), &json!(true)));
}

on_each_server!(a_letter_whose_key_is_taken_meanwhile_is_refused_again_and_shows_by_what);
/// Somebody else's report has the key by now.
async fn a_letter_whose_key_is_taken_meanwhile_is_refused_again_and_shows_by_what(kind: Kind) {
    let server = Server::start(kind).await;
    let node = with_dead_letters(&server).await;
    server.run(&[WIDE]).await;
    server.run(&["INSERT INTO reports (id, source, seq, code, accepted_at) VALUES ('s2', 0, 2, 7, NOW(6))"]).await;
    problem(&node, "POST", &format!("{LIST}/s2~0~2/retry"), 409).await;
    let all = ok(&node, "POST", &format!("{LIST}/retry?id=s2")).await;
    assert_eq!((&all["stored"], &all["duplicates"], &all["refused"]), (&json!(7), &json!(0), &json!(1)), "{all}");
    let letter = ok(&node, "GET", &format!("{LIST}/s2~0~2")).await;
    assert_eq!((&letter["kind"], &letter["holder"]["code"]), (&json!("key_taken"), &json!("7")), "{letter}");
}

on_each_server!(a_dead_letter_is_discarded_on_purpose_only_and_counted);
async fn a_dead_letter_is_discarded_on_purpose_only_and_counted(kind: Kind) {
    let server = Server::start(kind).await;
    let mut node = with_dead_letters(&server).await;
    assert_eq!(ok(&node, "DELETE", &format!("{LIST}/s3~0~24")).await["discarded"], 1);
    problem(&node, "DELETE", &format!("{LIST}/s3~0~24"), 404).await;
    problem(&node, "GET", &format!("{LIST}/s3~0~24"), 404).await;
    let audit = node.audit().await;
    assert_eq!((&audit["discarded"], &audit["dead"], &audit["balanced"]), (&json!(1), &json!(24), &json!(true)));
    node.kill();
    node.restart().await;
    assert_eq!(node.drained().await["dead"], 24);
    problem(&node, "GET", &format!("{LIST}/s3~0~24"), 404).await;
    assert!(node.stderr().contains("discarded"), "the log says it");
}

/// Nobody can read it any more, and yet it is not lost track of: it counts as dead until somebody gives it up.
#[tokio::test]
async fn a_damaged_dead_letter_is_named_counted_and_can_be_discarded() {
    let mut node = Node::new().start().await;
    node.post(r#"{"op":"report","id":"good","seq":0}"#).await;
    node.drained().await;
    let sink = rusqlite::Connection::open(node.sqlite_file()).expect("the sink's file");
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON reports BEGIN SELECT RAISE(ABORT, 'no'); END";
    sink.execute_batch(refuse).expect("a trigger");
    node.post(r#"[{"op":"report","id":"bad","seq":1},{"op":"report","id":"bad","seq":2}]"#).await;
    assert_eq!(node.drained().await["dead"], 2);
    assert_eq!(node.terminate().await.code(), Some(0));
    node.damage_tree("dead");
    node.restart().await;
    assert!(node.stderr().contains("bad~0~1"), "the log names it as a command would: {}", node.stderr());
    let audit = node.audit().await;
    assert_eq!((&audit["recovered"], &audit["dead"], &audit["balanced"]), (&json!(2), &json!(2), &json!(true)));
    let path = format!("{LIST}/bad~0~1");
    for (method, path) in [("GET", path.clone()), ("POST", format!("{path}/retry"))] {
        let why = problem(&node, method, &path, 500).await;
        assert!(why.contains("bad~0~1 is damaged") && why.contains("only be discarded"), "{why}");
    }
    assert_eq!(ok(&node, "DELETE", &path).await["discarded"], 1);
    problem(&node, "GET", &path, 404).await;
    let discarded = ask_by_command(node.admin(), &["dead-letters", "discard", "bad~0~2", "--yes"]).await;
    assert_eq!(discarded.code, Some(0), "{discarded:?}");
    let audit = node.audit().await;
    assert_eq!((&audit["discarded"], &audit["dead"], &audit["balanced"]), (&json!(2), &json!(0), &json!(true)));
    node.kill();
    node.restart().await;
    assert_eq!(node.audit().await["recovered"], 0, "they are gone for good");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_with_the_reason() {
    let node = Node::new().start().await;
    for (method, path, status) in [
        ("GET", "/api/v1/dead-letters?limit=0", 400),
        ("GET", "/api/v1/dead-letters?limit=many", 400),
        ("GET", "/api/v1/dead-letters?colour=red", 400),
        ("GET", "/api/v1/dead-letters?after=nonsense", 400),
        ("GET", "/api/v1/dead-letters?id=a%20b", 400),
        ("GET", "/api/v1/dead-letters/no-key", 400),
        ("POST", "/api/v1/dead-letters/a~0~1/retry", 404),
        ("DELETE", "/api/v1/dead-letters/a~0~1", 404),
        ("DELETE", "/api/v1/dead-letters", 405),
    ] {
        assert!(!problem(&node, method, path, status).await.is_empty());
    }
    assert_eq!(ok(&node, "GET", LIST).await, json!({"dead_letters": [], "next": null}));
    assert_eq!(ok(&node, "POST", &format!("{LIST}/retry")).await["stored"], 0);
}
