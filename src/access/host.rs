//! Which `Host` a request may name: on a loopback listener this machine, beyond it what is allowed. A page of another
//! site can point a name of its own at this machine (DNS rebinding), but not a number: it reaches no listener that
//! answers to numbers and to names that are known.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{StatusCode, Uri, Version};

/// Where Linux has the name of the machine, or of the container.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// The hosts that a listener answers to, besides those that its settings name.
#[derive(Debug)]
pub struct Hosts {
    listen: SocketAddr,
    /// The machine's own name.
    own: Option<String>,
}

/// Why the host of a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unserved {
    /// HTTP/1.1 names one always.
    #[error("the request names no host: send one Host header")]
    Missing,
    /// Two cannot both be meant.
    #[error("the request has more than one Host header")]
    Twice,
    /// A name, or a number, and perhaps a port: nothing else can be judged.
    #[error("the Host cannot be read: send a name or an address, and perhaps a port")]
    Unreadable,
    /// The target of the request names another host than its header.
    #[error("the target of the request names another host than its Host header")]
    Differs,
    /// It is none that is answered to.
    #[error("this listener does not answer to this Host: use its address, or add the name to")]
    Foreign,
}

impl Unserved {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Foreign => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// What the client is told; `setting` is where names are allowed.
    pub fn detail(self, setting: &str) -> String {
        match self {
            Self::Foreign => format!("{self} {setting}"),
            other => other.to_string(),
        }
    }
}

impl Hosts {
    /// Those of a listener at `listen`.
    pub fn new(listen: SocketAddr) -> Self {
        let own = std::fs::read_to_string(HOSTNAME).ok().map(|name| name.trim().to_owned());
        Self { listen, own: own.filter(|name| !name.is_empty()) }
    }

    /// Whether a request is for a host that is served; any port will do, so that a tunnel may use its own. A listener
    /// beyond loopback for which no name is `allowed` serves all where it `wants_tokens`, which a page that came by a
    /// name of its own does not have; else it serves addresses, the names of this machine, and what is `allowed`.
    ///
    /// # Errors
    /// [`Unserved`]: what cannot be read is refused as well.
    pub fn check(
        &self,
        (target, version, headers): (&Uri, Version, &HeaderMap),
        allowed: &[String],
        wants_tokens: bool,
    ) -> Result<(), Unserved> {
        match named(target, version, headers)? {
            // Every browser names one; a health check by HTTP/1.0 may not.
            None => Ok(()),
            Some(host) if self.serve(host, allowed, wants_tokens) => Ok(()),
            Some(_) if cfg!(forebay_plant = "serve_any_host") => Ok(()),
            Some(_) => Err(Unserved::Foreign),
        }
    }

    fn serve(&self, name: &str, allowed: &[String], wants_tokens: bool) -> bool {
        let is_beyond = !self.listen.ip().to_canonical().is_loopback();
        if is_beyond && allowed.is_empty() && wants_tokens {
            return true;
        }
        let is_any = self.listen.ip().to_canonical().is_unspecified();
        let is_own = |own: &String| is_beyond && own.eq_ignore_ascii_case(name);
        name.eq_ignore_ascii_case("localhost")
            || allowed.iter().any(|allowed| absolute(allowed).eq_ignore_ascii_case(name))
            || self.own.as_ref().is_some_and(is_own)
            || name.parse::<IpAddr>().is_ok_and(|ip| {
                // Whoever got here by an address reached one of this machine's; by none, he began on it.
                let is_here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
                is_any || ip == self.listen.ip() || is_here(ip.to_canonical())
            })
    }
}

/// The host that a request names, by its target or its header; `None` where HTTP/1.0 names none.
fn named<'a>(target: &'a Uri, version: Version, headers: &'a HeaderMap) -> Result<Option<&'a str>, Unserved> {
    let mut hosts = headers.get_all(HOST).iter();
    let header = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err(Unserved::Twice);
    }
    let target = target.authority().map(|authority| authority.as_str());
    match (target, header) {
        (_, None) if version != Version::HTTP_10 => Err(Unserved::Missing),
        (Some(target), Some(header)) if !target.as_bytes().eq_ignore_ascii_case(header) => Err(Unserved::Differs),
        (Some(target), _) => name(target.as_bytes()).map(Some).ok_or(Unserved::Unreadable),
        (None, Some(header)) if cfg!(forebay_plant = "serve_what_cannot_be_read") => Ok(name(header)),
        (None, Some(header)) => name(header).map(Some).ok_or(Unserved::Unreadable),
        (None, None) => Ok(None),
    }
}

/// The name or the address in `name`, `name:port`, `[ipv6]` or `[ipv6]:port`, without the dot that ends a name which is
/// complete; it may be empty. `None` where it is something else.
fn name(host: &[u8]) -> Option<&str> {
    let host = std::str::from_utf8(host).ok()?;
    let (name, rest) = match host.strip_prefix('[') {
        Some(v6) => v6.split_once(']').filter(|(name, _)| name.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => {
            let (name, rest) = host.split_at(host.find(':').unwrap_or(host.len()));
            let is_name = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
            (name.bytes().all(is_name).then_some(name)?, rest)
        }
    };
    let port = rest.strip_prefix(':').unwrap_or(rest);
    let is_port = port.bytes().all(|b| b.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok());
    ((rest.is_empty() || rest.starts_with(':')) && is_port).then(|| absolute(name))
}

/// A name without the dot that ends it where it is complete.
fn absolute(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Listener(Hosts, Vec<String>);

    impl Listener {
        fn at(listen: &str, allowed: &[&str]) -> Self {
            let listen = listen.parse().expect("an address");
            let hosts = Hosts { listen, own: Some("node-1".to_owned()) };
            Self(hosts, allowed.iter().map(|&name| name.to_owned()).collect())
        }

        fn check(&self, target: &str, hosts: &[&[u8]], wants_tokens: bool) -> Result<(), Unserved> {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, HeaderValue::from_bytes(host).expect("no control characters"));
            }
            let target = target.parse().expect("a target");
            self.0.check((&target, Version::HTTP_11, &headers), &self.1, wants_tokens)
        }

        fn serves(&self, host: &str, wants_tokens: bool) -> bool {
            self.check("/", &[host.as_bytes()], wants_tokens).is_ok()
        }
    }

    #[test]
    fn a_loopback_listener_answers_to_this_machine_alone() {
        let here = Listener::at("127.0.0.5:7002", &[]);
        for host in ["localhost", "LOCALHOST:7002", "localhost.", "127.0.0.1:9", "[::1]:7002", "[::1]", "0.0.0.0:1"] {
            assert!(here.serves(host, true) && here.serves(host, false), "{host}");
        }
        for host in ["evil.example:7002", "127.0.0.1.evil.example", "localhost.evil", "192.168.0.1", "node-1", ""] {
            assert!(!here.serves(host, true) && !here.serves(host, false), "{host}");
        }
        let mapped = Listener::at("[::ffff:127.0.0.1]:7002", &[]);
        assert!(mapped.serves("[::ffff:127.0.0.1]:7002", true) && !mapped.serves("evil.example", true));
        assert!(Listener::at("127.0.0.5:7002", &["proxy.example"]).serves("Proxy.example.:443", true));
    }

    #[test]
    fn beyond_loopback_the_names_that_are_allowed_are_served_if_there_are_any() {
        assert!(Listener::at("192.168.0.1:1", &[]).serves("anything.example", true));
        let there = Listener::at("192.168.0.1:1", &["metrics.example"]);
        for (host, served) in [("metrics.example", true), ("192.168.0.1:1", true), ("evil.example", false)] {
            assert_eq!(there.serves(host, true), served, "{host}");
        }
    }

    #[test]
    fn a_listener_that_asks_nobody_for_a_token_answers_to_no_name_that_anybody_could_point_at_it() {
        for listen in ["0.0.0.0:7002", "[::]:7002"] {
            let any = Listener::at(listen, &[]);
            for host in ["192.168.0.1:7002", "[fd00::7]:7002", "localhost:7002", "node-1:7002", "NODE-1"] {
                assert!(any.serves(host, false), "{host} at {listen}");
            }
            for host in ["evil.example:7002", "node-1.evil.example", "192.168.0.1.evil.example", ""] {
                assert!(!any.serves(host, false), "{host} at {listen}");
            }
            assert!(Listener::at(listen, &["forebay"]).serves("forebay:7002", false));
        }
        assert!(!Listener::at("192.168.0.1:7002", &[]).serves("192.168.0.2:7002", false), "that is another machine");
    }

    #[test]
    fn what_cannot_be_read_is_refused_also_where_every_name_is_served() {
        for listen in ["127.0.0.1:1", "192.168.0.1:1"] {
            let listener = Listener::at(listen, &[]);
            for host in [
                &b"\xe9vil.example"[..],
                b"a@localhost",
                b"localhost:x",
                b"localhost:-1",
                b"localhost:65536",
                b"localhost:1:2",
                b"::1",
                b"[::1",
                b"[::1]x",
                b"[localhost]",
                b"[fe80::1%25eth0]",
                b"local host",
                b"a,b",
                b"a/b",
                b"%6cocalhost",
            ] {
                let shown = String::from_utf8_lossy(host);
                assert_eq!(listener.check("/", &[host], true), Err(Unserved::Unreadable), "{shown} at {listen}");
            }
            assert_eq!(listener.check("/", &[], true), Err(Unserved::Missing));
            assert_eq!(listener.check("/", &[b"localhost", b"localhost"], true), Err(Unserved::Twice));
            assert_eq!(listener.check("http://localhost/ws", &[b"evil"], true), Err(Unserved::Differs));
            assert_eq!(listener.check("http://u@localhost/ws", &[b"u@localhost"], true), Err(Unserved::Unreadable));
            assert_eq!(listener.check("http://LocalHost/ws", &[b"localhost"], true), Ok(()));
        }
        let headers = HeaderMap::new();
        let by_none = (&Uri::from_static("/"), Version::HTTP_10, &headers);
        assert_eq!(Listener::at("127.0.0.1:1", &[]).0.check(by_none, &[], false), Ok(()), "a health check");
    }
}
