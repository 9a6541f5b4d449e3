//! Score plugins: the best of several feasible nodes. Pure.

use k8s_openapi::api::core::v1::{NodeAffinity, PreferredSchedulingTerm};

use crate::devices::PodDevices;
use crate::node_predicates::count_prefer_no_schedule_taints;
use crate::pod::PodInfo;
use crate::profile::{Profile, Strategy};
use crate::resources::Resources;
use crate::snapshot::{NodeState, Snapshot};
use crate::topology::Topology;

/// The raw scores of one plugin, which are normalized once all nodes have one.
struct ScorePlugin {
    weight: i64,
    raw: Vec<i64>,
    /// Whether lower is better.
    reversed: bool,
    /// Whether the lowest score is normalized to 0; else a raw 0 is.
    from_least: bool,
}

impl ScorePlugin {
    /// The normalized score of each node (0 to 100) times the weight.
    fn scores(&self) -> impl Iterator<Item = i64> + '_ {
        let most = self.raw.iter().copied().max().unwrap_or(0);
        let least = if self.from_least { self.raw.iter().copied().min().unwrap_or(0) } else { 0 };
        self.raw.iter().map(move |raw| {
            let share = if most > least { (raw - least) * 100 / (most - least) } else { 0 };
            self.weight * if self.reversed { 100 - share } else { share }
        })
    }
}

/// The node with the highest score.
pub fn select_host(
    pod: &PodInfo,
    nodes: &[&NodeState],
    topology: &Topology,
    devices: &PodDevices,
    snapshot: &Snapshot,
    profile: &Profile,
) -> String {
    let aspect = |weight, reversed, from_least, of: &dyn Fn(&NodeState) -> i64| ScorePlugin {
        weight,
        raw: if weight == 0 { Vec::new() } else { nodes.iter().map(|s| of(s)).collect() },
        reversed,
        from_least,
    };
    let weights = profile.weights;
    let soft = pod.spread.iter().any(|c| !c.required);
    // A pod without constraints is spread from those of the same controller (upstream's system-default constraints).
    let pods_of_owner = pod.owner.as_deref().and_then(|owner| snapshot.pods_of_owner(owner));
    let spread_score = |state: &NodeState| {
        let of_one_controller = || pods_of_owner.and_then(|s| s.get(&state.id)).map_or(0, |number| i64::from(*number));
        topology.spread_score(pod, state).unwrap_or_else(of_one_controller)
    };
    let aspects = [
        aspect(weights.node_affinity, false, false, &|s| preferred(pod, s, profile.affinity.as_ref())),
        aspect(weights.taint_toleration, true, false, &|s| {
            s.node.as_deref().map_or(0, |n| count_prefer_no_schedule_taints(pod, n))
        }),
        aspect(weights.inter_pod_affinity, false, true, &|s| topology.inter_pod_affinity_score(s)),
        aspect(
            if soft { weights.pod_topology_spread } else { weights.pod_topology_spread * 2 },
            true,
            soft,
            &spread_score,
        ),
        aspect(weights.dynamic_resources, false, false, &|s| devices.score(&s.name)),
    ];
    let wanted: Vec<(&str, usize)> = if weights.image_locality == 0 {
        Vec::new()
    } else {
        pod.images.iter().map(|i| (i.as_str(), snapshot.nodes_with_image(i))).collect()
    };
    let own = |state: &&NodeState| {
        let (used, asked, all) = (&state.used, &pod.resources, &state.allocatable);
        // NodeResourcesBalancedAllocation: how even the shares of CPU and memory would be, by what is asked for. A pod that asks for neither
        // leaves them as they are.
        let asks = asked.cpu_milli > 0 || asked.memory > 0;
        let cpu = ratio(used.cpu_milli, asked.cpu_milli, all.cpu_milli);
        let memory = ratio(used.memory, asked.memory, all.memory);
        let balanced_allocation = if asks { 100 - (cpu - memory).abs() / 2 } else { 100 };
        weights.node_resources_fit * node_resources_fit(pod, state, profile)
            + weights.balanced_allocation * balanced_allocation
            + weights.image_locality * images(&wanted, state, snapshot.known())
    };
    let mut totals: Vec<i64> = nodes.iter().map(own).collect();
    for aspect in &aspects {
        totals.iter_mut().zip(aspect.scores()).for_each(|(total, score)| *total += score);
    }
    let best = totals.iter().enumerate().max_by_key(|(i, total)| (**total, std::cmp::Reverse(*i)));
    best.map(|(i, _)| nodes[i].name.clone()).unwrap_or_default()
}

/// The used share of a resource with the pod (0 to 100), by what containers count for in scores.
fn share(pod: &PodInfo, state: &NodeState, resource: &str) -> i64 {
    let (used, asked, all) = (&state.used, &pod.resources, &state.allocatable);
    let other = |a: &Resources| a.others.get(resource).copied().unwrap_or(0);
    match resource {
        "cpu" => ratio(used.scored_cpu_milli, asked.scored_cpu_milli, all.cpu_milli),
        "memory" => ratio(used.scored_memory, asked.scored_memory, all.memory),
        _ => ratio(other(used), other(asked), other(all)),
    }
}

fn ratio(used: i64, asked: i64, all: i64) -> i64 {
    let wanted = i128::from(used) + i128::from(asked);
    if all <= 0 { 100 } else { (wanted * 100 / i128::from(all)).min(100) as i64 }
}

/// NodeResourcesFit: the score of the strategy (0 to 100).
fn node_resources_fit(pod: &PodInfo, state: &NodeState, profile: &Profile) -> i64 {
    let has = |name: &str| matches!(name, "cpu" | "memory") || state.allocatable.others.contains_key(name);
    let (mut sum, mut weights) = (0, 0);
    for (resource, weight) in profile.resources.iter().filter(|(name, _)| has(name)) {
        let share = share(pod, state, resource);
        let score = match &profile.strategy {
            Strategy::LeastAllocated => 100 - share,
            Strategy::MostAllocated => share,
            Strategy::RequestedToCapacityRatio(points) => ratio_score(points, share),
        };
        (sum, weights) = (sum + score * weight, weights + weight);
    }
    if weights == 0 { 0 } else { sum / weights }
}

fn ratio_score(points: &[(i64, i64)], at: i64) -> i64 {
    let Some(after) = points.iter().position(|(u, _)| *u >= at) else { return points.last().map_or(0, |p| p.1) };
    if after == 0 {
        return points[0].1;
    }
    let ((u0, s0), (u1, s1)) = (points[after - 1], points[after]);
    s0 + (s1 - s0) * (at - u0) / (u1 - u0)
}

/// ImageLocality: how much of the pod's images the node has (0 to 100). Images that few nodes have count less, so that pods don't concentrate
/// there.
fn images(wanted: &[(&str, usize)], state: &NodeState, nodes: usize) -> i64 {
    const MB: i64 = 1024 * 1024;
    let (least, most) = (23 * MB, 1000 * MB * wanted.len().max(1) as i64);
    let sum: i64 = wanted
        .iter()
        .filter_map(|(image, nodes_with_image)| {
            Some(state.images.get(*image)? * *nodes_with_image as i64 / nodes.max(1) as i64)
        })
        .sum();
    100 * (sum.clamp(least, most) - least) / (most - least)
}

/// NodeAffinity: the sum of the weights of matching preferred terms.
fn preferred(pod: &PodInfo, state: &NodeState, added: Option<&NodeAffinity>) -> i64 {
    let Some(node) = state.node.as_deref() else { return 0 };
    let own = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let all = own.into_iter().chain(added);
    let terms = all.filter_map(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()).flatten();
    let fits = |t: &&PreferredSchedulingTerm| placement::node_selector_term_matches(&t.preference, node);
    terms.filter(fits).map(|t| i64::from(t.weight)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_lines_between_their_points() {
        let shape = [(0, 0), (50, 100), (100, 20)];
        assert_eq!([0, 25, 50, 75, 100].map(|at| ratio_score(&shape, at)), [0, 50, 100, 60, 20]);
        assert_eq!(ratio_score(&[(20, 30), (60, 70)], 5), 30);
        assert_eq!(ratio_score(&[(20, 30), (60, 70)], 90), 70);
    }
}
