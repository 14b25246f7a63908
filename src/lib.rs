//! Forebay: a write-ahead-logged, durable ingest engine.

#![cfg_attr(all(test, feature = "models"), allow(dead_code, reason = "the model has no files"))]

pub mod access;
pub mod admin;
pub mod config;
pub mod drain;
pub mod ingest;
pub mod journal;
pub mod metrics;
pub mod net;
mod node;
pub mod panics;
pub mod report;
pub mod service;
pub mod sink;
mod sync;
pub mod trace;

pub use node::{FileFaults, Files, Reload, Signals, serve};
