//! Sets of numbers as Jobs write their indexes: `0-2,5`.

use std::collections::BTreeSet;

/// The most numbers that a text may stand for: upstream's limit of a Job's completions.
const MAX_INDEXES: usize = 100_000;

/// Writes a set as ranges, in order.
pub fn write(numbers: &BTreeSet<i32>) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    // Two are listed; from three on they are a range (batch/v1, `completedIndexes`).
    let text = |(a, b): &(i32, i32)| match i64::from(*b).saturating_sub((*a).into()) {
        0 => a.to_string(),
        1 => format!("{a},{b}"),
        _ => format!("{a}-{b}"),
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Reads ranges; `None` if they are malformed, out of order, or stand for too many numbers.
pub fn read(text: &str) -> Option<BTreeSet<i32>> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (i32, i32) = (first.parse().ok()?, last.parse().ok()?);
        let in_order = first <= last && set.last().is_none_or(|before| *before < first);
        let count = usize::try_from(i64::from(last).saturating_sub(first.into())).ok()?;
        if !in_order || set.len().saturating_add(count) > MAX_INDEXES {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_as_ranges() {
        let set: BTreeSet<i32> = [0, 1, 2, 5, 7, 8].into();
        assert_eq!(write(&set), "0-2,5,7,8");
        assert_eq!(read("0-2,5,7,8"), Some(set));
        assert_eq!(read(""), Some(BTreeSet::new()));
        for bad in ["a", "3-1", "5,4", "1,,2", "0-2147483647", ",", "1-2-3"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
