//! What the benchmarks stand on: systems in processes of their own, one load client for all of them, figures of what
//! each process used, and tables. Knows Forebay from outside only.
#![allow(dead_code, reason = "each benchmark uses another part of it")]

pub mod admin;
pub mod client;
pub mod database;
pub mod disk;
pub mod governor;
pub mod measure;
pub mod message;
pub mod nats;
pub mod node;
pub mod options;
pub mod plot;
pub mod process;
pub mod redis;
pub mod row_server;
pub mod server;
pub mod stats;
pub mod usual;

#[path = "../../support/servers/mod.rs"]
pub mod servers;

#[path = "../../support/mariadb.rs"]
pub mod mariadb;

use std::io::Write as _;
use std::path::PathBuf;

/// Runs a benchmark on this thread alone, so that the client takes no more than one core; Ctrl-C ends it and stops
/// what it started. Processes that are started here die with this thread.
pub fn run(benchmark: impl Future<Output = ()>) {
    if cfg!(debug_assertions) {
        progress("figures of a debug build mean nothing: use `cargo bench`");
        std::process::exit(2);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::select! {
            () = benchmark => {}
            _ = tokio::signal::ctrl_c() => progress("interrupted"),
        }
    });
}

/// A new folder on the disk of the build, which need not be the one of the system's temporary files.
pub fn folder(prefix: &str) -> tempfile::TempDir {
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&scratch).expect("the target folder can be written");
    tempfile::Builder::new().prefix(prefix).tempdir_in(scratch).expect("a folder")
}

/// Says on standard error what is under way.
pub fn progress(text: &str) {
    // Nothing depends on whether somebody listens.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
