//! How times and data are shown.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::value::RawValue;

/// Microseconds of the epoch as RFC 3339.
pub(super) fn instant(micros: u64) -> String {
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(micros)).to_string()
}

/// Seconds to three places: more says nothing.
pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A report's data as it was sent. What the parser took is JSON; anything else would be damage that its checksum shows.
pub(super) fn raw_json(data: &[u8]) -> Option<Box<RawValue>> {
    RawValue::from_string(String::from_utf8_lossy(data).into_owned()).ok()
}
