//! `forebay load`: a load client, and a ledger that it can hold against the sink.
//!
//! Duty: put a node under a load that can be repeated, say what it did (throughput, latency, errors, and what the
//! client itself took), and whether what it acknowledged is in the sink, once and unchanged. It speaks through another
//! WebSocket library than the server does, and knows the protocol only.
//!
//! Bytes: the ledger's, see `ledger`. Bounded: connections, window, ids and sizes by the flags; memory by the ledger,
//! the windows, and, while it verifies, the rows of one id.

mod alarm;
mod arguments;
mod connection;
mod ledger;
mod message;
mod progress;
mod reply;
mod shared;
mod summary;
mod verify;

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use forebay::config::{self, Flags, shown_path};
use futures_util::{StreamExt as _, TryStreamExt as _};
use rustix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use arguments::Arguments;

use self::arguments::{End, Plan};
use self::connection::{Connection, Socket};
use self::ledger::{Ledger, Part};
use self::progress::Progress;
use self::shared::Shared;
use self::summary::Summary;
use self::verify::{Case, Verdict};
use super::{Failure, print, settings};

/// Handshakes under way at a time.
const HANDSHAKES: usize = 32;

/// How often the line of progress is written.
const TICK: Duration = Duration::from_millis(250);

/// The word for the sink that the configuration names.
const CONFIGURED: &str = "configured";

/// Runs a load, or holds an earlier one against the sink.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let sink = arguments.verify.as_ref().map(|url| sink(url, &arguments)).transpose()?;
    match (&sink, &arguments.ledger) {
        (Some(sink), Some(file)) if arguments.verify_only => verify_only(sink, file, &arguments),
        _ => send(&arguments, sink.as_ref()),
    }
}

fn sink(url: &str, arguments: &Arguments) -> Result<config::Sink, Failure> {
    let sink = (url != CONFIGURED).then(|| url.to_owned());
    Ok(settings::load(arguments.config.clone(), Flags { sink, ..Flags::default() })?.sink)
}

fn verify_only(sink: &config::Sink, file: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let name = || format!("the ledger {}", shown_path(file));
    let open = || File::open(file).map(BufReader::new).with_context(name);
    let header = open().and_then(|mut lines| ledger::read_header(&mut lines).with_context(name));
    let header = header.map_err(Failure::Configuration)?;
    let is_cut = open().and_then(|lines| ledger::is_cut(lines.get_ref()).with_context(name));
    let is_cut = is_cut.map_err(Failure::Configuration)?;
    let (shape, addresses) = (&header.shape, &header.addresses);
    let case = Case { sink, shape, addresses, is_cut, timeout: arguments.verify_timeout };
    let entries = || {
        let mut lines = open()?;
        ledger::read_header(&mut lines)?;
        Ok(ledger::read_entries(lines, is_cut))
    };
    let verdict: Verdict = runtime(1)?.block_on(case.settle(entries, &mut Progress::new()))?;
    if arguments.json {
        let text = serde_json::to_string(&serde_json::json!({ "verify": &verdict })).context("a verdict is JSON")?;
        print(&format!("{text}\n"))?;
    } else {
        print(&summary::verdict_for_people(&verdict))?;
    }
    summary::differs(&verdict).map_or(Ok(()), |what| Err(Failure::Other(anyhow!(what))))
}

fn send(arguments: &Arguments, sink: Option<&config::Sink>) -> Result<(), Failure> {
    let plan = Arc::new(Plan::new(arguments).map_err(Failure::Configuration)?);
    // Opened before anything is sent: a ledger that cannot be written is known too late otherwise.
    let file = arguments.ledger.as_deref().map(create).transpose().map_err(Failure::Configuration)?;
    let runtime = runtime(plan.threads)?;
    let mut progress = Progress::new();
    let (shared, parts, cpu) = runtime.block_on(drive(&plan, &mut progress))?;
    let addresses: Vec<_> = plan.addresses.lock().expect("no holder panics").iter().copied().collect();
    let ledger = Ledger::new(plan.shape.clone(), addresses.clone(), parts);
    if let Some(file) = file {
        let mut out = BufWriter::new(file);
        let written = ledger.write(&mut out).and_then(|()| out.get_ref().sync_all());
        written.context("the ledger cannot be written")?;
    }
    let mut summary = Summary::new(&plan, &shared, &ledger, cpu);
    if let Some(sink) = sink {
        let (shape, timeout) = (&plan.shape, arguments.verify_timeout);
        let case = Case { sink, shape, addresses: &addresses, is_cut: false, timeout };
        let entries = || Ok(ledger.entries().map(Ok));
        summary.verify = Some(runtime.block_on(case.settle(entries, &mut progress))?);
    }
    if arguments.json {
        print(&format!("{}\n", serde_json::to_string(&summary).context("a summary is JSON")?))?;
    } else {
        print(&summary.for_people(plan.end))?;
    }
    summary.failure().map_or(Ok(()), |what| Err(Failure::Other(anyhow!(what))))
}

fn create(file: &Path) -> anyhow::Result<File> {
    File::create(file).with_context(|| format!("the ledger {} cannot be written", shown_path(file)))
}

fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all().build().context("cannot start the runtime")
}

/// Runs the load; what it counted, what became of the reports by connection, and the CPU that it took.
async fn drive(plan: &Arc<Plan>, progress: &mut Progress) -> Result<(Arc<Shared>, Vec<Part>, Duration), Failure> {
    let stop = CancellationToken::new();
    stop_when_told(stop.clone());
    let sockets = open(plan).await?;
    let before = cpu();
    let shared = Arc::new(Shared::new(plan.threads, stop.clone()));
    let mut running = JoinSet::new();
    for (number, socket) in (0..).zip(sockets) {
        let connection = Connection::new(Arc::clone(plan), Arc::clone(&shared), number);
        running.spawn(async move { (number, connection.run(socket).await) });
    }
    if let End::Duration(duration) = plan.end {
        let start = shared.start;
        tokio::spawn(async move {
            tokio::time::sleep_until((start + duration).into()).await;
            stop.cancel();
        });
    }
    let mut parts = Vec::new();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(part) => parts.push(part.context("a connection's task failed")?),
                None => break,
            },
            _ = tick.tick() => progress.sending(&shared, plan.end),
        }
    }
    progress.clear();
    parts.sort_unstable_by_key(|(number, _)| *number);
    Ok((shared, parts.into_iter().map(|(_, part)| part).collect(), cpu() - before))
}

/// Opens all connections; none is worth anything if one is missing.
async fn open(plan: &Arc<Plan>) -> Result<Vec<Socket>, Failure> {
    let connect = |number: u64| async move {
        let socket = connection::connect(plan).await;
        socket.with_context(|| format!("connection {} of {} to {}", number + 1, plan.connections, plan.url()))
    };
    let connecting = futures_util::stream::iter((0..plan.connections).map(connect));
    Ok(connecting.buffer_unordered(HANDSHAKES).try_collect().await?)
}

/// The first Ctrl-C, or SIGTERM, ends the load, so that there is a summary and a ledger; the second ends the process.
fn stop_when_told(stop: CancellationToken) {
    tokio::spawn(async move {
        let Ok(mut terminated) = signal(SignalKind::terminate()) else { return };
        for last in [false, true] {
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => if interrupted.is_err() {
                    return;
                },
                _ = terminated.recv() => {}
            }
            stop.cancel();
            if last {
                std::process::exit(1);
            }
        }
    });
}

/// What all threads of this process have taken so far.
fn cpu() -> Duration {
    let taken = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(taken.tv_sec.try_into().unwrap_or_default(), taken.tv_nsec.try_into().unwrap_or_default())
}
