//! `GET /metrics`: every figure is documented, named as Prometheus wants it, and adds up.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::limits::DEAD;
use crate::support::client::{Client, report};
use crate::support::http;
use crate::support::metrics::{About, Page, assert_content, promtool};
use crate::support::node::Node;
use crate::support::wait::{eventually, same};

/// The rows of the table in docs/metrics.md, with the unit of each.
fn documented() -> BTreeMap<String, (About, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(path).expect("docs/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, unit, labels, help] = cells[..] else { panic!("not five cells: {line}") };
        let bare = |text: &str| text.trim_matches('`').to_owned();
        let labels = labels.split(',').map(str::trim).filter(|label| !label.is_empty()).map(bare).collect();
        let about = About { kind: kind.to_owned(), help: help.to_owned(), labels };
        (bare(name), (about, unit.to_owned()))
    };
    rows.map(row).collect()
}

#[tokio::test]
async fn the_documented_table_is_what_a_node_serves() {
    let node = Node::new().start().await;
    let served = Page::of(&node).await.abouts();
    let documented = documented();
    let names = |of: &mut dyn Iterator<Item = &String>| of.cloned().collect::<Vec<_>>();
    assert_eq!(names(&mut served.keys()), names(&mut documented.keys()));
    for (name, (about, unit)) in documented {
        assert_eq!(served[&name], about, "{name}");
        let counts = about.kind == "counter";
        assert_eq!(name.ends_with("_total"), counts, "{name}");
        let base = name.trim_end_matches("_total");
        let suffix = ["seconds", "bytes"].into_iter().find(|unit| base.ends_with(&format!("_{unit}")));
        assert_eq!(suffix.unwrap_or(""), unit, "{name}");
    }
}

#[tokio::test]
async fn promtool_finds_nothing_to_say_about_the_names() {
    let node = Node::new().start().await;
    let output = promtool(&["check", "metrics"], &Page::of(&node).await.text);
    assert_content(&output);
    assert!(output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
}

#[tokio::test]
async fn who_asks_for_openmetrics_gets_it() {
    let node = Node::new().start().await;
    let headers = [("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    let answer = http::request(node.admin(), "GET", "/metrics", &headers, b"").await.expect("an answer");
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text();
    assert!(text.contains("# UNIT forebay_ack_seconds seconds\n") && text.ends_with("# EOF\n"), "{text}");
}

fn audited(page: &Page) -> (f64, f64) {
    let sum = |names: &[&str]| names.iter().map(|name| page.value(&format!("forebay_{name}"))).sum();
    let came = sum(&["reports_recovered_total", "reports_accepted_total"]);
    let ended = ["reports_stored_total", "reports_duplicate_total", "reports_discarded_total"];
    (came, sum(&ended) + sum(&["dead_letters", "backlog_reports"]))
}

#[tokio::test]
async fn the_audits_metrics_add_up_in_every_scrape_and_are_those_of_the_audit() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let sending = tokio::spawn(async move {
        for seq in 0..500 {
            client.report(&format!("s{}", seq % 50), seq / 2, "1").await;
        }
    });
    while !sending.is_finished() {
        let page = Page::of(&node).await;
        let (came, is) = audited(&page);
        assert_eq!(came, is, "{}", page.text);
    }
    sending.await.expect("the client had its acks");
    let audit = node.drained().await;
    let page = Page::of(&node).await;
    for (metric, name) in [
        ("reports_accepted_total", "accepted"),
        ("reports_stored_total", "stored"),
        ("reports_duplicate_total", "duplicates"),
        ("backlog_reports", "backlog"),
    ] {
        assert_eq!(Some(page.value(&format!("forebay_{metric}"))), audit[name].as_f64(), "{metric}: {audit}");
    }
}

/// Commits, syncs, acks and transactions are counted once each, and the backlog is what is left of them.
#[tokio::test]
async fn what_a_report_does_is_counted() {
    let node = Node::new().set("sink.url", DEAD).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..20 {
        client.report("a", seq, "1").await;
    }
    let array: Vec<String> = (0..30).map(|seq| report(&format!("b{}", seq % 3), seq, "1")).collect();
    client.ask(format!("[{}]", array.join(","))).await;
    client.ask(r#"{"op":"done","id":"a"}"#).await;
    let down = eventually("the outage to be counted", async || {
        let page = Page::of(&node).await;
        same(page.value("forebay_sink_outages_total"), 1.0).map(|()| page)
    });
    let page = down.await;
    // One report in flight is one commit; so are the array and the marker, which is no report.
    assert_eq!(page.value("forebay_commit_reports_count"), 22.0);
    assert_eq!(page.value("forebay_commit_reports_sum"), 50.0);
    assert_eq!(page.value(r#"forebay_commit_reports_bucket{le="1"}"#), 21.0);
    assert!(page.value("forebay_sync_seconds_count") >= 22.0);
    assert_eq!(page.value("forebay_ack_seconds_count"), 51.0);
    assert!(page.value("forebay_ack_seconds_sum") >= page.value("forebay_ack_seconds_count") * 0.000_05);
    assert_eq!(page.value("forebay_backlog_reports"), 50.0);
    assert_eq!(page.value("forebay_backlog_streams"), 4.0);
    assert_eq!(page.value("forebay_backlog_bytes"), page.value("forebay_journal_bytes"));
    assert!(page.value("forebay_backlog_bytes") > 50.0 && page.value("forebay_backlog_oldest_age_seconds") > 0.0);
    assert_eq!(page.value(r#"forebay_sink_state{state="down"}"#), 1.0);
    assert!(page.value(r#"forebay_sink_retries_total{class="outage"}"#) >= 1.0);
    assert_eq!((page.value("forebay_connections"), page.value("forebay_connections_accepted_total")), (1.0, 1.0));
}

#[tokio::test]
async fn a_transaction_is_counted_with_its_rows_and_batches() {
    let node = Node::new().set("flush.tick", "1h").start().await;
    let mut client = Client::connect(node.ingest()).await;
    let all: Vec<String> = (0..30).map(|seq| report(&format!("id-{}", seq % 3), seq, "1")).collect();
    client.ask(format!("[{}]", all.join(","))).await;
    node.drained().await;
    let page = Page::of(&node).await;
    assert_eq!(page.value("forebay_sink_transaction_rows_sum"), 30.0);
    assert_eq!(page.value("forebay_sink_batches_total"), 3.0);
    let transactions = page.value("forebay_sink_transaction_rows_count");
    assert!((1.0..=3.0).contains(&transactions), "{transactions}");
    assert_eq!(page.value("forebay_sink_transaction_seconds_count"), transactions);
    assert_eq!((page.value("forebay_backlog_bytes"), page.value("forebay_backlog_oldest_age_seconds")), (0.0, 0.0));
}

#[tokio::test]
async fn every_refusal_is_counted_by_its_name_once() {
    let node = Node::new().set("sink.url", DEAD).set("journal.max_backlog_per_id", 2);
    let node = node.set("ingest.same_id", true).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..2 {
        client.report("full", seq, "1").await;
    }
    for (message, reason) in [
        ("nonsense".to_owned(), "bad_json"),
        (r#"{"op":"report"}"#.to_owned(), "bad_field"),
        (r#"{"op":"report","id":"two words"}"#.to_owned(), "bad_field"),
        (r#"{"op":"dance"}"#.to_owned(), "unknown_op"),
        (r#"{"op":"report","id":1,"data":{"id":2}}"#.to_owned(), "id_mismatch"),
        (report("full", 2, "1"), "backlog_full"),
    ] {
        let reply = client.ask(message).await;
        assert_eq!(reply["error"], json!(reason), "{reply}");
    }
    // The same by HTTP, where a body may be too large as a whole.
    let mixed = format!("[{},7]", report("full", 3, "1"));
    assert_eq!(node.post(mixed).await.len(), 2);
    let reply = client.ask(report("long", 1, &format!("\"{}\"", "x".repeat(70_000)))).await;
    assert_eq!(reply["error"], "too_large", "{reply}");
    let page = Page::of(&node).await;
    let refused = |reason: &str| page.value(&format!("forebay_messages_refused_total{{reason=\"{reason}\"}}"));
    let counts = ["bad_json", "bad_field", "unknown_op", "id_mismatch", "too_large", "backlog_full", "journal_full"];
    assert_eq!(counts.map(refused), [2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 0.0], "{}", page.text);
}

#[tokio::test]
async fn connections_over_the_limit_are_counted() {
    let node = Node::new().set("ingest.max_connections", 1).start().await;
    let _client = Client::connect(node.ingest()).await;
    let answer = http::get(node.ingest(), "/reports").await.expect("an answer");
    assert_eq!(answer.status, 503);
    let page = Page::of(&node).await;
    let counts = ["connections", "connections_limit", "connections_accepted_total", "connections_refused_total"];
    assert_eq!(counts.map(|name| page.value(&format!("forebay_{name}"))), [1.0; 4]);
}

/// No label has a value that a client chooses.
#[tokio::test]
async fn what_clients_send_makes_no_series() {
    let node = Node::new().start().await;
    let before = Page::of(&node).await;
    let mut client = Client::connect(node.ingest()).await;
    for n in 0..50 {
        client.report(&format!("{n}"), n, "1").await;
        client.ask(format!(r#"{{"op":"op-{n}"}}"#)).await;
    }
    node.drained().await;
    let after = Page::of(&node).await;
    assert!(before.series.keys().eq(after.series.keys()));
}
