//! Single values: sizes, durations, origins, sinks, and how they are shown.

use std::path::PathBuf;
use std::time::Duration;

use super::{MysqlUrl, SinkTarget};

/// Reads a size in bytes: an integer, or a number with a unit such as `64KiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    // The last check refuses what bytesize would cut off to the largest number.
    text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64()).filter(|&bytes| bytes < u64::MAX)
}

/// A size as `size` reads it back, without loss.
pub(super) fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Reads a duration such as `10s`, `500ms` or `1h 30m`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// A duration as [`duration`] reads it back.
pub(super) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Checks that a text is a browser's `Origin`, spelled as browsers send it: `scheme://host[:port]`.
pub(super) fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let lower = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| lower(&b) || matches!(b, b'+' | b'-' | b'.'));
    let Some((host, port)) = host_and_port(authority) else { return false };
    let host_ok = host.starts_with('[') || host.bytes().all(|b| lower(&b) || matches!(b, b'.' | b'-' | b'_'));
    // Browsers leave the usual port out, so an origin with it would never match.
    let port_ok = !matches!((scheme, port), ("http", Some(80)) | ("https", Some(443)));
    scheme_ok && host_ok && port_ok
}

/// The parts of `host`, `host:port`, `[ipv6]` or `[ipv6]:port`.
pub(super) fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        None => None,
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => Some(text.parse().ok().filter(|&port| port != 0)?),
        Some(_) => return None,
    };
    let host_ok = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && !host.contains([':', ']']),
    };
    host_ok.then_some((host, port))
}

/// Reads the URL of a collector, to which `/v1/traces` can be added.
///
/// # Errors
/// What is allowed; it does not repeat the value.
pub(super) fn endpoint(url: &str) -> Result<String, String> {
    let must = |why| format!("must be a URL such as http://127.0.0.1:4318, or \"\" for none: {why}");
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Err(must("it does not start with http:// or https://"));
    };
    if rest.contains('@') {
        return Err(must("user and password belong into OTEL_EXPORTER_OTLP_HEADERS, as an authorization header"));
    }
    if !rest.bytes().all(|b| b.is_ascii_graphic()) || rest.contains(['?', '#', '\\', '"', '<', '>', '`', '{', '}']) {
        return Err(must("it has a query, a fragment, or characters that no URL has"));
    }
    if host_and_port(rest.split('/').next().unwrap_or(rest)).is_none() {
        return Err(must("host or port cannot be read"));
    }
    if rest.trim_end_matches('/').ends_with("/v1/traces") {
        return Err(must("/v1/traces is added to it"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// Reads `sqlite:PATH` or `mysql://…`.
///
/// # Errors
/// What is allowed; it does not repeat the value.
pub(super) fn sink_target(url: &str) -> Result<SinkTarget, String> {
    if let Some(path) = url.strip_prefix("sqlite:") {
        return match path {
            "" => Err("must name a file: sqlite:PATH".to_owned()),
            ":memory:" => Err("must name a file, sqlite:PATH: memory is not durable".to_owned()),
            _ if path.starts_with("//") => Err("must be sqlite:PATH, without // before the path".to_owned()),
            _ if path.contains('\0') => Err("must name a file, without a zero byte".to_owned()),
            _ => Ok(SinkTarget::Sqlite(PathBuf::from(path))),
        };
    }
    if !url.starts_with("mysql://") {
        return Err("must be sqlite:PATH or mysql://user:password@host:3306/database".to_owned());
    }
    MysqlUrl::new(url).map_err(|why| format!("must be mysql://user:password@host:3306/database: {why}"))?;
    Ok(SinkTarget::Mysql(url.to_owned()))
}

/// The known name that is nearest to `name`: the same last part elsewhere, or few letters away.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    if let Some(same) = known.iter().find(|&&other| last(other) == last(name)) {
        return Some(same);
    }
    let (distance, near) = known.iter().map(|&other| (distance(name, other), other)).min()?;
    (distance <= 2.max(name.len() / 4)).then_some(near)
}

/// The number of letters to insert, remove or replace (Levenshtein); names longer than any key are far from all.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 96 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(!x.eq_ignore_ascii_case(&y));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
