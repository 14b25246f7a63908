//! Traces: what a collector sees of commits and transactions, and that one which is not there holds up nothing.

use crate::support::client::Client;
use crate::support::node::{Node, run};
use crate::support::otlp::{Collector, Span};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::tls::certificate;
use crate::support::wait::eventually;

/// What a client chose, to be looked for.
const ID: &str = "id-that-a-client-chose";
const DATA: &str = "\"data-that-a-client-sent\"";
const SECRET: &str = "hunter2-secret";

const FAILS: &str = "traces are not exported";

/// A node that sends its spans to the collector every few milliseconds, with a header that is a secret.
fn traced_by(collector: &Collector) -> Node {
    let header = format!("OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20{SECRET}");
    let mut node = Node::new().set("trace.otlp_endpoint", format!("http://{}", collector.address));
    node.under(&["env", &header, "OTEL_BSP_SCHEDULE_DELAY=20"]);
    node.set("on_disconnect", "ignore")
}

async fn reports(node: &Node, count: u64) {
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..count {
        client.report(ID, seq, DATA).await;
    }
}

/// How often the log has it.
fn times(node: &Node, text: &str) -> usize {
    node.stderr().matches(text).count()
}

fn within<'a>(spans: &'a [Span], parent: &Span, name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name && span.is_within(parent)).collect()
}

#[tokio::test]
async fn every_commit_and_transaction_arrives_with_what_is_within_it() {
    let collector = Collector::start();
    let mut node = traced_by(&collector).set("node_id", 7).set("log.level", "debug").start().await;
    reports(&node, 25).await;
    node.drained().await;
    assert!(node.terminate().await.success());

    let spans = collector.spans();
    let commits = collector.named("commit");
    let transactions = collector.named("transaction");
    for commit in &commits {
        assert_eq!(within(&spans, commit, "write").len(), 1, "{commit:?}");
        assert_eq!(within(&spans, commit, "sync").len(), 1, "{commit:?}");
        assert!(commit.number("forebay.ids") == 1 && commit.number("forebay.bytes") > 0, "{commit:?}");
    }
    for transaction in &transactions {
        assert_eq!(within(&spans, transaction, "read").len(), 1, "{transaction:?}");
        let attempts = within(&spans, transaction, "attempt");
        assert_eq!(attempts.len(), 1, "{transaction:?}");
        assert!(!attempts[0].failed && attempts[0].text("db.system.name") == "sqlite", "{attempts:?}");
        assert_eq!(transaction.number("forebay.ids"), 1, "{transaction:?}");
    }
    assert_eq!(commits.iter().map(|commit| commit.number("forebay.reports")).sum::<i64>(), 25);
    assert_eq!(transactions.iter().map(|transaction| transaction.number("forebay.rows")).sum::<i64>(), 25);
    assert_eq!(spans.len(), 3 * commits.len() + 3 * transactions.len(), "there are no others");
    for span in &spans {
        assert_eq!(span.resource["service.name"], "forebay");
        assert_eq!(span.resource["service.instance.id"], "7");
        assert_eq!(span.events, 0, "lines of the log stay in the log: {span:?}");
    }
}

#[tokio::test]
async fn no_client_and_no_secret_is_in_traces_and_no_trace_in_the_log() {
    let collector = Collector::start();
    let mut node = traced_by(&collector).set("log.level", "info").start().await;
    // The level changes, and only that of the log.
    node.change("log.level", "debug");
    node.reload();
    node.said("were read anew", 1).await;
    reports(&node, 5).await;
    node.said("client leaves", 1).await;
    node.drained().await;
    assert!(node.terminate().await.success());

    assert!(!collector.spans().is_empty());
    assert!(!collector.saw(ID) && !collector.saw(DATA.trim_matches('"')));
    let shown = collector.authorization();
    assert!(shown.iter().all(|header| *header == format!("Bearer {SECRET}")), "the collector is shown it: {shown:?}");
    assert_eq!(times(&node, SECRET), 0, "nobody else is");
    for line in node.stderr().lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("lines are JSON");
        assert!(line.get("span").is_none() && line.get("spans").is_none(), "{line}");
        assert!(line["target"].as_str().is_some_and(|target| target.starts_with("forebay")), "{line}");
    }
}

on_each_server!(a_try_that_fails_says_of_what_kind_and_code_and_nothing_else);
async fn a_try_that_fails_says_of_what_kind_and_code_and_nothing_else(kind: Kind) {
    let collector = Collector::start();
    let mut server = Server::start(kind).await;
    // One drainer: others may first ask for the tables once they are gone, and that is no transaction.
    let node = traced_by(&collector).set("sink.url", server.url()).set("sink.connections", 1);
    let mut node = node.start().await;
    reports(&node, 1).await;
    node.drained().await;
    server.run(&["RENAME TABLE reports TO hidden"]).await;
    reports(&node, 2).await;
    node.said("the sink is blocked", 1).await;
    server.run(&["RENAME TABLE hidden TO reports"]).await;
    node.drained().await;
    server.kill();
    reports(&node, 3).await;
    node.said("the sink is down", 1).await;
    server.restart().await;
    node.drained().await;
    assert!(node.terminate().await.success());

    let spans = collector.spans();
    let tries: Vec<Vec<&Span>> =
        collector.named("transaction").iter().map(|all| within(&spans, all, "attempt")).collect();
    for (kind, code) in [("operator", "1146"), ("outage", "")] {
        let of_kind = |attempt: &&&Span| attempt.failed && attempt.text("error.type") == kind;
        let transaction = tries.iter().find(|attempts| attempts.iter().any(|attempt| of_kind(&attempt)));
        let transaction = transaction.unwrap_or_else(|| panic!("no {kind} in {tries:?}"));
        let failed = transaction.iter().find(of_kind).expect("there is one");
        assert_eq!(failed.text("db.response.status_code"), code);
        let last = transaction.iter().max_by_key(|attempt| attempt.ended).expect("there is one");
        assert!(!last.failed, "the last try of it is the one that worked: {transaction:?}");
    }
    let known = ["db.system.name", "db.response.status_code", "error.type"];
    for attempt in tries.iter().flatten() {
        assert!(attempt.attributes.keys().all(|name| known.contains(&name.as_str())), "{attempt:?}");
        assert_eq!(attempt.text("db.system.name"), "mysql");
    }
}

#[tokio::test]
async fn a_collector_that_is_down_is_said_once_and_again_once_it_is_back() {
    let mut collector = Collector::down();
    let mut node = traced_by(&collector).start().await;
    for _ in 0..3 {
        reports(&node, 10).await;
        node.drained().await;
    }
    node.said(FAILS, 1).await;
    collector.listen(None);
    let back = eventually("traces to arrive again", async || {
        reports(&node, 1).await;
        if times(&node, "traces are exported again") > 0 { Ok(()) } else { Err("they do not".to_owned()) }
    });
    back.await;
    // What it refuses is told as well.
    collector.answers_with(400);
    reports(&node, 1).await;
    node.said("status code: 400", 1).await;
    node.drained().await;
    assert!(node.terminate().await.success());
    assert_eq!((times(&node, FAILS), times(&node, "traces are exported again")), (2, 1));
    assert_eq!(times(&node, SECRET), 0);
    assert!(!collector.spans().is_empty());
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_up_no_ack_no_drain_and_no_stop() {
    let collector = Collector::mute();
    let mut node = traced_by(&collector).set("trace.max_queued_spans", 8).start().await;
    reports(&node, 100).await;
    let audit = node.drained().await;
    assert_eq!(audit["stored"], 100, "{audit}");
    assert!(node.terminate().await.success());
    assert_eq!(times(&node, FAILS), 1);
    assert_eq!(times(&node, SECRET), 0);
}

#[tokio::test]
async fn spans_that_do_not_fit_are_dropped_counted_and_said_once() {
    let collector = Collector::start();
    let mut node = traced_by(&collector).set("trace.max_queued_spans", 1).start().await;
    // A commit ends three spans at once.
    reports(&node, 50).await;
    node.said("spans are dropped", 1).await;
    reports(&node, 50).await;
    node.drained().await;
    assert!(node.terminate().await.success());
    assert_eq!(times(&node, "spans are dropped"), 1);
    assert_eq!(times(&node, FAILS), 0);
}

#[tokio::test]
async fn the_first_of_each_so_many_commits_and_transactions_is_traced_whole() {
    let collector = Collector::start();
    let mut node = traced_by(&collector).set("trace.sample_one_in", 3).start().await;
    reports(&node, 7).await;
    node.drained().await;
    assert!(node.terminate().await.success());
    let spans = collector.spans();
    let commits = collector.named("commit");
    assert_eq!(
        commits.len(),
        3,
        "each report of one client that waits is a commit, and these are the 1st, 4th and 7th"
    );
    assert!(!collector.named("transaction").is_empty(), "the first is");
    let roots = spans.iter().filter(|span| span.parent.is_empty());
    assert!(roots.clone().all(|span| ["commit", "transaction"].contains(&span.name.as_str())), "{spans:?}");
    let children: usize = roots.map(|root| spans.iter().filter(|span| span.is_within(root)).count()).sum();
    assert_eq!(children, 2 * commits.len() + 2 * collector.named("transaction").len());
}

#[tokio::test]
async fn a_collector_behind_tls_is_held_to_the_authority_that_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let [own, other] = ["own", "other"].map(|name| certificate(folder.path(), name, 2100));
    let collector = Collector::start_with(own.acceptor());
    let secure = |ca: &std::path::Path| {
        traced_by(&collector)
            .set("trace.otlp_endpoint", format!("https://{}", collector.address))
            .set("trace.otlp_ca", ca.display().to_string())
    };
    let mut node = secure(&other.cert).start().await;
    reports(&node, 1).await;
    node.said("trace.otlp_ca names a file", 1).await;
    assert!(node.terminate().await.success());
    assert!(collector.spans().is_empty());
    let mut node = secure(&own.cert).start().await;
    reports(&node, 1).await;
    collector.has("commit", 1).await;
    assert!(node.terminate().await.success());
    assert_eq!(times(&node, FAILS), 0);
}

#[tokio::test]
async fn a_file_of_no_authority_is_a_fault_of_the_configuration() {
    let mut node = Node::new().set("trace.otlp_endpoint", "https://127.0.0.1:4318");
    let file = node.folder().join("ca.pem");
    std::fs::write(&file, "nothing").expect("a file");
    node.change("trace.otlp_ca", file.display().to_string());
    assert_eq!(node.launch_to_die().await.code(), Some(2));
    assert!(node.stderr().contains("trace.otlp_ca") && node.stderr().contains("has no PEM"), "{}", node.stderr());
    let output = run(&["check-config", "--config", &node.config_file().display().to_string()]);
    assert!(output.code == Some(2) && output.stderr.contains("trace.otlp_ca"), "{output:?}");
}
