//! Power cuts: whatever the disk holds then, a node starts on it and stores every acknowledged report once.

use crate::book::Book;
use crate::cuts::{Cuts, Recording, spread};
use crate::mount::Disk;
use crate::script;
use crate::support::proof::rounds;
use crate::tree::Tree;

/// The script, performed once on an empty disk.
async fn recorded_script() -> Recording {
    let disk = Disk::mount(Tree::new());
    let book = Book::new(&disk);
    let mut node = script::node_on(&disk);
    script::run(&mut node, &book, 0).await.expect("nothing fails");
    node.kill();
    Recording::of(&disk, Tree::new(), book)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acked_report_survives_a_power_cut_at_any_sync() {
    let recording = recorded_script().await;
    let mut cuts = Cuts::new("power cut at a sync");
    let around = recording.cuts_around_syncs(&mut cuts.random(0));
    let syncs = recording.log.iter().filter(|op| op.is_sync()).count();
    println!("{} operations, {syncs} syncs, {} places to cut", recording.log.len(), around.len());
    cuts.cut(&recording, spread(&around, rounds(60, u64::MAX))).await;
    cuts.finish();
}
