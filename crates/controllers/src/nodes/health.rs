//! Which nodes renew their leases, and from how many at a time pods may be evicted (upstream's `node_lifecycle_controller`, with its defaults).
//! Pure but for what it remembers.
//!
//! Clocks of nodes aren't trusted: what counts is when this process saw a lease renewed. So a control plane that was away itself gives all
//! nodes their grace period again before it calls any of them lost. And where most nodes of a zone are unready, the network is more likely
//! broken than they are.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// A node whose lease wasn't renewed for so long counts as lost (`--node-monitor-grace-period`).
pub const NODE_MONITOR_GRACE_PERIOD: SignedDuration = SignedDuration::from_secs(40);
/// Between two nodes of a zone whose pods are evicted (`--node-eviction-rate`, 0.1 a second).
const EVICTION_PERIOD: SignedDuration = SignedDuration::from_secs(10);
/// The same where most of a large zone is unready (`--secondary-node-eviction-rate`, 0.01 a second); where most of a small one is, no pod is evicted.
const SECONDARY_EVICTION_PERIOD: SignedDuration = SignedDuration::from_secs(100);
/// A zone is large with more nodes than this (`--large-cluster-size-threshold`).
const LARGE_ZONE_NODES: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ZoneState {
    Normal,
    /// Most nodes, but not all, are unready.
    PartialDisruption,
    FullDisruption,
}

#[derive(Debug, Default)]
struct Zone {
    ready: usize,
    unready: usize,
    /// When the pods of a node were evicted last.
    last_eviction: Option<Timestamp>,
}

impl Zone {
    fn state(&self) -> ZoneState {
        match (self.ready, self.unready) {
            (0, unready) if unready > 0 => ZoneState::FullDisruption,
            (ready, unready) if unready > 2 && unready * 100 >= (ready + unready) * 55 => ZoneState::PartialDisruption,
            _ => ZoneState::Normal,
        }
    }

    fn eviction_period(&self) -> Option<SignedDuration> {
        match self.state() {
            ZoneState::PartialDisruption if self.ready + self.unready > LARGE_ZONE_NODES => {
                Some(SECONDARY_EVICTION_PERIOD)
            }
            ZoneState::PartialDisruption => None,
            ZoneState::Normal | ZoneState::FullDisruption => Some(EVICTION_PERIOD),
        }
    }
}

#[derive(Debug)]
struct ObservedLease {
    /// What it said.
    renewed: Option<Timestamp>,
    /// When this was seen here.
    at: Timestamp,
}

/// Whether the pods of a node may be evicted.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Yes,
    /// When to ask again.
    Later(SignedDuration),
    /// Not as things are; a change of the zones says when to ask again.
    No,
}

#[derive(Debug, Default)]
pub struct Health {
    /// By node.
    leases: HashMap<String, ObservedLease>,
    /// The zone of each node, and whether it is ready.
    nodes: HashMap<String, (String, bool)>,
    zones: BTreeMap<String, Zone>,
    /// All nodes of all zones are unready.
    fully_disrupted: bool,
}

impl Health {
    /// Takes note of a lease.
    pub fn observe_lease(&mut self, node: &str, renewed: Option<Timestamp>, now: Timestamp) {
        match self.leases.get_mut(node) {
            Some(observed) if observed.renewed == renewed => {}
            Some(observed) => *observed = ObservedLease { renewed, at: now },
            None => {
                self.leases.insert(node.into(), ObservedLease { renewed, at: now });
            }
        }
    }

    /// How long ago a renewal of a node's lease was seen; of a node without a lease it is taken to be now.
    pub fn since_renewal(&mut self, node: &str, now: Timestamp) -> SignedDuration {
        let observed = self.leases.entry(node.into()).or_insert(ObservedLease { renewed: None, at: now });
        now.duration_since(observed.at)
    }

    /// Adds or updates a node. Returns whether that changes from which others pods may be evicted.
    pub fn put(&mut self, node: &str, zone: &str, ready: bool, now: Timestamp) -> bool {
        if self.nodes.get(node).is_some_and(|(z, r)| z == zone && *r == ready) {
            return false;
        }
        let before = self.states();
        self.count(node, -1);
        self.nodes.insert(node.into(), (zone.into(), ready));
        self.count(node, 1);
        self.settle(&before, now)
    }

    /// Removes a node; returns the same.
    pub fn remove(&mut self, node: &str, now: Timestamp) -> bool {
        let before = self.states();
        self.count(node, -1);
        self.nodes.remove(node);
        self.leases.remove(node);
        self.settle(&before, now)
    }

    fn count(&mut self, node: &str, by: isize) {
        let Some((zone, ready)) = self.nodes.get(node) else { return };
        let of = self.zones.entry(zone.clone()).or_default();
        let number = if *ready { &mut of.ready } else { &mut of.unready };
        *number = number.saturating_add_signed(by);
    }

    fn states(&self) -> Vec<ZoneState> {
        self.zones.values().map(Zone::state).collect()
    }

    fn settle(&mut self, before: &[ZoneState], now: Timestamp) -> bool {
        self.zones.retain(|_, zone| zone.ready + zone.unready > 0);
        let after = self.states();
        let fully_disrupted = !after.is_empty() && after.iter().all(|s| *s == ZoneState::FullDisruption);
        if self.fully_disrupted && !fully_disrupted {
            // A node is ready again: the others get the grace period to follow.
            self.leases.values_mut().for_each(|observed| observed.at = now);
        }
        self.fully_disrupted = fully_disrupted;
        after != before
    }

    /// Whether all nodes are unready, so that no pod is evicted.
    pub fn is_fully_disrupted(&self) -> bool {
        self.fully_disrupted
    }

    /// Whether the pods of a node may be evicted now; a yes counts against the rate of its zone.
    pub fn may_evict(&mut self, node: &str, now: Timestamp) -> Verdict {
        if self.fully_disrupted {
            return Verdict::No;
        }
        let Some(zone) = self.nodes.get(node).and_then(|(zone, _)| self.zones.get_mut(zone)) else {
            return Verdict::No;
        };
        let Some(period) = zone.eviction_period() else { return Verdict::No };
        match zone.last_eviction.map(|last| period - now.duration_since(last)) {
            Some(left) if left > SignedDuration::ZERO => Verdict::Later(left),
            _ => {
                zone.last_eviction = Some(now);
                Verdict::Yes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// `ready` and `unready` nodes of a zone.
    fn fill(health: &mut Health, zone: &str, ready: usize, unready: usize) {
        for i in 0..ready + unready {
            health.put(&format!("{zone}{i}"), zone, i >= unready, at(0));
        }
    }

    #[test]
    fn what_counts_is_when_a_renewal_was_seen() {
        let mut health = Health::default();
        health.observe_lease("a", Some(at(1)), at(1000));
        assert_eq!(health.since_renewal("a", at(1010)).as_secs(), 10);
        health.observe_lease("a", Some(at(1)), at(1020));
        assert_eq!(health.since_renewal("a", at(1030)).as_secs(), 30);
        health.observe_lease("a", Some(at(2)), at(1035));
        assert_eq!(health.since_renewal("a", at(1036)).as_secs(), 1);
        assert_eq!(health.since_renewal("never", at(5)).as_secs(), 0);
    }

    #[test]
    fn pods_are_evicted_from_one_node_after_the_other() {
        let mut health = Health::default();
        fill(&mut health, "a", 5, 2);
        assert_eq!(health.may_evict("a0", at(0)), Verdict::Yes);
        assert_eq!(health.may_evict("a1", at(3)), Verdict::Later(SignedDuration::from_secs(7)));
        assert_eq!(health.may_evict("a1", at(10)), Verdict::Yes);
    }

    #[test]
    fn where_most_nodes_are_unready_few_or_no_pods_are_evicted() {
        let mut small = Health::default();
        fill(&mut small, "a", 2, 3);
        assert_eq!(small.may_evict("a0", at(0)), Verdict::No);
        let mut large = Health::default();
        fill(&mut large, "a", 20, 40);
        assert_eq!(large.may_evict("a0", at(0)), Verdict::Yes);
        assert_eq!(large.may_evict("a1", at(1)), Verdict::Later(SignedDuration::from_secs(99)));
        // A zone that is gone as a whole, while others are well, is.
        let mut zones = Health::default();
        fill(&mut zones, "a", 0, 3);
        fill(&mut zones, "b", 3, 0);
        assert_eq!(zones.may_evict("a0", at(0)), Verdict::Yes);
    }

    #[test]
    fn no_pod_is_evicted_when_all_nodes_are_unready_and_they_get_their_grace_period_again() {
        let mut health = Health::default();
        fill(&mut health, "a", 0, 2);
        health.observe_lease("a0", Some(at(0)), at(0));
        assert!(health.is_fully_disrupted());
        assert_eq!(health.may_evict("a0", at(100)), Verdict::No);
        assert!(health.put("a1", "a", true, at(200)));
        assert_eq!(health.since_renewal("a0", at(205)).as_secs(), 5);
        assert_eq!(health.may_evict("a0", at(250)), Verdict::Yes);
    }
}
