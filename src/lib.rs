//! Forebay: a write-ahead-logged, durable ingest engine.

pub mod access;
pub mod admin;
pub mod config;
pub mod engine;
pub mod flusher;
pub mod journal;
pub mod metrics;
pub mod net;
pub mod report;
mod serve;
pub mod server;
pub mod sink;

pub use serve::{FileFaults, Files, Reload, serve};
