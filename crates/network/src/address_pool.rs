//! Allocation of pod addresses from a node's pod CIDRs (IPAM).

use std::collections::HashSet;
use std::net::IpAddr;

use apimachinery::addresses::nth;
use ipnet::IpNet;
use parking_lot::Mutex;

/// A pod CIDR has no free address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("all addresses of the node's range {0} are in use")]
pub struct AddressPoolError(IpNet);

/// Allocates addresses of the node's pod CIDRs in turn, so that a released one isn't reused at once.
pub struct AddressPool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ranges: Vec<IpNet>,
    taken: HashSet<IpAddr>,
    /// Where the search continues, for each range.
    next: Vec<u32>,
}

/// Limit of addresses per range that are used: IPv6 ranges are huge.
const MAX_ADDRESSES: u32 = 1 << 16;

/// The number of addresses of a range that pods can have, and a function from an index to the address. The first address is the gateway's,
/// and the last one of an IPv4 range is the broadcast address.
fn members(range: IpNet) -> (u32, impl Fn(u32) -> IpAddr) {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let all = 1u64 << bits.min(MAX_ADDRESSES.ilog2());
    let last = if range.addr().is_ipv4() { 1 } else { 0 };
    let count = u32::try_from(all.saturating_sub(2 + last)).unwrap_or(MAX_ADDRESSES);
    (count, move |place| nth(range, 2 + place))
}

impl AddressPool {
    /// A pool of all addresses of `ranges` but the gateways'.
    pub fn new(ranges: &[IpNet]) -> Self {
        let state = State { ranges: ranges.to_vec(), next: vec![0; ranges.len()], taken: HashSet::new() };
        AddressPool { state: Mutex::new(state) }
    }

    /// Sets the ranges of new addresses. Returns whether they changed.
    pub fn set_ranges(&self, ranges: &[IpNet]) -> bool {
        let mut state = self.state.lock();
        if state.ranges == ranges {
            return false;
        }
        state.ranges = ranges.to_vec();
        state.next = vec![0; ranges.len()];
        true
    }

    /// Whether all of a pod's addresses are in the node's ranges.
    pub fn contains_all(&self, addresses: &[IpAddr]) -> bool {
        let state = self.state.lock();
        addresses.iter().all(|address| state.ranges.iter().any(|range| range.contains(address)))
    }

    /// Marks an address as used, when state is restored at start.
    pub fn reserve(&self, address: IpAddr) {
        self.state.lock().taken.insert(address);
    }

    /// Allocates one address of each range.
    ///
    /// # Errors
    /// When a range has no free address.
    pub fn allocate(&self) -> Result<Vec<IpAddr>, AddressPoolError> {
        let mut state = self.state.lock();
        let State { taken, next, ranges } = &mut *state;
        let mut found = Vec::new();
        for (range, next) in ranges.iter().zip(next) {
            let (count, at) = members(*range);
            let place = (0..count).map(|step| (*next + step) % count).find(|place| !taken.contains(&at(*place)));
            let place = place.ok_or(AddressPoolError(*range))?;
            found.push(at(place));
            *next = place + 1;
        }
        taken.extend(&found);
        Ok(found)
    }

    /// Frees addresses.
    pub fn release(&self, addresses: &[IpAddr]) {
        let mut state = self.state.lock();
        addresses.iter().for_each(|address| _ = state.taken.remove(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::gateway;

    fn texts(addresses: Vec<IpAddr>) -> String {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn addresses_are_given_in_turn_and_never_twice() {
        let range: IpNet = "10.0.0.0/29".parse().unwrap();
        assert_eq!(gateway(range).to_string(), "10.0.0.1");
        let addresses = AddressPool::new(&[range]);
        addresses.reserve("10.0.0.3".parse().unwrap());
        let got: Vec<String> = (0..4).map(|_| texts(addresses.allocate().unwrap())).collect();
        assert_eq!(got, ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert!(addresses.allocate().is_err());
        addresses.release(&["10.0.0.4".parse().unwrap()]);
        assert_eq!(texts(addresses.allocate().unwrap()), "10.0.0.4");
    }

    #[test]
    fn a_new_range_is_used_at_once_and_what_is_of_the_old_one_is_known() {
        let range = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        let addresses = AddressPool::new(&range("10.42.1.0/24"));
        let old = addresses.allocate().unwrap();
        assert!(!addresses.set_ranges(&range("10.42.1.0/24")));
        assert!(addresses.contains_all(&old));
        assert!(addresses.set_ranges(&range("10.42.3.0/24")));
        assert!(!addresses.contains_all(&old));
        let new = addresses.allocate().unwrap();
        assert_eq!(texts(new.clone()), "10.42.3.2");
        assert!(addresses.contains_all(&new));
        // Back again: what is still held isn't given a second time.
        addresses.set_ranges(&range("10.42.1.0/24"));
        assert_eq!(texts(addresses.allocate().unwrap()), "10.42.1.3");
    }

    #[test]
    fn one_of_each_range_or_none() {
        let addresses = AddressPool::new(&["10.0.0.0/30".parse().unwrap(), "fd42::/64".parse().unwrap()]);
        assert_eq!(texts(addresses.allocate().unwrap()), "10.0.0.2 fd42::2");
        assert!(addresses.allocate().is_err());
        addresses.release(&["10.0.0.2".parse().unwrap()]);
        assert_eq!(texts(addresses.allocate().unwrap()), "10.0.0.2 fd42::3");
    }
}
