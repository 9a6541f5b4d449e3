//! What one client may have of the server at a time, so that the rest is there for others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Places that clients take and give back.
#[derive(Debug)]
pub struct Places {
    /// For one client.
    each: usize,
    /// For all together.
    all: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    by_client: HashMap<IpAddr, usize>,
    all: usize,
}

/// A place that is given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    of: Arc<Places>,
    client: IpAddr,
}

impl Places {
    pub fn new(each: usize, all: usize) -> Arc<Self> {
        Arc::new(Places { each, all, taken: Mutex::default() })
    }

    /// A place for a client, if there is one.
    pub fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock();
        let own = taken.by_client.get(&client).copied().unwrap_or(0);
        if own >= self.each || taken.all >= self.all {
            return None;
        }
        taken.by_client.insert(client, own.saturating_add(1));
        taken.all = taken.all.saturating_add(1);
        Some(Place { of: self.clone(), client })
    }
}

impl Drop for Place {
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
        let places = Places::new(2, 3);
        let (greedy, other): (IpAddr, IpAddr) = ("10.42.0.2".parse().unwrap(), "10.42.0.3".parse().unwrap());
        let mut held: Vec<_> = (0..2).map(|_| places.take(greedy).unwrap()).collect();
        assert!(places.take(greedy).is_none());
        let another = places.take(other).unwrap();
        assert!(places.take(other).is_none(), "all are taken");
        held.pop();
        assert!(places.take(greedy).is_some());
        drop((held, another));
        let taken = places.taken.lock();
        assert_eq!((taken.all, taken.by_client.len()), (0, 0));
    }
}
