//! What a request asks for besides its messages: its query, and what its headers say of its body.

use std::time::Duration;

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};

/// The longest wait for a `done`.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(300);

/// The types of bodies of one message a line.
const LINES: [&str; 10] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonl",
    "application/jsonlines",
    "application/x-jsonlines",
    "application/json-lines",
    "text/x-ndjson",
    "text/ndjson",
    "text/jsonl",
];

/// What the query asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// All messages are kept or none.
    pub(super) atomic: bool,
    /// Each `done` is answered once it is drained, or this time is over.
    pub(super) wait: Option<Duration>,
}

impl Options {
    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub(super) fn read(query: Option<&str>) -> Result<Self, String> {
        let (mut atomic, mut wait) = (None, None);
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let shown = value.escape_debug();
            let is_new = match key {
                "atomic" => {
                    let value =
                        value.parse().map_err(|_| format!("atomic is \"{shown}\": it must be true or false"))?;
                    atomic.replace(value).is_none()
                }
                "wait" => {
                    let time = humantime::parse_duration(value).ok().filter(|time| *time <= MAX_WAIT);
                    let most = MAX_WAIT.as_secs();
                    let time = time.ok_or_else(|| {
                        format!("wait is \"{shown}\": it must be a time of at most {most}s, such as 30s")
                    })?;
                    wait.replace(time).is_none()
                }
                _ => return Err(format!("\"{}\" is none of the parameters atomic and wait", key.escape_debug())),
            };
            if !is_new {
                return Err(format!("{key} is there more than once: send it once"));
            }
        }
        Ok(Self { atomic: atomic.unwrap_or(false), wait })
    }
}

/// Whether each line of a body is a message, by its type.
pub(super) fn is_lines(headers: &HeaderMap) -> bool {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim();
    let known = if cfg!(forebay_plant = "one_type_of_lines") { &LINES[..1] } else { &LINES };
    known.iter().any(|lines| essence.eq_ignore_ascii_case(lines))
}

/// How a body is encoded; none where it is in a way that is not undone here.
pub(super) fn is_gzip(headers: &HeaderMap) -> Option<bool> {
    let mut found = false;
    for value in headers.get_all(CONTENT_ENCODING) {
        for name in value.to_str().ok()?.split(',').map(str::trim) {
            match name {
                _ if name.eq_ignore_ascii_case("identity") || name.is_empty() => {}
                _ if (name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip")) && !found => {
                    found = true
                }
                _ => return None,
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_query_is_read_and_what_nobody_knows_is_refused() {
        let read = |query| Options::read(Some(query));
        assert_eq!(Options::read(None), Ok(Options::default()));
        assert_eq!(read(""), Ok(Options::default()));
        let both = Options { atomic: true, wait: Some(Duration::from_millis(1500)) };
        assert_eq!(read("wait=1500ms&atomic=true"), Ok(both));
        assert_eq!(read("atomic=false&wait=0s"), Ok(Options { atomic: false, wait: Some(Duration::ZERO) }));
        for bad in [
            "atomic",
            "atomic=1",
            "wait",
            "wait=30",
            "wait=301s",
            "wait=-1s",
            "x",
            "Atomic=true",
            "atomic=true&atomic=true",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("a%22\u{7}").expect_err("unknown").contains("a%22\\u{7}"));
    }

    fn of(name: hyper::header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn lines_are_known_by_each_of_their_types() {
        let is = |value| is_lines(&of(CONTENT_TYPE, &[value]));
        for lines in LINES {
            assert!(is(lines));
        }
        assert!(is("Application/X-NDJSON; charset=utf-8") && is(" application/jsonl ;x"));
        assert!(!is("application/json") && !is("") && !is("application/x-ndjsonx") && !is_lines(&HeaderMap::new()));
    }

    #[test]
    fn a_body_is_plain_or_gzip_or_not_decoded() {
        let is = |values: &[&'static str]| is_gzip(&of(CONTENT_ENCODING, values));
        assert_eq!([is(&[]), is(&["identity"]), is(&[""])], [Some(false); 3]);
        assert_eq!([is(&["gzip"]), is(&["X-GZIP"]), is(&["identity, Gzip"])], [Some(true); 3]);
        for other in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"], &["deflate, gzip"], &["zstd"], &["gzip;q=1"]] {
            assert_eq!(is(other), None, "{other:?}");
        }
    }
}
