//! Log lines on standard error.

use std::io::{self, IsTerminal as _};

use forebay::config::{Log, LogFormat};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging for the whole process; called once. What it returns changes the level.
pub fn start(log: &Log) -> impl Fn(LevelFilter) + Send + use<> {
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let (filter, handle) = reload::Layer::new(targets(log.level));
    tracing_subscriber::registry().with(lines).with(filter).init();
    move |level| {
        // It fails only where the subscriber is gone, and then nothing is logged.
        let _ = handle.reload(targets(level));
    }
}

/// Forebay's own lines at `level`; those of libraries only where they are warnings.
fn targets(level: LevelFilter) -> Targets {
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("forebay", level)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_only_warn() {
        let at_debug = targets(LevelFilter::DEBUG);
        assert!(at_debug.would_enable("forebay::journal", &Level::DEBUG));
        assert!(!at_debug.would_enable("forebay::journal", &Level::TRACE));
        assert!(at_debug.would_enable("sled::pagecache", &Level::WARN));
        assert!(!at_debug.would_enable("sled::pagecache", &Level::INFO));
        let at_error = targets(LevelFilter::ERROR);
        assert!(!at_error.would_enable("hyper", &Level::WARN) && !at_error.would_enable("forebay", &Level::WARN));
    }
}
