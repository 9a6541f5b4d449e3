//! Limits of concurrent work, per client and in total.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// A semaphore with a limit per client.
#[derive(Debug)]
pub struct ConcurrencyLimiter {
    /// Limit per client.
    each: usize,
    /// Limit in total.
    all: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    by_client: HashMap<IpAddr, usize>,
    all: usize,
}

/// A permit of a client, which is released when it is dropped.
#[derive(Debug)]
pub struct Permit {
    of: Arc<ConcurrencyLimiter>,
    client: IpAddr,
}

impl ConcurrencyLimiter {
    /// With limits per client and in total.
    pub fn new(each: usize, all: usize) -> Arc<Self> {
        Arc::new(ConcurrencyLimiter { each, all, taken: Mutex::default() })
    }

    /// Acquires a permit for a client, if the limits allow it.
    pub fn try_acquire(self: &Arc<Self>, client: IpAddr) -> Option<Permit> {
        let mut taken = self.taken.lock();
        let own = taken.by_client.get(&client).copied().unwrap_or(0);
        if own >= self.each || taken.all >= self.all {
            return None;
        }
        taken.by_client.insert(client, own.saturating_add(1));
        taken.all = taken.all.saturating_add(1);
        Some(Permit { of: self.clone(), client })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by_client.get_mut(&self.client) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_room_for_others() {
        let places = ConcurrencyLimiter::new(2, 3);
        let (greedy, other): (IpAddr, IpAddr) = ("10.42.0.2".parse().unwrap(), "10.42.0.3".parse().unwrap());
        let mut held: Vec<_> = (0..2).map(|_| places.try_acquire(greedy).unwrap()).collect();
        assert!(places.try_acquire(greedy).is_none());
        let another = places.try_acquire(other).unwrap();
        assert!(places.try_acquire(other).is_none(), "all are taken");
        held.pop();
        assert!(places.try_acquire(greedy).is_some());
        drop((held, another));
        let taken = places.taken.lock();
        assert_eq!((taken.all, taken.by_client.len()), (0, 0));
    }
}
