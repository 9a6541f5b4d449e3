//! The next steps of a StatefulSet. Pure.

use std::collections::BTreeMap;

/// A pod as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replica {
    pub(super) ordinal: i32,
    /// Failed or succeeded: to be made anew.
    pub(super) over: bool,
    pub(super) deleting: bool,
    /// Running, ready, and that for long enough.
    pub(super) available: bool,
    /// Of the newest template.
    pub(super) updated: bool,
    /// It can't run: it never began, or a container of it ends again and again.
    pub(super) stuck: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Create(i32),
    Delete(i32),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) start: i32,
    pub(super) replicas: i32,
    pub(super) parallel: bool,
    /// Ordinals from here on are brought to the newest template; none with OnDelete.
    pub(super) partition: Option<i32>,
    /// Pods that may be down for an update at a time.
    pub(super) max_unavailable: i32,
}

/// Pods that one round creates at the most; what comes of them brings the set here again.
const BURST: usize = 500;

impl Shape {
    pub(super) fn range(self) -> std::ops::Range<i32> {
        self.start..self.start.saturating_add(self.replicas.max(0))
    }
}

/// The next steps. In order means: one at a time, each after all before it are available.
pub(super) fn plan(shape: Shape, replicas: &[Replica]) -> Vec<Action> {
    let range = shape.range();
    let by_ordinal: BTreeMap<i32, &Replica> = replicas.iter().map(|r| (r.ordinal, r)).collect();
    let mut actions = Vec::new();
    // What was just renewed must be well before more is touched.
    let present = || by_ordinal.range(range.clone()).map(|(_, r)| *r);
    let renewed = present().filter(|r| r.deleting || (r.updated && !r.available));
    let budget = usize::try_from(shape.max_unavailable).unwrap_or(1).saturating_sub(renewed.count());
    let is_outdated = |r: &Replica| {
        !r.updated
            && !r.deleting
            && shape.partition.is_some_and(|partition| r.ordinal >= shape.start.saturating_add(partition))
    };
    for ordinal in range.clone() {
        let blocked = match by_ordinal.get(&ordinal) {
            None => {
                actions.push(Action::Create(ordinal));
                true
            }
            Some(r) if r.deleting => true,
            Some(r) if r.over => {
                actions.push(Action::Delete(ordinal));
                true
            }
            // An old version that can't run holds nothing up that would mend it. (Upstream waits for people here.) One that runs and isn't
            // ready may be at work on its data: it is waited for, as upstream does.
            Some(r) if r.stuck && !r.available && is_outdated(r) && budget > 0 && !shape.parallel => {
                actions.push(Action::Delete(ordinal));
                true
            }
            Some(r) => !r.available,
        };
        if (blocked && !shape.parallel) || actions.len() >= BURST {
            return actions;
        }
    }
    if replicas.iter().any(|r| !range.contains(&r.ordinal)) && !shape.parallel {
        return scale_down(shape, replicas);
    }
    actions.extend(scale_down(shape, replicas));
    if !actions.is_empty() {
        return actions;
    }
    let up = present().filter(|r| !r.deleting && r.available).count();
    let down = range.len().saturating_sub(up);
    let mut spare = usize::try_from(shape.max_unavailable).unwrap_or(1).saturating_sub(down);
    let outdated: Vec<&Replica> = present().rev().filter(|r| is_outdated(r)).collect();
    // An outdated pod that isn't available serves nothing: its deletion costs no availability.
    let chosen = outdated.into_iter().filter(|r| {
        let free = !r.available || spare > 0;
        spare = if r.available { spare.saturating_sub(1) } else { spare };
        free
    });
    actions.extend(chosen.take(budget).map(|r| Action::Delete(r.ordinal)));
    actions
}

/// The pods beyond the range that go now, from the highest number down. In order, one that isn't well goes only if none before it is unwell:
/// those may need it to get well. What has ended won't.
fn scale_down(shape: Shape, replicas: &[Replica]) -> Vec<Action> {
    let range = shape.range();
    let surplus = || replicas.iter().filter(|r| !range.contains(&r.ordinal));
    let first_unwell = surplus().find(|r| !r.available && !r.over).map(|r| r.ordinal);
    let may_go =
        |r: &&Replica| !r.deleting && (shape.parallel || r.available || r.over || first_unwell == Some(r.ordinal));
    let considered = surplus().rev().take(if shape.parallel { usize::MAX } else { 1 });
    considered.filter(may_go).map(|r| Action::Delete(r.ordinal)).collect()
}
