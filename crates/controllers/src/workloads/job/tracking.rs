//! How the pods of a Job have ended, each counted once, and what that makes of the status. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::{clock, ranges};
use informer::Pod;
use k8s_openapi::api::batch::v1::{JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;

use super::failure_policy::{Verdict, judge, rules};
use super::{failures_before, index_of, is_held, is_indexed, outcome};
use crate::toolkit::conditions::{self, NewCondition};
use crate::toolkit::pods;

/// The state of a Job as far as deciding goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    /// Indexes that are done, and those that are given up.
    pub(super) completed: BTreeSet<i32>,
    pub(super) given_up: BTreeSet<i32>,
    /// Indexes of pods that are at work.
    pub(super) active_indexes: BTreeSet<i32>,
    /// Pods at work that no index wants: a second one of its index, or one of an index that the Job hasn't got (any more).
    pub(super) surplus: BTreeSet<String>,
    /// How often each index failed. Its pods carry the count, so it outlives those that are deleted.
    pub(super) failures: BTreeMap<i32, i32>,
    pub(super) active: i32,
    pub(super) ready: i32,
    pub(super) terminating: i32,
    /// Indexes of pods that are on their way out.
    pub(super) terminating_indexes: BTreeSet<i32>,
    /// Restarts of containers, init containers and sidecars, which count against the limit when pods restart in place.
    pub(super) restarts: i32,
    /// Why the failure policy ends the Job.
    pub(super) fails_job: Option<String>,
}

/// Steps one and three of the count, on the status that is about to be written.
pub(super) fn count(spec: &JobSpec, status: &mut JobStatus, mine: &[Arc<Pod>]) {
    let by_uid: BTreeMap<String, &Arc<Pod>> = mine.iter().filter_map(|p| Some((p.uid()?, p))).collect();
    let held = |uid: &String| by_uid.get(uid).is_some_and(|p| is_held(p));
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    for (list, counter) in
        [(&mut uncounted.succeeded, &mut status.succeeded), (&mut uncounted.failed, &mut status.failed)]
    {
        let list = list.get_or_insert_default();
        let before = list.len();
        list.retain(held);
        let counted = (before - list.len()) as i32;
        *counter = Some(counter.unwrap_or(0) + counted).filter(|n| *n > 0);
    }
    // A pod of an index that the Job hasn't got (any more) has neither failed nor succeeded for it.
    let is_its =
        |pod: &Pod| !is_indexed(spec) || index_of(pod).is_some_and(|i| (0..spec.completions.unwrap_or(0)).contains(&i));
    for pod in mine.iter().filter(|pod| is_its(pod)) {
        let (Some(uid), Some(succeeded)) = (pod.uid(), outcome(spec, pod)) else { continue };
        if !succeeded && judge(rules(spec), pod) == Verdict::Ignore {
            continue;
        }
        let list = if succeeded { &mut uncounted.succeeded } else { &mut uncounted.failed };
        let list = list.get_or_insert_default();
        if held(&uid) && !list.contains(&uid) {
            list.push(uid);
        }
    }
    for list in [&mut uncounted.succeeded, &mut uncounted.failed] {
        *list = list.take().filter(|l| !l.is_empty());
    }
    status.uncounted_terminated_pods = Some(uncounted);
}

pub(super) fn tally(spec: &JobSpec, status: &JobStatus, mine: &[Arc<Pod>]) -> Tally {
    let empty = UncountedTerminatedPods::default();
    let uncounted = status.uncounted_terminated_pods.as_ref().unwrap_or(&empty);
    let open = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len) as i32;
    let mut tally = Tally {
        succeeded: status.succeeded.unwrap_or(0) + open(&uncounted.succeeded),
        failed: status.failed.unwrap_or(0) + open(&uncounted.failed),
        completed: ranges::read(status.completed_indexes.as_deref().unwrap_or("")).unwrap_or_default(),
        given_up: ranges::read(status.failed_indexes.as_deref().unwrap_or("")).unwrap_or_default(),
        ..Tally::default()
    };
    for pod in mine {
        let index = index_of(pod);
        if let Some(index) = index {
            let counts = outcome(spec, pod) == Some(false) && judge(rules(spec), pod) != Verdict::Ignore;
            let failures = tally.failures.entry(index).or_default();
            *failures = (*failures).max(failures_before(pod).saturating_add(i32::from(counts)));
        }
        if pods::is_deleting(pod) && !pod.is_over() {
            tally.terminating += 1;
            tally.terminating_indexes.extend(index);
        }
        match outcome(spec, pod) {
            Some(true) => tally.completed.extend(index),
            Some(false) => match judge(rules(spec), pod) {
                Verdict::Ignore => {}
                Verdict::FailJob(why) => tally.fails_job = Some(why),
                Verdict::FailIndex => tally.given_up.extend(index),
                Verdict::Count => {}
            },
            None if pods::is_deleting(pod) => {}
            None => {
                tally.active += 1;
                tally.ready += i32::from(pods::is_ready(pod));
                tally.active_indexes.extend(index);
                if spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure") {
                    tally.restarts = tally.restarts.saturating_add(restarts(pod));
                }
            }
        }
    }
    if is_indexed(spec) {
        // A Job that was made smaller hasn't got the indexes beyond its number any more, whatever became of them.
        let total = spec.completions.unwrap_or(0);
        tally.completed.retain(|i| (0..total).contains(i));
        tally.given_up.retain(|i| (0..total).contains(i));
        tally.failures.retain(|i, _| (0..total).contains(i));
        tally.surplus = surplus(total, mine);
    }
    if let Some(limit) = spec.backoff_limit_per_index {
        tally.given_up.extend(tally.failures.iter().filter(|(_, n)| **n > limit).map(|(i, _)| *i));
    }
    tally.given_up.retain(|i| !tally.completed.contains(i));
    tally
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|s| [&s.init_container_statuses, &s.container_statuses]);
    statuses.flatten().flatten().fold(0, |sum: i32, c| sum.saturating_add(c.restart_count))
}

/// The pods at work that no index wants, but the most useful one of each index that the Job has.
fn surplus(total: i32, mine: &[Arc<Pod>]) -> BTreeSet<String> {
    let mut of: BTreeMap<i32, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in mine.iter().filter(|p| pods::is_active(p)) {
        of.entry(index_of(pod).unwrap_or(-1)).or_default().push(pod);
    }
    let mut surplus = BTreeSet::new();
    for (index, mut pods) in of {
        pods.sort_by_key(|p| usefulness(p));
        if (0..total).contains(&index) {
            pods.pop();
        }
        surplus.extend(pods.iter().filter_map(|p| p.uid()));
    }
    surplus
}

/// The least useful of a Job's pods come first: those without a node, those that don't run, those that aren't ready, the newest.
pub(super) fn usefulness(pod: &Pod) -> (bool, bool, bool, Reverse<Option<Timestamp>>) {
    let has_node = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (has_node, pods::phase(pod) == "Running", pods::is_ready(pod), Reverse(created))
}

pub(super) fn set_counts(spec: &JobSpec, status: &mut JobStatus, tally: &Tally) {
    status.active = (tally.active > 0).then_some(tally.active);
    status.ready = Some(tally.ready);
    status.terminating = Some(tally.terminating);
    if is_indexed(spec) {
        // What counts is indexes, not pods: two of one index have done one thing.
        status.succeeded = i32::try_from(tally.completed.len()).ok().filter(|n| *n > 0);
        status.completed_indexes = Some(ranges::write(&tally.completed)).filter(|t| !t.is_empty());
        if spec.backoff_limit_per_index.is_some() {
            status.failed_indexes = Some(ranges::write(&tally.given_up));
        }
    }
}

/// Sets the condition `Suspended`; returns reason and message of the event if it has turned.
pub(super) fn set_suspended(
    status: &mut JobStatus,
    suspended: bool,
    now: Timestamp,
) -> Option<(&'static str, &'static str)> {
    let conditions = status.conditions.get_or_insert_default();
    let text = if suspended { "True" } else { "False" };
    let turned = conditions::find(conditions, "Suspended").map_or(suspended, |c| c.status != text);
    if turned {
        let (reason, message) =
            if suspended { ("JobSuspended", "Job suspended") } else { ("JobResumed", "Job resumed") };
        conditions::set(conditions, NewCondition::new("Suspended", text, reason, message), now);
        // The deadline counts from the resumption.
        status.start_time = Some(Time(now)).filter(|_| !suspended);
    }
    if conditions.is_empty() {
        status.conditions = None;
    }
    turned.then_some(if suspended { ("Suspended", "Job suspended") } else { ("Resumed", "Job resumed") })
}

/// When a pod ended, as well as that is known.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref();
    let statuses = status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0));
    let unready = || {
        let ready = status?.conditions.iter().flatten().find(|c| c.type_ == "Ready" && c.status == "False")?;
        ready.last_transition_time.as_ref().map(|t| t.0)
    };
    let deleted = || {
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0).saturating_neg());
        Some(clock::moved(pod.metadata.deletion_timestamp.as_ref()?.0, grace))
    };
    ends.max().or_else(unready).or_else(deleted).or(pod.metadata.creation_timestamp.as_ref().map(|t| t.0))
}

/// What a Job that fails sends away has failed.
pub(super) fn count_as_failed(spec: &JobSpec, status: &mut JobStatus, at_work: &[&Arc<Pod>]) {
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let mut failed = uncounted.failed.take().unwrap_or_default();
    let counts = |p: &&&Arc<Pod>| is_held(p) && judge(rules(spec), p) != Verdict::Ignore;
    for uid in at_work.iter().filter(counts).filter_map(|p| p.uid()) {
        if !failed.contains(&uid) {
            failed.push(uid);
        }
    }
    uncounted.failed = Some(failed).filter(|failed| !failed.is_empty());
}
