//! The headers of OpenTelemetry's own variables, which its exporter reads and passes over where it cannot.

/// The variables, the first before the second.
const VARIABLES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];

/// Says how many headers of the variable that counts cannot be read, and never what they are: they are secrets.
pub fn warn_of_unreadable() {
    let found = VARIABLES.into_iter().find_map(|name| std::env::var_os(name).map(|value| (name, value)));
    let Some((variable, value)) = found else { return };
    let unreadable = unreadable(&value.to_string_lossy());
    if unreadable > 0 {
        tracing::warn!(
            variable,
            unreadable,
            "headers of exports cannot be read and are left out; write them as name=value,name=value, with %XX for other \
             characters"
        );
    }
}

fn unreadable(headers: &str) -> usize {
    headers.split_terminator(',').map(str::trim).filter(|header| !header.is_empty() && !is_header(header)).count()
}

/// `name=value`, its value with `%XX` for what no header has.
fn is_header(header: &str) -> bool {
    let Some((name, value)) = header.split_once('=') else { return false };
    let is_name = hyper::header::HeaderName::from_bytes(name.trim().as_bytes()).is_ok();
    let value = decoded(value.trim());
    is_name && value.is_some_and(|value| !value.is_empty() && hyper::header::HeaderValue::from_bytes(&value).is_ok())
}

/// The bytes of a value; `None` where a `%` starts no escape.
fn decoded(value: &str) -> Option<Vec<u8>> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_names_with_values() {
        for (headers, count) in [
            ("", 0),
            ("a=b", 0),
            ("authorization=Bearer%20x, x-y = z ,", 0),
            ("a=b=c", 0),
            ("a", 1),
            ("a=,=b,a b=c", 3),
            ("a=%4,b=%zz,c=%0a", 3),
        ] {
            assert_eq!(unreadable(headers), count, "{headers}");
        }
    }
}
