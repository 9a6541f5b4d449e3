//! Which of the machine's users stand for those of pods that have their own (KEP-127): a range for each pod.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use parking_lot::Mutex;
use runtime::users::LENGTH;

/// The ranges of pods, by uid. The machine's own users are in the first range, which no pod gets.
#[derive(Default)]
pub struct Ranges(Mutex<BTreeMap<String, u32>>);

impl Ranges {
    /// With what pods had before this process started.
    pub fn restored(known: impl Iterator<Item = (String, u32)>) -> Self {
        Ranges(Mutex::new(known.collect()))
    }

    /// The first user of a pod's range, the same for the same pod.
    ///
    /// # Errors
    /// When there is no range left.
    pub fn allocate(&self, uid: &str) -> io::Result<u32> {
        let mut ranges = self.0.lock();
        if let Some(first) = ranges.get(uid) {
            return Ok(*first);
        }
        let taken: BTreeSet<u32> = ranges.values().copied().collect();
        let free = (1..u32::MAX / LENGTH).map(|n| n * LENGTH).find(|first| !taken.contains(first));
        let first = free.ok_or_else(|| io::Error::other("no users are left for the pod (hostUsers: false)"))?;
        ranges.insert(uid.into(), first);
        Ok(first)
    }

    /// The pod is gone, and its range is free.
    pub fn release(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_has_its_own_range() {
        let ranges = Ranges::restored([("a".to_string(), LENGTH)].into_iter());
        assert_eq!(ranges.allocate("a").unwrap(), LENGTH);
        assert_eq!(ranges.allocate("b").unwrap(), 2 * LENGTH);
        assert_eq!(ranges.allocate("c").unwrap(), 3 * LENGTH);
        ranges.release("b");
        assert_eq!(ranges.allocate("d").unwrap(), 2 * LENGTH);
        let all = Ranges::restored((1..u32::MAX / LENGTH).map(|n| (n.to_string(), n * LENGTH)));
        assert!(all.allocate("another").is_err());
    }
}
