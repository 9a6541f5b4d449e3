//! Durations as Go writes them: `1h30m`, `1.5s`, `300ms`.

/// The nanoseconds of a duration; `None` if it is none, or doesn't fit in 64 bits.
///
/// Source: Go's `time.ParseDuration`, which upstream reads all its durations with.
pub fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() || rest == "0" {
        return (rest == "0").then_some(0);
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (unit, after) = UNITS.iter().find_map(|(name, unit)| Some((*unit, after.strip_prefix(name)?)))?;
        total = total.checked_add(nanoseconds(number, unit)?)?;
        rest = after;
    }
    let total = if negative { total.checked_neg()? } else { total };
    i64::try_from(total).ok()
}

/// Longer names first, where one begins like another.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

fn nanoseconds(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 18 || fraction.contains('.') {
        return None;
    }
    let fraction = &fraction[..fraction.len().min(18)];
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let divisor = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    whole.checked_mul(unit)?.checked_add(part.checked_mul(unit)?.checked_div(divisor)?)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("-300ms", Some(-300_000_000)),
            (".5m", Some(30_000_000_000)),
            ("2µs", Some(2_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse(text), wanted, "{text:?}");
        }
    }
}
