//! Which `Host` a request may name: on a loopback listener this machine, beyond it what is allowed.

use std::net::{IpAddr, SocketAddr};

/// Whether a listener at `listen` serves a request for `host`; any port will do, so that a tunnel may use its own. A
/// listener beyond loopback for which no name is allowed serves all: it asks for a token, unless it was said that
/// whoever reaches it may use it.
pub(super) fn is_served(listen: SocketAddr, allowed: &[String], host: Option<&str>) -> bool {
    if !listen.ip().to_canonical().is_loopback() && allowed.is_empty() {
        return true;
    }
    // Every browser sends one; a health check by HTTP/1.0 may not.
    let Some(host) = host else { return true };
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map_or(v6, |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
        || name.parse::<IpAddr>().is_ok_and(|ip| ip == listen.ip() || ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_listener_answers_to_this_machine_alone() {
        let listen = SocketAddr::from(([127, 0, 0, 5], 7002));
        for host in ["localhost", "LOCALHOST:7002", "127.0.0.1:9", "[::1]:7002", "[::1]", "127.0.0.5:7002"] {
            assert!(is_served(listen, &[], Some(host)), "{host}");
        }
        for host in ["evil.example:7002", "127.0.0.1.evil.example", "localhost.evil", "192.168.0.1", ""] {
            assert!(!is_served(listen, &[], Some(host)), "{host}");
        }
        let mapped = "[::ffff:127.0.0.1]:7002";
        let listen_mapped = mapped.parse().expect("an address");
        assert!(is_served(listen_mapped, &[], Some(mapped)) && !is_served(listen_mapped, &[], Some("evil.example")));
        assert!(is_served(listen, &[], None));
        assert!(is_served(listen, &["proxy.example".to_owned()], Some("Proxy.example:443")));
    }

    #[test]
    fn beyond_loopback_the_names_that_are_allowed_are_served_if_there_are_any() {
        let listen = SocketAddr::from(([192, 168, 0, 1], 1));
        let allowed = ["metrics.example".to_owned()];
        assert!(is_served(listen, &[], Some("anything.example")));
        for (host, served) in [("metrics.example", true), ("192.168.0.1:1", true), ("evil.example", false)] {
            assert_eq!(is_served(listen, &allowed, Some(host)), served, "{host}");
        }
    }
}
