//! Where a journal may lie: on a mount point, below a folder that nobody can write, on a disk that is read-only.

use std::path::Path;
use std::process::Command;

use crate::check;
use crate::script;
use crate::support::client::{Client, report};
use crate::support::ledger::Ledger;
use crate::support::node::{Node, run};

/// A read-only file system with another one mounted on its folder `journal`. Dropping it unmounts both.
struct Mounted(tempfile::TempDir);

fn mount(arguments: &[&str], at: &Path) {
    let status = Command::new("mount").args(arguments).arg(at).status().expect("mount runs");
    assert!(status.success(), "root can mount: {arguments:?}");
}

impl Mounted {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("forebay-places-").tempdir().expect("a folder to mount on");
        mount(&["-t", "tmpfs", "-o", "size=1m", "forebay-places"], folder.path());
        let mounted = Self(folder);
        std::fs::create_dir(mounted.journal()).expect("made");
        mount(&["-t", "tmpfs", "-o", "size=128m", "forebay-places"], &mounted.journal());
        mount(&["-o", "remount,ro"], mounted.0.path());
        mounted
    }

    fn journal(&self) -> std::path::PathBuf {
        self.0.path().join("journal")
    }

    fn node(&self) -> Node {
        Node::new().set("journal.dir", self.journal().display().to_string()).set("journal.min_free_disk", 0)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for path in [self.journal(), self.0.path().to_owned()] {
            let _ = Command::new("umount").arg("--lazy").arg(path).status();
        }
    }
}

/// It once ended with 1 for ever: the folder of a mount point cannot be renamed.
#[tokio::test]
async fn a_damaged_journal_on_a_mount_point_below_a_read_only_folder_is_salvaged_there() {
    let mounted = Mounted::new();
    let ledger = Ledger::default();
    // The first reports wait for the second start.
    let mut node = mounted.node().set("flush.tick", "1h").start().await;
    let mut client = Client::connect(node.ingest()).await;
    for n in 0..30 {
        let sent = script::sent("a", n, 100);
        ledger.sent(&sent);
        assert!(ledger.replied(&sent, &client.ask(report("a", sent.seq, &sent.data)).await));
    }
    node.kill();
    // Commands cannot write either, where all of it is read-only.
    mount(&["-o", "remount,ro"], &mounted.journal());
    let dir = mounted.journal().display().to_string();
    let checked = run(&["journal", "check", &dir]);
    assert!(checked.code == Some(1) && checked.stderr.contains("cannot be written"), "{checked:?}");
    assert!(checked.stderr.contains("look into the copy"), "{checked:?}");
    mount(&["-o", "remount,rw"], &mounted.journal());
    std::fs::write(mounted.journal().join("conf"), "torn by a power cut").expect("written");
    node.change("flush.tick", "20ms");
    node.restart().await;
    node.drained().await;
    check::compare(&ledger, node.sqlite_file(), 0).await.expect("a sink").assert_clean();
    assert!(mounted.journal().join("damaged-1/conf").exists(), "the damaged files are kept");
}
