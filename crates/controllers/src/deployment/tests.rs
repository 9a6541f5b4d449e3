use proptest::prelude::*;

use super::*;

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
