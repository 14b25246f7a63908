//! Which `Host` a request may name: on a loopback listener, this machine only.

use std::net::{IpAddr, SocketAddr};

/// Whether a listener at `listen` serves a request for `host`; any port will do, so that a tunnel may use its own.
pub(super) fn is_served(listen: SocketAddr, host: Option<&str>) -> bool {
    if !listen.ip().is_loopback() {
        return true;
    }
    // Every browser sends one; a health check by HTTP/1.0 may not.
    let Some(host) = host else { return true };
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map_or(v6, |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| {
            ip == listen.ip() || ip == IpAddr::from([127, 0, 0, 1]) || ip == IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_listener_answers_to_this_machine_alone() {
        let listen = SocketAddr::from(([127, 0, 0, 5], 7002));
        for host in ["localhost", "LOCALHOST:7002", "127.0.0.1:9", "[::1]:7002", "[::1]", "127.0.0.5:7002"] {
            assert!(is_served(listen, Some(host)), "{host}");
        }
        for host in ["evil.example:7002", "127.0.0.1.evil.example", "localhost.evil", "192.168.0.1", ""] {
            assert!(!is_served(listen, Some(host)), "{host}");
        }
        assert!(is_served(listen, None));
        assert!(is_served(SocketAddr::from(([192, 168, 0, 1], 1)), Some("metrics.example")));
    }
}
