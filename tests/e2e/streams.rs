//! Streams in an operator's hands: listed, looked into, drained at once, paused and resumed.

use serde_json::{Value, json};
use tokio::sync::oneshot::error::TryRecvError;

use crate::limits::DEAD;
use crate::support::client::{Client, report};
use crate::support::http::{self, Answer};
use crate::support::node::Node;
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::{eventually, same};

const LIST: &str = "/api/v1/streams";

async fn ask(node: &Node, method: &str, path: &str) -> Answer {
    http::request(node.admin(), method, path, &[], b"").await.expect("the admin listener answers")
}

async fn post(node: &Node, path: &str) -> Value {
    let answer = ask(node, "POST", path).await;
    assert_eq!(answer.status, 200, "POST {path}: {}", answer.text());
    answer.json()
}

/// The detail of an answer that is a problem of this status.
async fn problem(node: &Node, method: &str, path: &str, status: u16) -> String {
    let answer = ask(node, method, path).await;
    assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    assert_eq!(answer.header("content-type"), "application/problem+json");
    answer.json()["detail"].as_str().expect("a detail").to_owned()
}

async fn stream(node: &Node, id: &str) -> Value {
    node.admin_json(&format!("{LIST}/{id}")).await
}

/// All pages of a list, put together, and the total of the last.
async fn pages(node: &Node, query: &str) -> (Vec<Value>, Value) {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = node.admin_json(&format!("{LIST}?{query}{after}")).await;
        found.extend(page["streams"].as_array().expect("a list").iter().cloned());
        let Some(next) = page["next"].as_str() else { return (found, page["total"].clone()) };
        after = format!("&after={next}");
    }
}

fn ids(streams: &[Value]) -> Vec<&str> {
    streams.iter().map(|stream| stream["id"].as_str().expect("an id")).collect()
}

/// One report for each of these, in this order, each in a commit of its own.
async fn send(node: &Node, ids: &[&str]) {
    let mut client = Client::connect(node.ingest()).await;
    for (seq, id) in (0..).zip(ids) {
        client.report(id, seq, &format!(r#"{{"n": {seq}}}"#)).await;
    }
}

/// A node whose flushers wait for ever, and which leaves no markers.
fn patient() -> Node {
    Node::new().set("flush.tick", "1h").set("on_disconnect", "ignore").set("shutdown.drain", "30s")
}

#[tokio::test]
async fn streams_are_listed_by_backlog_age_and_id_page_by_page() {
    let node = patient().set("sink.url", DEAD).start().await;
    // Ages in the order of the list; backlogs c 3, a 2, b 2, x.1 1, x.2 1.
    send(&node, &["b", "x.2", "a", "c", "x.1", "a", "b", "c", "c"]).await;
    for (query, wanted) in [
        ("", ["c", "a", "b", "x.1", "x.2"]),
        ("sort=backlog&limit=2", ["c", "a", "b", "x.1", "x.2"]),
        ("sort=oldest&limit=1", ["b", "x.2", "a", "c", "x.1"]),
        ("sort=id&limit=3", ["a", "b", "c", "x.1", "x.2"]),
    ] {
        let (found, total) = pages(&node, query).await;
        assert_eq!((ids(&found), &total), (wanted.to_vec(), &json!(5)), "{query}");
    }
    let (found, total) = pages(&node, "sort=id&limit=1&prefix=x.").await;
    assert_eq!((ids(&found), &total), (vec!["x.1", "x.2"], &json!(2)));
    let (found, total) = pages(&node, "prefix=nothing").await;
    assert_eq!((found.len(), &total), (0, &json!(0)));
}

#[tokio::test]
async fn one_stream_says_what_it_waits_for() {
    let node = patient().start().await;
    send(&node, &["a", "a"]).await;
    let a = stream(&node, "a").await;
    assert_eq!(
        (&a["id"], &a["state"], &a["backlog"], &a["markers"]),
        (&json!("a"), &json!("waiting"), &json!(2), &json!(0))
    );
    assert_eq!((&a["last_batch"], &a["last_error"], &a["paused"]), (&Value::Null, &Value::Null, &json!(false)), "{a}");
    assert!(a["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{a}");
    let (age, wait) = (a["oldest_age_s"].as_f64().expect("an age"), a["next_attempt_s"].as_f64().expect("a time"));
    assert!((3590.0..3610.0).contains(&(age + wait)), "the tick is an hour after the oldest: {a}");
    let none = stream(&node, "nobody:ever-saw.it").await;
    let wanted = json!({
        "id": "nobody:ever-saw.it", "state": "drained", "backlog": 0, "markers": 0, "bytes": 0, "oldest_age_s": 0.0,
        "last_batch": null, "last_error": null, "next_attempt_s": null, "paused": false,
    });
    assert_eq!(none, wanted);
}

#[tokio::test]
async fn queued_reports_are_shown_as_they_were_sent_and_stay_queued() {
    let node = patient().set("sink.url", DEAD).start().await;
    let messages = r#"[{"op":"report","id":"a","seq":7,"time":"1.5","code":-3,"data":{"b": [1.0, "é"],"a":  null}},
        {"op":"done","id":"a"},{"op":"report","id":"b","seq":1},{"op":"report","id":"a"}]"#;
    let acks = node.post(messages).await;
    let path = format!("{LIST}/a/reports");
    let answer = ask(&node, "GET", &path).await;
    assert!(answer.text().contains(r#""data":{"b": [1.0, "é"],"a":  null}"#), "byte for byte: {}", answer.text());
    let page = answer.json();
    let reports = page["reports"].as_array().expect("a list");
    assert_eq!((reports.len(), &page["next"]), (2, &Value::Null), "the marker is no report: {page}");
    assert_eq!(
        (&reports[0]["key"], &reports[0]["time"], &reports[0]["code"]),
        (&json!("a~0~7"), &json!(1.5), &json!(-3))
    );
    assert_eq!((&reports[0]["peer"], &reports[1]["data"]), (&json!("127.0.0.1"), &Value::Null), "{page}");
    assert!(reports[0]["accepted_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{page}");
    assert_eq!(reports[1]["key"], format!("a~1~{}", acks[3]["seq"]), "numbered by the node: {page}");
    assert_eq!(reports[1]["position"], acks[3]["seq"], "{page}");
    assert_eq!(node.admin_json(&path).await, page, "a look takes nothing");
    assert_eq!(node.admin_json(&format!("{LIST}/nobody/reports")).await, json!({"reports": [], "next": null}));
}

#[tokio::test]
async fn pages_of_queued_reports_miss_none_while_more_come() {
    const REPORTS: u64 = 2_000;
    let node = patient().set("sink.url", DEAD).start().await;
    let mut client = Client::connect(node.ingest()).await;
    let sending = tokio::spawn(async move {
        for first in (0..REPORTS).step_by(8) {
            // As one commit, so that pages end within entries.
            let reports: Vec<String> = (first..first + 8).map(|seq| report("a", seq, "1")).collect();
            client.ask(format!("[{}]", reports.join(","))).await;
        }
    });
    let (mut keys, mut position) = (Vec::new(), 0);
    while keys.len() < REPORTS as usize {
        let page = node.admin_json(&format!("{LIST}/a/reports?limit=13&after={position}")).await;
        let reports = page["reports"].as_array().expect("a list");
        assert!(reports.len() <= 13);
        for report in reports {
            let at = report["position"].as_u64().expect("a position");
            assert!(at > position, "{page}");
            position = at;
            keys.push(report["key"].clone());
        }
        if let Some(next) = page["next"].as_str() {
            assert_eq!(next, position.to_string());
        }
        assert!(!(sending.is_finished() && reports.is_empty() && keys.len() < REPORTS as usize), "{} only", keys.len());
    }
    sending.await.expect("the client had its acks");
    let wanted: Vec<Value> = (0..REPORTS).map(|seq| json!(format!("a~0~{seq}"))).collect();
    assert_eq!(keys, wanted);
}

#[tokio::test]
async fn a_page_of_large_reports_is_bounded_in_bytes() {
    let node = patient().set("sink.url", DEAD).start().await;
    let mut client = Client::connect(node.ingest()).await;
    let large = format!("\"{}\"", "x".repeat(60_000));
    for seq in 0..40 {
        client.report("a", seq, &large).await;
    }
    let answer = ask(&node, "GET", &format!("{LIST}/a/reports?limit=1000")).await;
    assert!(answer.body.len() < 1_200_000, "{} bytes", answer.body.len());
    let page = answer.json();
    let first = page["reports"].as_array().expect("a list").len();
    assert!((10..20).contains(&first), "{first}");
    let next = page["next"].as_str().expect("there is more");
    let page = node.admin_json(&format!("{LIST}/a/reports?limit=1000&after={next}")).await;
    assert_eq!(page["reports"][0]["key"], format!("a~0~{first}"));
}

#[tokio::test]
async fn a_flush_drains_an_id_that_waits_for_its_tick_and_no_other() {
    let node = patient().start().await;
    send(&node, &["a", "b", "a"]).await;
    post(&node, &format!("{LIST}/a/flush")).await;
    eventually("the id to be drained", async || same(&stream(&node, "a").await["state"], &json!("drained"))).await;
    assert_eq!(node.stored().rows_of("a").await.expect("a sink").len(), 2);
    assert_eq!(stream(&node, "b").await["backlog"], 1);
    assert_eq!(post(&node, &format!("{LIST}/a/flush")).await["state"], "drained", "nothing is left to do");
}

#[tokio::test]
async fn a_paused_id_is_taken_and_not_drained_over_sigkill_and_sigterm_until_it_is_resumed() {
    let mut node = Node::new().set("on_disconnect", "ignore").set("shutdown.drain", "30s").start().await;
    let paused = post(&node, &format!("{LIST}/a/pause")).await;
    assert_eq!((&paused["state"], &paused["paused"], &paused["backlog"]), (&json!("paused"), &json!(true), &json!(0)));
    node.kill();
    node.restart().await;
    for round in 1..=2_u64 {
        let mut client = Client::connect(node.ingest()).await;
        for seq in 20 * round..20 * round + 20 {
            client.report("a", seq, "1").await;
            client.report("b", seq, "1").await;
        }
        let backlog = eventually("the other id to be drained", async || {
            let audit = node.audit().await;
            same(&audit["backlog"], &json!(20 * round)).map(|()| audit)
        });
        assert_eq!(backlog.await["balanced"], true);
        let a = stream(&node, "a").await;
        assert_eq!(
            (&a["state"], &a["backlog"], &a["next_attempt_s"]),
            (&json!("paused"), &json!(20 * round), &Value::Null)
        );
        assert!(problem(&node, "POST", &format!("{LIST}/a/flush"), 409).await.contains("resume"));
        assert_eq!(node.stored().rows_of("a").await.expect("a sink").len(), 0);
        if round == 1 {
            // It must not wait for what may not be drained: that would be thirty seconds.
            assert_eq!(node.terminate().await.code(), Some(0), "{}", node.stderr());
            node.restart().await;
            assert_eq!(node.audit().await["backlog"], 20, "the shutdown left it");
        }
    }
    node.kill();
    node.restart().await;
    // The other may be there for a moment: its truncation was not synced when it was killed.
    let (found, _) = pages(&node, "sort=backlog&limit=1").await;
    assert_eq!(ids(&found)[0], "a", "an operator finds it");
    assert_eq!(post(&node, &format!("{LIST}/a/pause")).await["backlog"], 40, "as it is already");
    post(&node, &format!("{LIST}/a/resume")).await;
    node.drained().await;
    let rows = node.stored().rows_of("a").await.expect("a sink");
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), (20..60).collect::<Vec<_>>());
    assert_eq!(post(&node, &format!("{LIST}/a/resume")).await["state"], "drained", "as it is already");
    node.kill();
    node.restart().await;
    assert_eq!(stream(&node, "a").await["paused"], false, "the resume is durable, too");
}

#[tokio::test]
async fn a_paused_id_without_backlog_is_listed_and_its_limit_holds() {
    let node = Node::new().set("journal.max_backlog_per_id", 5).set("on_disconnect", "ignore").start().await;
    post(&node, &format!("{LIST}/p1/pause")).await;
    post(&node, &format!("{LIST}/p2/pause")).await;
    let (found, total) = pages(&node, "sort=oldest&limit=1").await;
    assert_eq!((ids(&found), &total), (vec!["p1", "p2"], &json!(2)));
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..5 {
        client.report("p2", seq, "1").await;
    }
    let refusal = client.ask(report("p2", 5, "1")).await;
    assert_eq!((&refusal["code"], &refusal["error"]), (&json!(429), &json!("backlog_full")), "{refusal}");
    assert_eq!(ids(&pages(&node, "limit=1").await.0), ["p2", "p1"], "one that has backlog is there once");
    post(&node, &format!("{LIST}/p2/resume")).await;
    node.drained().await;
    client.report("p2", 5, "1").await;
}

on_each_server!(an_outage_is_seen_at_the_ids_that_it_holds_up_and_a_pause_in_it_holds);
async fn an_outage_is_seen_at_the_ids_that_it_holds_up_and_a_pause_in_it_holds(kind: Kind) {
    let mut server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).set("on_disconnect", "ignore").set("sink.connections", 1);
    let node = node.set("sink.max_rows", 1).start().await;
    // The tables are there once a row is.
    send(&node, &["first"]).await;
    node.drained().await;
    server.kill();
    send(&node, &["a", "b", "c"]).await;
    let seen = eventually("all three to be tried again", async || {
        let (found, _) = pages(&node, "sort=id").await;
        let states: Vec<_> = found.iter().map(|stream| stream["state"].clone()).collect();
        same(states, vec![json!("retrying"); 3]).map(|()| found)
    });
    for stream in seen.await {
        let error = &stream["last_error"];
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{stream}");
        assert!(error["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{stream}");
    }
    // One row a transaction: one of the three is on its way, and ends; the others were handed over and wait.
    for id in ["a", "b", "c"] {
        assert_eq!(post(&node, &format!("{LIST}/{id}/pause")).await["state"], "paused");
    }
    server.restart().await;
    eventually("the outage to end", async || {
        let status = node.admin_json("/api/v1/status").await;
        same(status["sink"]["state"].as_str(), Some("up"))
    })
    .await;
    send(&node, &["last"]).await;
    eventually("the id behind them to be stored", async || {
        same(node.stored().rows_of("last").await.map(|rows| rows.len()), Ok(1))
    })
    .await;
    let backlog = node.audit().await["backlog"].as_u64().expect("a number");
    assert!(backlog >= 2, "what was only waiting for its turn stays, {backlog} of 3");
    for id in ["a", "b", "c"] {
        post(&node, &format!("{LIST}/{id}/resume")).await;
    }
    assert_eq!(node.drained().await["stored"], 5);
}

on_each_server!(an_id_that_the_sink_fails_over_says_why_and_when_it_is_tried_again);
async fn an_id_that_the_sink_fails_over_says_why_and_when_it_is_tried_again(kind: Kind) {
    let server = Server::start(kind).await;
    let node = patient().set("sink.url", server.url()).set("flush.catch_up_batch", 10).start().await;
    // The tables are there once a row is.
    node.post(r#"[{"op":"report","id":"first"},{"op":"done","id":"first"}]"#).await;
    node.drained().await;
    let trigger = "CREATE TRIGGER odd BEFORE INSERT ON reports FOR EACH ROW IF NEW.seq BETWEEN 10 AND 19 THEN \
                   SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1644, MESSAGE_TEXT = 'not now'; END IF";
    server.run(&[trigger]).await;
    let reports: Vec<String> = (0..20).map(|seq| report("a", seq, "1")).collect();
    node.post(format!("[{}]", reports.join(","))).await;
    let seen = eventually("the second batch to be put back", async || {
        let a = stream(&node, "a").await;
        if a["state"] == "retrying" && a["next_attempt_s"].is_number() { Ok(a) } else { Err(a.to_string()) }
    });
    let a = seen.await;
    assert_eq!((&a["backlog"], &a["last_error"]["code"]), (&json!(10), &json!(1644)), "{a}");
    assert!(a["last_error"]["message"].as_str().is_some_and(|text| text.contains("not now")), "{a}");
    let batch = &a["last_batch"];
    assert_eq!((&batch["reports"], &batch["stored"], &batch["dead"]), (&json!(10), &json!(10), &json!(0)), "{a}");
    assert!(a["next_attempt_s"].as_f64().is_some_and(|wait| (0.0..=10.0).contains(&wait)), "{a}");
    server.run(&["DROP TRIGGER odd"]).await;
    post(&node, &format!("{LIST}/a/flush")).await;
    assert_eq!(node.drained().await["stored"], 21);
}

#[tokio::test]
async fn a_thousand_ids_are_paged_while_more_come() {
    const IDS: u64 = 3_000;
    let node = patient().set("sink.url", DEAD).start().await;
    let fill = |from: u64, to: u64| {
        let reports: Vec<String> = (from..to).map(|n| report(&format!("id{n:05}"), 0, "1")).collect();
        format!("[{}]", reports.join(","))
    };
    node.post(fill(0, IDS)).await;
    let mut client = Client::connect(node.ingest()).await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let more = async move {
        let mut n = IDS;
        while stopped.try_recv() == Err(TryRecvError::Empty) {
            client.ask(fill(n, n + 10)).await;
            n += 10;
        }
    };
    let more = tokio::spawn(more);
    let (found, _) = pages(&node, "sort=id&limit=400").await;
    drop(stop);
    more.await.expect("the client had its acks");
    let found = ids(&found);
    assert!(found.is_sorted_by(|a, b| a < b), "no id twice");
    let wanted: Vec<String> = (0..IDS).map(|n| format!("id{n:05}")).collect();
    assert_eq!(found[..IDS as usize], wanted, "all that were there are listed");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_and_named() {
    let node = Node::new().start().await;
    for (method, path, status, named) in [
        ("GET", "/api/v1/streams?limit=0", 400, "`limit`"),
        ("GET", "/api/v1/streams?limit=1001", 400, "`limit`"),
        ("GET", "/api/v1/streams?limit=many", 400, "`limit`"),
        ("GET", "/api/v1/streams?limit=1&limit=2", 400, "`limit`"),
        ("GET", "/api/v1/streams?sort=size", 400, "`sort`"),
        ("GET", "/api/v1/streams?after=nonsense", 400, "`after`"),
        ("GET", "/api/v1/streams?sort=id&after=backlog~1~a", 400, "`after`"),
        ("GET", "/api/v1/streams?prefix=a%20b", 400, "`prefix`"),
        ("GET", "/api/v1/streams?colour=red", 400, "`colour`"),
        ("GET", "/api/v1/streams/a%20b", 400, "a b"),
        ("GET", "/api/v1/streams/%ff", 400, "UTF-8"),
        ("GET", "/api/v1/streams/a?limit=1", 400, "`limit`"),
        ("GET", "/api/v1/streams/a/reports?after=x", 400, "`after`"),
        ("GET", "/api/v1/streams/a/reports?limit=-1", 400, "`limit`"),
        ("POST", "/api/v1/streams/a~b/pause", 400, "a~b"),
        ("POST", "/api/v1/streams/a/flush?now=1", 400, "`now`"),
        ("GET", "/api/v1/streams/", 404, ""),
        ("GET", "/api/v1/streams/a/pause", 405, ""),
        ("DELETE", "/api/v1/streams/a", 405, ""),
    ] {
        let detail = problem(&node, method, path, status).await;
        assert!(detail.contains(named), "{path}: {detail}");
    }
}
