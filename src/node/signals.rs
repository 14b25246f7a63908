//! The signals that a node minds.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals from the moment that this is made: those that come before they are asked for wait.
pub struct Signals {
    pub(super) stop: Stop,
    /// SIGHUP
    pub(super) hangup: Signal,
}

/// The signals that stop a node.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens to SIGTERM, SIGINT and SIGHUP, each of which ends a process that listens to none. Within a runtime.
    ///
    /// # Errors
    /// When the system lets nobody listen.
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let stop = Stop { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? };
        Ok(Self { stop, hangup: listen(SignalKind::hangup())? })
    }

    /// Waits for one that stops the node; its name.
    pub async fn stopped(&mut self) -> &'static str {
        self.stop.next().await
    }
}

impl Stop {
    /// The name of the next signal.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
