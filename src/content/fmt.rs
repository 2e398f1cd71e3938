//! Formats counts and sizes for log lines, tables and messages.
//!
//! Pure. Invariant: a noun is in the singular if and only if its count is 1.

use bytesize::ByteSize;
use std::time::Duration;

/// A count with its noun, given in the singular: `1 chunk`, `2,048 chunks`, `3 copies`.
pub fn counted(count: u64, noun: &str) -> String {
    let number = grouped(count);
    match noun.strip_suffix('y') {
        _ if count == 1 => format!("{number} {noun}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {noun}s"),
    }
}

/// A number with commas between groups of three digits: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in bytes, in the largest binary unit that fits: `1.0 GiB`.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A duration in whole seconds, in the largest unit of which it has at least two: `90 s`, `14 h`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A measured time: in milliseconds below a second, then with tenths of a second, from two minutes on as
/// [`duration`].
pub fn elapsed(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis().max(1)),
        1..120 => format!("{:.1} s", time.as_secs_f64()),
        seconds => duration(seconds),
    }
}

/// Seconds of a duration, rounded to tenths.
pub fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_largest_fitting_unit() {
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7_199, "119 min"),
            (50_400, "14 h"),
            (172_800, "2 d"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn measured_times_are_never_zero() {
        let text = |microseconds| elapsed(Duration::from_micros(microseconds));
        assert_eq!([0, 12_900, 999_999].map(text), ["1 ms", "12 ms", "999 ms"]);
        assert_eq!([1_000_000, 119_000_000, 120_000_000].map(text), ["1.0 s", "119.0 s", "2 min"]);
    }

    #[test]
    fn counts_have_commas_and_the_right_number() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (count, noun, text) in [
            (0, "chunk", "0 chunks"),
            (1, "chunk", "1 chunk"),
            (1, "copy", "1 copy"),
            (2_048, "copy", "2,048 copies"),
        ] {
            assert_eq!(counted(count, noun), text);
        }
        assert_eq!(size(3 << 20), "3.0 MiB");
    }

    #[test]
    fn seconds_have_one_digit_of_a_fraction() {
        let text = |milliseconds| super::seconds(Duration::from_millis(milliseconds)).to_string();
        assert_eq!([59_999, 500, 1_260].map(text), ["60", "0.5", "1.3"]);
    }
}
