//! How much memory a part of a role may use.

use std::str::FromStr;

use apimachinery::Quantity;

use crate::part::Part;

/// An amount of memory, or a share of the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// Zero stands for any amount.
    Bytes(u64),
    Percent(u64),
}

/// No share of a small machine is less than this, in bytes.
const MIN_LIMIT_BYTES: u64 = 512 << 20;

/// A text that is no limit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} must be an amount of memory, as 2Gi, or a share of the machine's, as 50%")]
pub struct MalformedLimit(String);

impl FromStr for MemoryLimit {
    type Err = MalformedLimit;

    fn from_str(text: &str) -> Result<Self, MalformedLimit> {
        let malformed = || MalformedLimit(text.into());
        if let Some(percent) = text.strip_suffix('%') {
            let percent: u64 = percent.parse().map_err(|_| malformed())?;
            return if (1..=100).contains(&percent) { Ok(MemoryLimit::Percent(percent)) } else { Err(malformed()) };
        }
        let bytes = text.parse::<Quantity>().map_err(|_| malformed())?;
        u64::try_from(bytes.value()).map(MemoryLimit::Bytes).map_err(|_| malformed())
    }
}

impl MemoryLimit {
    /// The limit in bytes on this machine, none for any amount.
    pub fn bytes(self, part: Part) -> Option<u64> {
        match self {
            MemoryLimit::Bytes(0) => None,
            MemoryLimit::Bytes(bytes) => Some(bytes),
            MemoryLimit::Percent(percent) => {
                let Some(total) = machine_memory() else {
                    tracing::debug!("failed to read the machine's memory: the {} has no memory limit", part.name());
                    return None;
                };
                Some((total / 100).saturating_mul(percent).max(MIN_LIMIT_BYTES))
            }
        }
    }
}

/// Bytes of this machine's memory (proc_meminfo(5)).
fn machine_memory() -> Option<u64> {
    let text = bounded::text("/proc/meminfo", bounded::MAX_KERNEL_FILE_BYTES).ok()?;
    let kilobytes = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
    kilobytes.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_amounts_or_shares() {
        assert_eq!("1Gi".parse(), Ok(MemoryLimit::Bytes(1 << 30)));
        assert_eq!("0".parse(), Ok(MemoryLimit::Bytes(0)));
        assert_eq!("75%".parse(), Ok(MemoryLimit::Percent(75)));
        for malformed in ["", "0%", "101%", "-1", "much"] {
            assert!(malformed.parse::<MemoryLimit>().is_err(), "{malformed}");
        }
        assert_eq!(MemoryLimit::Bytes(0).bytes(Part::Node), None);
        assert!(MemoryLimit::Percent(1).bytes(Part::Node) >= Some(MIN_LIMIT_BYTES));
    }
}
