//! The next steps of a DaemonSet. Pure.

use std::collections::HashSet;

use k8s_openapi::jiff::Timestamp;

/// A daemon pod as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Daemon {
    /// Index into the pods that were given.
    pub(super) index: usize,
    pub(super) updated: bool,
    pub(super) ready: bool,
    pub(super) available: bool,
    pub(super) deleting: bool,
    pub(super) failed: bool,
    pub(super) born: Timestamp,
}

/// A node, whether it should have a daemon, and those that it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) node: String,
    /// A new daemon may be put here.
    pub(super) runs: bool,
    /// One that is here may stay.
    pub(super) keeps: bool,
    pub(super) daemons: Vec<Daemon>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    pub(super) rolling: bool,
    pub(super) max_unavailable: usize,
    pub(super) max_surge: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<usize>,
}

/// The next steps: first that every node has what it should, then as much of an update as is allowed.
pub(super) fn plan(places: &[Place], update: Update) -> Plan {
    let mut plan = Plan::default();
    for place in places {
        let live: Vec<&Daemon> = place.daemons.iter().filter(|d| !d.deleting).collect();
        plan.delete.extend(live.iter().filter(|d| d.failed || !place.keeps).map(|d| d.index));
        let mut well: Vec<&&Daemon> = live.iter().filter(|d| !d.failed && place.keeps).collect();
        if well.is_empty() {
            // One that is on its way out must be gone before its successor comes, unless surge allows both. One that failed, too: the next may
            // fail like it, and it isn't deleted at once.
            let leaving = place.daemons.iter().any(|d| d.deleting);
            let failed = live.iter().any(|d| d.failed);
            if place.runs && !failed && (!leaving || update.max_surge > 0) {
                plan.create.push(place.node.clone());
            }
            continue;
        }
        // Of several of one version the oldest stays.
        well.sort_by_key(|d| d.born);
        for version in [true, false] {
            plan.delete.extend(well.iter().filter(|d| d.updated == version).skip(1).map(|d| d.index));
        }
    }
    if update.rolling {
        let touched: HashSet<usize> = plan.delete.iter().copied().collect();
        let is_fresh = |d: &Daemon| !d.deleting && !d.failed && !touched.contains(&d.index);
        let wanted: Vec<&Place> = places.iter().filter(|p| p.runs).collect();
        match update.max_surge {
            0 => replace(&mut plan, &wanted, update.max_unavailable, is_fresh),
            max_surge => surge(&mut plan, &wanted, max_surge, is_fresh),
        }
    }
    plan
}

/// An update that deletes old daemons, as many as may be unavailable at a time.
fn replace(plan: &mut Plan, wanted: &[&Place], max_unavailable: usize, is_fresh: impl Fn(&Daemon) -> bool) {
    let unavailable = wanted.iter().filter(|p| !p.daemons.iter().any(|d| is_fresh(d) && d.available)).count();
    let mut budget = max_unavailable.saturating_sub(unavailable);
    for old in wanted.iter().flat_map(|place| &place.daemons).filter(|d| is_fresh(d) && !d.updated) {
        if !old.available {
            plan.delete.push(old.index);
        } else if budget > 0 {
            plan.delete.push(old.index);
            budget -= 1;
        }
    }
}

/// An update that creates new daemons beside old ones, which go when the new ones are available.
fn surge(plan: &mut Plan, wanted: &[&Place], max_surge: usize, is_fresh: impl Fn(&Daemon) -> bool) {
    let new_of = |place: &Place| place.daemons.iter().find(|d| is_fresh(d) && d.updated).copied();
    let old_of = |place: &Place| place.daemons.iter().find(|d| is_fresh(d) && !d.updated).copied();
    let surging = wanted.iter().filter(|p| new_of(p).is_some() && old_of(p).is_some()).count();
    let mut budget = max_surge.saturating_sub(surging);
    for place in wanted {
        let Some(old) = old_of(place) else { continue };
        match new_of(place) {
            Some(new) if new.available => plan.delete.push(old.index),
            Some(_) => {}
            None if !old.available => plan.delete.push(old.index),
            None if budget > 0 => {
                plan.create.push(place.node.clone());
                budget -= 1;
            }
            None => {}
        }
    }
}
