//! Who has to go for whom.

use super::*;
use crate::preemption::{self, DisruptionBudgets};

struct Allowed(i32);

impl DisruptionBudgets for Allowed {
    fn of(&self, pod: &PodInfo) -> Vec<(String, i32)> {
        if pod.group_key.labels.contains_key("guarded") { vec![("budget".into(), self.0)] } else { Vec::new() }
    }
}

fn preempted(snapshot: &mut Snapshot, text: &str, allowed: i32) -> String {
    let (info, _) = pod(text);
    let Outcome::Unschedulable(fit_error) = schedule(&info, snapshot, &PodVolumes::default(), &Profile::default())
    else {
        panic!("it fits as it is")
    };
    match preemption::find_candidate(
        &info,
        snapshot,
        &PodVolumes::default(),
        &mut PodDevices::default(),
        &fit_error,
        &Allowed(allowed),
    ) {
        Ok(p) => format!("{}: {}", p.node, p.victims.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(" ")),
        Err(why) => why,
    }
}

#[test]
fn less_important_pods_make_room() {
    let full =
        "node a 2\nnode b 2\npod a1 on a cpu=1 priority=5\npod a2 on a cpu=1 priority=1\npod b1 on b cpu=2 priority=3";
    // As few and as unimportant as possible.
    assert_eq!(preempted(&mut cluster(full), "p cpu=1 priority=9", 0), "a: a2");
    assert_eq!(preempted(&mut cluster(full), "p cpu=2 priority=9", 0), "b: b1");
    assert_eq!(
        preempted(&mut cluster(full), "p cpu=2 priority=1", 0),
        "0/2 nodes are available: 2 No preemption victims found for incoming pod."
    );
    assert_eq!(
        preempted(&mut cluster("node a 2 taint=k\nnode b 1"), "p cpu=2 priority=9", 0),
        "0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
    assert_eq!(
        preempted(&mut cluster(full), r#"p cpu=1 priority=9 {"preemptionPolicy": "Never"}"#, 0),
        "not eligible due to preemptionPolicy=Never."
    );
    // Budgets are kept where there is a choice.
    let guarded = "node a 1\nnode b 1\npod a1 on a cpu=1 priority=1 guarded=yes\npod b1 on b cpu=1 priority=2";
    assert_eq!(preempted(&mut cluster(guarded), "p cpu=1 priority=9", 0), "b: b1");
    assert_eq!(preempted(&mut cluster(guarded), "p cpu=1 priority=9", 1), "a: a1");
    // A neighbour that keeps others away can be the victim.
    let there = format!(r#"pod q on a app=y {{"affinity": {{"podAntiAffinity": {{{NEAR}}}}}}}"#);
    assert_eq!(preempted(&mut cluster(&format!("node a 4 zone=1\n{there}")), "p app=x priority=9", 0), "a: q");
}

#[test]
fn victims_are_those_who_lose_least() {
    // One eviction is allowed, which the more important of the two is within: the other one stays.
    let two = "node a 2\npod a1 on a cpu=1 priority=1 guarded=yes\npod a2 on a cpu=1 priority=2 guarded=yes";
    assert_eq!(preempted(&mut cluster(two), "p cpu=1 priority=9", 1), "a: a2");
    // Among equals that which began last goes.
    let since = "node a 1\nnode b 1\npod a1 on a cpu=1 priority=1 started=1\npod b1 on b cpu=1 priority=1 started=2";
    assert_eq!(preempted(&mut cluster(since), "p cpu=1 priority=9", 0), "b: b1");
    let since = "node a 2\npod a1 on a cpu=1 priority=1 started=2\npod a2 on a cpu=1 priority=1 started=1";
    assert_eq!(preempted(&mut cluster(since), "p cpu=1 priority=9", 0), "a: a1");
}

#[test]
fn who_has_victims_that_still_end_takes_no_more() {
    let ends = "node a 1\nnode b 1\npod a1 on a cpu=1 priority=2 preempted\npod b1 on b cpu=1 priority=1";
    assert_eq!(
        preempted(&mut cluster(ends), "p cpu=1 priority=9 nominated=a", 0),
        "not eligible due to a terminating pod on the nominated node."
    );
    assert_eq!(preempted(&mut cluster(ends), "p cpu=1 priority=9 nominated=b", 0), "b: b1");
    assert_eq!(preempted(&mut cluster(ends), "p cpu=1 priority=9 nominated=gone", 0), "b: b1");
}

#[test]
fn room_that_was_made_is_kept_for_whom_it_was_made() {
    let mut snapshot = cluster("node a 2\npod q on a cpu=1");
    let (important, _) = pod("vip cpu=1 priority=9");
    snapshot.nominate(important.pod.key(), Arc::new(important), "a");
    assert_eq!(placed(&mut snapshot, "p cpu=1 priority=1"), "0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(placed(&mut snapshot, "p cpu=1 priority=10"), "a");
    assert_eq!(placed(&mut snapshot, "vip cpu=1 priority=9"), "a");
}
