//! Pod garbage collection: the oldest terminated pods beyond a threshold, and pods that are deleted before they got a node. (Pods of nodes that are
//! gone: `nodes/eviction.rs`.)

use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore, pods};

/// Pods that have ended and are kept for people to look at (upstream's `--terminated-pod-gc-threshold`).
const TERMINATED_POD_THRESHOLD: usize = 12_500;
/// How long ended pods gather before they are counted.
const BATCH_PERIOD: Duration = Duration::from_secs(20);

pub fn start(context: Context) {
    collect_terminated(context.clone());
    collect_unscheduled(context);
}

fn collect_terminated(context: Context) {
    let all = context.informers.of::<Pod>();
    let mut controller = Controller::of_keys();
    controller.needs(&all);
    let queue = controller.queue().clone();
    all.on_change(move |change| {
        if let informer::Change::Applied { new, .. } = change
            && has_ended(new)
        {
            queue.add_after(Key::new("", "pods"), BATCH_PERIOD);
        }
    });
    controller.run("pod-gc", 1, Terminated { context, all });
}

struct Terminated {
    context: Context,
    all: Informer<Pod>,
}

impl Reconcile for Terminated {
    async fn reconcile(&self, _: &Key) -> Result<Option<Duration>> {
        for pod in surplus(self.all.list(), TERMINATED_POD_THRESHOLD) {
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &pod.namespace().unwrap_or_default());
            ignore(api.delete(&pod.name_any(), &DeleteParams::default()).await, &[404])?;
        }
        Ok(None)
    }
}

/// A pod that is deleted before it got a node, and that a finalizer holds: no node will ever say that it ended.
fn never_ends(pod: &Pod) -> bool {
    pods::is_deleting(pod) && !pod.is_over() && pod.spec.as_ref().is_none_or(|s| s.node_name.is_none())
}

fn collect_unscheduled(context: Context) {
    let all = context.informers.of::<Pod>();
    let controller = Controller::of_some(
        &context,
        &all,
        |change| matches!(change, informer::Change::Applied { new, .. } if never_ends(new)),
    );
    controller.run("pod-gc-unscheduled", 1, Unscheduled { context, all });
}

struct Unscheduled {
    context: Context,
    all: Informer<Pod>,
}

impl Reconcile for Unscheduled {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(pod) = self.all.get(key).filter(|pod| never_ends(pod)) else { return Ok(None) };
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let failed = Patch::Merge(json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Failed"}}));
        ignore(api.patch_status(&key.name, &PatchParams::default(), &failed).await, &[404, 409])?;
        let this = Preconditions { uid: pod.uid(), resource_version: None };
        let now = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(this), ..DeleteParams::default() };
        ignore(api.delete(&key.name, &now).await, &[404, 409]).map(|()| None)
    }
}

fn has_ended(pod: &Pod) -> bool {
    pod.is_over() && !pods::is_deleting(pod)
}

/// Those that have ended beyond `kept`: the evicted before the others, the oldest first.
fn surplus(mut all: Vec<Arc<Pod>>, kept: usize) -> Vec<Arc<Pod>> {
    all.retain(|p| has_ended(p));
    let is_evicted = |p: &Pod| p.status.as_ref().is_some_and(|s| s.reason.as_deref() == Some("Evicted"));
    all.sort_by_key(|p| (!is_evicted(p), p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.key()));
    all.truncate(all.len().saturating_sub(kept));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_have_ended_go() {
        let pod = |name: &str, phase: &str, second: u32| -> Arc<Pod> {
            let meta = json!({"name": name, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")});
            Arc::new(serde_json::from_value(json!({"metadata": meta, "status": {"phase": phase}})).unwrap())
        };
        let all = vec![
            pod("new", "Failed", 9),
            pod("old", "Succeeded", 1),
            pod("runs", "Running", 0),
            pod("mid", "Failed", 5),
        ];
        let names = |kept: usize| surplus(all.clone(), kept).iter().map(|p| p.name_any()).collect::<Vec<_>>();
        assert_eq!(names(1), ["old", "mid"]);
        assert_eq!(names(2), ["old"]);
        assert!(names(3).is_empty());
        // What was evicted goes before anything older.
        let mut evicted = (*all[0]).clone();
        evicted.status.as_mut().unwrap().reason = Some("Evicted".into());
        let with: Vec<_> = all[1..].iter().cloned().chain([Arc::new(evicted)]).collect();
        assert_eq!(surplus(with, 1).iter().map(|p| p.name_any()).collect::<Vec<_>>(), ["new", "old"]);
    }
}
