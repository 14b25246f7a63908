//! What the service manager is told, as sd_notify(3) has it: a datagram to the socket that `NOTIFY_SOCKET` names.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::service::Service;

/// The service manager, where there is one.
pub(super) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that the node is well.
    watchdog: Option<Duration>,
}

impl Manager {
    /// As the environment names it.
    pub(super) fn of_environment() -> Self {
        Self::new(|name| std::env::var_os(name), std::process::id())
    }

    fn new(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let socket = variable("NOTIFY_SOCKET").and_then(|path| match open(&path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET cannot be used; the service manager is told nothing");
                None
            }
        });
        let number = |name| variable(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
        // It may be meant for the process that started this one.
        let is_meant = number("WATCHDOG_PID").is_none_or(|meant| meant == u64::from(pid));
        let watchdog = number("WATCHDOG_USEC").filter(|&micros| micros > 0 && is_meant).map(Duration::from_micros);
        Self { socket, watchdog }
    }

    /// The node takes reports.
    pub(super) fn ready(&self) {
        self.tell("READY=1\nSTATUS=taking reports");
    }

    /// The node stops.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining, then stopping");
    }

    /// Tells for as long as it is true that the node is well. Never ends, also where nobody wants to hear it.
    pub(super) async fn watch(&self, service: &Service) -> Infallible {
        self.tell_while_well(service).await;
        std::future::pending().await
    }

    /// Each time that the commit thread has synced once more: a disk that hangs, or a runtime that does, is not well.
    async fn tell_while_well(&self, service: &Service) {
        let (Some(_), Some(within)) = (&self.socket, self.watchdog) else { return };
        // Half of the time is what the manual recommends.
        let mut ticks = interval((within / 2).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if service.commit().await.is_err() {
                return;
            }
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, state: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!(%error, "the service manager cannot be told {state:?}");
        }
    }
}

/// A path, or a name in the abstract namespace after `@`.
fn open(name: &OsString) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold up the node.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(manager: &Manager, socket: &UnixDatagram) -> String {
        manager.ready();
        let mut bytes = [0; 64];
        let count = socket.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn a_manager_is_told_by_path_or_by_abstract_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        let manager = Manager::new(|name| (name == "NOTIFY_SOCKET").then(|| path.clone().into()), 1);
        assert!(told(&manager, &socket).starts_with("READY=1\n"));
        let name = format!("forebay-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("bound");
        let manager = Manager::new(|variable| (variable == "NOTIFY_SOCKET").then(|| format!("@{name}").into()), 1);
        assert!(told(&manager, &socket).starts_with("READY=1\n"));
    }

    #[test]
    fn a_watchdog_is_heard_only_where_it_is_meant() {
        let watchdog = |pid: &'static str, micros: &'static str| {
            let variable = move |name: &str| match name {
                "WATCHDOG_USEC" => Some(micros.into()),
                "WATCHDOG_PID" if !pid.is_empty() => Some(pid.into()),
                _ => None,
            };
            Manager::new(variable, 7).watchdog
        };
        assert_eq!(watchdog("7", "30000000"), Some(Duration::from_secs(30)));
        assert_eq!(watchdog("", "1000"), Some(Duration::from_millis(1)));
        assert_eq!([watchdog("8", "1000"), watchdog("7", "0"), watchdog("7", "soon")], [None; 3]);
    }

    #[test]
    fn where_there_is_no_manager_nobody_is_told() {
        let manager = Manager::new(|_| None, 7);
        manager.ready();
        manager.stopping();
        let manager = Manager::new(|_| Some("/nowhere/at/all".into()), 7);
        manager.ready();
    }
}
