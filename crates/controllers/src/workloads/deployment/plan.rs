//! How many replicas each ReplicaSet of a Deployment should have now.

use k8s_openapi::api::apps::v1::DeploymentSpec;

use crate::toolkit::pods;

/// What the plan needs to know of a ReplicaSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub wanted: i32,
    pub available: i32,
    /// Pods that there are, wanted or not.
    pub present: i32,
}

/// A number of replicas as objects have it. What is computed with is wider: no sum of theirs is too large for it.
pub fn narrow(replicas: i64) -> i32 {
    i32::try_from(replicas.max(0)).unwrap_or(i32::MAX)
}

/// How many pods there may be beyond those that are wanted, and how many of those may be unavailable, while a version rolls out
/// (upstream's `ResolveFenceposts`). With `Recreate` neither is said.
pub fn fences(spec: &DeploymentSpec) -> (i32, i32) {
    let replicas = spec.replicas.unwrap_or(1);
    let strategy = spec.strategy.as_ref().filter(|s| s.type_.as_deref() != Some("Recreate"));
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let surge = pods::scaled(rolling.and_then(|r| r.max_surge.as_ref()), replicas, true);
    let unavailable = pods::scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), replicas, false);
    // Both rounded to nothing: it must be able to move.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// What the new set and each old one should have while the new version rolls out.
pub fn roll(spec: &DeploymentSpec, new: Size, old: &[Size]) -> (i32, Vec<i32>) {
    let replicas = spec.replicas.unwrap_or(1);
    let strategy = spec.strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("Recreate") {
        let gone = old.iter().all(|s| s.present == 0);
        return (if gone { replicas } else { 0 }, vec![0; old.len()]);
    }
    let (surge, unavailable) = fences(spec);
    let (surge, unavailable) = (i64::from(surge), i64::from(unavailable));
    let (replicas, wanted) = (i64::from(replicas), i64::from(new.wanted));
    let mut olds: Vec<i64> = old.iter().map(|s| s.wanted.into()).collect();
    let old_total: i64 = olds.iter().sum();
    let total = old_total + wanted;
    let room = (replicas + surge - total).max(0);
    let new_wanted = if wanted > replicas { replicas } else { wanted + room.min(replicas - wanted) };
    // A set's status may be older than its size: what was given up already doesn't count as available any more.
    let available = |size: &Size| i64::from(size.available.min(size.wanted).max(0));
    let min_available = replicas - unavailable;
    let spare = total - min_available - (wanted - available(&new)).max(0);
    if old_total > 0 && spare > 0 {
        // Pods that aren't available go first: that costs no availability.
        let mut left = spare;
        for (i, size) in old.iter().enumerate() {
            let broken = (i64::from(size.wanted) - available(size)).max(0).min(left);
            olds[i] -= broken;
            left -= broken;
        }
        let mut left = (available(&new) + old.iter().map(available).sum::<i64>() - min_available).max(0);
        for (i, size) in old.iter().enumerate() {
            let some = olds[i].min(left).min(available(size));
            olds[i] -= some;
            left -= some;
        }
    }
    (narrow(new_wanted), olds.into_iter().map(narrow).collect())
}

/// A ReplicaSet that shares in a change of its Deployment's replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub replicas: i32,
    /// The most pods that its Deployment could have when it was last scaled; zero if unknown.
    pub of_at_most: i32,
    pub revision: i64,
}

/// How many replicas each of several active sets should have after the Deployment's replicas changed in the middle of a
/// roll-out: each grows or shrinks in proportion, and what rounding leaves goes to the largest first.
pub fn share(wanted: i32, surge: i32, sets: &[Share]) -> Vec<i32> {
    let mut sizes: Vec<i64> = sets.iter().map(|s| s.replicas.into()).collect();
    let most = i64::from(wanted) + i64::from(surge);
    let allowed = if wanted > 0 { most } else { 0 };
    let change = allowed - sizes.iter().sum::<i64>();
    let mut order: Vec<usize> = (0..sets.len()).collect();
    // The largest first; of equals, the newer one grows and the older one shrinks.
    order.sort_by_key(|i| {
        let revision = i128::from(sets[*i].revision);
        (-i64::from(sets[*i].replicas), if change > 0 { -revision } else { revision })
    });
    let mut done = 0;
    for i in &order {
        let set = sets[*i];
        if set.replicas == 0 || done == change {
            continue;
        }
        let fraction = if wanted == 0 {
            -i64::from(set.replicas)
        } else {
            let base = if set.of_at_most > 0 { set.of_at_most } else { wanted };
            let new = f64::from(set.replicas) * most as f64 / f64::from(base);
            i64::from(new.round() as i32) - i64::from(set.replicas)
        };
        let left = change - done;
        let step = if change > 0 { fraction.min(left).max(0) } else { fraction.max(left).min(0) };
        sizes[*i] += step;
        done += step;
    }
    let mut left = change - done;
    for i in order {
        let new = (sizes[i] + left).max(0);
        left -= new - sizes[i];
        sizes[i] = new;
    }
    sizes.into_iter().map(narrow).collect()
}
