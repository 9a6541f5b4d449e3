//! Hard eviction thresholds (`--eviction-hard`). Pure.

use std::collections::HashMap;
use std::str::FromStr;

/// What the eviction manager observes, upstream's eviction signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EvictionSignal {
    /// `memory.available`
    Memory,
    /// `nodefs.available`, `imagefs.available`
    Disk,
    /// `nodefs.inodesFree`, `imagefs.inodesFree`
    Inodes,
    /// `pid.available`
    Pids,
}

/// Upstream's names of the signals. Images and logs are on the node's own file system, so that both names mean the same.
const SIGNALS: [(&str, EvictionSignal); 6] = [
    ("memory.available", EvictionSignal::Memory),
    ("nodefs.available", EvictionSignal::Disk),
    ("imagefs.available", EvictionSignal::Disk),
    ("nodefs.inodesFree", EvictionSignal::Inodes),
    ("imagefs.inodesFree", EvictionSignal::Inodes),
    ("pid.available", EvictionSignal::Pids),
];

/// The value of a threshold, in bytes or pieces.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    Quantity(u64),
    /// A share of the capacity, from 0 to 1.
    Percentage(f64),
}

impl Value {
    fn of(self, capacity: u64) -> u64 {
        match self {
            Value::Quantity(quantity) => quantity,
            Value::Percentage(share) => (capacity as f64 * share) as u64,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Threshold {
    /// The signal's name as it was given.
    name: String,
    signal: EvictionSignal,
    value: Value,
    /// The value as it was given, for messages.
    text: String,
}

/// Hard eviction thresholds: `memory.available<100Mi,nodefs.available<5%`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thresholds(Vec<Threshold>);

/// A threshold that can't be parsed.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no eviction threshold: it must be like memory.available<100Mi or nodefs.available<5%, and name one of {names}", names = SIGNALS.map(|(name, _)| name).join(", "))]
pub struct MalformedThreshold(String);

impl FromStr for Thresholds {
    type Err = MalformedThreshold;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = |term: &str| {
            let fail = || MalformedThreshold(term.into());
            let (name, amount) = term.split_once('<').ok_or_else(fail)?;
            let (_, signal) = SIGNALS.iter().find(|(known, _)| *known == name.trim()).ok_or_else(fail)?;
            let amount = amount.trim();
            let value = match amount.strip_suffix('%') {
                Some(percent) => {
                    let percent: f64 = percent.parse().map_err(|_| fail())?;
                    let share = Some(percent / 100.0).filter(|share| (0.0..=1.0).contains(share));
                    Value::Percentage(share.ok_or_else(fail)?)
                }
                None => {
                    let quantity: apimachinery::Quantity = amount.parse().map_err(|_| fail())?;
                    Value::Quantity(u64::try_from(quantity.value()).map_err(|_| fail())?)
                }
            };
            Ok(Threshold { name: name.trim().to_string(), signal: *signal, value, text: amount.to_string() })
        };
        let terms = text.split(',').map(str::trim).filter(|term| !term.is_empty());
        terms.map(read).collect::<Result<_, _>>().map(Thresholds)
    }
}

/// The observed state of a signal, in bytes or pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// What is left.
    pub available: u64,
    /// What there is in all.
    pub capacity: u64,
}

/// A threshold that is met: less is available than it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetThreshold {
    /// The signal that met it.
    pub signal: EvictionSignal,
    /// Its value as it was given, such as `5%`.
    pub threshold: String,
    /// What is left, in bytes or pieces.
    pub available: u64,
}

impl Thresholds {
    /// How much of `capacity` eviction keeps free, which no pod can use.
    pub fn reserved(&self, signal: EvictionSignal, capacity: u64) -> u64 {
        let of_node = self.0.iter().filter(|t| t.signal == signal && !t.name.starts_with("imagefs"));
        of_node.map(|t| t.value.of(capacity)).max().unwrap_or(0)
    }

    /// The thresholds that these observations meet, in the order of the configuration.
    pub fn met(&self, observations: &HashMap<EvictionSignal, Observation>) -> Vec<MetThreshold> {
        let is_met = |threshold: &Threshold| {
            let Observation { available, capacity } = *observations.get(&threshold.signal)?;
            let met = MetThreshold { signal: threshold.signal, threshold: threshold.text.clone(), available };
            (available < threshold.value.of(capacity)).then_some(met)
        };
        self.0.iter().filter_map(is_met).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_parsed_and_met() {
        let thresholds: Thresholds = "memory.available<100Mi, nodefs.available<5%".parse().unwrap();
        let observed = |available, capacity| Observation { available, capacity };
        let met = |memory, disk| {
            let observations = HashMap::from([
                (EvictionSignal::Memory, observed(memory, 1 << 30)),
                (EvictionSignal::Disk, observed(disk, 1000)),
            ]);
            thresholds.met(&observations).into_iter().map(|met| met.signal).collect::<Vec<_>>()
        };
        assert_eq!(met(200 << 20, 50), []);
        assert_eq!(met(99 << 20, 49), [EvictionSignal::Memory, EvictionSignal::Disk]);
        assert_eq!("".parse::<Thresholds>().unwrap(), Thresholds::default());
        for bad in ["memory.available", "memory.available<x", "cpu<1", "nodefs.available<101%", "memory.available<-1"] {
            assert!(bad.parse::<Thresholds>().is_err(), "{bad}");
        }
    }
}
