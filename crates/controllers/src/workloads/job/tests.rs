use std::sync::Arc;

use informer::Pod;
use k8s_openapi::api::batch::v1::{JobSpec, JobStatus, PodFailurePolicyRule};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::failure_policy::{Verdict, judge};
use super::plan::{BACKOFF, Decision, Run, backoff, decide, is_needed, met, ready};
use super::pod::generate_name;
use super::tracking::{Tally, count, ended_at, set_counts, tally};
use super::{FAILURES, FINALIZER, INDEX};

fn spec(value: Value) -> JobSpec {
    let mut value = value;
    value["template"] = json!({"spec": {"containers": [], "restartPolicy": "OnFailure"}});
    serde_json::from_value(value).unwrap()
}

fn run(create: usize, delete: usize) -> Decision {
    Decision::Run(Run { create, indexes: Vec::new(), delete })
}

#[test]
fn pods_are_made_up_to_what_is_still_needed() {
    let job = spec(json!({"parallelism": 3, "completions": 5, "backoffLimit": 6}));
    let decide = |succeeded, active| decide(&job, &Tally { succeeded, active, ..Tally::default() }, None);
    assert_eq!(decide(0, 0), run(3, 0));
    assert_eq!(decide(3, 1), run(1, 0));
    assert_eq!(decide(4, 2), run(0, 1));
    assert_eq!(decide(5, 0), Decision::Complete);
}

#[test]
fn a_work_queue_ends_when_all_have_ended_and_one_succeeded() {
    let job = spec(json!({"parallelism": 2}));
    let decide = |succeeded, active| decide(&job, &Tally { succeeded, active, ..Tally::default() }, None);
    assert_eq!(decide(0, 1), run(1, 0));
    assert_eq!(decide(1, 1), run(0, 0));
    assert_eq!(decide(2, 0), Decision::Complete);
}

#[test]
fn failures_and_deadlines_end_a_job() {
    let job = spec(json!({"parallelism": 1, "completions": 1, "backoffLimit": 1, "activeDeadlineSeconds": 10}));
    let failed = |failed| decide(&job, &Tally { failed, ..Tally::default() }, Some(SignedDuration::from_secs(1)));
    assert_eq!(failed(1), run(1, 0));
    assert!(matches!(failed(2), Decision::Fail("BackoffLimitExceeded", _)));
    let late = decide(&job, &Tally::default(), Some(SignedDuration::from_secs(11)));
    assert!(matches!(late, Decision::Fail("DeadlineExceeded", _)));
    let suspended = spec(json!({"parallelism": 2, "completions": 2, "suspend": true}));
    assert_eq!(decide(&suspended, &Tally { active: 1, ..Tally::default() }, None), run(0, 1));
}

#[test]
fn each_index_is_done_once() {
    let job = spec(json!({"parallelism": 2, "completions": 4, "completionMode": "Indexed"}));
    let tally = Tally { completed: [0].into(), active_indexes: [1].into(), active: 1, ..Tally::default() };
    assert_eq!(decide(&job, &tally, None), Decision::Run(Run { create: 1, indexes: vec![2], delete: 0 }));
    let all = Tally { completed: [0, 1, 2, 3].into(), ..Tally::default() };
    assert_eq!(decide(&job, &all, None), Decision::Complete);
    let some = Tally { completed: [0, 1, 2].into(), given_up: [3].into(), ..Tally::default() };
    assert!(matches!(decide(&job, &some, None), Decision::Fail("FailedIndexes", _)));
}

#[test]
fn a_job_that_was_made_smaller_or_has_two_pods_of_an_index_keeps_to_its_indexes() {
    let job = spec(json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed"}));
    let pod = |name: &str, index: i32, phase: &str, ready: &str| {
        let conditions = json!([{"type": "Ready", "status": ready}]);
        pod(json!({"metadata": {"name": name, "uid": name, "annotations": {INDEX: index.to_string()}},
            "spec": {"nodeName": "n"}, "status": {"phase": phase, "conditions": conditions}}))
    };
    let status = JobStatus { completed_indexes: Some("0,4-6".into()), ..JobStatus::default() };
    let mine =
        [pod("twin", 1, "Running", "False"), pod("works", 1, "Running", "True"), pod("beyond", 5, "Running", "True")];
    let found = tally(&job, &status, &mine);
    assert_eq!(found.surplus, ["beyond".to_string(), "twin".to_string()].into());
    // Index 2 alone is missing: what was done beyond the third counts for nothing.
    assert_eq!(decide(&job, &found, None), Decision::Run(Run { create: 1, indexes: vec![2], delete: 2 }));
    let mut status = status;
    set_counts(&job, &mut status, &found);
    assert_eq!((status.succeeded, status.completed_indexes.as_deref()), (Some(1), Some("0")));
    // Two that succeeded for one index.
    let twice = [pod("a", 0, "Succeeded", "False"), pod("b", 0, "Succeeded", "False")];
    let mut status = JobStatus::default();
    count(&job, &mut status, &twice);
    let found = tally(&job, &status, &twice);
    set_counts(&job, &mut status, &found);
    assert_eq!(status.succeeded, Some(1));
    // What failed beyond the number isn't the Job's failure.
    let failed = [pod("a", 0, "Failed", "False"), pod("beyond", 7, "Failed", "False")];
    let mut status = JobStatus::default();
    count(&job, &mut status, &failed);
    assert_eq!(tally(&job, &status, &failed).failed, 1);
}

#[test]
fn names_of_an_indexs_pods_keep_the_index() {
    assert_eq!(generate_name("count", 7), "count-7-");
    let long = generate_name(&"x".repeat(63), 123);
    assert!(long.len() == 58 && long.ends_with("x-123-"), "{long}");
}

#[test]
fn a_success_policy_ends_a_job_early() {
    let rules =
        json!([{"succeededIndexes": "0,2"}, {"succeededCount": 3}, {"succeededIndexes": "1-3", "succeededCount": 1}]);
    let job = spec(json!({"parallelism": 5, "completions": 5, "completionMode": "Indexed",
        "successPolicy": {"rules": rules}}));
    let met = |done: &[i32]| met(&job, &done.iter().copied().collect());
    assert_eq!(met(&[0]), None);
    assert_eq!(met(&[0, 4]), None);
    assert_eq!(met(&[0, 2]), Some(0));
    assert_eq!(met(&[0, 1, 4]), Some(1));
    assert_eq!(met(&[3]), Some(2));
    let tally = Tally { completed: [0, 2].into(), active: 3, ..Tally::default() };
    assert_eq!(decide(&job, &tally, None), Decision::Enough("Matched rules at index 0".into()));
    // Not where the Job has failed by its indexes in the same breath.
    let lost = spec(json!({"parallelism": 5, "completions": 5, "completionMode": "Indexed", "backoffLimitPerIndex": 0,
        "maxFailedIndexes": 1, "successPolicy": {"rules": [{"succeededIndexes": "0,2"}]}}));
    let tally = Tally { given_up: [1, 3].into(), ..tally };
    assert!(matches!(decide(&lost, &tally, None), Decision::Fail("MaxFailedIndexesExceeded", _)));
}

#[test]
fn failures_of_an_index_outlive_its_pods() {
    let job = spec(json!({"parallelism": 1, "completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1}));
    let pod = |before: &str, phase: &str| -> Arc<Pod> {
        let annotations = json!({INDEX: "0", FAILURES: before});
        let pod = json!({"metadata": {"name": "p", "annotations": annotations}, "status": {"phase": phase}});
        Arc::new(serde_json::from_value(pod).unwrap())
    };
    let given_up = |pods: &[Arc<Pod>]| tally(&job, &JobStatus::default(), pods).given_up.contains(&0);
    assert!(!given_up(&[pod("0", "Failed")]));
    assert!(!given_up(&[pod("1", "Running")]));
    assert!(given_up(&[pod("1", "Failed")]));
}

#[test]
fn failure_policy_takes_the_first_rule_that_fits() {
    let rules: Vec<PodFailurePolicyRule> = serde_json::from_value(json!([
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
    ]))
    .unwrap();
    let pod = |code: i32, condition: &str| -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": "Failed",
            "conditions": [{"type": condition, "status": "True"}],
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code}}}]}}))
        .unwrap()
    };
    assert_eq!(judge(&rules, &pod(42, "DisruptionTarget")), Verdict::Ignore);
    assert!(matches!(judge(&rules, &pod(42, "Other")), Verdict::FailJob(why) if why.contains("exit code 42")));
    assert_eq!(judge(&rules, &pod(1, "Other")), Verdict::Count);
}

fn pod(value: Value) -> Arc<Pod> {
    let mut value = value;
    for (key, given) in [("name", json!("p")), ("uid", json!("p")), ("finalizers", json!([FINALIZER]))] {
        if value["metadata"].get(key).is_none() {
            value["metadata"][key] = given;
        }
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

#[test]
fn restarts_of_init_containers_and_sidecars_count_against_the_limit() {
    let statuses = json!({"phase": "Pending", "initContainerStatuses": [{"name": "a", "restartCount": 1}, {"name": "b", "restartCount": 1}],
        "containerStatuses": [{"name": "c", "restartCount": 1}]});
    let mine = [pod(json!({"metadata": {}, "status": statuses}))];
    let decided = |limit: i32, restart: &str| {
        let mut job = spec(json!({"backoffLimit": limit}));
        job.template.spec.as_mut().unwrap().restart_policy = Some(restart.into());
        decide(&job, &tally(&job, &JobStatus::default(), &mine), None)
    };
    assert!(matches!(decided(3, "OnFailure"), Decision::Fail("BackoffLimitExceeded", _)));
    assert!(matches!(decided(4, "OnFailure"), Decision::Run(_)));
    // Where pods don't restart in place, a sidecar that does isn't the Job's matter.
    assert!(matches!(decided(3, "Never"), Decision::Run(_)));
}

#[test]
fn a_pod_that_somebody_deletes_has_failed_unless_its_end_is_waited_for() {
    let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    let mine = [pod(json!({"metadata": deleted, "status": {"phase": "Pending"}}))];
    for (more, failed) in [
        (json!({}), 1),
        (json!({"podReplacementPolicy": "TerminatingOrFailed"}), 1),
        (json!({"podReplacementPolicy": "Failed"}), 0),
        (json!({"podFailurePolicy": {"rules": []}}), 0),
    ] {
        let (job, mut status) = (spec(more.clone()), JobStatus::default());
        count(&job, &mut status, &mine);
        let found = tally(&job, &status, &mine);
        assert_eq!((found.failed, found.terminating, found.active), (failed, 1, 0), "{more}");
        // Its place is free only where its end isn't waited for.
        assert_eq!(decide(&job, &found, None), run(usize::try_from(failed).unwrap(), 0), "{more}");
    }
    // One that the Job itself gave up isn't counted.
    let free = [pod(json!({"metadata": {"finalizers": [], "deletionTimestamp": "2026-01-01T00:00:00Z"}}))];
    let (job, mut status) = (spec(json!({})), JobStatus::default());
    count(&job, &mut status, &free);
    assert_eq!(tally(&job, &status, &free).failed, 0);
}

#[test]
fn a_terminating_index_is_taken_where_ends_are_waited_for() {
    let taken = Tally { terminating: 1, terminating_indexes: [0].into(), ..Tally::default() };
    for (policy, indexes) in [("Failed", vec![1]), ("TerminatingOrFailed", vec![0, 1])] {
        let job = spec(
            json!({"parallelism": 2, "completions": 3, "completionMode": "Indexed", "podReplacementPolicy": policy}),
        );
        let create = indexes.len();
        assert_eq!(decide(&job, &taken, None), Decision::Run(Run { create, indexes, delete: 0 }), "{policy}");
    }
}

/// A pod that failed at a second.
fn failed(name: &str, index: i32, before: i32, second: u32) -> Arc<Pod> {
    let annotations = json!({INDEX: index.to_string(), FAILURES: before.to_string()});
    let end = json!({"exitCode": 1, "finishedAt": format!("2026-01-01T00:00:{second:02}Z")});
    let statuses = json!([{"name": "c", "state": {"terminated": end}}]);
    pod(
        json!({"metadata": {"name": name, "uid": name, "annotations": annotations}, "status": {"phase": "Failed", "containerStatuses": statuses}}),
    )
}

#[test]
fn failures_hold_up_their_own_index_or_the_whole_job() {
    let now: Timestamp = "2026-01-01T00:00:12Z".parse().unwrap();
    let mine = [failed("a", 0, 0, 1), failed("b", 1, 1, 5)];
    let left = SignedDuration::from_secs;
    let per_index = spec(json!({"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 3}));
    let ready = |spec: &JobSpec, mine: &[Arc<Pod>], indexes: &[i32]| ready(spec, mine, indexes.len(), indexes, now);
    // Index 0 failed once, 11 seconds ago; index 1 twice, 7 seconds ago; index 2 never.
    assert_eq!(ready(&per_index, &mine, &[0, 1, 2]), Ok((2, vec![0, 2])));
    assert_eq!(ready(&per_index, &mine, &[1]), Err(left(13)));
    let whole = spec(json!({"completionMode": "Indexed", "completions": 3}));
    assert_eq!(ready(&whole, &mine, &[2]), Err(left(13)));
    // A success begins the count anew.
    let mut success = (*failed("s", 2, 0, 4)).clone();
    success.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let after = [mine[0].clone(), mine[1].clone(), Arc::new(success)];
    assert_eq!(ready(&whole, &after, &[0]), Err(left(3)));
    assert_eq!(ready(&whole, &[], &[0]), Ok((1, vec![0])));
}

#[test]
fn the_last_failed_pod_of_an_index_stays_until_another_carries_on_its_count() {
    let job = spec(json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 3}));
    let (first, second) = (failed("a", 0, 0, 1), failed("b", 0, 1, 2));
    let needed = |mine: &[Arc<Pod>], pod: &Pod, tally: &Tally| is_needed(&job, tally, mine, pod);
    assert!(needed(std::slice::from_ref(&first), &first, &Tally::default()));
    let both = [first.clone(), second.clone()];
    assert!(!needed(&both, &first, &Tally::default()));
    assert!(needed(&both, &second, &Tally::default()));
    assert!(!needed(&both, &second, &Tally { given_up: [0].into(), ..Tally::default() }));
    assert!(!needed(&both, &second, &Tally { completed: [0].into(), ..Tally::default() }));
}

#[test]
fn a_failure_policy_says_which_rule_ends_a_job() {
    let rules: Vec<PodFailurePolicyRule> = serde_json::from_value(json!([
        {"action": "Count", "onPodConditions": [{"type": "Other", "status": "True"}]},
        {"action": "FailJob", "onPodConditions": [{"type": "ConfigIssue", "status": "True"}]},
    ]))
    .unwrap();
    let conditions = json!([{"type": "ConfigIssue", "status": "True"}]);
    let pod = pod(json!({"metadata": {"namespace": "n"}, "status": {"phase": "Failed", "conditions": conditions}}));
    let why = "Pod n/p has condition ConfigIssue matching FailJob rule at index 1";
    assert_eq!(judge(&rules, &pod), Verdict::FailJob(why.into()));
}

#[test]
fn no_time_of_a_job_is_too_far() {
    for deadline in [i64::MAX, i64::MIN, 0] {
        let job = spec(json!({"activeDeadlineSeconds": deadline}));
        for age in [SignedDuration::MAX, SignedDuration::MIN] {
            let _ = decide(&job, &Tally::default(), Some(age));
        }
    }
    let grace = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": i64::MAX});
    assert_eq!(ended_at(&pod(json!({"metadata": grace}))), Some(Timestamp::MIN));
    assert!(backoff(i32::MAX) <= SignedDuration::from_secs(BACKOFF.1) && backoff(i32::MIN) > SignedDuration::ZERO);
}
