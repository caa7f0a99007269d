//! Sizes in bytes and durations, as people type them.

use std::time::Duration;

/// The longest duration that may be typed. It keeps deadlines within what a clock can add.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How a size is described in faults.
pub const SIZE: &str = r#"a size; write it like "64KiB", "512MiB" or "1GiB" (a plain number is bytes)"#;

/// How a duration is described in faults.
pub const DURATION: &str = r#"a duration; write it like "5s" or "250ms""#;

const SIZE_UNITS: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Parses `64KiB`, `512MiB`, `1GiB`, `100B` or a plain number of bytes. The decimal-looking `KB` and `k` are
/// refused: they mean 1000 to some and 1024 to others (in `redis.conf`, to both).
///
/// # Errors
/// What is wrong and how to write it.
pub fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let unit = if unit.is_empty() { "B" } else { unit };
    let factor = SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    match (number.parse::<usize>(), factor) {
        (Ok(number), Some(factor)) => {
            number.checked_mul(factor).ok_or_else(|| format!("{text:?} is more than can be counted"))
        }
        _ => Err(format!("{text:?} is not {SIZE}")),
    }
}

/// Parses `250ms`, `5s`, `2m` or `1h`.
///
/// # Errors
/// What is wrong and how to write it; more than 365 days is refused too.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let factor = TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let (Ok(number), Some(factor)) = (number.parse::<u64>(), factor) else {
        return Err(format!("{text:?} is not {DURATION}"));
    };
    number
        .checked_mul(factor)
        .map(Duration::from_millis)
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| format!("{text:?} is too long; at most \"8760h\" (a year)"))
}

/// The number at the start, and the rest.
fn split(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// A size as it would be typed, in the largest unit that keeps it whole.
pub fn show_bytes(bytes: usize) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map_or_else(|| bytes.to_string(), |(name, factor)| format!("{}{name}", bytes / factor))
}

/// A duration as it would be typed, in the largest unit that keeps it whole.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    TIME_UNITS
        .iter()
        .find(|(_, factor)| millis >= u128::from(*factor) && millis.is_multiple_of(u128::from(*factor)))
        .map_or_else(|| "0s".into(), |(name, factor)| format!("{}{name}", millis / u128::from(*factor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in
            [("0", 0), ("100", 100), ("7B", 7), ("64KiB", 65536), ("512MiB", 512 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "KiB", "64KB", "64k", "64kib", "1.5MiB", "-1", "+1", " 1", "1 ", "1 KiB"] {
            assert!(bytes(text).is_err_and(|e| e.contains("is not a size")), "{text}");
        }
        assert!(bytes("99999999999999GiB").is_err());
        assert!(bytes("18446744073709551616").is_err());
    }

    #[test]
    fn durations() {
        for (text, millis) in [("0s", 0), ("250ms", 250), ("5s", 5000), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "5 s", "5 sec", "5S", "s", "-5s", "1.5s", "1m30s"] {
            assert!(duration(text).is_err_and(|e| e.contains("is not a duration")), "{text}");
        }
        assert!(duration("8760h").is_ok());
        for text in ["8761h", "18446744073709551615h"] {
            assert!(duration(text).is_err_and(|e| e.contains("too long")), "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        for millis in [0, 1, 250, 1000, 1500, 60_000, 90_000, 3_600_000] {
            let value = Duration::from_millis(millis);
            assert_eq!(duration(&show_duration(value)), Ok(value));
        }
        for value in [0, 1, 1000, 1024, 1 << 20, 3 << 29, 1 << 30] {
            assert_eq!(bytes(&show_bytes(value)), Ok(value));
        }
    }
}
