//! Forebay: a write-ahead-logged, durable ingest engine.

pub mod config;
pub mod engine;
pub mod journal;
pub mod report;
pub mod sink;

/// Runs a node until it is told to stop.
///
/// # Errors
/// When it cannot start, or the journal fails.
pub async fn serve(_settings: config::Settings) -> anyhow::Result<()> {
    anyhow::bail!("serving is not built yet")
}
