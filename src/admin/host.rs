//! Which `Host` a request may name: on a loopback listener this machine, beyond it what is allowed. A page of another
//! site can point a name of its own at this machine (DNS rebinding), but not a number: it reaches no listener that
//! answers to numbers and to names that are known.

use std::net::{IpAddr, SocketAddr};

/// Where Linux has the name of the machine, or of the container.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// The hosts that a listener answers to.
#[derive(Debug)]
pub(super) struct Hosts {
    listen: SocketAddr,
    allowed: Vec<String>,
    /// The machine's own name.
    own: Option<String>,
}

impl Hosts {
    /// Those of a listener at `listen`, and `allowed` besides.
    pub(super) fn new(listen: SocketAddr, allowed: Vec<String>) -> Self {
        let own = std::fs::read_to_string(HOSTNAME).ok().map(|name| name.trim().to_owned());
        Self { listen, allowed, own: own.filter(|name| !name.is_empty()) }
    }

    /// Whether a request for `host` is served; any port will do, so that a tunnel may use its own. A listener beyond
    /// loopback for which no name is allowed serves all where it `wants_tokens`, which a page that came by a name of
    /// its own does not have; else it serves addresses and the names of this machine.
    pub(super) fn serve(&self, host: Option<&str>, wants_tokens: bool) -> bool {
        let is_beyond = !self.listen.ip().to_canonical().is_loopback();
        if is_beyond && self.allowed.is_empty() && wants_tokens {
            return true;
        }
        // Every browser sends one; a health check by HTTP/1.0 may not.
        let Some(host) = host else { return true };
        let name = match host.strip_prefix('[') {
            Some(v6) => v6.split_once(']').map_or(v6, |(name, _)| name),
            None => host.split_once(':').map_or(host, |(name, _)| name),
        };
        let is_any = self.listen.ip().to_canonical().is_unspecified();
        let is_own = |own: &String| is_beyond && own.eq_ignore_ascii_case(name);
        name.eq_ignore_ascii_case("localhost")
            || self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
            || self.own.as_ref().is_some_and(is_own)
            || name.parse::<IpAddr>().is_ok_and(|ip| {
                // Whoever got here by an address reached one of this machine's.
                is_any || ip == self.listen.ip() || ip.to_canonical().is_loopback()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listen: &str, allowed: &[&str]) -> Hosts {
        let listen = listen.parse().expect("an address");
        Hosts { listen, allowed: allowed.iter().map(|&name| name.to_owned()).collect(), own: Some("node-1".to_owned()) }
    }

    #[test]
    fn a_loopback_listener_answers_to_this_machine_alone() {
        let here = hosts("127.0.0.5:7002", &[]);
        for host in ["localhost", "LOCALHOST:7002", "127.0.0.1:9", "[::1]:7002", "[::1]", "127.0.0.5:7002"] {
            assert!(here.serve(Some(host), true) && here.serve(Some(host), false), "{host}");
        }
        for host in ["evil.example:7002", "127.0.0.1.evil.example", "localhost.evil", "192.168.0.1", ""] {
            assert!(!here.serve(Some(host), true) && !here.serve(Some(host), false), "{host}");
        }
        let mapped = hosts("[::ffff:127.0.0.1]:7002", &[]);
        assert!(mapped.serve(Some("[::ffff:127.0.0.1]:7002"), true) && !mapped.serve(Some("evil.example"), true));
        assert!(here.serve(None, true));
        assert!(hosts("127.0.0.5:7002", &["proxy.example"]).serve(Some("Proxy.example:443"), true));
    }

    #[test]
    fn beyond_loopback_the_names_that_are_allowed_are_served_if_there_are_any() {
        assert!(hosts("192.168.0.1:1", &[]).serve(Some("anything.example"), true));
        let there = hosts("192.168.0.1:1", &["metrics.example"]);
        for (host, served) in [("metrics.example", true), ("192.168.0.1:1", true), ("evil.example", false)] {
            assert_eq!(there.serve(Some(host), true), served, "{host}");
        }
    }

    #[test]
    fn a_listener_that_asks_nobody_for_a_token_answers_to_no_name_that_anybody_could_point_at_it() {
        for listen in ["0.0.0.0:7002", "[::]:7002"] {
            let any = hosts(listen, &[]);
            for host in ["192.168.0.1:7002", "[fd00::7]:7002", "localhost:7002", "node-1:7002", "NODE-1"] {
                assert!(any.serve(Some(host), false), "{host} at {listen}");
            }
            for host in ["evil.example:7002", "node-1.evil.example", "192.168.0.1.evil.example", ""] {
                assert!(!any.serve(Some(host), false), "{host} at {listen}");
            }
            assert!(hosts(listen, &["forebay"]).serve(Some("forebay:7002"), false));
        }
        assert!(!hosts("192.168.0.1:7002", &[]).serve(Some("192.168.0.2:7002"), false), "that is another machine");
    }
}
