//! Which of a node's pod addresses are in use.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use parking_lot::Mutex;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("all addresses of the node's range {0} are in use")]
pub struct AddressesError(IpNet);

/// Gives out the addresses of a range in turn, so that one that was just freed isn't reused at once.
pub struct Addresses {
    range: IpNet,
    state: Mutex<(HashSet<IpAddr>, usize)>,
}

impl Addresses {
    /// All of `range` but its first host address, which is the gateway's.
    pub fn new(range: IpNet) -> Self {
        Addresses { range, state: Mutex::default() }
    }

    pub fn gateway(&self) -> IpAddr {
        self.range.hosts().next().unwrap_or(self.range.addr())
    }

    pub fn range(&self) -> IpNet {
        self.range
    }

    /// Marks an address that a pod had before this process started.
    pub fn reserve(&self, address: IpAddr) {
        self.state.lock().0.insert(address);
    }

    /// # Errors
    /// When none is free.
    pub fn allocate(&self) -> Result<IpAddr, AddressesError> {
        let mut state = self.state.lock();
        let hosts = self.range.hosts().count();
        for step in 0..hosts {
            let index = (state.1 + step) % hosts;
            let Some(address) = self.range.hosts().nth(index) else { continue };
            if address != self.gateway() && !state.0.contains(&address) {
                state.0.insert(address);
                state.1 = index + 1;
                return Ok(address);
            }
        }
        Err(AddressesError(self.range))
    }

    pub fn release(&self, address: IpAddr) {
        self.state.lock().0.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_in_turn_and_never_twice() {
        let addresses = Addresses::new("10.0.0.0/29".parse().unwrap());
        addresses.reserve("10.0.0.3".parse().unwrap());
        let mut got: Vec<String> = (0..4).map(|_| addresses.allocate().unwrap().to_string()).collect();
        assert_eq!(got, ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert!(addresses.allocate().is_err());
        addresses.release("10.0.0.4".parse().unwrap());
        got = vec![addresses.allocate().unwrap().to_string()];
        assert_eq!(got, ["10.0.0.4"]);
    }
}
