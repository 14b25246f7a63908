//! Forebay: a write-ahead-logged, durable ingest engine.

pub mod config;
pub mod engine;
pub mod flusher;
pub mod journal;
pub mod metrics;
pub mod report;
pub mod server;
pub mod sink;
