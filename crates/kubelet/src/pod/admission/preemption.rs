//! Which pods go so that a critical one can come (upstream's `pkg/kubelet/preemption`). Pure.

use std::collections::BTreeMap;

use apimachinery::Quantity;

use super::{Amounts, PodResources};

/// What a victim's status says, in upstream's words.
pub const MESSAGE: &str = "Preempted in order to admit critical pod";

/// Those who may have to go for a pod.
fn yields(own: &PodResources, other: &PodResources) -> bool {
    (own.is_critical && !other.is_critical) || own.priority > other.priority
}

/// What is still missing once these have gone.
fn without<'a>(missing: &Amounts, gone: impl Iterator<Item = &'a PodResources> + Clone) -> Amounts {
    let left = missing.iter().map(|(resource, amount)| {
        let left = gone.clone().fold(*amount, |left, share| left - share.request(resource));
        (resource.clone(), left)
    });
    left.filter(|(_, left)| *left > Quantity::ZERO).collect()
}

/// How far a pod's end is from what is missing: each resource counts the same.
fn distance(missing: &Amounts, share: &PodResources) -> f64 {
    let part = |(resource, amount): (&String, &Quantity)| {
        let left = (*amount - share.request(resource)).max(Quantity::ZERO);
        let part = left.milli() as f64 / amount.milli().max(1) as f64;
        part * part
    };
    missing.iter().map(part).sum()
}

type Named<'a> = (&'a String, &'a PodResources);

/// As few of these as give what is missing, and of equals the smaller ones.
fn fewest_victims<'a>(mut from: Vec<Named<'a>>, mut missing: Amounts) -> Vec<Named<'a>> {
    let mut chosen = Vec::new();
    while !missing.is_empty() && !from.is_empty() {
        let size = |share: &PodResources| (share.request("memory"), share.request("cpu"));
        let order = |(_, a): &(usize, &Named), (_, b): &(usize, &Named)| {
            distance(&missing, a.1).total_cmp(&distance(&missing, b.1)).then(size(a.1).cmp(&size(b.1)))
        };
        let best = from.iter().enumerate().min_by(order).map_or(0, |(index, _)| index);
        let next = from.swap_remove(best);
        missing = without(&missing, std::iter::once(next.1));
        chosen.push(next);
    }
    chosen
}

/// All pods that may be preempted together free too little. Says what would still be missing, as upstream's `getPodsToPreempt` does.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [{0}]")]
pub struct NoVictims(String);

/// The pods that have to go, by uid: as few as can be of those with guarantees, then of those with requests, then of the others.
///
/// # Errors
/// When all of them together aren't enough.
pub fn victims(
    own: &PodResources,
    present: &BTreeMap<String, PodResources>,
    missing: Amounts,
) -> Result<Vec<String>, NoVictims> {
    let of = |qos: &str| -> Vec<Named> {
        present.iter().filter(|(_, share)| share.qos == qos && yields(own, share)).collect()
    };
    let (best_effort, burstable, guaranteed) = (of("BestEffort"), of("Burstable"), of("Guaranteed"));
    fn shares<'a>(groups: [&'a [Named<'a>]; 2]) -> impl Iterator<Item = &'a PodResources> + Clone {
        groups.into_iter().flatten().map(|(_, share)| *share)
    }
    let left = without(&without(&missing, shares([&best_effort, &burstable])), shares([&guaranteed, &[]]));
    if !left.is_empty() {
        let left: Vec<String> =
            left.iter().map(|(name, amount)| format!("(res: {name}, q: {})", amount.value())).collect();
        return Err(NoVictims(left.join(", ")));
    }
    let first = fewest_victims(guaranteed, without(&missing, shares([&best_effort, &burstable])));
    let second = fewest_victims(burstable, without(&missing, shares([&best_effort, &first])));
    let third = fewest_victims(best_effort, without(&missing, shares([&second, &first])));
    Ok(third.into_iter().chain(second).chain(first).map(|(uid, _)| uid.clone()).collect())
}
