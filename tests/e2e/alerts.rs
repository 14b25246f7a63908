//! Alert rules and dashboard: they ask for what the node has, and every rule fires over the fault that it is for.
//!
//! A test causes the fault in a real node, scrapes it, and lets promtool evaluate the rules over the scrapes, as if
//! each had stood for some minutes.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::damage::with_backlog;
use crate::limits::DEAD;
use crate::positions::libfaketime;
use crate::support::client::{Client, Incoming, report};
use crate::support::metrics::{Page, assert_content, promtool};
use crate::support::node::Node;
use crate::support::strace;
use crate::support::tls::certificate_until;
use crate::support::wait::eventually;

/// How long a node is healthy before its fault.
const HEALTHY_MINUTES: usize = 10;
/// Longer than any rule waits, and than the range of any.
const FAULTY_MINUTES: usize = 20;

fn monitoring(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring").join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(monitoring(file)).expect("it is in docs/monitoring")
}

/// The scrapes of one node, a minute each; `None` where it did not answer.
struct Rehearsal(Vec<Option<Page>>);

impl Rehearsal {
    /// Begins with a node that is well.
    async fn new() -> Self {
        let node = Node::new().start().await;
        let mut client = Client::connect(node.ingest()).await;
        client.report("well", 1, "1").await;
        node.drained().await;
        Self(vec![Some(Page::of(&node).await); HEALTHY_MINUTES])
    }

    /// The node goes on like this.
    fn then(mut self, page: Option<&Page>, minutes: usize) -> Self {
        self.0.extend(std::iter::repeat_n(page.cloned(), minutes));
        self
    }

    /// What changed from one scrape to the other changes again each minute.
    fn then_on_and_on(mut self, from: &Page, to: &Page, minutes: usize) -> Self {
        for minute in 0..minutes {
            let grown = |(series, value): (&String, &f64)| {
                let step = value - from.series.get(series).unwrap_or(value);
                (series.clone(), value + step * minute as f64)
            };
            self.0.push(Some(Page { series: to.series.iter().map(grown).collect(), ..to.clone() }));
        }
        self
    }

    /// Nothing fires while the node is well, and these do after.
    fn fires(&self, alerts: &[&str]) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("test.json");
        let test = |expr: String, minute: usize, samples: Value| json!({ "expr": expr, "eval_time": format!("{minute}m"), "exp_samples": samples });
        let fired = r#"max(max_over_time(ALERTS{alertstate="firing"}[1h]))"#;
        let mut tests = vec![test(fired.to_owned(), HEALTHY_MINUTES - 1, json!([]))];
        for alert in alerts {
            let fired = format!("max(max_over_time(ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}[1h]))");
            tests.push(test(fired, self.0.len() - 1, json!([{ "labels": "{}", "value": 1 }])));
        }
        let case = json!({ "interval": "1m", "input_series": self.series(), "promql_expr_test": tests });
        let rules = [monitoring("forebay.rules.yml")];
        let whole = json!({ "rule_files": rules, "evaluation_interval": "1m", "tests": [case] });
        std::fs::write(&file, whole.to_string()).expect("the folder takes a file");
        assert_content(&promtool(&["test", "rules", &file.display().to_string()], ""));
    }

    fn series(&self) -> Vec<Value> {
        let names: BTreeSet<&String> = self.0.iter().flatten().flat_map(|page| page.series.keys()).collect();
        let values = |of: &dyn Fn(&Option<Page>) -> Option<f64>| {
            let value = |page| of(page).map_or("_".to_owned(), |value| value.to_string());
            self.0.iter().map(value).collect::<Vec<_>>().join(" ")
        };
        let up = values(&|page| Some(f64::from(u8::from(page.is_some()))));
        let mut series = vec![json!({ "series": scraped("up"), "values": up })];
        for name in names {
            let values = values(&|page| page.as_ref()?.series.get(name).copied());
            series.push(json!({ "series": scraped(name), "values": values }));
        }
        series
    }
}

/// A series with the labels that a scrape adds.
fn scraped(series: &str) -> String {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    format!("{name}{{job=\"forebay\",instance=\"node\",{labels}")
}

/// Waits for a scrape of which `wanted` holds.
async fn page(node: &Node, what: &str, wanted: impl Fn(&Page) -> bool) -> Page {
    eventually(what, async || {
        let page = Page::of(node).await;
        if wanted(&page) { Ok(page) } else { Err(page.text) }
    })
    .await
}

#[tokio::test]
async fn a_disk_that_fails_syncs_ends_the_node_which_is_seen_as_down() {
    let rehearsal = Rehearsal::new().await;
    let mut node = Node::new();
    let log = node.folder().join("strace");
    let inject = "inject=fdatasync:error=EIO:when=20+";
    let wrapper = strace::command(&log, &["-e", "trace=fdatasync", "-e", inject]);
    node.under(&wrapper.iter().map(String::as_str).collect::<Vec<_>>());
    node.restart().await;
    let mut client = Client::connect(node.ingest()).await;
    // One after the other: each has a commit of its own, until one fails.
    for seq in 0..100 {
        client.send(report("a", seq, "1")).await;
        if !matches!(client.next().await, Incoming::Reply(_)) {
            break;
        }
    }
    assert_ne!(node.ended().await.code(), Some(0));
    rehearsal.then(None, 5).fires(&["ForebayNodeDown"]);
}

#[tokio::test]
async fn a_node_that_does_not_stay_up_is_seen_to_restart() {
    let mut rehearsal = Rehearsal::new().await;
    let mut node = Node::new();
    for _ in 0..4 {
        node.restart().await;
        rehearsal = rehearsal.then(Some(&Page::of(&node).await), 2);
        node.kill();
    }
    rehearsal.fires(&["ForebayRestarts"]);
}

#[tokio::test]
async fn a_node_that_does_not_end_its_stop_is_seen_as_not_ready() {
    let node = Node::new().set("sink.url", DEAD).set("shutdown.drain", "30s").start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("a", 1, "1").await;
    node.ask_to_stop();
    let stopping = page(&node, "the node to stop", |page| page.value("forebay_ready") == 0.0).await;
    Rehearsal::new().await.then(Some(&stopping), 5).fires(&["ForebayNotReady"]);
}

#[tokio::test]
async fn a_sink_that_is_away_is_seen_and_so_is_a_journal_that_fills_up() {
    let node = Node::new().set("sink.url", DEAD).set("journal.max_bytes", "1MiB").start().await;
    let mut client = Client::connect(node.ingest()).await;
    let data = format!("\"{}\"", "x".repeat(1_000));
    for seq in 0..150 {
        client.report("a", seq, &data).await;
    }
    let down = page(&node, "the outage", |page| page.value(r#"forebay_sink_state{state="down"}"#) == 1.0).await;
    for seq in 150..170 {
        client.report("a", seq, &data).await;
    }
    let later = Page::of(&node).await;
    let growing = Rehearsal::new().await.then_on_and_on(&down, &later, FAULTY_MINUTES);
    growing.fires(&["ForebaySinkDown", "ForebayJournalFillsUp"]);
    let mut seq = 170;
    while client.ask(report("a", seq, &data)).await["code"] == 200 {
        seq += 1;
        assert!(seq < 2_000, "2 MB are in a journal of 1 MiB");
    }
    let full = Page::of(&node).await;
    Rehearsal::new().await.then(Some(&full), 5).fires(&["ForebayJournalNearLimit", "ForebayRefuses"]);
}

#[tokio::test]
async fn a_sink_that_is_no_database_is_seen_as_blocked() {
    let mut node = Node::new();
    std::fs::write(node.sqlite_file(), "no database at all, but a text of some length".repeat(50)).expect("a file");
    node.restart().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("a", 1, "1").await;
    let blocked = page(&node, "the sink", |page| page.value(r#"forebay_sink_state{state="blocked"}"#) == 1.0).await;
    Rehearsal::new().await.then(Some(&blocked), 5).fires(&["ForebaySinkBlocked"]);
}

#[tokio::test]
async fn a_backlog_that_is_an_hour_old_is_seen() {
    let Some(library) = libfaketime() else {
        println!("skipped: libfaketime is not installed");
        return;
    };
    let mut node = Node::new().set("sink.url", DEAD);
    let preload = format!("LD_PRELOAD={}", library.display());
    node.under(&["env", &preload, "FAKETIME=-1h", "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
    node.restart().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("a", 1, "1").await;
    node.kill();
    node.under(&[]);
    node.restart().await;
    let old = Page::of(&node).await;
    Rehearsal::new().await.then(Some(&old), FAULTY_MINUTES).fires(&["ForebayBacklogOld"]);
}

#[tokio::test]
async fn a_disk_at_its_reserve_is_seen() {
    let node = Node::new().set("journal.min_free_disk", "1000TiB").start().await;
    let low = Page::of(&node).await;
    Rehearsal::new().await.then(Some(&low), 5).fires(&["ForebayDiskNearReserve"]);
}

#[tokio::test]
async fn a_report_that_the_sink_refuses_is_seen() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("good", 1, "1").await;
    node.drained().await;
    let sink = rusqlite::Connection::open(node.sqlite_file()).expect("the sink's file");
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON reports BEGIN SELECT RAISE(ABORT, 'no'); END";
    sink.execute_batch(refuse).expect("a trigger");
    client.report("bad", 1, "1").await;
    node.drained().await;
    let dead = Page::of(&node).await;
    assert_eq!(dead.value("forebay_dead_letters"), 1.0);
    Rehearsal::new().await.then(Some(&dead), 2).fires(&["ForebayDeadLetters"]);
    // No node has two reports for one, so this scrape is made up of a real one.
    let mut wrong = dead.clone();
    wrong.series.insert("forebay_reports_stored_total".to_owned(), 2.0);
    Rehearsal::new().await.then(Some(&wrong), 2).fires(&["ForebayAuditUnbalanced"]);
}

#[tokio::test]
async fn slow_syncs_and_the_acks_that_wait_for_them_are_seen() {
    let mut node = Node::new();
    let log = node.folder().join("strace");
    let wrapper = strace::command(&log, &["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_exit=1100000"]);
    node.under(&wrapper.iter().map(String::as_str).collect::<Vec<_>>());
    node.restart().await;
    let before = Page::of(&node).await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..2 {
        client.report("a", seq, "1").await;
    }
    let after = Page::of(&node).await;
    let slow = Rehearsal::new().await.then_on_and_on(&before, &after, FAULTY_MINUTES);
    slow.fires(&["ForebaySyncSlow", "ForebayAcksSlow"]);
}

#[tokio::test]
async fn a_damaged_journal_is_seen() {
    let mut node = with_backlog(true).await;
    let file = File::options().write(true).open(node.journal().join("db")).expect("a journal");
    file.write_all_at(&[0xA5; 16], 0).expect("written");
    node.restart().await;
    let damaged = Page::of(&node).await;
    Rehearsal::new().await.then(Some(&damaged), 2).fires(&["ForebayDamage"]);
}

#[tokio::test]
async fn refusals_are_seen_by_whose_fault_they_are() {
    let node = Node::new().set("sink.url", DEAD).set("journal.max_backlog_per_id", 1).start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("full", 1, "1").await;
    client.ask("nonsense").await;
    let bad = Page::of(&node).await;
    Rehearsal::new().await.then(Some(&bad), 2).fires(&["ForebayBadMessages"]);
    client.ask(report("full", 2, "1")).await;
    let full = Page::of(&node).await;
    Rehearsal::new().await.then(Some(&full), 2).fires(&["ForebayRefuses"]);
}

#[tokio::test]
async fn connections_and_files_near_their_limits_are_seen() {
    let mut node = Node::new().set("ingest.max_connections", 440);
    // Of these 64 are the journal's.
    node.under(&["prlimit", "--nofile=512"]);
    node.restart().await;
    let mut clients = Vec::new();
    for _ in 0..410 {
        clients.push(Client::connect(node.ingest()).await);
    }
    let near = Page::of(&node).await;
    let alerts = ["ForebayConnectionsNearLimit", "ForebayFilesNearLimit"];
    Rehearsal::new().await.then(Some(&near), 2).fires(&alerts);
}

/// The rehearsal's clock begins with the epoch, so a certificate that ends soon ends soon after that.
#[tokio::test]
async fn a_certificate_that_expires_soon_is_seen_until_it_is_renewed() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = certificate_until(folder.path(), "own", (1970, 1, 10));
    let node = Node::new()
        .set("ingest.tls_cert", old.cert.display().to_string())
        .set("ingest.tls_key", old.key.display().to_string())
        .start()
        .await;
    let expiry = |page: &Page, listener| {
        page.value(&format!("forebay_tls_certificate_expiry_timestamp_seconds{{listener=\"{listener}\"}}"))
    };
    let ends = Page::of(&node).await;
    assert_eq!((expiry(&ends, "ingest"), expiry(&ends, "admin")), (9.0 * 86_400.0, 0.0));
    Rehearsal::new().await.then(Some(&ends), 2).fires(&["ForebayCertificateExpires"]);
    certificate_until(folder.path(), "own", (2100, 12, 31));
    node.reload();
    node.said("were read anew", 1).await;
    assert_eq!(expiry(&Page::of(&node).await, "ingest"), 4_133_894_400.0);
}

/// Names of alerts, in the rules' order.
fn alerts(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

#[test]
fn every_alert_is_in_the_runbook_and_fires_in_a_test() {
    let rules = text("forebay.rules.yml");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md");
    let runbook = std::fs::read_to_string(path).expect("docs/runbook.md");
    let row = |line: &'_ str| Some(line.strip_prefix("| `Forebay")?.split_once('`')?.0.to_owned());
    let explained: Vec<String> = runbook.lines().filter_map(row).map(|name| format!("Forebay{name}")).collect();
    assert_eq!(explained, alerts(&rules));
    let tests = include_str!("alerts.rs");
    for alert in explained {
        assert!(tests.contains(&format!("\"{alert}\"")), "no test causes {alert}");
    }
}

/// Words of a query that begin as a metric of the node does.
fn asked(query: &str) -> BTreeSet<&str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("forebay_") || word.starts_with("process_")).collect()
}

fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect()
}

#[tokio::test]
async fn rules_and_dashboard_ask_only_for_what_the_node_has() {
    let node = Node::new().start().await;
    let page = Page::of(&node).await;
    let served: BTreeSet<&str> = page.names().into_iter().collect();
    let dashboard: Value = serde_json::from_str(&text("forebay-dashboard.json")).expect("JSON");
    let queries = queries(&dashboard);
    let rules = text("forebay.rules.yml");
    let exprs = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    for query in queries.iter().map(String::as_str).chain(exprs) {
        let asked = asked(query);
        assert!(!asked.is_empty() || query.starts_with("up{"), "{query}");
        assert!(asked.is_subset(&served), "{query} asks for {:?}", asked.difference(&served));
    }
}

/// Prometheus can read every query.
#[test]
fn promtool_reads_rules_and_dashboard() {
    assert_content(&promtool(&["check", "rules", &monitoring("forebay.rules.yml").display().to_string()], ""));
    let dashboard: Value = serde_json::from_str(&text("forebay-dashboard.json")).expect("JSON");
    let record = |(n, query): (usize, String)| {
        let expr = query.replace("$__rate_interval", "5m");
        json!({ "record": format!("panel:query:{n}"), "expr": expr })
    };
    let rules: Vec<Value> = queries(&dashboard).into_iter().enumerate().map(record).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dashboard.json");
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(&file, groups.to_string()).expect("the folder takes a file");
    assert_content(&promtool(&["check", "rules", &file.display().to_string()], ""));
}
