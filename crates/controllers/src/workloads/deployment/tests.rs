use proptest::prelude::*;

use k8s_openapi::api::apps::v1::DeploymentSpec;
use serde_json::json;

use super::plan::{Share, Size, roll as plan, share};

fn spec(replicas: i32, surge: &str, unavailable: &str) -> DeploymentSpec {
    let spec = json!({"replicas": replicas, "selector": {}, "template": {},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}});
    serde_json::from_value(spec).unwrap()
}

fn size(wanted: i32, available: i32) -> Size {
    Size { wanted, available, present: wanted }
}

#[test]
fn first_roll_out_starts_all_replicas() {
    assert_eq!(plan(&spec(3, "25%", "25%"), size(0, 0), &[]), (3, vec![]));
}

#[test]
fn roll_out_moves_within_surge_and_unavailability() {
    let spec = spec(4, "25%", "25%");
    assert_eq!(plan(&spec, size(0, 0), &[size(4, 4)]), (1, vec![3]));
    assert_eq!(plan(&spec, size(1, 0), &[size(3, 3)]), (2, vec![3]));
    assert_eq!(plan(&spec, size(2, 2), &[size(3, 3)]), (2, vec![1]));
}

#[test]
fn broken_replicas_of_old_versions_go_first() {
    assert_eq!(plan(&spec(4, "0%", "25%"), size(1, 0), &[size(3, 0)]), (1, vec![3]));
    assert_eq!(plan(&spec(4, "1%", "25%"), size(1, 1), &[size(4, 2)]), (1, vec![2]));
}

proptest! {
    /// From any start, with pods that become available as they please, the roll-out never breaks its bounds and ends.
    #[test]
    fn roll_out_keeps_its_promises_and_ends(
        replicas in 1..20i32, surge in 0..=100i32, unavailable in 0..=100i32, old in prop::collection::vec(0..10i32, 0..3),
        luck in prop::collection::vec(any::<bool>(), 400),
    ) {
        let spec = spec(replicas, &format!("{surge}%"), &format!("{unavailable}%"));
        let max_surge = (surge * replicas + 99) / 100;
        let mut max_unavailable = unavailable * replicas / 100;
        if max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        // Old versions that were all up, at most as many as wanted.
        let mut olds: Vec<Size> = Vec::new();
        let mut left = replicas;
        for n in old {
            let n = n.min(left);
            left -= n;
            olds.push(size(n, n));
        }
        let mut new = size(0, 0);
        let mut luck = luck.into_iter().chain(std::iter::repeat(true));
        for _ in 0..400 {
            let before: i32 = new.available + olds.iter().map(|o| o.available).sum::<i32>();
            let (next_new, next_olds) = plan(&spec, new, &olds);
            let total = next_new + next_olds.iter().sum::<i32>();
            let start_total = new.wanted + olds.iter().map(|o| o.wanted).sum::<i32>();
            prop_assert!(total <= (replicas + max_surge).max(start_total), "{total} pods of {replicas}");
            new.wanted = next_new;
            for (old, wanted) in olds.iter_mut().zip(next_olds) {
                prop_assert!(wanted >= 0 && wanted <= old.wanted);
                *old = size(wanted, old.available.min(wanted));
            }
            let after: i32 = new.available + olds.iter().map(|o| o.available).sum::<i32>();
            prop_assert!(after >= (replicas - max_unavailable).min(before), "{after} available of {replicas}");
            if new.available < new.wanted && luck.next() == Some(true) {
                new.available += 1;
            }
            new.present = new.wanted;
        }
        prop_assert_eq!(new.wanted, replicas);
        prop_assert!(olds.iter().all(|o| o.wanted == 0));
    }
}

/// A set as it is, and as its status says, which comes later.
#[derive(Debug, Clone, Copy)]
struct Real {
    wanted: i32,
    ready: i32,
    unready: i32,
    told: Size,
}

impl Real {
    /// What the set's controller does: pods come unready; those that aren't ready go first.
    fn sync(&mut self) {
        let missing = self.wanted - self.ready - self.unready;
        self.unready += missing.max(-self.unready);
        self.ready = self.ready.min(self.wanted);
    }

    fn tell(&mut self) {
        self.told = Size { wanted: 0, available: self.ready, present: self.ready + self.unready };
    }

    fn seen(&self) -> Size {
        Size { wanted: self.wanted, ..self.told }
    }
}

proptest! {
    /// The same, with sets that act on their new size late and tell of it later still, in any order.
    #[test]
    fn roll_out_keeps_its_promises_whoever_is_late(
        replicas in 1..12i32, surge in 0..5i32, unavailable in 0..5i32, olds in 1..3usize,
        steps in prop::collection::vec(0..4u8, 300), which in prop::collection::vec(0..3usize, 300),
    ) {
        let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable }.min(replicas);
        let mut spec = spec(replicas, "0%", "0%");
        spec.strategy = serde_json::from_value(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})).unwrap();
        let up = |n: i32| Real { wanted: n, ready: n, unready: 0, told: size(n, n) };
        // The old version has them all; the others are from earlier ones.
        let mut sets = vec![up(0); olds + 1];
        sets[olds] = up(replicas);
        let mut rounds: Vec<(u8, usize)> = steps.into_iter().zip(which).collect();
        // In the end everybody gets round to it.
        rounds.extend((0..200).flat_map(|_| [(0, 0), (1, 0), (1, 1), (1, 2), (3, 0), (3, 1), (3, 2), (2, 0), (2, 1), (2, 2)]));
        for (step, which) in rounds {
            let which = which.min(olds);
            match step {
                0 => {
                    let seen: Vec<Size> = sets.iter().map(Real::seen).collect();
                    let (new, rest) = plan(&spec, seen[0], &seen[1..]);
                    sets[0].wanted = new;
                    sets[1..].iter_mut().zip(rest).for_each(|(set, wanted)| set.wanted = wanted);
                }
                1 => sets[which].sync(),
                2 => sets[which].tell(),
                _ => (sets[which].ready, sets[which].unready) = (sets[which].ready + sets[which].unready, 0),
            }
            let ready: i32 = sets.iter().map(|s| s.ready).sum();
            let wanted: i32 = sets.iter().map(|s| s.wanted).sum();
            prop_assert!(ready >= replicas - unavailable, "{} ready of {}: {:?}", ready, replicas, sets);
            prop_assert!(wanted <= replicas + surge, "{} wanted of {}: {:?}", wanted, replicas, sets);
        }
        prop_assert_eq!(sets[0].ready, replicas);
        prop_assert!(sets[1..].iter().all(|s| s.wanted == 0));
    }
}

#[test]
fn a_change_of_replicas_is_shared_in_proportion() {
    let set = |replicas, revision| Share { replicas, of_at_most: 13, revision };
    // Ten replicas with a surge of three, in the middle of a roll-out, become thirty.
    assert_eq!(share(30, 9, &[set(5, 2), set(8, 1)]), [15, 24]);
    assert_eq!(share(5, 2, &[set(5, 2), set(8, 1)]), [3, 4]);
    assert_eq!(share(0, 0, &[set(5, 2), set(8, 1)]), [0, 0]);
    // What rounding leaves goes to the largest.
    assert_eq!(share(11, 3, &[set(1, 2), set(12, 1)]).iter().sum::<i32>(), 14);
}

proptest! {
    #[test]
    fn shares_add_up(
        wanted in 0..100i32, surge in 0..30i32, sizes in prop::collection::vec((0..60i32, 1..90i32), 1..5),
    ) {
        let sets: Vec<Share> = sizes
            .iter()
            .enumerate()
            .map(|(i, (replicas, most))| Share { replicas: *replicas, of_at_most: *most, revision: i as i64 })
            .collect();
        let new = share(wanted, surge, &sets);
        let allowed = if wanted > 0 { wanted + surge } else { 0 };
        prop_assert!(new.iter().all(|n| *n >= 0));
        prop_assert_eq!(new.iter().sum::<i32>(), allowed);
    }

    /// Whatever numbers a Deployment and its sets have, what comes of them is a number of replicas.
    #[test]
    fn extremes_of_replicas_are_borne(
        numbers in prop::collection::vec(prop::sample::select(vec![i32::MIN, -1, 0, 1, 7, i32::MAX - 1, i32::MAX]), 12),
        revision in prop::sample::select(vec![i64::MIN, 0, i64::MAX]), percent: bool,
    ) {
        let amount = |n: i32| if percent { json!(format!("{n}%")) } else { json!(n) };
        let spec = json!({"replicas": numbers[0].max(0), "selector": {}, "template": {}, "strategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": amount(numbers[1]), "maxUnavailable": amount(numbers[2])}}});
        let spec: DeploymentSpec = serde_json::from_value(spec).unwrap();
        let sizes: Vec<Size> =
            numbers[3..].chunks_exact(3).map(|n| Size { wanted: n[0], available: n[1], present: n[2] }).collect();
        let (new, olds) = plan(&spec, sizes[0], &sizes[1..]);
        prop_assert!(new >= 0 && olds.iter().all(|old| *old >= 0), "{new} {olds:?}");
        let sets: Vec<Share> =
            numbers[3..].chunks_exact(3).map(|n| Share { replicas: n[0], of_at_most: n[1], revision }).collect();
        prop_assert!(share(numbers[0], numbers[1], &sets).iter().all(|n| *n >= 0));
    }
}
