//! The client's time, in seconds as a REAL, and exact.
//!
//! A double holds each microsecond apart up to 2^32 seconds (the year 2106). Beyond, where it is not the very one, the
//! column `time_us` has the microseconds; it is NULL else. So `time` sorts and compares as a number over its whole
//! range, and nothing of what was sent is lost.

use crate::report::time::MAX_MICROS;

/// What the range of `time` ends before, in seconds, either way.
const BEYOND: f64 = 1e11;

/// The column `time` of a report's time.
pub(in crate::sink) fn seconds(micros: i64) -> f64 {
    let seconds = micros as f64 / 1e6;
    if micros.abs() <= MAX_MICROS && seconds.abs() >= BEYOND {
        // The nearest double is out of the range that the time is in.
        return BEYOND.next_down().copysign(seconds);
    }
    seconds
}

/// The column `time_us`: what `time` does not say.
pub(in crate::sink) fn rest(micros: i64) -> Option<i64> {
    (read(seconds(micros)) != micros).then_some(micros)
}

/// The time that both columns say. Where they differ somebody changed `time`.
pub(in crate::sink) fn micros(seconds: f64, rest: Option<i64>) -> i64 {
    rest.filter(|rest| self::seconds(*rest) == seconds).unwrap_or_else(|| read(seconds))
}

/// As `DECIMAL(17,6)` shows it.
pub(in crate::sink) fn text(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let (whole, fraction) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    format!("{sign}{whole}.{fraction:06}")
}

fn read(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every power of two and its neighbours, and steps through the range that meet no pattern.
    fn all() -> impl Iterator<Item = i64> {
        let powers = (0..57).flat_map(|power| (-3..=3).map(move |by| (1_i64 << power) + by));
        let steps = (0..200_000_i64).map(|n| n.wrapping_mul(499_999_999_979) % MAX_MICROS);
        let ends =
            [0, MAX_MICROS, MAX_MICROS - 1, MAX_MICROS - 8, (1 << 33) * 1_000_000 - 1, (1 << 33) * 1_000_000 + 1];
        powers.chain(steps).chain(ends).filter(|micros| *micros <= MAX_MICROS).flat_map(|micros| [micros, -micros])
    }

    #[test]
    fn a_time_is_exact_over_its_whole_range_and_sorts_as_a_number() {
        for time in all() {
            let (column, rest) = (seconds(time), rest(time));
            assert!(column.abs() < BEYOND, "{time}");
            assert_eq!(micros(column, rest), time);
            assert!(rest.is_none() || time.abs() > (1 << 32) * 1_000_000, "{time}");
        }
        let mut sorted: Vec<i64> = all().collect();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| seconds(pair[0]) <= seconds(pair[1])));
    }

    #[test]
    fn what_is_out_of_range_stays_so_and_a_time_that_was_changed_is_the_changed_one() {
        assert!(seconds(i64::MAX).abs() >= BEYOND && seconds(MAX_MICROS + 1) >= BEYOND);
        assert_eq!(micros(5.0, Some(MAX_MICROS)), 5_000_000);
        assert_eq!((text(-1_500_000), text(MAX_MICROS)), ("-1.500000".to_owned(), "99999999999.999999".to_owned()));
    }
}
