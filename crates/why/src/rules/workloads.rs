//! What makes pods: Deployments, StatefulSets, DaemonSets, Jobs and CronJobs that aren't as they were asked for.

use serde_json::Value;

use super::pod;
use super::probes::PATIENCE_SECONDS;
use crate::codes::{self, Code};
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, int, is_true, name, namespace, seconds_since, short, since, text, time};
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of workloads that aren't as they were asked for. Why, their pods say.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    let alive = |kind| s.all(kind).filter(|object| !object::is_deleted(object));
    for deployment in alive(Kind::Deployment) {
        out.extend(deployment_state(s, deployment));
    }
    for set in alive(Kind::StatefulSet) {
        out.extend(short_of(s, Kind::StatefulSet, set, &codes::STATEFULSET_UNAVAILABLE, "/status/readyReplicas"));
        out.extend(zero(Kind::StatefulSet, set));
    }
    for set in alive(Kind::ReplicaSet).filter(|set| object::controller(set).is_none()) {
        out.extend(short_of(s, Kind::ReplicaSet, set, &codes::REPLICAS_MISSING, "/status/readyReplicas"));
    }
    for set in alive(Kind::DaemonSet) {
        out.extend(daemon_set(s, set));
    }
    for job in alive(Kind::Job).filter(|job| !pod::is_replaced(s, job)) {
        out.extend(job_state(s, job));
    }
    for cron in alive(Kind::CronJob) {
        out.extend(cron_job(s, cron));
    }
}

fn why(object: &ObjectRef) -> String {
    format!("timonel why -n {} {}/{}", object.namespace, object.kind.word(), object.name)
}

/// Whether an object, or one of its pods, was only just made: then it has its time. Of a Deployment it is the last progress that counts.
fn is_young(s: &Snapshot, kind: Kind, object: &Value) -> bool {
    let is_new = |object: &Value| seconds_since(time(object, "/metadata/creationTimestamp"), s.now) < PATIENCE_SECONDS;
    let resource = kind.resource();
    let own = |pod: &&Value| object::controller(pod) == Some((resource.group, resource.name, name(object)));
    let progress = object::condition(object, "Progressing").and_then(|c| time(c, "/lastUpdateTime"));
    let progresses = progress.is_some() && seconds_since(progress, s.now) < PATIENCE_SECONDS;
    is_new(object) || progresses || s.within(Kind::Pod, namespace(object)).filter(own).any(is_new)
}

fn zero(kind: Kind, object: &Value) -> Option<Finding> {
    if int(object, "/spec/replicas") != Some(0) {
        return None;
    }
    let reference = ObjectRef::of(kind, object);
    let next = format!("kubectl -n {} scale {} {} --replicas=1", reference.namespace, kind.word(), reference.name);
    Some(Finding::new(&codes::SCALED_TO_ZERO, reference, "it is scaled to 0, so it has no pods").next(next))
}

fn short_of(s: &Snapshot, kind: Kind, object: &Value, code: &'static Code, path: &str) -> Option<Finding> {
    let wanted = int(object, "/spec/replicas").unwrap_or(1);
    let there = int(object, path).unwrap_or(0);
    if there >= wanted || is_young(s, kind, object) {
        return None;
    }
    let reference = ObjectRef::of(kind, object);
    let made = int(object, "/status/replicas").unwrap_or(0);
    let mut finding = Finding::new(code, reference.clone(), format!("{there} of {wanted} pods are ready"));
    if kind == Kind::StatefulSet && made < wanted && text(object, "/spec/podManagementPolicy") != "Parallel" {
        finding = finding.detail(format!(
            "it makes its pods one after the other: {made} are made, and the next waits for the last to be ready"
        ));
    }
    Some(finding.next(format!("kubectl -n {} describe {} {}", reference.namespace, kind.word(), reference.name)))
}

fn deployment_state(s: &Snapshot, deployment: &Value) -> Option<Finding> {
    let reference = ObjectRef::of(Kind::Deployment, deployment);
    let wanted = int(deployment, "/spec/replicas").unwrap_or(1);
    let available = int(deployment, "/status/availableReplicas").unwrap_or(0);
    let updated = int(deployment, "/status/updatedReplicas").unwrap_or(0);
    let show = format!("kubectl -n {} describe deployment {}", reference.namespace, reference.name);
    let stuck =
        object::condition(deployment, "Progressing").filter(|c| text(c, "/reason") == "ProgressDeadlineExceeded");
    if stuck.is_some() && (available < wanted || updated < wanted) {
        let says = format!(
            "its rollout doesn't get on: {updated} of {wanted} pods are of the new template, {available} are available"
        );
        let undo = format!("kubectl -n {} rollout undo deployment {}", reference.namespace, reference.name);
        return Some(Finding::new(&codes::DEPLOYMENT_STUCK, reference, says).next(show).next(undo));
    }
    if is_true(deployment, "/spec/paused") {
        let says = "it is paused: a change of its template makes no new pods";
        let resume = format!("kubectl -n {} rollout resume deployment {}", reference.namespace, reference.name);
        return Some(Finding::new(&codes::DEPLOYMENT_PAUSED, reference, says).next(resume));
    }
    if wanted == 0 {
        return zero(Kind::Deployment, deployment);
    }
    let behind = updated < wanted && int(deployment, "/status/unavailableReplicas").unwrap_or(0) > 0;
    if (available >= wanted && !behind) || is_young(s, Kind::Deployment, deployment) {
        return None;
    }
    let says = if available < wanted {
        format!("{available} of {wanted} pods are available")
    } else {
        format!("{updated} of {wanted} pods are of the new template; the old ones still answer")
    };
    Some(Finding::new(&codes::DEPLOYMENT_UNAVAILABLE, reference, says).next(show))
}

fn daemon_set(s: &Snapshot, set: &Value) -> Option<Finding> {
    let wanted = int(set, "/status/desiredNumberScheduled").unwrap_or(0);
    let ready = int(set, "/status/numberReady").unwrap_or(0);
    let reference = ObjectRef::of(Kind::DaemonSet, set);
    let show = format!("kubectl -n {} describe daemonset {}", reference.namespace, reference.name);
    if is_young(s, Kind::DaemonSet, set) {
        return None;
    }
    if wanted == 0 {
        let says = "no node is one that it should run on (nodeSelector, affinity, taints)";
        return Some(Finding::new(&codes::DAEMONSET_NOWHERE, reference, says).next(show));
    }
    (ready < wanted).then(|| {
        Finding::new(
            &codes::DAEMONSET_UNAVAILABLE,
            reference,
            format!("its pods are ready on {ready} of {wanted} nodes"),
        )
        .next(show)
    })
}

fn job_state(s: &Snapshot, job: &Value) -> Option<Finding> {
    let reference = ObjectRef::of(Kind::Job, job);
    let space = namespace(job);
    if let Some(failed) = object::condition(job, "Failed").filter(|c| text(c, "/status") == "True") {
        let reason = text(failed, "/reason");
        let (code, says) = match reason {
            "DeadlineExceeded" => {
                let limit = int(job, "/spec/activeDeadlineSeconds").unwrap_or(0);
                (
                    &codes::JOB_DEADLINE,
                    format!("it has failed: it ran longer than its {limit} s (activeDeadlineSeconds)"),
                )
            }
            "BackoffLimitExceeded" => {
                let limit = int(job, "/spec/backoffLimit").unwrap_or(6);
                (
                    &codes::JOB_FAILED,
                    format!("it has failed: its pods failed more often than backoffLimit {limit} allows"),
                )
            }
            _ => (&codes::JOB_FAILED, format!("it has failed: {reason}: {}", short(text(failed, "/message"), 160))),
        };
        let pods: Vec<&Value> = s
            .within(Kind::Pod, space)
            .filter(|pod| object::controller(pod).is_some_and(|(_, kind, owner)| kind == "Job" && owner == name(job)))
            .collect();
        let gone = if pods.is_empty() { "its pods are gone, and their logs with them" } else { "" };
        return Some(
            Finding::new(code, reference, says)
                .detail(gone)
                .follows("it isn't tried again")
                .next(format!("kubectl -n {space} logs job/{} --all-pods", name(job))),
        );
    }
    if is_true(job, "/spec/suspend") {
        let next = format!("kubectl -n {space} patch job {} -p '{{\"spec\":{{\"suspend\":false}}}}'", name(job));
        return Some(Finding::new(&codes::JOB_SUSPENDED, reference, "it is suspended, so it has no pods").next(next));
    }
    None
}

fn cron_job(s: &Snapshot, cron: &Value) -> Option<Finding> {
    let reference = ObjectRef::of(Kind::CronJob, cron);
    let space = namespace(cron);
    if is_true(cron, "/spec/suspend") {
        let next = format!("kubectl -n {space} patch cronjob {} -p '{{\"spec\":{{\"suspend\":false}}}}'", name(cron));
        return Some(Finding::new(&codes::CRON_SUSPENDED, reference, "it is suspended: it makes no jobs").next(next));
    }
    if let Some(event) = s.event(
        Kind::CronJob,
        cron,
        &["TooManyMissedTimes", "UnparseableSchedule", "InvalidSchedule", "UnknownTimeZone"],
    ) {
        let says = format!("it doesn't start its jobs: {}", short(text(event, "/message"), 200));
        return Some(
            Finding::new(&codes::CRON_MISSED, reference.clone(), says)
                .next(format!("kubectl -n {space} describe cronjob {}", name(cron))),
        );
    }
    // The latest of its jobs, if that has failed.
    let jobs = s
        .within(Kind::Job, space)
        .filter(|job| object::controller(job).is_some_and(|(_, kind, owner)| kind == "CronJob" && owner == name(cron)));
    let last = jobs.max_by_key(|job| time(job, "/metadata/creationTimestamp"));
    if let Some(job) = last.filter(|job| object::has_condition(job, "Failed", "True")) {
        let says = format!("its last job, {}, has failed", name(job));
        let job = ObjectRef::of(Kind::Job, job);
        return Some(Finding::new(&codes::CRON_FAILED, reference, says).because(job.clone()).next(why(&job)));
    }
    if text(cron, "/status/lastScheduleTime").is_empty() && last.is_none() {
        let age = since(time(cron, "/metadata/creationTimestamp"), s.now);
        let says = format!("it has never run in {age}: its schedule is {:?}", text(cron, "/spec/schedule"));
        let next = format!("kubectl -n {space} create job {}-now --from=cronjob/{}", name(cron), name(cron));
        return Some(Finding::new(&codes::CRON_NEVER, reference, says).next(next));
    }
    None
}
