//! Pods that no Job counts any more lose the finalizer of their Job.

use std::time::Duration;

use informer::{Change, Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, ResourceExt as _};

use super::{free, is_held};
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, pods};

/// Pods that carry the finalizer although no Job counts them any more: theirs is gone, or has let them go.
pub(super) fn follow_orphans(context: &Context, jobs: &Informer<Job>, pods: &Informer<Pod>) {
    let known = jobs.clone();
    let mut controller = Controller::of_some(
        context,
        pods,
        move |change| matches!(change, Change::Applied { new, .. } if is_orphan(new, &known)),
    );
    let all = pods.clone();
    controller.watch(jobs, move |change| {
        let Change::Deleted(job) = change else { return Vec::new() };
        let uid = job.uid().unwrap_or_default();
        pods::owned(&all, &job.namespace().unwrap_or_default(), &uid).iter().map(|pod| pod.key()).collect()
    });
    controller.run("job-orphans", 2, Orphans { context: context.clone(), jobs: jobs.clone(), pods: pods.clone() });
}

fn is_orphan(pod: &Pod, jobs: &Informer<Job>) -> bool {
    let owner = pods::controller_of(&pod.metadata);
    // What controls it isn't a Job: then it isn't ours to judge.
    let foreign = owner.is_some_and(|o| o.kind != "Job" || o.api_version != "batch/v1");
    let job = owner.and_then(|o| jobs.get(&Key::new(&pod.namespace().unwrap_or_default(), &o.name)));
    is_held(pod) && !foreign && job.is_none_or(|job| job.uid().as_ref() != owner.map(|o| &o.uid))
}

struct Orphans {
    context: Context,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
}

impl Reconcile for Orphans {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(pod) = self.pods.get(key).filter(|pod| is_orphan(pod, &self.jobs)) else { return Ok(None) };
        if let Some(owner) = pods::controller_of(&pod.metadata) {
            // The pod may have come before its Job.
            let api: Api<Job> = Api::namespaced(self.context.client.clone(), &key.namespace);
            if api.get_metadata_opt(&owner.name).await?.is_some_and(|job| job.uid().as_ref() == Some(&owner.uid)) {
                return Ok(None);
            }
        }
        free(&self.context, &pod).await.map(|()| None)
    }
}
