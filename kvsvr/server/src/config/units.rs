//! Sizes and durations as people write them: `128MiB`, `300ms`. Printing and parsing are inverse.

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIMES: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The size in the largest unit that divides it.
pub(super) fn bytes(value: u64) -> String {
    print(value, &SIZES)
}

/// A number of bytes with or without a unit (powers of 1024 only: `MB` is refused because it means two things).
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    parse(text, &SIZES, Some(1)).ok_or_else(|| {
        format!("\"{text}\" is not a size: write bytes, or a whole number with KiB, MiB or GiB")
    })
}

/// The milliseconds in the largest unit that divides them.
pub(super) fn millis(value: u64) -> String {
    print(value, &TIMES)
}

/// Milliseconds from a whole number with a unit; 0 needs none.
pub(super) fn parse_millis(text: &str) -> Result<u64, String> {
    if text.trim() == "0" {
        return Ok(0);
    }
    parse(text, &TIMES, None)
        .ok_or_else(|| format!("\"{text}\" is not a duration: write a whole number with ms, s, m or h"))
}

fn print(value: u64, units: &[(&str, u64)]) -> String {
    let (unit, size) = units
        .iter()
        .find(|(_, size)| value != 0 && value.is_multiple_of(*size))
        .or(units.last())
        .map_or(("", 1), |(unit, size)| (*unit, *size));
    format!("{}{unit}", value / size)
}

fn parse(text: &str, units: &[(&str, u64)], without: Option<u64>) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let size = match unit.trim() {
        "" => without?,
        unit => units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples() {
        assert_eq!(parse_bytes("128MiB"), Ok(128 << 20));
        assert_eq!(parse_bytes(" 64 kib"), Ok(64 << 10));
        assert_eq!(parse_bytes("1000"), Ok(1000));
        assert_eq!(bytes(128 << 20), "128MiB");
        assert_eq!(parse_millis("300ms"), Ok(300));
        assert_eq!(millis(120_000), "2m");
        for bad in ["", "MiB", "1.5GiB", "10MB", "-1", "99999999999GiB", "1 2"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        for bad in ["", "5", "1.5s", "ms", "5 days", "-1s"] {
            assert!(parse_millis(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(value in any::<u64>(), shift in 0u32..40, ms in any::<u64>()) {
            let value = value << shift;
            prop_assert_eq!(parse_bytes(&bytes(value)), Ok(value));
            prop_assert_eq!(parse_millis(&millis(ms)), Ok(ms));
        }
    }
}
