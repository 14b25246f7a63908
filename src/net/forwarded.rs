//! Whom a request is from, by the headers that proxies add. Pure.
//!
//! Each proxy adds, at the right, the address that it was reached from. So the list is read from the right, for as long
//! as the one who is named is a trusted proxy: what a client wrote itself is never come to. An element that is come to
//! is an address, or says that the address is not told (`unknown`, `_hidden`), or the request is refused.

use std::net::IpAddr;

use hyper::header::{FORWARDED, HeaderMap, HeaderName};

use crate::config::{Network, Proxy};

/// The header of proxies that do not speak of RFC 7239.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A proxy that is trusted has added what cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the header by which the proxy names the client cannot be read: does ingest.proxy name the one that it sends?")]
pub struct Unreadable;

/// What an element says of who is to the left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hop {
    Address(IpAddr),
    Hidden,
}

/// Whether such a setting means that a header names the client of each request.
pub fn is_by_header(proxy: Proxy) -> bool {
    matches!(proxy, Proxy::Forwarded | Proxy::XForwardedFor)
}

/// Whom a request is from that came over a connection of a trusted proxy at `from`: the rightmost address that is not
/// `trusted`. Where all are, or one does not tell, it is the farthest that is known.
///
/// # Errors
/// [`Unreadable`]
pub fn client(proxy: Proxy, headers: &HeaderMap, trusted: &[Network], from: IpAddr) -> Result<IpAddr, Unreadable> {
    let name = if proxy == Proxy::Forwarded { FORWARDED } else { X_FORWARDED_FOR };
    let mut peer = from;
    // A field that was added later is farther to the right.
    for field in headers.get_all(name).iter().rev() {
        let field = String::from_utf8_lossy(field.as_bytes());
        let hops: &mut dyn Iterator<Item = Result<Hop, Unreadable>> = match proxy {
            Proxy::Forwarded => &mut forwarded(&field)?.into_iter().rev().map(Ok),
            _ => &mut field.rsplit(',').map(str::trim).filter(|text| !text.is_empty()).map(hop),
        };
        for hop in hops {
            match hop? {
                Hop::Hidden => return Ok(peer),
                Hop::Address(address) => peer = address,
            }
            let is_trusted = trusted.iter().any(|network| network.contains(peer));
            if !is_trusted && cfg!(not(forebay_plant = "believe_the_client")) {
                return Ok(peer);
            }
        }
    }
    Ok(peer)
}

/// The elements of a field of `Forwarded`, from left to right. All of it has to be as RFC 7239 has it: with a quotation
/// mark that is never closed a client could take in what its proxy adds.
fn forwarded(field: &str) -> Result<Vec<Hop>, Unreadable> {
    let mut hops = Vec::new();
    let mut rest = field;
    loop {
        let (hop, after) = element(rest)?;
        hops.extend(hop);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok(hops),
        }
    }
}

/// The first element, `None` where it is empty, and what follows it: nothing, or a comma.
fn element(mut text: &str) -> Result<(Option<Hop>, &str), Unreadable> {
    let (mut named, mut is_empty) = (None, true);
    loop {
        text = text.trim_start_matches([' ', '\t']);
        if !text.is_empty() && !text.starts_with([',', ';']) {
            is_empty = false;
            let (name, value) = text.split_once('=').ok_or(Unreadable)?;
            let is_token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            let (value, after) = self::value(value)?;
            text = after.trim_start_matches([' ', '\t']);
            if !is_token || (name.eq_ignore_ascii_case("for") && named.replace(hop(&value)?).is_some()) {
                return Err(Unreadable);
            }
        }
        match text.as_bytes().first() {
            None | Some(b',') => return Ok(((!is_empty).then(|| named.unwrap_or(Hop::Hidden)), text)),
            Some(b';') => text = &text[1..],
            Some(_) => return Err(Unreadable),
        }
    }
}

/// A token or a quoted string, and what follows it.
fn value(text: &str) -> Result<(String, &str), Unreadable> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';', ' ', '\t', '"']).unwrap_or(text.len());
        return Ok((text[..end].to_owned(), &text[end..]));
    };
    let (mut value, mut characters) = (String::new(), quoted.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next().ok_or(Unreadable)?.1),
            other => value.push(other),
        }
    }
    Err(Unreadable)
}

/// `192.0.2.1`, `192.0.2.1:port`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:port`; or what tells no address.
fn hop(text: &str) -> Result<Hop, Unreadable> {
    let is_port = |port: &str| {
        let is_number = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
        is_number || port.starts_with('_')
    };
    // `unix:` is what nginx says of a client on a socket of the file system.
    let hidden = text.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("unknown") || name == "unix");
    if hidden || text.starts_with('_') {
        return Ok(Hop::Hidden);
    }
    let (address, port) = match text.strip_prefix('[').map(|v6| v6.split_once(']').ok_or(Unreadable)).transpose()? {
        Some((address, "")) => (address, None),
        Some((address, port)) => (address, Some(port.strip_prefix(':').ok_or(Unreadable)?)),
        None => match text.split_once(':') {
            Some((address, port)) if !port.contains(':') => (address, Some(port)),
            _ => (text, None),
        },
    };
    let address: IpAddr = address.parse().map_err(|_| Unreadable)?;
    if port.is_none_or(is_port) { Ok(Hop::Address(address.to_canonical())) } else { Err(Unreadable) }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn from(proxy: Proxy, fields: &[&str]) -> Result<String, Unreadable> {
        let mut headers = HeaderMap::new();
        for (header, value) in fields.iter().map(|field| field.split_once(": ").expect("a field")) {
            let name = HeaderName::from_bytes(header.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("no control characters"));
        }
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().expect("a network"));
        client(proxy, &headers, &trusted, PROXY.parse().expect("an address")).map(|peer| peer.to_string())
    }

    fn x(fields: &[&str]) -> Result<String, Unreadable> {
        from(Proxy::XForwardedFor, fields)
    }

    fn f(fields: &[&str]) -> Result<String, Unreadable> {
        from(Proxy::Forwarded, fields)
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        for (field, client) in [
            ("192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
            ("6.6.6.6,192.0.2.1 , 10.0.0.9,10.0.0.8", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]:4711, [fd00::1]", "2001:db8::7"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("10.0.0.9", "10.0.0.9"),
            ("10.0.0.7,10.0.0.9", "10.0.0.7"),
            ("", PROXY),
            (" ,, 192.0.2.1,, ", "192.0.2.1"),
            ("unknown", PROXY),
            ("6.6.6.6, unknown, 10.0.0.9", "10.0.0.9"),
            ("unix:", PROXY),
            ("nonsense, 192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(x(&[&format!("x-forwarded-for: {field}")]).as_deref(), Ok(client), "{field}");
        }
        assert_eq!(x(&["x-forwarded-for: 6.6.6.6", "X-Forwarded-For: 192.0.2.1"]).as_deref(), Ok("192.0.2.1"));
        assert_eq!(x(&["x-forwarded-for: 192.0.2.1", "X-Forwarded-For: 10.0.0.9"]).as_deref(), Ok("192.0.2.1"));
        assert_eq!(x(&["forwarded: for=6.6.6.6", "x-real-ip: 6.6.6.6"]).as_deref(), Ok(PROXY), "no other header");
        assert_eq!(f(&["x-forwarded-for: 6.6.6.6"]).as_deref(), Ok(PROXY));
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        for (field, client) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"192.0.2.1:4711\";proto=https", "192.0.2.1"),
            ("proto=http; by=_x ;for=\"[2001:db8::7]:4711\" , for=10.0.0.9", "2001:db8::7"),
            ("for=\"[2001:db8::7]:_port\"", "2001:db8::7"),
            ("for=6.6.6.6;x=\"a,b;for=7.7.7.7\\\"\", for=192.0.2.1", "192.0.2.1"),
            ("for=_hidden", PROXY),
            ("for=6.6.6.6, for=unknown, for=10.0.0.9", "10.0.0.9"),
            ("for=6.6.6.6, proto=https", PROXY),
            (", ,for=192.0.2.1,", "192.0.2.1"),
            ("for=192.0.2.1;", "192.0.2.1"),
            ("", PROXY),
        ] {
            assert_eq!(f(&[&format!("forwarded: {field}")]).as_deref(), Ok(client), "{field}");
        }
    }

    /// What a client sends cannot make what its proxy adds unread, or be taken for it.
    #[test]
    fn a_client_that_forges_is_known_all_the_same_or_refused() {
        let added = [
            "for=192.0.2.1",
            "for=\"192.0.2.1\"",
            "for=\"[2001:db8::7]:1\";proto=https",
            "by=\"_a\";for=\"192.0.2.1:80\"",
        ];
        let forged = [
            "for=\"",
            "for=6.6.6.6;x=\"",
            "x=\"\\",
            "for=6.6.6.6;",
            "for=6.6.6.6;for",
            "for=",
            "=",
            ";;;",
            "\"",
            "for=6.6.6.6 ",
        ];
        for (forged, added) in forged.iter().flat_map(|forged| added.iter().map(move |added| (forged, added))) {
            if let Ok(client) = f(&[&format!("forwarded: {forged}, {added}")]) {
                assert!(matches!(&*client, "192.0.2.1" | "2001:db8::7"), "{forged}, {added}: {client}");
            }
            // In a field of its own it is not even looked at.
            let client = f(&[&format!("forwarded: {forged}"), &format!("forwarded: {added}")]);
            assert!(matches!(client.as_deref(), Ok("192.0.2.1" | "2001:db8::7")), "{forged} and {added}: {client:?}");
        }
    }

    #[test]
    fn what_a_trusted_proxy_says_and_nobody_understands_is_refused() {
        for field in
            ["nonsense", "192.0.2.1:port", "192.0.2.1:", "[::1", "[::1]x", "192.0.2.256", "1.2.3.4.5", "\"192.0.2.1\""]
        {
            assert_eq!(x(&[&format!("x-forwarded-for: {field}")]), Err(Unreadable), "{field}");
        }
        for field in
            ["nonsense", "for", "for=nonsense", "for=\"192.0.2.1", "for=192.0.2.1 x", "for=192.0.2.1;for=192.0.2.2"]
        {
            assert_eq!(f(&[&format!("forwarded: {field}")]), Err(Unreadable), "{field}");
        }
    }

    #[test]
    fn a_header_of_any_length_is_read_in_time_with_its_length() {
        let long = "10.0.0.9,".repeat(1_700);
        assert_eq!(x(&[&format!("x-forwarded-for: {long}")]).as_deref(), Ok("10.0.0.9"));
        let long = "for=10.0.0.9;by=_a,".repeat(800);
        assert_eq!(f(&[&format!("forwarded: {long}")]).as_deref(), Ok("10.0.0.9"));
    }
}
