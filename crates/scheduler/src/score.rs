//! Which of several nodes that would do is the best. Pure.

use k8s_openapi::api::core::v1::{NodeAffinity, PreferredSchedulingTerm};

use crate::amounts::Amounts;
use crate::filters::soft_taints;
use crate::pod::PodInfo;
use crate::profile::{Profile, Strategy};
use crate::snapshot::{NodeState, Snapshot};
use crate::topology::Topology;

/// What one aspect says of a node: any number, made comparable once all nodes are known.
struct Aspect {
    weight: i64,
    raw: Vec<i64>,
    /// Whether less is better.
    inverted: bool,
    /// Whether the least counts as nothing; else zero does.
    from_least: bool,
}

impl Aspect {
    /// From 0 to 100 for each node, times the weight.
    fn scores(&self) -> impl Iterator<Item = i64> + '_ {
        let most = self.raw.iter().copied().max().unwrap_or(0);
        let least = if self.from_least { self.raw.iter().copied().min().unwrap_or(0) } else { 0 };
        self.raw.iter().map(move |raw| {
            let share = if most > least { (raw - least) * 100 / (most - least) } else { 0 };
            self.weight * if self.inverted { 100 - share } else { share }
        })
    }
}

pub fn best(
    pod: &PodInfo,
    nodes: &[&NodeState],
    topology: &Topology,
    snapshot: &Snapshot,
    profile: &Profile,
) -> String {
    let aspect = |weight, inverted, from_least, of: &dyn Fn(&NodeState) -> i64| Aspect {
        weight,
        raw: if weight == 0 { Vec::new() } else { nodes.iter().map(|s| of(s)).collect() },
        inverted,
        from_least,
    };
    let weights = profile.weights;
    let soft = pod.spread.iter().any(|c| !c.required);
    // Without constraints of its own, a pod is kept apart from those of the same controller.
    let siblings = pod.owner.as_deref().and_then(|owner| snapshot.siblings(owner));
    let crowd = |state: &NodeState| {
        let of_one_controller = || siblings.and_then(|s| s.get(&state.id)).map_or(0, |number| i64::from(*number));
        topology.crowd(pod, state).unwrap_or_else(of_one_controller)
    };
    let aspects = [
        aspect(weights.node_affinity, false, false, &|s| preferred(pod, s, profile.affinity.as_ref())),
        aspect(weights.taints, true, false, &|s| s.node.as_deref().map_or(0, |n| soft_taints(pod, n))),
        aspect(weights.neighbours, false, true, &|s| topology.preference(s)),
        aspect(if soft { weights.spread } else { weights.spread * 2 }, true, soft, &crowd),
    ];
    let total = snapshot.known();
    let wanted: Vec<(&str, usize)> = if weights.images == 0 {
        Vec::new()
    } else {
        pod.images.iter().map(|i| (i.as_str(), snapshot.holders(i))).collect()
    };
    let own = |state: &&NodeState| {
        let (cpu, memory) = (share(pod, state, "cpu"), share(pod, state, "memory"));
        // How evenly processors and memory would be used, from 0 to 100.
        let balance = 100 - (cpu - memory).abs() / 2;
        weights.room * room(pod, state, (cpu, memory), profile)
            + weights.balance * balance
            + weights.images * images(&wanted, state, total)
    };
    let mut totals: Vec<i64> = nodes.iter().map(own).collect();
    for aspect in &aspects {
        totals.iter_mut().zip(aspect.scores()).for_each(|(total, score)| *total += score);
    }
    let best = totals.iter().enumerate().max_by_key(|(i, total)| (**total, std::cmp::Reverse(*i)));
    best.map(|(i, _)| nodes[i].name.clone()).unwrap_or_default()
}

/// The share of a resource that is in use with the pod, from 0 to 100. Pods that ask for nothing still weigh something.
fn share(pod: &PodInfo, state: &NodeState, resource: &str) -> i64 {
    let other = |a: &Amounts| a.others.get(resource).copied().unwrap_or(0);
    let (used, asked, all) = match resource {
        "cpu" => (state.used.cpu_milli, pod.amounts.cpu_milli.max(100), state.allocatable.cpu_milli),
        "memory" => (state.used.memory, pod.amounts.memory.max(200 << 20), state.allocatable.memory),
        _ => (other(&state.used), other(&pod.amounts), other(&state.allocatable)),
    };
    if all <= 0 { 100 } else { ((used + asked) as i128 * 100 / all as i128).min(100) as i64 }
}

/// How well what is left of a node's resources suits the strategy, from 0 to 100; the shares of processors and memory are known.
fn room(pod: &PodInfo, state: &NodeState, (cpu, memory): (i64, i64), profile: &Profile) -> i64 {
    let has = |name: &str| matches!(name, "cpu" | "memory") || state.allocatable.others.contains_key(name);
    let (mut sum, mut weights) = (0, 0);
    for (resource, weight) in profile.resources.iter().filter(|(name, _)| has(name)) {
        let share = match resource.as_str() {
            "cpu" => cpu,
            "memory" => memory,
            other => share(pod, state, other),
        };
        let score = match &profile.strategy {
            Strategy::Least => 100 - share,
            Strategy::Most => share,
            Strategy::Shape(points) => on_shape(points, share),
        };
        (sum, weights) = (sum + score * weight, weights + weight);
    }
    if weights == 0 { 0 } else { sum / weights }
}

fn on_shape(points: &[(i64, i64)], at: i64) -> i64 {
    let Some(after) = points.iter().position(|(u, _)| *u >= at) else { return points.last().map_or(0, |p| p.1) };
    if after == 0 {
        return points[0].1;
    }
    let ((u0, s0), (u1, s1)) = (points[after - 1], points[after]);
    s0 + (s1 - s0) * (at - u0) / (u1 - u0)
}

/// How much of a pod's images is on a node already, from 0 to 100. What only few nodes have counts less, so that not all
/// pods of a kind gather there.
fn images(wanted: &[(&str, usize)], state: &NodeState, nodes: usize) -> i64 {
    const MB: i64 = 1024 * 1024;
    let (least, most) = (23 * MB, 1000 * MB * wanted.len().max(1) as i64);
    let sum: i64 = wanted
        .iter()
        .filter_map(|(image, holders)| Some(state.images.get(*image)? * *holders as i64 / nodes.max(1) as i64))
        .sum();
    100 * (sum.clamp(least, most) - least) / (most - least)
}

/// The weights of the node preferences that a node meets.
fn preferred(pod: &PodInfo, state: &NodeState, added: Option<&NodeAffinity>) -> i64 {
    let Some(node) = state.node.as_deref() else { return 0 };
    let own = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let all = own.into_iter().chain(added);
    let terms = all.filter_map(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()).flatten();
    let fits = |t: &&PreferredSchedulingTerm| placement::term_matches(&t.preference, node);
    terms.filter(fits).map(|t| i64::from(t.weight)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_lines_between_their_points() {
        let shape = [(0, 0), (50, 100), (100, 20)];
        assert_eq!([0, 25, 50, 75, 100].map(|at| on_shape(&shape, at)), [0, 50, 100, 60, 20]);
        assert_eq!(on_shape(&[(20, 30), (60, 70)], 5), 30);
        assert_eq!(on_shape(&[(20, 30), (60, 70)], 90), 70);
    }
}
