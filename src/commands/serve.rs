//! `forebay serve`.

use anyhow::Context as _;
use forebay::Reload;

use super::traces::Traces;
use super::{Failure, logging, settings};

/// Runs a node until it is told to stop.
pub fn run(arguments: settings::Arguments) -> Result<(), Failure> {
    // What the libraries below make while the node runs is nobody else's business either.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let arguments = arguments.settled();
    let settings = arguments.clone().load()?;
    let files = settings::files(&settings)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let traces = Traces::start(&settings.trace, settings.node_id, runtime.handle()).map_err(Failure::Configuration)?;
    let level = Box::new(logging::start(&settings.log, traces.as_ref()));
    forebay::panics::end_the_process();
    let again = move || arguments.clone().load().map_err(anyhow::Error::from);
    let reload = Reload { settings: Box::new(again), level };
    let served = runtime.block_on(forebay::serve(settings, files, reload));
    if let Some(traces) = traces {
        traces.finish();
    }
    // A call to the sink may go on for as long as sink.timeout; nobody waits for what it says.
    runtime.shutdown_background();
    Ok(served?)
}
