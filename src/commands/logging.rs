//! Log lines on standard error.

use std::io::{self, IsTerminal as _};

use forebay::config::{Log, LogFormat};
use forebay::trace;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::traces::Traces;

/// Starts logging, and tracing where it is wanted, for the whole process; called once. What it returns changes the
/// level of the log.
pub fn start(log: &Log, traces: Option<&Traces>) -> impl Fn(LevelFilter) + Send + use<> {
    let (subscriber, handle) = subscriber(log, traces);
    subscriber.init();
    move |level| {
        // It fails only where the subscriber is gone, and then nothing is logged.
        let _ = handle.reload(targets(level));
    }
}

/// Lines and spans have filters of their own, so that neither sees what is the other's.
fn subscriber(
    log: &Log,
    traces: Option<&Traces>,
) -> (impl Subscriber + Send + Sync + use<>, reload::Handle<Targets, Registry>) {
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let (filter, handle) = reload::Layer::new(targets(log.level));
    // One layer of many, not an optional one: a layer that is not there would have every span made.
    let mut layers = vec![lines.with_filter(filter).boxed()];
    layers.extend(traces.map(|traces| traces.layer().boxed()));
    (tracing_subscriber::registry().with(layers), handle)
}

/// Forebay's own lines at `level`; those of libraries only where they are warnings; no spans.
fn targets(level: LevelFilter) -> Targets {
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("forebay", level)
        .with_target(trace::TARGET, LevelFilter::OFF)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_span_that_nobody_asked_for_is_not_made() {
        let log = Log { level: LevelFilter::TRACE, format: LogFormat::Text };
        let (subscriber, _) = subscriber(&log, None);
        let _guard = tracing::subscriber::set_default(subscriber);
        assert!(tracing::enabled!(target: "forebay::journal", Level::TRACE), "lines are");
        let mut looked = false;
        let span = tracing::info_span!(target: trace::TARGET, "commit", forebay.ids = { looked = true; 1 });
        assert!(span.is_disabled() && !looked, "nor are its fields");
    }

    #[test]
    fn libraries_only_warn() {
        let at_debug = targets(LevelFilter::DEBUG);
        assert!(at_debug.would_enable("forebay::journal", &Level::DEBUG));
        assert!(!at_debug.would_enable("forebay::journal", &Level::TRACE));
        assert!(at_debug.would_enable("sled::pagecache", &Level::WARN));
        assert!(!at_debug.would_enable("sled::pagecache", &Level::INFO));
        assert!(!at_debug.would_enable(trace::TARGET, &Level::ERROR));
        let at_error = targets(LevelFilter::ERROR);
        assert!(!at_error.would_enable("hyper", &Level::WARN) && !at_error.would_enable("forebay", &Level::WARN));
    }
}
