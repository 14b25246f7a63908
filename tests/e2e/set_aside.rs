//! The first report that waits of an id is set aside by an operator: a dead letter and no row, whatever the sink does.

use serde_json::{Value, json};

use crate::limits::DEAD;
use crate::support::http::{self, Answer};
use crate::support::load::{Load, Plan};
use crate::support::node::{A_WHILE, FOREBAY, Node, run};
use crate::support::servers::{Kind, Server};
use crate::support::wait::{eventually, same};

async fn ask(node: &Node, method: &str, path: &str) -> Answer {
    http::request(node.admin(), method, path, &[], b"").await.expect("the admin listener answers")
}

async fn set_aside(node: &Node, id: &str) -> Answer {
    ask(node, "POST", &format!("/api/v1/streams/{id}/set-aside?reason=it%20never%20goes%20%22in%22%0A")).await
}

#[track_caller]
fn assert_problem(answer: &Answer, status: u16, text: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let detail = answer.json()["detail"].as_str().expect("a detail").to_owned();
    assert!(detail.contains(text), "{detail}");
}

/// Reports of one id in one commit, the first of them with `code`.
async fn post(node: &Node, id: &str, seqs: std::ops::RangeInclusive<u64>, code: i32) {
    let first = *seqs.start();
    let report = |seq| json!({"op": "report", "id": id, "seq": seq, "code": if seq == first { code } else { 0 }});
    let replies = node.post(json!(seqs.map(report).collect::<Vec<_>>()).to_string()).await;
    assert!(replies.iter().all(|reply| reply["op"] == "ack"), "{replies:?}");
}

async fn audit(node: &Node, wanted: [u64; 3]) {
    let found = eventually("the audit", async || {
        let audit = node.audit().await;
        assert_eq!(audit["balanced"], true, "{audit}");
        same(["stored", "dead", "backlog"].map(|name| audit[name].as_u64().expect("a count")), wanted)
    });
    found.await;
}

async fn waiting(node: &Node, id: &str) -> Vec<String> {
    let page = node.admin_json(&format!("/api/v1/streams/{id}/reports")).await;
    let keys = page["reports"].as_array().expect("a list").iter();
    keys.map(|report| report["key"].as_str().expect("a key").to_owned()).collect()
}

async fn seqs(node: &Node, id: &str) -> Vec<u64> {
    node.stored().rows_of(id).await.expect("a sink").iter().map(|row| row.seq).collect()
}

/// Nobody else would ask whether the sink is back.
#[tokio::test]
async fn an_outage_ends_though_all_that_waited_for_the_sink_is_set_aside() {
    let mut server = Server::start(Kind::MariaDb).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    let state = async |wanted: &str| {
        let found = async || same(node.admin_json("/api/v1/status").await["sink"]["state"].clone(), json!(wanted));
        eventually("the state of the sink", found).await;
    };
    state("up").await;
    server.kill();
    post(&node, "a", 1..=1, 0).await;
    state("down").await;
    assert_eq!(set_aside(&node, "a").await.status, 200);
    server.restart().await;
    state("up").await;
    audit(&node, [0, 1, 0]).await;
}

/// What comes before the report that the sink fails over is a row by then, though their batch waits: it is left alone.
#[tokio::test]
async fn of_a_batch_that_is_stored_record_by_record_the_one_that_the_sink_fails_over_is_set_aside() {
    let node = Node::new().start().await;
    post(&node, "first", 1..=1, 0).await;
    node.drained().await;
    let trigger = "CREATE TRIGGER odd BEFORE INSERT ON reports WHEN NEW.code = 7 \
                   BEGIN SELECT abs(-9223372036854775808); END";
    rusqlite::Connection::open(node.sqlite_file()).and_then(|file| file.execute_batch(trigger)).expect("a trigger");
    let report = |seq: u64| json!({"op": "report", "id": "a", "seq": seq, "code": if seq == 3 { 7 } else { 0 }});
    node.post(json!((1..=5).map(report).collect::<Vec<_>>()).to_string()).await;
    let parted = eventually("what comes before it to be stored", async || {
        ask(&node, "POST", "/api/v1/streams/a/flush").await;
        same(seqs(&node, "a").await, vec![1, 2])
    });
    parted.await;
    let retrying = eventually("the rest to be put back", async || {
        same(node.admin_json("/api/v1/streams/a").await["state"].as_str(), Some("retrying"))
    });
    retrying.await;
    let answer = set_aside(&node, "a").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["key"], "a~0~3");
    node.drained().await;
    // Those that were stored by a batch that was put back count once, and as what they are.
    audit(&node, [5, 1, 0]).await;
    assert_eq!(seqs(&node, "a").await, [1, 2, 4, 5]);
}

/// A code that nobody knows, as of a trigger that says so: it held its id for ever.
#[tokio::test]
async fn a_report_that_the_sink_fails_over_is_set_aside_and_those_behind_it_go_on() {
    let mut node = Node::new().start().await;
    post(&node, "first", 1..=1, 0).await;
    node.drained().await;
    let trigger = "CREATE TRIGGER odd BEFORE INSERT ON reports WHEN NEW.code = 7 \
                   BEGIN SELECT abs(-9223372036854775808); END";
    rusqlite::Connection::open(node.sqlite_file()).and_then(|file| file.execute_batch(trigger)).expect("a trigger");
    post(&node, "a", 1..=3, 7).await;
    let retrying = eventually("the id to be put back", async || {
        same(node.admin_json("/api/v1/streams/a").await["state"].as_str(), Some("retrying"))
    });
    retrying.await;
    let answer = set_aside(&node, "a").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let letter = answer.json();
    assert_eq!((&letter["key"], &letter["kind"]), (&json!("a~0~1"), &json!("set_aside")));
    let reason = r#"set aside by an operator at 127.0.0.1: it never goes "in"\n"#;
    assert_eq!(letter["reason"], reason, "{letter}");
    node.drained().await;
    audit(&node, [3, 1, 0]).await;
    assert_eq!(seqs(&node, "a").await, [2, 3]);
    node.kill();
    node.restart().await;
    node.drained().await;
    assert_eq!(seqs(&node, "a").await, [2, 3], "it does not come back");
    for (kind, count) in [("set_aside", 1), ("refused", 0)] {
        let page = node.admin_json(&format!("/api/v1/dead-letters?kind={kind}")).await;
        assert_eq!(page["dead_letters"].as_array().map(Vec::len), Some(count), "{kind}");
    }
    assert_problem(&ask(&node, "GET", "/api/v1/dead-letters?kind=odd").await, 400, "set_aside");
    rusqlite::Connection::open(node.sqlite_file()).and_then(|f| f.execute_batch("DROP TRIGGER odd")).expect("dropped");
    assert_eq!(ask(&node, "POST", "/api/v1/dead-letters/a~0~1/retry").await.status, 200);
    assert_eq!(seqs(&node, "a").await, [1, 2, 3]);
    assert_eq!(node.audit().await["balanced"], true);
}

/// Its drainer has the batch and waits for the sink; and its entry has reports that stay.
#[tokio::test]
async fn a_report_is_set_aside_while_the_sink_is_down_and_stays_so_over_kill_nine() {
    let mut node = Node::new().set("sink.url", DEAD).start().await;
    post(&node, "a", 1..=3, 0).await;
    post(&node, "b", 1..=1, 0).await;
    for seq in 1..=2 {
        let answer = set_aside(&node, "a").await;
        assert_eq!((answer.status, &answer.json()["key"]), (200, &json!(format!("a~0~{seq}"))), "{}", answer.text());
    }
    audit(&node, [0, 2, 2]).await;
    assert_eq!(waiting(&node, "a").await, ["a~0~3"]);
    let discard = ask(&node, "DELETE", "/api/v1/dead-letters/a~0~1").await;
    assert_problem(&discard, 409, "still wait for the sink");
    for _ in 0..2 {
        node.kill();
        node.restart().await;
        audit(&node, [0, 2, 2]).await;
        assert_eq!(waiting(&node, "a").await, ["a~0~3"]);
    }
    node.kill();
    node.change("sink.url", format!("sqlite:{}", node.sqlite_file().display()));
    node.restart().await;
    node.drained().await;
    assert_eq!(seqs(&node, "a").await, [3]);
    assert_eq!(ask(&node, "DELETE", "/api/v1/dead-letters/a~0~1").await.status, 200);
    assert_eq!(ask(&node, "POST", "/api/v1/dead-letters/retry?id=a").await.json()["stored"], 1);
    assert_eq!(seqs(&node, "a").await, [2, 3]);
    audit(&node, [3, 0, 0]).await;
    node.kill();
    node.restart().await;
    node.drained().await;
    assert_eq!(seqs(&node, "a").await, [2, 3], "what was discarded stays so");
}

#[tokio::test]
async fn markers_stay_and_an_id_of_which_all_is_set_aside_is_let_go() {
    let mut node = Node::new().set("sink.url", DEAD).start().await;
    post(&node, "a", 1..=2, 0).await;
    node.post(r#"{"op":"done","id":"a"}"#).await;
    post(&node, "b", 1..=2, 0).await;
    for id in ["a", "a", "b", "b"] {
        assert_eq!(set_aside(&node, id).await.status, 200, "{id}");
    }
    for id in ["a", "b", "never"] {
        assert_problem(&set_aside(&node, id).await, 409, "no report of the id");
    }
    audit(&node, [0, 4, 0]).await;
    let backlog = async |node: &Node| {
        let page = node.admin_json("/api/v1/streams?sort=id").await;
        page["streams"].as_array().expect("a list").iter().map(|s| s["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(backlog(&node).await, ["a"], "its marker waits");
    node.kill();
    node.restart().await;
    audit(&node, [0, 4, 0]).await;
    assert_eq!(backlog(&node).await, ["a"], "its marker waits");
    node.kill();
    node.change("sink.url", format!("sqlite:{}", node.sqlite_file().display()));
    node.restart().await;
    let done = eventually("the marker", async || same(node.stored().stream("a").await?.state.as_str(), "done"));
    done.await;
    assert!(node.stored().rows().await.expect("a sink").is_empty());
}

/// Whoever asks at any moment: nothing is both, and nothing is neither.
#[tokio::test]
async fn reports_that_are_set_aside_under_load_are_dead_letters_and_no_rows() {
    let mut node = Node::new().set("flush.tick", "20ms").start().await;
    let plan = |id: &str| Plan { id: id.to_owned(), first_seq: Some(1), window: 8, padding: 50 };
    let load = Load::start(&node.address(), [plan("a"), plan("b")]);
    let mut keys = Vec::new();
    for _ in 0..150 {
        let answer = set_aside(&node, "a").await;
        match answer.status {
            200 => keys.push(answer.json()["key"].as_str().expect("a key").to_owned()),
            409 | 503 => {}
            _ => panic!("{}", answer.text()),
        }
    }
    node.kill();
    node.restart().await;
    load.more_acks(200).await;
    let ledger = load.finish().await;
    assert!(!keys.is_empty(), "it was asked between batches alone");
    for key in &keys {
        let seq = key.rsplit('~').next().and_then(|seq| seq.parse().ok()).expect("a seq");
        ledger.buried("a", seq);
    }
    ledger.settle(&node).await.assert_clean();
}

/// It may be stored at this instant: it is waited for, and then it is none that waits.
#[tokio::test]
async fn what_is_on_its_way_to_the_sink_is_not_set_aside() {
    let node = Node::new().start().await;
    post(&node, "first", 1..=1, 0).await;
    node.drained().await;
    let lock = rusqlite::Connection::open(node.sqlite_file()).expect("a file");
    lock.execute_batch("BEGIN IMMEDIATE").expect("nobody writes");
    post(&node, "a", 1..=1, 0).await;
    let draining = eventually("the id to be drained", async || {
        same(node.admin_json("/api/v1/streams/a").await["state"].as_str(), Some("draining"))
    });
    draining.await;
    let mut asked = std::pin::pin!(set_aside(&node, "a"));
    let early = tokio::time::timeout(A_WHILE, &mut asked).await;
    assert!(early.is_err(), "it was set aside: {early:?}");
    lock.execute_batch("ROLLBACK").expect("lets go");
    assert_problem(&asked.await, 409, "no report of the id");
    audit(&node, [2, 0, 0]).await;
    assert_eq!(seqs(&node, "a").await, [1]);
}

#[tokio::test]
async fn a_report_is_set_aside_by_the_command_with_who_and_why() {
    let node = Node::new().set("sink.url", DEAD).start().await;
    post(&node, "a", 1..=2, 0).await;
    let admin = format!("http://{}", node.admin());
    let command = async |arguments: &[&str]| {
        let arguments: Vec<String> =
            ["--admin", &admin].iter().chain(arguments).map(|text| (*text).to_owned()).collect();
        let run = move || {
            let (global, rest) = arguments.split_at(2);
            let all: Vec<&str> = rest.iter().chain(global).map(String::as_str).collect();
            run(&all)
        };
        tokio::task::spawn_blocking(run).await.expect("the command runs")
    };
    let without = command(&["stream", "a", "set-aside"]).await;
    assert_eq!(without.code, Some(2), "{FOREBAY}: {without:?}");
    let done = command(&["stream", "a", "set-aside", "--reason", "löst nichts"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.stdout, "a~0~1 is a dead letter now, set aside by an operator at 127.0.0.1: löst nichts\n");
    let shown = command(&["dead-letters", "show", "a~0~1"]).await;
    assert!(shown.stdout.contains("kind      set_aside") && shown.stdout.contains("löst nichts"), "{shown:?}");
    let listed = command(&["dead-letters", "list", "--kind", "set_aside"]).await;
    assert!(listed.stdout.contains("set_aside") && listed.stdout.contains("a~0~1"), "{listed:?}");
    let none = command(&["dead-letters", "list", "--kind", "refused"]).await;
    assert_eq!(none.stdout, "no dead letters\n");
    let exported = command(&["dead-letters", "export"]).await;
    let letter: Value = serde_json::from_str(&exported.stdout).expect("a line");
    assert_eq!(letter["kind"], "set_aside");
    let long = "x".repeat(401);
    let refused = ask(&node, "POST", &format!("/api/v1/streams/a/set-aside?reason={long}")).await;
    assert_problem(&refused, 400, "1 to 400");
    assert_problem(&ask(&node, "POST", "/api/v1/streams/a/set-aside").await, 400, "reason");
}
