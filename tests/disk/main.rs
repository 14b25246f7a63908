//! Durability against the disk: power cuts, kills at each system call, failing syncs and writes, and a full disk. The
//! node's whole folder, its journal and the SQLite sink, lies on a file system in memory that knows what was synced.
//!
//! `FOREBAY_PROVE=long` runs the long forms; `FOREBAY_SEED=N` repeats the random choices of a run.

#[path = "../support/mod.rs"]
mod support;

mod book;
mod check;
mod cuts;
mod fs;
mod log;
mod mount;
mod script;
mod tree;

mod faults;
mod full;
mod kills;
mod places;
mod power;
mod salvage;
mod sectors;
