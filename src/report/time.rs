//! Decimal seconds to microseconds, exactly: no floating point.

/// The largest time in microseconds, either way: what `DECIMAL(17,6)` seconds hold.
pub const MAX_MICROS: i64 = 99_999_999_999_999_999;

/// Powers of ten beyond this are out of range, or nothing, for every mantissa that fits into a message.
const EXPONENT_LIMIT: i64 = 1 << 40;

/// The highest power of ten of a digit of seconds that `DECIMAL(17,6)` holds.
const HIGHEST_POWER: i64 = 10;

/// The lowest power of ten that is kept; digits below are cut off.
const LOWEST_POWER: i64 = -6;

/// Reads seconds of the epoch, as a decimal number with an optional sign, fraction and exponent, into microseconds.
///
/// Digits below a microsecond are cut off (towards zero). `None` where the text is not such a number, or out of the
/// range of `DECIMAL(17,6)`.
pub fn micros(text: &str) -> Option<i64> {
    let (negative, unsigned) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (mantissa, exponent) = match unsigned.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&unsigned[..at], exponent(&unsigned[at + 1..])?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|&b| b == b'.') {
        Some(at) => (&mantissa[..at], digits(&mantissa[at + 1..])?),
        None => (mantissa, &mantissa[..0]),
    };
    let magnitude = scaled(digits(whole)?, fraction, exponent)?;
    Some(if negative { -magnitude } else { magnitude })
}

/// At least one digit, and nothing else.
fn digits(text: &[u8]) -> Option<&[u8]> {
    (!text.is_empty() && text.iter().all(u8::is_ascii_digit)).then_some(text)
}

/// An exponent with an optional sign, held within [`EXPONENT_LIMIT`].
fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let value = digits(text)?.iter().fold(0, |value: i64, b| (value * 10 + i64::from(b - b'0')).min(EXPONENT_LIMIT));
    Some(if negative { -value } else { value })
}

/// `whole.fraction * 10^(exponent + 6)`, cut off to an integer; `None` where it is over [`MAX_MICROS`].
fn scaled(whole: &[u8], fraction: &[u8], exponent: i64) -> Option<i64> {
    let mut power = i64::try_from(whole.len()).ok()? + exponent;
    let mut value: i64 = 0;
    for digit in whole.iter().chain(fraction).map(|b| i64::from(b - b'0')) {
        power -= 1;
        if power < LOWEST_POWER {
            return Some(value);
        }
        if digit != 0 && power > HIGHEST_POWER {
            return None;
        }
        value = value * 10 + digit;
    }
    // A value that is not zero had its first digit at HIGHEST_POWER or below, so this stays under 10^17.
    while value != 0 && power > LOWEST_POWER {
        value *= 10;
        power -= 1;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_exactly() {
        for (text, expected) in [
            ("0", 0),
            ("-0", 0),
            ("1714972800", 1_714_972_800_000_000),
            ("1714972800.123456", 1_714_972_800_123_456),
            ("1714972800.1234569", 1_714_972_800_123_456),
            ("-1.5", -1_500_000),
            ("+1.5", 1_500_000),
            ("-0.0000019", -1),
            ("007.25", 7_250_000),
            ("1.7149728e9", 1_714_972_800_000_000),
            ("17149728E+2", 1_714_972_800_000_000),
            ("15e-1", 1_500_000),
            ("0.1", 100_000),
            ("1e-7", 0),
            ("1e-999999999999999999999", 0),
            ("0e999999999999999999999", 0),
            ("0.000000000000000001e18", 1_000_000),
            ("99999999999.999999", MAX_MICROS),
            ("-99999999999.9999999", -MAX_MICROS),
        ] {
            assert_eq!(micros(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_not_a_time() {
        for text in [
            "",
            "-",
            "+",
            ".",
            "1.",
            ".5",
            "e5",
            "1e",
            "1e+",
            " 1",
            "1 ",
            "NaN",
            "inf",
            "Infinity",
            "0x10",
            "1_000",
            "1,5",
            "1.2.3",
            "--1",
            "1e1.5",
            "٣",
            "100000000000",
            "1e11",
            "1e999999999999999999999",
            "-100000000000",
        ] {
            assert_eq!(micros(text), None, "{text:?}");
        }
    }
}
