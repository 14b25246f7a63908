//! Which pages of browsers may speak. Pure.

use hyper::header::{HOST, HeaderMap, HeaderValue, ORIGIN};

/// What an `Origin` header means for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'a> {
    /// No browser, or a page of this very host.
    Own,
    /// Another site, which is listed in `allowed_origins`.
    Listed(&'a HeaderValue),
    /// Another site, which is not.
    Foreign,
}

/// Judges the `Origin` of a request: absent and same-origin pass always, others if they are listed.
///
/// An origin is the same if its host and port are those of the `Host` header; the scheme is not compared, because a
/// proxy may end TLS before this server.
pub fn origin<'a>(headers: &'a HeaderMap, allowed: &[String]) -> Origin<'a> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(value) = origins.next() else { return Origin::Own };
    let Ok(origin) = value.to_str() else { return Origin::Foreign };
    if origins.next().is_some() {
        return Origin::Foreign;
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let own = origin.split_once("://").is_some_and(|(_, authority)| {
        !authority.is_empty() && host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
    });
    if own {
        Origin::Own
    } else if allowed.iter().any(|listed| listed.trim_end_matches('/').eq_ignore_ascii_case(origin)) {
        Origin::Listed(value)
    } else {
        Origin::Foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(origin_header: Option<&'static str>, host: &'static str, allowed: &[&str]) -> &'static str {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static(host));
        if let Some(value) = origin_header {
            headers.insert(ORIGIN, HeaderValue::from_static(value));
        }
        let allowed: Vec<String> = allowed.iter().map(|&text| text.to_owned()).collect();
        match origin(&headers, &allowed) {
            Origin::Own => "own",
            Origin::Listed(_) => "listed",
            Origin::Foreign => "foreign",
        }
    }

    #[test]
    fn a_page_of_another_site_is_refused_unless_it_is_listed() {
        assert_eq!(judge(None, "a:1", &[]), "own");
        assert_eq!(judge(Some("http://a:1"), "a:1", &[]), "own");
        assert_eq!(judge(Some("https://A.example"), "a.example", &[]), "own");
        assert_eq!(judge(Some("http://a:2"), "a:1", &[]), "foreign");
        assert_eq!(judge(Some("null"), "a:1", &[]), "foreign");
        assert_eq!(judge(Some("http://"), "", &[]), "foreign");
        assert_eq!(judge(Some("https://b"), "a:1", &["https://c", "https://b"]), "listed");
        assert_eq!(judge(Some("http://b"), "a:1", &["https://b"]), "foreign");
    }

    #[test]
    fn a_second_origin_is_foreign() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("a"));
        headers.append(ORIGIN, HeaderValue::from_static("http://a"));
        headers.append(ORIGIN, HeaderValue::from_static("http://b"));
        assert_eq!(origin(&headers, &[]), Origin::Foreign);
    }
}
