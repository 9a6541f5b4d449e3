use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::is_stuck;
use super::plan::{Action, Replica, Shape, plan};

/// One letter a pod: `a`vailable, `s`tarting, `d`eleting, `f`ailed, `o`ld but available, `u`nready and old,
/// `b`roken and old, `-` missing.
fn check(replicas: i32, parallel: bool, partition: i32, pods: &str, want: &str) {
    let all: Vec<Replica> = pods
        .chars()
        .enumerate()
        .filter(|(_, c)| *c != '-')
        .map(|(i, c)| Replica {
            ordinal: i as i32,
            over: c == 'f',
            deleting: c == 'd',
            available: matches!(c, 'a' | 'o'),
            updated: !matches!(c, 'o' | 'b' | 'u'),
            stuck: c == 'b',
        })
        .collect();
    let shape = Shape { start: 0, replicas, parallel, partition: Some(partition), max_unavailable: 1 };
    let got = plan(shape, &all).into_iter().map(|a| match a {
        Action::Create(n) => format!("+{n}"),
        Action::Delete(n) => format!("-{n}"),
    });
    assert_eq!(got.collect::<Vec<_>>().join(" "), want, "{replicas} of {pods:?}");
}

#[test]
fn pods_are_made_and_removed_in_order() {
    check(2, false, 0, "", "+0");
    check(2, false, 0, "s", "");
    check(2, false, 0, "a", "+1");
    check(2, false, 0, "-a", "+0");
    check(2, false, 0, "da", "");
    check(2, false, 0, "fa", "-0");
    check(1, false, 0, "aaa", "-2");
    check(1, false, 0, "aad", "");
    check(0, false, 0, "sss", "");
    check(0, false, 0, "ass", "");
    check(0, false, 0, "aas", "-2");
    check(0, false, 0, "s", "-0");
    check(0, false, 0, "sa", "-1");
    check(0, false, 0, "ff", "-1");
    check(0, false, 0, "fs", "-1");
    check(1, false, 0, "saa", "");
    check(3, true, 0, "-s-", "+0 +2");
    check(0, true, 0, "aa", "-1 -0");
}

#[test]
fn roll_out_goes_from_the_highest_number_down_to_the_partition() {
    check(3, false, 0, "ooo", "-2");
    check(3, false, 0, "ood", "");
    check(3, false, 0, "oos", "");
    check(3, false, 0, "ooa", "-1");
    check(3, false, 2, "ooa", "");
    check(3, false, 0, "oob", "-2");
    check(3, false, 0, "b", "-0");
    // Whoever runs and isn't ready is waited for.
    check(3, false, 0, "ouo", "");
    check(3, false, 0, "uoo", "");
    check(3, false, 0, "ooua", "");
    check(3, true, 0, "ouo", "-1");
    check(3, false, 0, "obs", "");
    check(3, false, 2, "obo", "");
    check(3, false, 2, "ooo", "-2");
    let old =
        |ordinal| Replica { ordinal, over: false, deleting: false, available: true, updated: false, stuck: false };
    let shape = Shape { start: 0, replicas: 4, parallel: true, partition: Some(1), max_unavailable: 2 };
    let pods: Vec<Replica> = (0..4).map(old).collect();
    assert_eq!(plan(shape, &pods), [Action::Delete(3), Action::Delete(2)]);
    let mut some: Vec<Replica> = pods;
    some[3].deleting = true;
    assert_eq!(plan(shape, &some), [Action::Delete(2)]);
}

proptest! {
    /// From any start, with pods that get well or fail as they please, nothing is made twice, no more is down for the
    /// update than may be, order is kept, and all ends as it should be.
    #[test]
    fn updates_keep_their_promises_and_end(
        replicas in 0..6i32, parallel: bool, max_unavailable in 1..4i32, start in prop::collection::vec(0..5u8, 0..8),
        luck in prop::collection::vec((0..6i32, 0..4u8), 200),
    ) {
        let replica = |ordinal: usize, c: &u8| Replica {
            ordinal: ordinal as i32, over: *c == 1, deleting: *c == 2, available: *c >= 3, updated: *c == 4, stuck: *c == 0,
        };
        let mut pods: BTreeMap<i32, Replica> =
            start.iter().enumerate().map(|(i, c)| (i as i32, replica(i, c))).collect();
        let shape = Shape { start: 0, replicas, parallel, partition: Some(0), max_unavailable };
        let luck = luck.into_iter().chain((0..60).flat_map(|_| (0..8).flat_map(|o| [(o, 0), (o, 2)])));
        for (ordinal, event) in luck {
            let now: Vec<Replica> = pods.values().copied().collect();
            let up = |pods: &BTreeMap<i32, Replica>| (0..replicas).filter(|o| pods.get(o).is_some_and(|r| r.available && !r.deleting)).count() as i32;
            let before = up(&pods);
            let actions = plan(shape, &now);
            prop_assert!(parallel || actions.len() <= usize::try_from(max_unavailable).unwrap(), "{:?} of {:?}", actions, now);
            for action in actions {
                match action {
                    Action::Create(n) => {
                        prop_assert!(n < replicas && !pods.contains_key(&n), "{} of {:?}", n, now);
                        prop_assert!(parallel || (0..n).all(|o| now.iter().any(|r| r.ordinal == o && r.available)), "{:?}", now);
                        pods.insert(n, Replica { ordinal: n, over: false, deleting: false, available: false, updated: true, stuck: false });
                    }
                    Action::Delete(n) => {
                        let pod = pods.get_mut(&n).unwrap();
                        prop_assert!(!pod.deleting);
                        (pod.deleting, pod.available) = (true, false);
                    }
                }
            }
            let after = up(&pods);
            prop_assert!(after >= (replicas - max_unavailable).min(before), "{} up, {} before: {:?}", after, before, now);
            match event {
                // It gets well, unless it is over or leaves.
                0 => pods.values_mut().filter(|r| r.ordinal == ordinal && !r.over && !r.deleting).for_each(|r| r.available = true),
                1 => pods.values_mut().filter(|r| r.ordinal == ordinal && !r.deleting).for_each(|r| r.available = false),
                2 => pods.retain(|_, r| r.ordinal != ordinal || !r.deleting),
                _ => {}
            }
        }
        prop_assert_eq!(pods.len() as i32, replicas);
        prop_assert!(pods.values().all(|r| r.updated && r.available && !r.deleting), "{:?}", pods);
    }
}

#[test]
fn a_pod_is_stuck_when_it_can_not_run() {
    let stuck = |status: Value| is_stuck(&serde_json::from_value(json!({"status": status})).unwrap());
    let container = |restarts: i32, state: Value| {
        json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "restartCount": 0, "state": {"running": {}}}, {"name": "b", "restartCount": restarts, "state": state}]})
    };
    assert!(stuck(json!({"phase": "Pending"})));
    assert!(stuck(container(3, json!({"waiting": {"reason": "CrashLoopBackOff"}}))));
    assert!(stuck(container(1, json!({"terminated": {"exitCode": 1}}))));
    assert!(!stuck(container(3, json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}))));
    assert!(!stuck(container(0, json!({"running": {}}))));
}
