//! What of a text a person may be shown: somebody may have pasted a secret where it does not belong, and what is shown
//! ends in logs. So a text is shown only where it looks like what was meant, and else as [`HIDDEN`].

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::Network;

/// What stands for a text, or a part of one, that is not shown.
pub const HIDDEN: &str = "…";

/// What Forebay's own tokens begin with.
const TOKEN: &str = "fby_";
/// Ends of the names of files that settings and flags are for.
const EXTENSIONS: [&str; 14] =
    ["pem", "crt", "cer", "key", "toml", "txt", "json", "jsonl", "ndjson", "token", "conf", "cfg", "db", "sqlite"];

/// A value for a person, in quotation marks: as it is where it may be shown.
pub fn shown(text: &str) -> String {
    if cfg!(forebay_plant = "repeat_secrets") {
        return format!("{text:?}");
    }
    let text = if is_harmless(text) { text.to_owned() } else { url(text).unwrap_or_else(|| HIDDEN.to_owned()) };
    format!("{text:?}")
}

/// A path for a person: as it is where something is there, its folder is, or it has an end that such files have.
pub fn shown_path(path: &Path) -> String {
    let text = path.to_string_lossy();
    // The root is the folder of whatever begins with a slash.
    let is_folder = |folder: &Path| folder.parent().is_some() && folder.is_dir();
    let is_there = || path.symlink_metadata().is_ok() || path.parent().is_some_and(is_folder);
    if !may_be_secret(&text) && (is_named_file(&text) || is_there()) { text.into_owned() } else { HIDDEN.to_owned() }
}

/// The name of a key or a variable for a person.
pub(super) fn shown_name(name: &str) -> &str {
    // No name of a setting has a digit in it.
    let is_name = name.len() <= 48 && name.bytes().all(|b| b.is_ascii_alphabetic() || b"._-".contains(&b));
    if is_name { name } else { HIDDEN }
}

/// A message of a parser, which may repeat what it read, in quotation marks of any kind.
pub fn shown_message(message: &str) -> String {
    let mut shown = String::new();
    let mut rest = message;
    while let Some(start) = rest.find(['"', '`']) {
        let quote = &rest[start..=start];
        let Some(length) = rest[start + 1..].find(quote) else { break };
        let (before, quoted) = (&rest[..=start], &rest[start + 1..start + 1 + length]);
        shown.push_str(before);
        shown.push_str(if is_word(quoted) || quoted == "sha256" { quoted } else { shown_name(quoted) });
        shown.push_str(quote);
        rest = &rest[start + length + 2..];
    }
    // A quotation mark that is not closed may stand before anything.
    shown.push_str(rest.find(['"', '`']).map_or(rest, |start| &rest[..start]));
    if may_be_secret(&shown) { HIDDEN.to_owned() } else { shown }
}

/// Whether a text holds a token, a key in PEM, or something that is a URL with a user, or a password, in it.
pub fn holds_secret(text: &str) -> bool {
    let token = text.split(TOKEN).skip(1).any(|rest| rest.bytes().take_while(u8::is_ascii_alphanumeric).count() >= 8);
    let has_account = text.contains('@') && text.contains([':', '/']);
    let is_of_sink = text.starts_with("mysql") && text.contains(':');
    let has_query = text.contains("://") && text.contains('?');
    token || has_account || is_of_sink || has_query || text.contains("-----") || text.contains(char::is_control)
}

/// Whether a text that is to be a path, or a name, may hold a secret: the same, and URLs of any kind.
pub fn may_be_secret(text: &str) -> bool {
    holds_secret(text) || text.contains("://")
}

/// Whether a text is a short word, a number, perhaps with a unit, an address, or the name of a host.
pub fn is_harmless(text: &str) -> bool {
    is_word(text) || is_number(text) || is_address(text) || is_host(text)
}

/// Lower case, and short: what is meant for a choice, or not for a number.
fn is_word(text: &str) -> bool {
    text.len() <= 8 && text.bytes().all(|b| b.is_ascii_lowercase() || b == b' ')
}

/// Numbers, each with a unit of at most three letters.
fn is_number(text: &str) -> bool {
    let is_part = |part: &str| {
        let digits = part.trim_start_matches(['+', '-']).trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        digits.len() < part.len() && digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_alphabetic())
            || (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphabetic())
    };
    text.len() <= 32 && text.split(' ').all(is_part)
}

/// An address or a network; or one that is misspelt, of digits alone.
fn is_address(text: &str) -> bool {
    let is_like_one = text.len() <= 24 && text.contains('.') && text.bytes().all(|b| b"0123456789.:/".contains(&b));
    is_like_one
        || text.parse::<SocketAddr>().is_ok()
        || text.parse::<IpAddr>().is_ok()
        || text.parse::<Network>().is_ok()
}

/// The name of a host, perhaps with a port.
fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').unwrap_or((text, "1"));
    // Digits stand at the end of a name, and not among its letters.
    let is_label = |label: &str| {
        let letters = label.trim_end_matches(|c: char| c.is_ascii_digit());
        label.len() <= 16 && letters.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
    };
    let is_name = name == "localhost" || (name.len() <= 48 && name.contains('.') && name.split('.').all(is_label));
    is_name && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
}

/// The scheme of a URL, with the host where it is one of the web's and nothing else stands before it.
fn url(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.len() <= 10 && scheme.bytes().all(|b| b.is_ascii_lowercase());
    let (host, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let is_plain = matches!(scheme, "http" | "https" | "ws" | "wss") && (is_host(host) || is_address(host));
    let host = if is_plain { host } else { HIDDEN };
    let after = if is_plain && !after.is_empty() { "/…" } else { "" };
    is_scheme.then(|| format!("{scheme}://{host}{after}"))
}

/// A path of plain names, the last with a known end.
fn is_named_file(text: &str) -> bool {
    let is_plain =
        |name: &str| name.len() <= 40 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let extension = text.rsplit_once('.').map_or("", |(_, extension)| extension);
    text.len() <= 200 && text.split('/').all(is_plain) && EXTENSIONS.contains(&extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_for_a_setting_is_shown() {
        for text in [
            "chatty",
            "re ports",
            "",
            "0",
            "-1",
            "1.5",
            "70000",
            "97KiB",
            "1h 30m",
            "500 ms",
            "127.0.0.1",
            "0.0.0.0:x1",
        ] {
            let is_shown = shown(text) == format!("{text:?}");
            assert_eq!(is_shown, text != "0.0.0.0:x1", "{text}");
        }
        for text in ["127.0.0.1:99999", "[::1]:7001", "10.0.0.1/8", "localhost:1", "node-1.example:7001", "a.example"] {
            assert_eq!(shown(text), format!("{text:?}"));
        }
        assert_eq!(shown("https://a.example:8443/path?x"), "\"https://a.example:8443/…\"");
        assert_eq!(shown("ftp://example"), "\"ftp://…\"");
    }

    #[test]
    fn what_may_be_a_secret_is_not() {
        for text in [
            "hunter2",
            "correcthorse",
            "Passw0rd",
            "pa:ss@word",
            "fby_0123456789abcdef",
            "-----BEGIN PRIVATE KEY-----",
            "a\nb",
            "root:12345",
            "https://u:hunter2@a.example/",
            "mysql://u@hunter2@h/d",
            "1hunter2",
        ] {
            assert!(!shown(text).contains(text) && !shown(text).contains("hunter2"), "{text}: {}", shown(text));
        }
    }

    #[test]
    fn a_path_is_shown_where_it_can_be_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let within = folder.path().join("hunter2");
        for path in [folder.path(), &within, Path::new("/etc/forebay/tokens.toml"), Path::new("key.pem")] {
            assert_eq!(shown_path(path), path.display().to_string());
        }
        for path in ["hunter2", "/hunter2", "no/such/hunter2", "fby_0123456789abcdef.pem", "a\nb.pem", "x://y.pem"] {
            assert_eq!(shown_path(Path::new(path)), HIDDEN, "{path}");
        }
    }

    #[test]
    fn a_parsers_message_is_shown_without_what_it_read() {
        for (message, safe) in [
            ("unknown field `hunter2`, expected `name` or `sha256`", "unknown field `…`, expected `name` or `sha256`"),
            ("invalid type: string \"hunter2\", expected usize", "invalid type: string \"…\", expected usize"),
            ("found `hunter2", "found "),
            ("invalid basic string", "invalid basic string"),
        ] {
            assert_eq!(shown_message(message), safe);
        }
    }
}
