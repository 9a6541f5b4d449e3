//! Jobs: pods that run to their end, counted once each.
//!
//! A pod of a Job carries a finalizer until it is counted, so that its end isn't missed when the pod is deleted or
//! this process dies. Counting goes in steps, each of which may be the last before a crash: the uid is written to
//! `uncountedTerminatedPods`; the finalizer is removed; the uid is taken out and the counter raised.

mod executor;
mod failure_policy;
mod orphans;
mod plan;
mod pod;
#[cfg(test)]
mod tests;
mod tracking;

use apimachinery::LabelSelector;
use informer::Pod;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::toolkit::adoption::Selecting;
use crate::toolkit::controller::Controller;
use crate::toolkit::{Context, Result, ignore, pods};

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// On a pod of an index: how many before it failed.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

impl Selecting for Job {
    fn selector(&self) -> Option<LabelSelector> {
        pods::selector(self.spec.as_ref()?.selector.as_ref()?)
    }

    const FINALIZER: Option<&str> = Some(FINALIZER);
}

pub fn start(context: Context) {
    let (jobs, pods) = (context.informers.of::<Job>(), context.informers.of::<Pod>());
    let mut controller = Controller::of(&context, &jobs);
    controller.owns(&jobs, &pods);
    orphans::follow_orphans(&context, &jobs, &pods);
    controller.run("job", 4, executor::JobController { context, jobs, pods });
}

pub fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

/// Whether a Job has come to its end: `Complete` or `Failed`.
pub fn ending(job: &Job) -> Option<&str> {
    let status = job.status.as_ref()?;
    ["Complete", "Failed"].into_iter().find(|kind| condition(status, kind).is_some())
}

fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok()
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn is_held(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|f| f == FINALIZER)
}

/// Whether pods are replaced once they have ended, and not when they begin to (`podReplacementPolicy: Failed`; a failure policy has to
/// see how they ended, too).
fn replaces_ended(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// How a pod has ended, for the counters. A pod that is deleted counts as failed at once, unless the Job waits for its end: it may
/// never have run, and so never end. (A pod that the Job itself deletes has lost its finalizer before.)
fn outcome(spec: &JobSpec, pod: &Pod) -> Option<bool> {
    match pods::phase(pod) {
        "Succeeded" => Some(true),
        "Failed" => Some(false),
        _ if pods::is_deleting(pod) && is_held(pod) && !replaces_ended(spec) => Some(false),
        _ => None,
    }
}

/// Removes the finalizer of a pod that is counted, or that no Job controls.
async fn free(context: &Context, pod: &Pod) -> Result {
    if !is_held(pod) {
        return Ok(());
    }
    let change = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    ignore(api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(change)).await, &[404, 409, 422])
}

fn failures_before(pod: &Pod) -> i32 {
    pod.annotations().get(FAILURES).and_then(|n| n.parse().ok()).unwrap_or(0)
}
