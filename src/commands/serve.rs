//! `forebay serve`.

use anyhow::Context as _;
use forebay::{Reload, Signals};
use tokio::runtime::Runtime;

use super::traces::{self, Traces};
use super::{Failure, allocator, logging, settings};

/// Runs a node until it is told to stop.
pub fn run(arguments: settings::Arguments) -> Result<(), Failure> {
    allocator::settle();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    if cfg!(forebay_plant = "listen_late") {
        drop(arguments.clone().load());
    }
    // Before anything is read: a signal that nobody listens to ends the process.
    let signals = runtime.block_on(async { Signals::listen() })?;
    let ended = begin(arguments, signals, &runtime);
    // A call to the sink may go on for as long as sink.timeout; nobody waits for what it says.
    runtime.shutdown_background();
    ended
}

fn begin(arguments: settings::Arguments, mut signals: Signals, runtime: &Runtime) -> Result<(), Failure> {
    let arguments = arguments.settled();
    let first = arguments.clone();
    // A disk that hangs is not to keep it from being told to end.
    let loading = runtime.spawn_blocking(move || {
        let settings = first.load()?;
        let files = settings::files(&settings)?;
        Ok::<_, Failure>((settings, files))
    });
    let loaded = runtime.block_on(async {
        tokio::select! {
            loaded = loading => Ok(loaded),
            name = signals.stopped() => Err(name),
        }
    });
    let (settings, files) = match loaded {
        Ok(loaded) => loaded.context("reading the settings panicked")??,
        Err(name) => {
            super::write_err(&format!("forebay: stopped by {name} before the settings were read; nothing was taken\n"));
            return Ok(());
        }
    };
    let traces = Traces::start(&settings.trace, settings.node_id, runtime.handle()).map_err(Failure::Configuration)?;
    let level = Box::new(logging::start(&settings.log, traces.as_ref()));
    forebay::panics::end_the_process();
    if traces.is_some() {
        traces::warn_of_unreadable();
    }
    let again = move || arguments.clone().load().map_err(anyhow::Error::from);
    let reload = Reload { settings: Box::new(again), level };
    let served = runtime.block_on(forebay::serve(signals, settings, files, reload));
    if let Some(traces) = traces {
        traces.finish();
    }
    Ok(served?)
}
