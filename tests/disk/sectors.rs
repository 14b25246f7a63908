//! Sectors that the disk does not give back: EIO on each read. The node starts, serves the rest, says what it set
//! aside, and the next start finds nothing any more.

use serde_json::Value;

use crate::check;
use crate::mount::Disk;
use crate::salvage::{REPORTS, backlog, journal, on_disk};
use crate::script::DATA;
use crate::support::ledger::Ledger;
use crate::support::node::{Output, run};
use crate::tree::{self, PAGE, Tree};

/// The last page of a file: nothing was written there.
fn last_page(tree: &Tree, name: &str) -> u64 {
    match &tree.0[&tree.find(&journal().join(name))] {
        tree::Node::File(content) => content.size.div_ceil(PAGE) - 1,
        tree::Node::Folder(_) => panic!("{name} is a folder"),
    }
}

fn look(command: &[&str], disk: &Disk) -> Output {
    let dir = disk.path().join(journal()).display().to_string();
    run(&[&["journal"], command, &[dir.as_str()]].concat())
}

/// Lets commands and a node meet a page that cannot be read; how many reports are not in the sink then.
async fn meet(tree: &Tree, ledger: &Ledger, name: &str, page: u64) -> usize {
    let disk = Disk::mount(tree.clone());
    disk.spoil(&journal().join(name), page);
    let checked = look(&["check", "--json"], &disk);
    let summary: Value = serde_json::from_str(&checked.stdout).unwrap_or_else(|_| panic!("{name}/{page}: {checked:?}"));
    assert_eq!((checked.code, &summary["whole"]), (Some(1), &false.into()), "{name}/{page}: {summary}");
    let exported = look(&["export"], &disk);
    let lines = exported.stdout.lines().count() as u64;
    assert!(exported.code == Some(1) && lines > REPORTS, "{name}/{page}: {lines} lines, {}", exported.stderr);
    let mut node = on_disk(&disk).set("flush.tick", "20ms");
    node.restart().await;
    let audit = node.drained().await;
    assert!(node.stderr().contains("does not give back"), "{name}/{page}: {}", node.stderr());
    assert!(node.terminate().await.success(), "{name}/{page}");
    assert!(check::was_salvaged(&disk.path().join(DATA)), "{name}/{page}: nothing was set aside");
    let stored = check::compare(ledger, node.sqlite_file(), audit["dead"].as_u64().expect("a number")).await;
    let mut verdict = stored.expect("a sink");
    let lost = std::mem::take(&mut verdict.lost).len();
    assert!(verdict.is_clean(), "{name}/{page}: {verdict}");
    let said = node.stderr().len();
    node.restart().await;
    let said = node.stderr().split_off(said);
    assert!(!said.contains("does not give back"), "{name}/{page}: it is met again: {said}");
    lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sector_of_bundles_or_of_the_log_that_cannot_be_read_costs_what_was_in_it() {
    let (mut tree, ledger) = backlog().await;
    // As where a file system makes files longer than what was written.
    let db = tree.find(&journal().join("db"));
    let size = tree.content(db).size;
    tree.content(db).resize(size + 16 * PAGE);
    for name in ["recent/0000", "db"] {
        for (page, most) in [(1, 30), (last_page(&tree, name), 0)] {
            let lost = meet(&tree, &ledger, name, page).await;
            assert!(lost <= most, "{name}/{page}: {lost} reports are lost");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_that_cannot_be_read_costs_nothing() {
    let (tree, ledger) = backlog().await;
    for (name, page) in [("identity", 0), ("claims", 0), ("synced", 0), ("synced", 1), ("conf", 0)] {
        assert_eq!(meet(&tree, &ledger, name, page).await, 0, "{name}/{page}");
    }
}
