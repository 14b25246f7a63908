//! Forebay: a write-ahead-logged, durable ingest engine.

#![cfg_attr(all(test, feature = "models"), allow(dead_code, reason = "the model has no files"))]

pub mod access;
pub mod admin;
pub mod config;
pub mod engine;
pub mod flusher;
pub mod journal;
pub mod metrics;
pub mod net;
pub mod panics;
pub mod report;
mod serve;
pub mod server;
pub mod sink;
mod sync;
pub mod trace;

pub use serve::{FileFaults, Files, Reload, Signals, serve};
