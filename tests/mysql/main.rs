//! Exactly once against what a MySQL server and the way to it can do. Every test has a server, a node and a ledger of
//! its own, and reports its figures as one line. `FOREBAY_PROVE=long` tries all and repeats it under load.

#[path = "../support/mod.rs"]
mod support;

mod cuts;
mod trial;
