//! A damaged journal: `journal check` names it, `journal export` reads what is whole, and the node goes on by itself.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use forebay::journal::Seal;
use serde_json::{Value, json};

use crate::limits::DEAD;
use crate::positions::libfaketime;
use crate::support::client::Client;
use crate::support::http;
use crate::support::node::{FOREBAY, Node, Output, run, without_settings};

fn journal(command: &str, node: &Node) -> Output {
    run(&["journal", command, &node.journal().display().to_string()])
}

fn checked(node: &Node) -> (Option<i32>, Value) {
    let output = run(&["journal", "check", "--json", &node.journal().display().to_string()]);
    let json = serde_json::from_str(&output.stdout);
    (output.code, json.unwrap_or_else(|_| panic!("no JSON: {output:?}")))
}

/// The data of every exported report, by id and seq.
fn exported(output: &Output) -> Vec<(String, u64, String)> {
    let line = |line: &str| {
        let report: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        let text = |name: &str| report[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}")).to_owned();
        (text("id"), report["seq"].as_u64().expect("a seq"), report["data"].to_string())
    };
    output.stdout.lines().map(line).collect()
}

/// Sixty reports of three ids, and a sink that is away; stopped by SIGTERM or by SIGKILL.
pub async fn with_backlog(kill: bool) -> Node {
    let mut node = Node::new().set("sink.url", DEAD).set("shutdown.drain", "0s").start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..60 {
        client.report(&format!("s{}", seq % 3), seq, &format!("{{\"n\":{seq}}}")).await;
    }
    if kill {
        node.kill()
    } else {
        assert_eq!(node.terminate().await.code(), Some(0))
    }
    node
}

fn all() -> Vec<(String, u64, String)> {
    (0..60).map(|seq| (format!("s{}", seq % 3), seq, format!("{{\"n\":{seq}}}"))).collect()
}

fn sorted(mut reports: Vec<(String, u64, String)>) -> Vec<(String, u64, String)> {
    reports.sort_by_key(|(_, seq, _)| *seq);
    reports
}

/// Flips one bit of `text` wherever the journal has it: the storage writes a value again when it compacts its page.
/// Values are masked by the secret in the file `identity`.
fn flip(node: &Node, text: &str) {
    let identity = std::fs::read(node.journal().join("identity")).expect("a journal");
    let seal = Seal::of(identity[identity.len() - 32..].try_into().expect("a secret"));
    let bundles = std::fs::read_dir(node.journal().join("recent")).expect("a journal");
    let bundles = bundles.map(|file| file.expect("a file").path());
    let mut copies = 0;
    for path in bundles.chain([node.journal().join("db")]) {
        let bytes = std::fs::read(&path).expect("a journal");
        let file = File::options().write(true).open(path).expect("a journal");
        for at in (0..bytes.len().saturating_sub(12)).filter(|at| bytes[*at..].starts_with(b"\x02FBJ")) {
            let length = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().expect("four bytes")) as usize;
            let Some(value) = bytes.get(at..at + 12 + length) else { continue };
            let opened = seal.open(value);
            for found in opened.windows(text.len()).enumerate().filter(|(_, window)| *window == text.as_bytes()) {
                file.write_all_at(&[value[found.0] ^ 1], (at + found.0) as u64).expect("written");
                copies += 1;
            }
        }
    }
    assert!(copies > 0, "the text is there");
}

#[tokio::test]
async fn a_whole_journal_is_checked_and_exported() {
    for kill in [false, true] {
        let node = with_backlog(kill).await;
        let (code, summary) = checked(&node);
        assert_eq!((code, &summary["whole"], &summary["reports"]), (Some(0), &json!(true), &json!(60)), "{summary}");
        assert_eq!((&summary["streams"], &summary["damaged"]), (&json!(3), &json!([])), "{summary}");
        assert!(journal("check", &node).stdout.contains("all of it is whole"));
        let output = journal("export", &node);
        assert_eq!((output.code, sorted(exported(&output))), (Some(0), all()), "{}", output.stderr);
    }
}

#[tokio::test]
async fn a_report_is_one_line_of_an_export_though_its_data_has_line_ends() {
    let mut node = Node::new().set("sink.url", DEAD).start().await;
    Client::connect(node.ingest()).await.report("a", 1, "{\"n\":\n\r\n1}").await;
    node.kill();
    assert_eq!(exported(&journal("export", &node)), [("a".to_owned(), 1, "{\"n\":1}".to_owned())]);
}

/// `serve` once ended, because an export whose reader had gone to lunch held the journal.
#[tokio::test]
async fn an_export_that_is_read_slowly_keeps_no_node_from_its_journal() {
    let mut node = Node::new().set("sink.url", DEAD).start().await;
    let mut client = Client::connect(node.ingest()).await;
    let data = format!("\"{}\"", "x".repeat(1_000));
    for seq in 0..300 {
        client.report("a", seq, &data).await;
    }
    node.kill();
    let mut command = without_settings(Command::new(FOREBAY));
    command.args(["journal", "export"]).arg(node.journal()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut export = command.spawn().expect("the program starts");
    let mut lines = BufReader::new(export.stdout.take().expect("it is piped")).lines();
    // It has read the journal, and a pipe takes a part of what it has to say.
    let first = lines.next().expect("a line").expect("text");
    assert!(first.contains("\"id\":\"a\""), "{first}");
    node.restart().await;
    assert!(export.try_wait().expect("a child").is_none(), "it has ended: nothing was shown");
    assert_eq!(lines.count(), 299);
    assert!(export.wait().expect("a child").success());
}

#[tokio::test]
async fn a_journal_in_use_or_none_at_all_is_refused_with_the_reason() {
    let node = Node::new().start().await;
    let output = journal("check", &node);
    assert!(output.code == Some(1) && output.stderr.contains("in use"), "{output:?}");
    let output = run(&["journal", "export", "/nowhere/at/all"]);
    assert!(output.code == Some(1) && output.stderr.contains("no journal"), "{output:?}");
}

/// The second one once took the journal of the first for damaged, and moved it away while that one wrote it.
#[tokio::test]
async fn a_second_node_leaves_a_live_journal_alone_whatever_it_looks_like() {
    let mut node = Node::new().set("sink.url", DEAD).start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("a", 1, "1").await;
    // As somebody who cleans up would; the first node has it open.
    std::fs::remove_file(node.journal().join("db")).expect("it is there");
    let dir = node.journal().display().to_string();
    let mut second = Node::new().set("journal.dir", dir);
    assert_eq!(second.launch_to_die().await.code(), Some(1));
    assert!(second.stderr().contains("is in use by another process"), "{}", second.stderr());
    let output = journal("check", &node);
    assert!(output.code == Some(1) && output.stderr.contains("in use"), "{output:?}");
    client.report("a", 2, "2").await;
    node.kill();
    node.change("sink.url", format!("sqlite:{}", node.sqlite_file().display()));
    node.restart().await;
    assert_eq!(node.drained().await["stored"], 2);
}

/// The storage panics under such a clock, which was once taken for damage.
#[tokio::test]
async fn a_clock_before_1970_is_no_damage() {
    let Some(library) = libfaketime() else {
        println!("skipped: libfaketime is not installed");
        return;
    };
    let mut node = with_backlog(true).await;
    let preload = format!("LD_PRELOAD={}", library.display());
    node.under(&["env", &preload, "FAKETIME=-30000d", "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
    assert_eq!(node.launch_to_die().await.code(), Some(1));
    assert!(node.stderr().contains("clock stands before 1970"), "{}", node.stderr());
    node.under(&[]);
    node.change("sink.url", format!("sqlite:{}", node.sqlite_file().display()));
    node.restart().await;
    assert_eq!(node.drained().await["stored"], 60);
    assert!(!node.stderr().contains("is damaged") && !node.journal().join("damaged-1").exists());
}

/// What the storage itself would skip without a word: all of it.
#[tokio::test]
async fn a_damaged_header_loses_nothing() {
    let mut node = with_backlog(true).await;
    let file = File::options().write(true).open(node.journal().join("db")).expect("a journal");
    file.write_all_at(&[0xA5; 16], 0).expect("written");
    let (code, summary) = checked(&node);
    assert_eq!((code, &summary["whole"], &summary["reports"]), (Some(1), &json!(false), &json!(60)), "{summary}");
    assert!(!summary["holes"].as_array().expect("a list").is_empty(), "{summary}");
    assert_eq!(sorted(exported(&journal("export", &node))), all());
    node.change("sink.url", format!("sqlite:{}", node.sqlite_file().display()));
    node.restart().await;
    let audit = node.drained().await;
    assert_eq!(audit["stored"], 60, "{audit}");
    assert!(node.stderr().contains("the journal is damaged"), "the log says so");
    assert!(node.journal().join("damaged-1").is_dir(), "the files are kept");
}

/// One report's bytes: it is lost, is named, and no other is.
#[tokio::test]
async fn a_flipped_bit_in_a_report_is_never_stored() {
    let mut node = with_backlog(true).await;
    flip(&node, r#"{"n":30}"#);
    let (code, summary) = checked(&node);
    assert_eq!((code, &summary["whole"]), (Some(1), &json!(false)), "{summary}");
    let output = journal("export", &node);
    assert!(output.code == Some(1) && output.stderr.contains("damaged"), "{output:?}");
    let mut wanted = all();
    wanted.remove(30);
    assert_eq!(sorted(exported(&output)), wanted);
    node.change("sink.url", format!("sqlite:{}", node.sqlite_file().display()));
    node.restart().await;
    assert_eq!(node.drained().await["stored"], 59);
    assert!(node.stderr().contains("a damaged entry was set aside"), "the log says so");
}

#[tokio::test]
async fn pauses_are_checked_too() {
    let mut node = Node::new().start().await;
    for id in ["one", "two"] {
        let path = format!("/api/v1/streams/{id}/pause");
        assert_eq!(http::post(node.admin(), &path, "text/plain", "").await.status, 200);
    }
    assert_eq!(node.terminate().await.code(), Some(0));
    let (code, summary) = checked(&node);
    assert_eq!((code, &summary["paused"], &summary["whole"]), (Some(0), &json!(2), &json!(true)), "{summary}");
    assert!(journal("check", &node).stdout.contains("2 paused ids\n"));
    node.damage_tree("paused");
    let (code, summary) = checked(&node);
    assert_eq!((code, &summary["paused"], &summary["whole"]), (Some(1), &json!(0), &json!(false)), "{summary}");
    let damaged: Vec<_> = summary["damaged"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(damaged, ["paused/one: its checksum is wrong", "paused/two: its checksum is wrong"]);
}
