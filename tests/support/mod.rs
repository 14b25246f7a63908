//! What the end-to-end tests stand on: a node as its own process, clients, a database of their own, and the ledger
//! that all of them are held against. Knows the contract only, nothing of the engine's inside.
#![allow(dead_code, reason = "several test binaries share these files and none uses all of them")]

pub mod cgroup;
pub mod client;
pub mod forge;
pub mod http;
pub mod ledger;
pub mod load;
pub mod mariadb;
pub mod metrics;
pub mod node;
pub mod otlp;
pub mod proof;
pub mod proxy;
pub mod raw;
pub mod servers;
pub mod stored;
pub mod strace;
pub mod terminal;
pub mod tls;
pub mod wait;
