//! Parses and formats sizes in bytes and durations, as users write them.

use std::time::Duration;

/// The longest duration that a user may write. A clock can still add it to the present time.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The description of a size in error texts.
pub const SIZE: &str = r#"a size; write it like "64KiB", "512MiB" or "1GiB" (a plain number is bytes)"#;

/// The description of a duration in error texts.
pub const DURATION: &str = r#"a duration; write it like "5s" or "250ms""#;

const SIZE_UNITS: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Parses `64KiB`, `512MiB`, `1GiB`, `100B` or a plain number of bytes. It refuses `KB` and `k`,
/// because they mean 1000 to some users and 1024 to others (in `redis.conf`, to both).
///
/// # Errors
/// Returns what is wrong and how to write it.
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
/// Returns what is wrong and how to write it. A duration of more than 365 days is an error too.
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

/// Splits a text into the number at its start and the rest.
fn split(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// Formats a size as a user would write it, in the largest unit that keeps it whole.
pub fn show_bytes(bytes: usize) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map_or_else(|| bytes.to_string(), |(name, factor)| format!("{}{name}", bytes / factor))
}

/// Formats a duration as a user would write it, in the largest unit that keeps it whole.
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
    fn formatted_values_can_be_parsed() {
        for millis in [0, 1, 250, 1000, 1500, 60_000, 90_000, 3_600_000] {
            let value = Duration::from_millis(millis);
            assert_eq!(duration(&show_duration(value)), Ok(value));
        }
        for value in [0, 1, 1000, 1024, 1 << 20, 3 << 29, 1 << 30] {
            assert_eq!(bytes(&show_bytes(value)), Ok(value));
        }
    }
}
