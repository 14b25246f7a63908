//! One node, from its listeners to its last sync.

mod files;
mod notify;
mod process;
mod reload;
mod signals;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::config::{self, Settings};
use crate::ingest::Server;
use crate::service::Service;

pub use files::{FileFaults, Files};
pub use reload::Reload;
pub use signals::Signals;

use files::Guard;
use notify::Manager;
use reload::Reloader;
use signals::Stop;

/// How long requests of the admin API may still take once the service has stopped.
const ADMIN_WAIT: Duration = Duration::from_secs(1);

/// The exit code when a second signal ends the process at once.
const IMPATIENT: i32 = 1;

/// Serves until SIGTERM or SIGINT, then stops in order: accept, sessions, flushers, last sync. A second signal exits at
/// once, which loses nothing that was acknowledged. SIGHUP puts other settings and files in force, or says why not. The
/// caller listens to `signals` before it does anything else, so that none ends a process that only begins.
///
/// # Errors
/// When a listener cannot be bound, the journal cannot be opened or fails (what is not acknowledged by then never will
/// be), or the last sync fails.
pub async fn serve(signals: Signals, settings: Settings, files: Files, reload: Reload) -> anyhow::Result<()> {
    let Signals { stop: mut stops, hangup } = signals;
    process::keep_to_itself();
    process::provide(&settings);
    let guard = Guard::new(files);
    let manager = Manager::of_environment();
    let server = Server::bind(&settings, guard.access.clone(), guard.ingest.clone());
    let server = server.await.with_context(|| listening("ingest", settings.ingest.listen))?;
    let admin = Admin::bind(&settings, guard.access.clone(), guard.admin.clone());
    let admin = admin.await.with_context(|| listening("admin", settings.admin.listen))?;
    // A large backlog takes its time, and nobody is to wait for it to be told to end.
    let service = tokio::select! {
        opened = Service::open(&settings) => opened?,
        name = stops.next() => {
            tracing::info!(signal = name, "stopped before the journal was open; nothing was taken");
            return Ok(());
        }
    };
    let (ingest_addr, admin_addr) = (server.local_addr(), admin.local_addr());

    let metrics = Arc::clone(service.metrics());
    guard.measure(&metrics);
    let (change_ingest, limited) = (server.changer(), Arc::clone(&metrics));
    let ingest = Box::new(move |ingest: &config::Ingest| {
        limited.limits.connections.set(ingest.max_connections as u64);
        change_ingest(ingest);
    });
    let reloader = Reloader { reload, hangup, settings, guard, ingest, admin: Box::new(admin.changer()), metrics };
    let (stop, stop_admin) = (CancellationToken::new(), CancellationToken::new());
    let administering =
        tokio::spawn(admin.run(service.clone(), server.connections(), stop.clone(), stop_admin.clone()));
    let serving = tokio::spawn(server.run(service.clone(), stop.clone()));
    tracing::info!(ingest = %ingest_addr, admin = %admin_addr, "listening");
    manager.ready();

    let ended = tokio::select! {
        ended = until_stopped(&service, serving, &stop, &mut stops, &manager) => ended,
        never = reloader.run() => match never {},
        error = service.failed() => {
            Err(anyhow::Error::new(error).context("the journal failed; nothing was acknowledged after that"))
        }
        never = manager.watch(&service) => match never {},
    };
    stop.cancel();
    stop_admin.cancel();
    ended?;
    if let Ok(Err(error)) = timeout(ADMIN_WAIT, administering).await {
        tracing::warn!(%error, "the admin listener panicked");
    }
    service.close()?;
    tracing::info!("stopped");
    Ok(())
}

fn listening(listener: &str, address: std::net::SocketAddr) -> String {
    format!("cannot listen on {address} ({listener}.listen)")
}

/// Waits for a signal, and stops.
async fn until_stopped(
    service: &Service,
    mut serving: JoinHandle<()>,
    stop: &CancellationToken,
    signals: &mut Stop,
    manager: &Manager,
) -> anyhow::Result<()> {
    let name = tokio::select! {
        name = signals.next() => name,
        ended = &mut serving => {
            ended.context("the ingest listener panicked")?;
            anyhow::bail!("the ingest listener ended by itself");
        }
    };
    tracing::info!(signal = name, "stopping; a second signal exits at once");
    manager.stopping();
    let stopping = async {
        service.stop_accepting();
        stop.cancel();
        // Before the service: connections that end leave their markers in it.
        serving.await.context("the ingest listener panicked")?;
        service.shut_down().await.context("the journal failed while the node stopped")
    };
    tokio::select! {
        stopped = stopping => stopped,
        name = signals.next() => {
            tracing::warn!(signal = name, "exiting at once; what was acknowledged is in the journal");
            std::process::exit(IMPATIENT);
        }
    }
}
