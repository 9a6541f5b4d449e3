//! Seats and queues of priority levels: which request starts, and which waits. A value without clock and tasks.
//!
//! Within a level queues take turns by start-time fair queuing: each has a virtual time that grows by the work that was
//! done for it, and the one that is furthest behind is next. A flow is dealt a hand of queues by its hash and waits in
//! the shortest, so that few flows share a queue with a heavy one (shuffle sharding).

use std::collections::{HashMap, VecDeque};

use super::SEATS;

/// Work that a request is taken for until it is known, in seconds of a seat.
const GUESS: f64 = 0.003;

/// What a PriorityLevelConfiguration says of a limited level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub shares: u64,
    /// Percent of the level's seats that others may use while it doesn't.
    pub lendable: u64,
    /// Percent of the level's seats that it may use of others beside its own; `None` for any number.
    pub borrowing: Option<u64>,
    /// `None`: a request that finds no seat is refused.
    pub queuing: Option<Queuing>,
}

/// How requests of a level wait (`limitResponse.queuing`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queuing {
    pub queues: usize,
    pub hand: usize,
    /// Requests that may wait in one queue.
    pub length: usize,
}

/// What becomes of a request that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    Started,
    Waits,
    Refused,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<u64>,
    /// Seats of its requests, waiting and running.
    load: usize,
    /// Virtual time at which its next request starts.
    next: f64,
}

#[derive(Debug)]
struct Level {
    name: String,
    limits: Limits,
    /// Seats of its own.
    nominal: usize,
    running: usize,
    queues: Vec<Queue>,
    /// Virtual start of the request that was started last.
    virtual_time: f64,
}

#[derive(Debug)]
struct Request {
    level: usize,
    queue: usize,
    seats: usize,
    since: Option<f64>,
}

/// What a level has to do.
#[derive(Debug)]
pub struct Load<'a> {
    pub name: &'a str,
    pub nominal: usize,
    pub running: usize,
    pub waiting: usize,
}

/// All limited levels of a server.
#[derive(Debug, Default)]
pub struct Levels {
    levels: Vec<Level>,
    requests: HashMap<u64, Request>,
}

impl Levels {
    /// Takes new limits. A level that is not among them keeps its requests until they are done, but no seats.
    pub fn configure(&mut self, limits: &[(String, Limits)]) {
        let shares: u64 = limits.iter().map(|(_, l)| l.shares).sum();
        for level in &mut self.levels {
            if !limits.iter().any(|(name, _)| *name == level.name) {
                level.nominal = 1;
                level.limits.lendable = 0;
            }
        }
        for (name, limits) in limits {
            let nominal = (SEATS as u64 * limits.shares).div_ceil(shares.max(1)) as usize;
            let at = self.levels.iter().position(|l| l.name == *name).unwrap_or_else(|| {
                self.levels.push(Level {
                    name: name.clone(),
                    limits: limits.clone(),
                    nominal: 0,
                    running: 0,
                    queues: Vec::new(),
                    virtual_time: 0.0,
                });
                self.levels.len() - 1
            });
            let level = &mut self.levels[at];
            (level.nominal, level.limits) = (nominal.max(1), limits.clone());
            // Never fewer than there were: requests wait in them.
            let queues = limits.queuing.map_or(1, |q| q.queues).max(level.queues.len());
            level.queues.resize_with(queues, Queue::default);
        }
    }

    /// The place of a level.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.levels.iter().position(|l| l.name == name)
    }

    /// The load of each level.
    pub fn loads(&self) -> impl Iterator<Item = Load<'_>> {
        self.levels.iter().map(|l| Load {
            name: &l.name,
            nominal: l.nominal,
            running: l.running,
            waiting: l.queues.iter().map(|q| q.waiting.len()).sum(),
        })
    }

    /// A request of a flow comes in at `now` seconds.
    pub fn arrive(&mut self, level: usize, flow: u64, seats: usize, ticket: u64, now: f64) -> Arrival {
        let free = self.has_room(level, seats);
        let of = &mut self.levels[level];
        let seats = seats.min(of.nominal);
        let queue = match of.limits.queuing {
            Some(queuing) => {
                let hand = deal(flow, queuing.queues, queuing.hand);
                hand.into_iter().min_by_key(|q| of.queues[*q].load).unwrap_or(0)
            }
            None => 0,
        };
        let nobody_waits = of.queues.iter().all(|q| q.waiting.is_empty());
        let starts = free && nobody_waits;
        if !starts && of.limits.queuing.is_none_or(|limit| of.queues[queue].waiting.len() >= limit.length) {
            return Arrival::Refused;
        }
        let at = &mut of.queues[queue];
        if at.load == 0 {
            // Time in which nothing was asked for is not saved up.
            at.next = at.next.max(of.virtual_time);
        }
        at.load += seats;
        self.requests.insert(ticket, Request { level, queue, seats, since: None });
        if starts {
            self.start(ticket, now);
            return Arrival::Started;
        }
        at.waiting.push_back(ticket);
        Arrival::Waits
    }

    /// A request is done, or its client stopped waiting; returns those that start now.
    pub fn end(&mut self, ticket: u64, now: f64) -> Vec<u64> {
        let Some(request) = self.requests.remove(&ticket) else { return Vec::new() };
        let level = &mut self.levels[request.level];
        let queue = &mut level.queues[request.queue];
        queue.load -= request.seats;
        match request.since {
            Some(since) => {
                level.running -= request.seats;
                queue.next += request.seats as f64 * (now - since - GUESS);
            }
            None => queue.waiting.retain(|t| *t != ticket),
        }
        let mut started = Vec::new();
        // Its own level first; what it doesn't need may be lent.
        let first = request.level;
        for level in std::iter::once(first).chain((0..self.levels.len()).filter(|l| *l != first)) {
            while let Some(next) = self.next_of(level) {
                self.start(next, now);
                started.push(next);
            }
        }
        started
    }

    /// The request of a level that may start now.
    fn next_of(&mut self, level: usize) -> Option<u64> {
        let of = &self.levels[level];
        let waiting = of.queues.iter().enumerate().filter(|(_, q)| !q.waiting.is_empty());
        // Of queues that are equally far behind, the one with less to do: a light flow isn't kept by where its queue stands.
        let (queue, _) = waiting.min_by(|a, b| a.1.next.total_cmp(&b.1.next).then(a.1.load.cmp(&b.1.load)))?;
        let ticket = *of.queues[queue].waiting.front()?;
        let seats = self.requests.get(&ticket)?.seats;
        if !self.has_room(level, seats) {
            return None;
        }
        self.levels[level].queues[queue].waiting.pop_front();
        Some(ticket)
    }

    fn start(&mut self, ticket: u64, now: f64) {
        let Some(request) = self.requests.get_mut(&ticket) else { return };
        request.since = Some(now);
        let level = &mut self.levels[request.level];
        level.running += request.seats;
        let queue = &mut level.queues[request.queue];
        level.virtual_time = level.virtual_time.max(queue.next);
        queue.next += request.seats as f64 * GUESS;
    }

    /// Whether a level has seats left, of its own or borrowed.
    fn has_room(&self, level: usize, seats: usize) -> bool {
        let of = &self.levels[level];
        let wanted = of.running + seats.min(of.nominal);
        if wanted <= of.nominal {
            return true;
        }
        let most = of.limits.borrowing.map_or(SEATS, |percent| of.nominal * percent as usize / 100);
        if wanted > of.nominal + most {
            return false;
        }
        let borrowed: usize = self.levels.iter().map(|l| l.running.saturating_sub(l.nominal)).sum();
        let more = wanted - of.nominal.max(of.running);
        let lent = |l: &Level| (l.nominal * l.limits.lendable as usize / 100).min(l.nominal.saturating_sub(l.running));
        let on_offer: usize = self.levels.iter().enumerate().filter(|(i, _)| *i != level).map(|(_, l)| lent(l)).sum();
        borrowed + more <= on_offer
    }
}

/// `hand` different queues out of `queues`, by the bits of `hash`.
fn deal(mut hash: u64, queues: usize, hand: usize) -> Vec<usize> {
    let mut cards: Vec<usize> = Vec::with_capacity(hand);
    for dealt in 0..hand.min(queues) {
        let left = (queues - dealt) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // The card is the n-th of those that are left: count over the dealt ones, which are in order.
        let mut place = 0;
        while place < cards.len() && cards[place] <= card {
            card += 1;
            place += 1;
        }
        cards.insert(place, card);
    }
    cards
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(shares: u64, lendable: u64, length: usize) -> Limits {
        let queuing = (length > 0).then_some(Queuing { queues: 8, hand: 2, length });
        Limits { shares, lendable, borrowing: None, queuing }
    }

    fn levels(of: &[(&str, Limits)]) -> Levels {
        let mut levels = Levels::default();
        levels.configure(&of.iter().map(|(n, l)| ((*n).to_string(), l.clone())).collect::<Vec<_>>());
        levels
    }

    #[test]
    fn a_light_flow_passes_a_heavy_one_that_waits() {
        let mut levels = levels(&[("a", limits(1, 0, 5000))]);
        let heavy: Vec<u64> = (0..2000).collect();
        for ticket in &heavy {
            levels.arrive(0, 1, 1, *ticket, 0.0);
        }
        assert_eq!(levels.arrive(0, 2, 1, 9999, 0.1), Arrival::Waits);
        // 600 of the heavy one run, each of which takes a second. The next seat is for the light one.
        let mut started = levels.end(0, 1.0);
        started.extend(levels.end(1, 1.0));
        assert!(started.contains(&9999), "{started:?}");
    }

    proptest! {
        /// With fewer seats than queues in a hand, some of the heavy flow's queues are as far behind as the light one's.
        #[test]
        fn a_light_flow_is_next_wherever_its_queue_is(heavy: u64, light: u64) {
            let queuing = Some(Queuing { queues: 64, hand: 6, length: 50 });
            let own = Limits { shares: 1, lendable: 0, borrowing: Some(0), queuing };
            let mut levels = levels(&[("a", own), ("others", limits(245, 0, 50))]);
            (0..103).for_each(|ticket| _ = levels.arrive(0, heavy, 1, ticket, 0.0));
            let shared = deal(light, 64, 6).iter().all(|queue| deal(heavy, 64, 6).contains(queue));
            prop_assume!(!shared);
            prop_assert_eq!(levels.arrive(0, light, 1, 9999, 0.1), Arrival::Waits);
            prop_assert_eq!(levels.end(0, 0.2), [9999]);
        }
    }

    #[test]
    fn a_level_without_queues_refuses() {
        let mut levels = levels(&[("a", limits(1, 0, 0))]);
        for ticket in 0..SEATS as u64 {
            assert_eq!(levels.arrive(0, 1, 1, ticket, 0.0), Arrival::Started);
        }
        assert_eq!(levels.arrive(0, 1, 1, 7777, 0.0), Arrival::Refused);
        levels.end(0, 1.0);
        assert_eq!(levels.arrive(0, 1, 1, 7777, 1.0), Arrival::Started);
    }

    #[test]
    fn seats_are_lent_while_their_owner_does_not_need_them() {
        let mut levels = levels(&[("idle", limits(50, 50, 10)), ("busy", limits(50, 0, 10_000))]);
        let started = (0..1000).filter(|t| levels.arrive(1, *t, 1, *t, 0.0) == Arrival::Started).count();
        assert_eq!(started, 300 + 150);
        // The owner comes back: what is its own starts at once, and the other one gets no more of it.
        assert_eq!(levels.arrive(0, 1, 1, 5000, 0.0), Arrival::Started);
        for t in 0..200 {
            levels.arrive(0, t, 1, 6000 + t, 0.0);
        }
        assert!(levels.end(0, 1.0).is_empty());
    }

    #[test]
    fn a_hand_has_no_queue_twice() {
        for hash in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut hand = deal(hash, 64, 6);
            assert!(hand.iter().all(|q| *q < 64));
            hand.dedup();
            assert_eq!(hand.len(), 6);
        }
    }

    proptest! {
        /// Whatever comes and goes: no seat is lost or given twice, and no request waits while there is room.
        #[test]
        fn seats_are_kept_count_of(steps in prop::collection::vec((0usize..3, 0u64..20, 1usize..12, any::<bool>()), 1..800)) {
            let mut levels = levels(&[("a", limits(1, 50, 20)), ("b", limits(2, 0, 20)), ("c", limits(1, 100, 0))]);
            let (mut alive, mut now) = (Vec::new(), 0.0);
            for (ticket, (level, flow, seats, leaves)) in steps.into_iter().enumerate() {
                now += 0.001;
                let ticket = ticket as u64;
                if levels.arrive(level, flow, seats, ticket, now) != Arrival::Refused {
                    alive.push(ticket);
                }
                if leaves && !alive.is_empty() {
                    let gone = alive.remove(flow as usize % alive.len());
                    levels.end(gone, now);
                }
                for level in 0..3 {
                    let running: usize = levels.requests.values()
                        .filter(|r| r.level == level && r.since.is_some()).map(|r| r.seats).sum();
                    prop_assert_eq!(running, levels.levels[level].running);
                    let load: usize = levels.requests.values().filter(|r| r.level == level).map(|r| r.seats).sum();
                    prop_assert_eq!(load, levels.levels[level].queues.iter().map(|q| q.load).sum::<usize>());
                }
                prop_assert!(levels.levels.iter().map(|l| l.running).sum::<usize>() <= SEATS + SEATS / 2);
            }
            while let Some(ticket) = alive.pop() {
                levels.end(ticket, now + 1.0);
            }
            prop_assert!(levels.loads().all(|l| l.running == 0 && l.waiting == 0));
        }
    }
}
