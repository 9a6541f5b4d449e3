//! Which nodes are heard of, and how many may be given up at a time. Pure but for what it remembers.
//!
//! Clocks of nodes aren't trusted: what counts is when this process saw a lease renewed. So a control plane that was away
//! itself gives all nodes their time again before it calls any of them lost. And where most nodes of a zone are silent, it
//! is more likely the network that is broken than they (upstream's `node_lifecycle_controller`, with its numbers).

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// A node that wasn't heard of for so long counts as lost.
pub const GRACE: SignedDuration = SignedDuration::from_secs(40);
/// Between two nodes of a zone that are given up.
const EVERY: SignedDuration = SignedDuration::from_secs(10);
/// The same where most of a large zone is silent; where most of a small one is, none is given up.
const EVERY_WHERE_MOST_ARE_SILENT: SignedDuration = SignedDuration::from_secs(100);
const LARGE_CLUSTER_NODES: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Normal,
    /// Most nodes, but not all, are silent.
    Partial,
    Full,
}

#[derive(Debug, Default)]
struct Zone {
    ready: usize,
    unready: usize,
    /// When the last node was given up.
    last: Option<Timestamp>,
}

impl Zone {
    fn state(&self) -> State {
        match (self.ready, self.unready) {
            (0, unready) if unready > 0 => State::Full,
            (ready, unready) if unready > 2 && unready * 100 >= (ready + unready) * 55 => State::Partial,
            _ => State::Normal,
        }
    }

    fn every(&self) -> Option<SignedDuration> {
        match self.state() {
            State::Partial if self.ready + self.unready > LARGE_CLUSTER_NODES => Some(EVERY_WHERE_MOST_ARE_SILENT),
            State::Partial => None,
            State::Normal | State::Full => Some(EVERY),
        }
    }
}

#[derive(Debug)]
struct Heard {
    /// What its lease said.
    renewed: Option<Timestamp>,
    /// When this was seen here.
    at: Timestamp,
}

/// Whether a node may be given up: its pods sent elsewhere.
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
    heard: HashMap<String, Heard>,
    nodes: HashMap<String, (String, bool)>,
    zones: BTreeMap<String, Zone>,
    /// All nodes everywhere are silent.
    halted: bool,
}

impl Health {
    /// A lease was seen.
    pub fn hear(&mut self, node: &str, renewed: Option<Timestamp>, now: Timestamp) {
        match self.heard.get_mut(node) {
            Some(heard) if heard.renewed == renewed => {}
            Some(heard) => *heard = Heard { renewed, at: now },
            None => {
                self.heard.insert(node.into(), Heard { renewed, at: now });
            }
        }
    }

    /// How long a node has been silent; one that was never heard of is from now on.
    pub fn silence(&mut self, node: &str, now: Timestamp) -> SignedDuration {
        let heard = self.heard.entry(node.into()).or_insert(Heard { renewed: None, at: now });
        now.duration_since(heard.at)
    }

    /// A node is there, or has changed. Returns whether that changes what may be done with others.
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

    pub fn remove(&mut self, node: &str, now: Timestamp) -> bool {
        let before = self.states();
        self.count(node, -1);
        self.nodes.remove(node);
        self.heard.remove(node);
        self.settle(&before, now)
    }

    fn count(&mut self, node: &str, by: isize) {
        let Some((zone, ready)) = self.nodes.get(node) else { return };
        let of = self.zones.entry(zone.clone()).or_default();
        let number = if *ready { &mut of.ready } else { &mut of.unready };
        *number = number.saturating_add_signed(by);
    }

    fn states(&self) -> Vec<State> {
        self.zones.values().map(Zone::state).collect()
    }

    fn settle(&mut self, before: &[State], now: Timestamp) -> bool {
        self.zones.retain(|_, zone| zone.ready + zone.unready > 0);
        let after = self.states();
        let halted = !after.is_empty() && after.iter().all(|s| *s == State::Full);
        if self.halted && !halted {
            // A node is back: the others get the time to come back, too.
            self.heard.values_mut().for_each(|heard| heard.at = now);
        }
        self.halted = halted;
        after != before
    }

    /// Whether all nodes are silent, so that none is given up.
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// Whether a node may be given up now; a yes counts.
    pub fn give_up(&mut self, node: &str, now: Timestamp) -> Verdict {
        if self.halted {
            return Verdict::No;
        }
        let Some(zone) = self.nodes.get(node).and_then(|(zone, _)| self.zones.get_mut(zone)) else {
            return Verdict::No;
        };
        let Some(every) = zone.every() else { return Verdict::No };
        match zone.last.map(|last| every - now.duration_since(last)) {
            Some(left) if left > SignedDuration::ZERO => Verdict::Later(left),
            _ => {
                zone.last = Some(now);
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
        health.hear("a", Some(at(1)), at(1000));
        assert_eq!(health.silence("a", at(1010)).as_secs(), 10);
        health.hear("a", Some(at(1)), at(1020));
        assert_eq!(health.silence("a", at(1030)).as_secs(), 30);
        health.hear("a", Some(at(2)), at(1035));
        assert_eq!(health.silence("a", at(1036)).as_secs(), 1);
        assert_eq!(health.silence("never", at(5)).as_secs(), 0);
    }

    #[test]
    fn nodes_are_given_up_one_after_the_other() {
        let mut health = Health::default();
        fill(&mut health, "a", 5, 2);
        assert_eq!(health.give_up("a0", at(0)), Verdict::Yes);
        assert_eq!(health.give_up("a1", at(3)), Verdict::Later(SignedDuration::from_secs(7)));
        assert_eq!(health.give_up("a1", at(10)), Verdict::Yes);
    }

    #[test]
    fn where_most_are_silent_few_or_none_are_given_up() {
        let mut small = Health::default();
        fill(&mut small, "a", 2, 3);
        assert_eq!(small.give_up("a0", at(0)), Verdict::No);
        let mut large = Health::default();
        fill(&mut large, "a", 20, 40);
        assert_eq!(large.give_up("a0", at(0)), Verdict::Yes);
        assert_eq!(large.give_up("a1", at(1)), Verdict::Later(SignedDuration::from_secs(99)));
        // A zone that is gone as a whole, while others are well, is.
        let mut zones = Health::default();
        fill(&mut zones, "a", 0, 3);
        fill(&mut zones, "b", 3, 0);
        assert_eq!(zones.give_up("a0", at(0)), Verdict::Yes);
    }

    #[test]
    fn nobody_is_given_up_when_all_are_silent_and_they_get_their_time_again() {
        let mut health = Health::default();
        fill(&mut health, "a", 0, 2);
        health.hear("a0", Some(at(0)), at(0));
        assert!(health.is_halted());
        assert_eq!(health.give_up("a0", at(100)), Verdict::No);
        assert!(health.put("a1", "a", true, at(200)));
        assert_eq!(health.silence("a0", at(205)).as_secs(), 5);
        assert_eq!(health.give_up("a0", at(250)), Verdict::Yes);
    }
}
