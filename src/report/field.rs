//! The fields of a message, one function each: from raw JSON text, whose grammar was checked, to a value or a refusal.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::id::Id;
use super::key::MAX_EXACT;
use super::reply::Refusal;
use super::time;

/// The longest `ref`, in bytes of its text.
pub const MAX_REF_BYTES: usize = 64;

/// Characters of a value that an error repeats.
const EXCERPT_CHARS: usize = 40;

/// A value as an error message shows it: its start, on one line.
pub(super) fn excerpt(raw: &str) -> String {
    let mut shown = String::with_capacity(EXCERPT_CHARS * 2);
    let mut chars = raw.chars();
    for c in chars.by_ref().take(EXCERPT_CHARS) {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

fn bad(field: &'static str, raw: &str, allowed: &str) -> Refusal {
    Refusal::bad_field(field, format!("{field} is {}: {allowed}", excerpt(raw)))
}

/// The text of a JSON string; `None` where the value is another one.
///
/// # Errors
/// `bad_json` where an escape stands for no character (a lone surrogate).
pub(super) fn string<'a>(field: &'static str, raw: &'a str) -> Result<Option<Cow<'a, str>>, Refusal> {
    let Some(inner) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return Ok(None) };
    if !inner.contains('\\') {
        return Ok(Some(Cow::Borrowed(inner)));
    }
    match serde_json::from_str::<String>(raw) {
        Ok(text) => Ok(Some(Cow::Owned(text))),
        Err(error) => Err(Refusal::bad_json(format!("{field} is {}, which is no text: {error}", excerpt(raw)))),
    }
}

/// What `op` can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpName {
    Report,
    Done,
    Ping,
}

pub(super) fn op(raw: Option<&str>) -> Result<OpName, Refusal> {
    const ALLOWED: &str = "it must be \"report\", \"done\" or \"ping\"";
    let Some(raw) = raw else { return Err(Refusal::bad_field("op", format!("op is missing: {ALLOWED}"))) };
    let Some(text) = string("op", raw)? else { return Err(bad("op", raw, ALLOWED)) };
    match &*text {
        "report" => Ok(OpName::Report),
        "done" => Ok(OpName::Done),
        "ping" => Ok(OpName::Ping),
        _ => Err(Refusal::unknown_op(format!("op is {}: {ALLOWED}", excerpt(raw)))),
    }
}

/// An id from a string or an integer; `field` says where it stood.
pub(super) fn id(field: &'static str, raw: &str) -> Result<Id, Refusal> {
    let text = match string(field, raw)? {
        Some(text) => text,
        None if !is_number(raw) => return Err(bad(field, raw, "it must be a string or an integer")),
        None if !is_integer(raw) => return Err(bad(field, raw, "a number must be an integer; send it as a string")),
        None => Cow::Borrowed(raw),
    };
    Id::new(&text).map_err(|error| Refusal::bad_field(field, format!("{field} {}: it {error}", excerpt(raw))))
}

pub(super) fn seq(raw: &str) -> Result<u64, Refusal> {
    raw.parse()
        .ok()
        .filter(|&seq| seq <= MAX_EXACT)
        .ok_or_else(|| bad("seq", raw, "it must be an integer from 0 to 9007199254740991, without quotes or fraction"))
}

pub(super) fn code(raw: &str) -> Result<i32, Refusal> {
    raw.parse().map_err(|_| bad("code", raw, "it must be an integer from -2147483648 to 2147483647, without quotes"))
}

/// `time` in microseconds of the epoch.
pub(super) fn time(raw: &str) -> Result<i64, Refusal> {
    let text = match string("time", raw)? {
        Some(text) => text,
        None => Cow::Borrowed(raw),
    };
    time::micros(&text).ok_or_else(|| {
        let allowed = "it must be seconds of the epoch, as a number or as a string that holds one, within ±99999999999";
        bad("time", raw, allowed)
    })
}

/// Checks `ref`; it is used as sent.
pub(super) fn reference(raw: &str) -> Result<&str, Refusal> {
    let valid = match string("ref", raw)? {
        Some(text) => text.len() <= MAX_REF_BYTES,
        None => raw.parse::<i64>().is_ok() || raw.parse::<u64>().is_ok(),
    };
    if valid { Ok(raw) } else { Err(bad("ref", raw, "it must be a string of at most 64 bytes or a 64-bit integer")) }
}

fn is_number(raw: &str) -> bool {
    raw.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

fn is_integer(raw: &str) -> bool {
    is_number(raw) && !raw.contains(['.', 'e', 'E'])
}

/// Whether a raw value can be repeated as an `id` in a reply: a string that holds text, or a number.
pub(super) fn can_echo(raw: &str) -> bool {
    is_number(raw) || matches!(string("id", raw), Ok(Some(_)))
}

/// The raw value of the last top-level `id` of `data`; `None` where `data` is no object, or has none, or null.
pub(super) fn data_id(data: &str) -> Option<&str> {
    // Nearly all data without an `id` is told by this cheap look; a key can be spelled with escapes too.
    if !data.starts_with('{') || !(data.contains("\"id\"") || data.contains('\\')) {
        return None;
    }
    let found = serde_json::Deserializer::from_str(data).deserialize_map(DataVisitor).ok()?;
    found.filter(|&raw| raw != "null")
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut found = None;
        while let Some(IsId(is_id)) = map.next_key()? {
            if is_id {
                found = Some(map.next_value::<&RawValue>()?.get());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a key is `id`. Read as bytes, because keys of `data` may hold lone surrogates, which are no text.
struct IsId(bool);

impl<'de> serde::Deserialize<'de> for IsId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = IsId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_bytes<E>(self, key: &[u8]) -> Result<IsId, E> {
                Ok(IsId(key == b"id"))
            }

            fn visit_str<E>(self, key: &str) -> Result<IsId, E> {
                Ok(IsId(key == "id"))
            }
        }
        deserializer.deserialize_bytes(KeyVisitor)
    }
}
