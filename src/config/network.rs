//! Networks of addresses, and how a proxy says whom a connection is from.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// How the proxies before the ingest listener say whom a connection or a request is from: exactly one way, so that a
/// client cannot choose another that its proxy passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// There are none: a connection is from its own address.
    None,
    /// The header `Forwarded` (RFC 7239).
    Forwarded,
    /// The header `X-Forwarded-For`.
    XForwardedFor,
    /// A PROXY header, version 1 or 2, at the start of each connection.
    ProxyProtocol,
}

impl Proxy {
    /// Each with its name in the settings.
    pub(super) const NAMES: [(&str, Self); 4] = [
        ("none", Self::None),
        ("forwarded", Self::Forwarded),
        ("x-forwarded-for", Self::XForwardedFor),
        ("proxy-protocol", Self::ProxyProtocol),
    ];

    /// The name in the settings.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, proxy)| *proxy == self).map_or("", |(name, _)| name)
    }
}

/// An address, or all addresses that begin with the same bits: `10.0.0.7`, `10.0.0.0/8`, `fd00::/8`. An IPv4 address
/// that is written as an IPv6 one is that IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Canonical; its bits beyond the prefix are zero.
    first: IpAddr,
    /// Bits that are the same in all its addresses.
    prefix: u8,
}

/// The text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no address such as 10.0.0.7 and no network such as 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError;

impl Network {
    /// Whether an address is one of its.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.prefix) == self.first
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let is_number = |prefix: &&str| prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = match prefix {
            None => bits(address),
            Some(prefix) => {
                Some(prefix).filter(is_number).and_then(|prefix| prefix.parse().ok()).ok_or(NetworkError)?
            }
        };
        let first = address.to_canonical();
        // `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
        let prefix = prefix.checked_sub(bits(address) - bits(first)).filter(|&prefix| prefix <= bits(first));
        let prefix = prefix.ok_or(NetworkError)?;
        // What has bits beyond its prefix was perhaps meant to be a single address.
        if masked(first, prefix) == first { Ok(Self { first, prefix }) } else { Err(NetworkError) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == bits(self.first) {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}/{}", self.first, self.prefix)
        }
    }
}

/// Bits of such an address.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with zeros beyond the prefix.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & !u32::MAX.checked_shr(prefix.into()).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::MAX.checked_shr(prefix.into()).unwrap_or(0)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        for (network, within, without) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "::ffff:11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.6/31", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "127.0.0.1"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
        ] {
            let network: Network = network.parse().expect(network);
            assert!(network.contains(within.parse().expect("an address")), "{network} {within}");
            assert!(!network.contains(without.parse().expect("an address")), "{network} {without}");
            assert_eq!(network.to_string().parse(), Ok(network));
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in [
            "",
            "10",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.1/8",
            "10.0.0.0/8/8",
            "10.0.0.0/255.0.0.0",
            "localhost",
            "fd00::/129",
            "fd00::1/8",
            "::ffff:10.0.0.0/8",
            "[::1]",
            "::1%lo",
            "*",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
