//! Target `service`: a real node's service, with its journal and a sink in SQLite, by arbitrary steps against a model.
//!
//! A kill is the journal's files as the system has them at that instant, copied to another folder on which the next
//! node starts. What was acknowledged by then was synced before; what was written since may be in the copy, in part or
//! not at all, as after a kill. The parts of a copy are not of one instant: `synced` is copied first, bundles before
//! runs, the log behind them, and the sink last, so that nothing in a copy rests on what is missing from it. What a
//! power cut leaves is in `tests/disk`.

mod model;
mod sink;
mod steps;
mod world;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use model::Findings;
#[allow(unused_imports, reason = "tests/model uses them all")]
pub use steps::{MAX_STEPS, STEP_BYTES, decode};
#[allow(unused_imports, reason = "tests/model has no use for it")]
pub use world::copy_journal;

/// How long a node may take for anything before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whatever happens, every promise is kept.
///
/// The input is a byte for the node's settings, and three for each step (`steps.rs`).
pub fn service(input: &[u8]) {
    let findings = run(input);
    assert!(findings.none(), "{findings:#?}\n{:#?}", decode(input));
}

/// Runs one case in a folder of its own, which it removes.
pub fn run(input: &[u8]) -> Findings {
    let Some((setup, steps)) = decode(input) else { return Findings::default() };
    // One thread: flushers and drainers get on only where a step waits, so that steps come in between.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let folder = tempfile::Builder::new().prefix("forebay-model-").tempdir_in(memory()).expect("a folder");
    runtime.block_on(world::run(folder.path(), setup, &steps))
}

/// A folder in memory, where there is one: syncs cost nothing there.
pub fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}
