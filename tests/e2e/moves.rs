//! What people do with the file of the SQLite sink while a node writes into it: the commands of docs/sqlite.md, under
//! load, with the ledger held against the file after; and what they should not do.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::client::report;
use crate::support::load::{Load, Plan};
use crate::support::node::Node;
use crate::support::stored::Stored;
use crate::support::wait::{eventually, same};

/// Three clients that keep on.
fn load(node: &Node) -> Load {
    let plan = |name: &str, first_seq| Plan { id: name.to_owned(), first_seq, window: 16, padding: 300 };
    Load::start(&node.address(), [plan("a", Some(1)), plan("b", Some(1)), plan("c", None)])
}

/// Runs a command of docs/sqlite.md, found by what stands above it, in the folder of the node.
fn documented(name: &str, folder: &Path) {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sqlite.md")).expect("the page");
    let mark = format!("```sh {name}\n");
    let (_, rest) = page.split_once(&mark).unwrap_or_else(|| panic!("no command {name:?} in docs/sqlite.md"));
    let (script, _) = rest.split_once("\n```").expect("the command ends");
    let ran = Command::new("sh").args(["-eu", "-c", script]).current_dir(folder).output().expect("sh runs");
    let [stdout, stderr] = [&ran.stdout, &ran.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(ran.status.success() && stderr.is_empty(), "{script}\n{}\n{stdout}{stderr}", ran.status);
}

/// Runs a documented command again and again under load; then each acknowledged report is one row.
async fn under_load(name: &str, times: u64) -> Node {
    let node = Node::new().start().await;
    let load = load(&node);
    for _ in 0..times {
        load.more_acks(1_500).await;
        let (name, folder) = (name.to_owned(), node.folder().to_owned());
        tokio::task::spawn_blocking(move || documented(&name, &folder)).await.expect("the command works");
    }
    load.more_acks(500).await;
    load.finish().await.settle(&node).await.assert_clean();
    node
}

/// A transaction that waited for the lock was committed into the file that had been moved over, and settled.
#[tokio::test]
async fn a_compaction_under_load_loses_nothing() {
    let node = under_load("compact", 5).await;
    assert!(!node.stderr().contains("ERROR"), "a compaction by the book is no error");
}

#[tokio::test]
async fn a_backup_under_load_is_whole_and_loses_nothing() {
    let node = under_load("backup", 2).await;
    let backup = rusqlite::Connection::open(node.folder().join("backup.db")).expect("a database");
    let check = backup.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    assert_eq!(check.as_deref(), Ok("ok"));
    let differing = "SELECT COUNT(*) FROM report_streams s WHERE reports <> \
                     (SELECT COUNT(*) FROM reports r WHERE r.id = s.id)";
    assert_eq!(backup.query_row(differing, [], |row| row.get::<_, i64>(0)), Ok(0));
}

/// What is archived and removed does not come back, and what comes meanwhile is in the one or the other.
#[tokio::test]
async fn rows_that_are_archived_under_load_are_in_one_file_or_the_other() {
    let node = Node::new().start().await;
    let load = load(&node);
    for _ in 0..3 {
        load.more_acks(1_500).await;
        let folder = node.folder().to_owned();
        tokio::task::spawn_blocking(move || documented("archive", &folder)).await.expect("the command works");
    }
    let ledger = load.finish().await;
    node.drained().await;
    let mut rows = node.stored().rows().await.expect("the sink can be read");
    let files = std::fs::read_dir(node.folder()).expect("a folder").map(|file| file.expect("a file").path());
    for file in files.filter(|file| file.display().to_string().contains("reports-")) {
        rows.extend(Stored::Sqlite(file).rows().await.expect("an archive can be read"));
    }
    let verdict = ledger.compare(
        crate::support::stored::Form::Bytes,
        &rows,
        &node.stored().streams().await.expect("the sink can be read"),
    );
    verdict.assert_clean();
}

async fn blocked(node: &Node) -> String {
    let sink = eventually("the sink to be blocked", async || {
        let sink = node.admin_json("/api/v1/status").await["sink"].clone();
        same(sink["state"].as_str(), Some("blocked")).map(|()| sink)
    });
    sink.await["last_error"].as_str().expect("it says why").to_owned()
}

/// What lay in its `-wal` was in no file, and a new empty database appeared without a word.
#[tokio::test]
async fn a_file_that_is_moved_away_under_load_is_waited_for_and_nothing_is_lost() {
    let node = Node::new().start().await;
    let load = load(&node);
    load.more_acks(1_500).await;
    let elsewhere = node.folder().join("elsewhere.db");
    std::fs::rename(node.sqlite_file(), &elsewhere).expect("renamed");
    let error = blocked(&node).await;
    assert!(error.contains("reports.db") && error.contains("elsewhere.db"), "{error}");
    load.more_acks(500).await;
    assert!(!node.sqlite_file().exists(), "a new database was made in its place");
    std::fs::rename(&elsewhere, node.sqlite_file()).expect("renamed");
    load.finish().await.settle(&node).await.assert_clean();
    let errors = node.stderr().lines().filter(|line| line.contains("ERROR")).count();
    assert_eq!(errors, 2, "once what happened, once that the sink is blocked");
}

/// The file alone is all that people take along, as a rule.
#[tokio::test]
async fn what_was_settled_is_in_the_file_that_was_moved_away_without_its_wal() {
    let mut node = Node::new().start().await;
    let load = load(&node);
    load.more_acks(1_500).await;
    let elsewhere = node.folder().join("elsewhere.db");
    std::fs::rename(node.sqlite_file(), &elsewhere).expect("renamed");
    blocked(&node).await;
    let ledger = load.finish().await;
    let stored = node.audit().await["stored"].as_u64().expect("a count");
    node.kill();
    let apart = tempfile::tempdir().expect("a folder");
    std::fs::copy(&elsewhere, apart.path().join("alone.db")).expect("copied");
    let rows = Stored::Sqlite(apart.path().join("alone.db")).rows().await.expect("it can be read");
    assert!(rows.len() as u64 >= stored && stored > 0, "{} rows of {stored}", rows.len());
    // A start finds a -wal without its file, and takes it for no reason to begin anew.
    node.restart().await;
    let error = blocked(&node).await;
    assert!(error.contains("reports.db-wal"), "{error}");
    std::fs::rename(&elsewhere, node.sqlite_file()).expect("renamed");
    ledger.settle(&node).await.assert_clean();
}

/// Whatever the umask: who may read the machine's files need not be one who may read the reports.
#[tokio::test]
async fn files_of_the_sink_are_its_owners_alone() {
    let mut node = Node::new();
    let file = node.folder().join("made/deep/reports.db");
    node.change("sink.url", format!("sqlite:{}", file.display()));
    node.under(&["sh", "-c", "umask 0; exec \"$@\"", "sh"]);
    node.restart().await;
    node.post(report("a", 1, "1")).await;
    node.drained().await;
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    for folder in ["made", "made/deep"] {
        assert_eq!(mode(&node.folder().join(folder)), 0o700, "{folder}");
    }
    for name in ["reports.db", "reports.db-wal", "reports.db-shm"] {
        assert_eq!(mode(&node.folder().join("made/deep").join(name)), 0o600, "{name}");
    }
}
