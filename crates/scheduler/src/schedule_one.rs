//! One pod at a time: from the queue to its binding, or to the reasons why no node fits (upstream's `schedule_one.go`).

use std::sync::Arc;
use std::time::Duration;

use apimachinery::LabelSelector;
use informer::{Key, Keyed as _, Pod, Recorder};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;

use crate::devices::PodDevices;
use crate::devices::binding::{BindingError, ClaimsError};
use crate::filters::{PodVolumes, WaitingClaim};
use crate::plan::{self, FitError, Outcome};
use crate::pod::PodInfo;
use crate::preemption::{self, DisruptionBudgets, Preemption};
use crate::volumes::VolumeError;
use crate::{SELECTED_NODE, Scheduler, is_assigned, profile, scheduler_name};

/// When a pod whose binding, or that of a volume, is under way is looked at again.
const BINDING_RETRY_PERIOD: Duration = Duration::from_secs(5);
/// The same while volumes are provisioned.
const PROVISIONING_RETRY_PERIOD: Duration = Duration::from_secs(10);
/// Normally a change retries an unschedulable pod; this is for changes that no event announces.
const UNSCHEDULABLE_RETRY_PERIOD: Duration = Duration::from_secs(30);

/// Ignores 404: the pod was deleted meanwhile.
fn ignore_not_found(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

impl DisruptionBudgets for Scheduler {
    fn of(&self, pod: &PodInfo) -> Vec<(String, i32)> {
        // As upstream's preemption has it: a budget without requirements is about no pod here, and one that has granted a pod's eviction already
        // isn't asked again.
        let selects = |budget: &PodDisruptionBudget| {
            let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref())?;
            LabelSelector::from_json(&serde_json::to_value(selector).ok()?).ok().filter(|selector| !selector.is_empty())
        };
        let has_granted = |budget: &PodDisruptionBudget| {
            let granted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            granted.is_some_and(|pods| pods.contains_key(&pod.pod.name_any()))
        };
        let of_namespace = self.budgets.list_in(&pod.group_key.namespace).into_iter();
        of_namespace
            .filter(|b| selects(b).is_some_and(|s| s.matches_map(Some(&pod.group_key.labels))) && !has_granted(b))
            .map(|b| (b.name_any(), b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0)))
            .collect()
    }
}

impl Scheduler {
    /// The event recorder of the pod's profile.
    fn recorder_for(&self, pod: &Pod) -> Recorder {
        let found = self.profiles.get(scheduler_name(pod));
        found.map_or_else(
            || Recorder::new(self.client.clone(), profile::DEFAULT_SCHEDULER_NAME, ""),
            |(_, recorder)| recorder.clone(),
        )
    }

    /// Reserves a pod on a node while its volumes are provisioned there.
    fn reserve(&self, key: &Key, pod: Arc<PodInfo>, node: String) {
        self.snapshot.lock().assume(key.clone(), pod.clone(), &node);
        self.reserved.lock().insert(key.clone(), (pod, node));
    }

    /// Removes a pod's reservation (upstream's Unreserve).
    fn unreserve(&self, key: &Key) -> Option<(Arc<PodInfo>, String)> {
        let reserved = self.reserved.lock().remove(key)?;
        if !self.pods.get(key).is_some_and(|pod| is_assigned(&pod)) {
            self.snapshot.lock().remove_pod(key);
        }
        Some(reserved)
    }

    /// Schedules a pod. Returns whether it needn't wait for changes any more, and after which time it is retried.
    pub(crate) async fn schedule(&self, key: &Key) -> Result<(bool, Option<Duration>), kube::Error> {
        let reserved = self.unreserve(key);
        let Some(pod) = self.pods.get(key) else { return Ok((true, None)) };
        if is_assigned(&pod) || pod.metadata.deletion_timestamp.is_some() || self.snapshot.lock().has_pod(key) {
            return Ok((true, None));
        }
        let volumes = match self.volumes_of(&pod) {
            Ok(volumes) => volumes,
            Err(VolumeError::Binding) => {
                if let Some((info, node)) = reserved {
                    self.reserve(key, info, node);
                }
                return Ok((false, Some(BINDING_RETRY_PERIOD)));
            }
            Err(VolumeError::Unschedulable(reason)) => {
                let reason = plan::unresolvable_message(self.snapshot.lock().known(), &reason);
                self.record_unschedulable(&pod, &reason).await?;
                return Ok((false, Some(UNSCHEDULABLE_RETRY_PERIOD)));
            }
        };
        let mut devices = match self.devices_of(&pod) {
            Ok(devices) => devices,
            Err(error) => {
                self.record_claims_error(&pod, error).await?;
                return Ok((false, Some(UNSCHEDULABLE_RETRY_PERIOD)));
            }
        };
        let info = Arc::new(PodInfo::read(pod.clone()));
        let Some((profile, _)) = self.profiles.get(scheduler_name(&pod)) else { return Ok((true, None)) };
        let outcome = plan::schedule_pod(key, &info, &mut self.snapshot.lock(), &volumes, &mut devices, profile);
        let node = match outcome {
            Outcome::Node(node) => node,
            Outcome::Unschedulable(fit_error) => {
                self.handle_failure(key, &info, &volumes, &mut devices, &fit_error).await?;
                return Ok((false, Some(UNSCHEDULABLE_RETRY_PERIOD)));
            }
            Outcome::Failed(why) => {
                self.record_claims_error(&pod, ClaimsError::Failed(why)).await?;
                return Ok((false, Some(UNSCHEDULABLE_RETRY_PERIOD)));
            }
        };
        if !volumes.waiting.is_empty() {
            // The volumes are provisioned on the chosen node first; the pod is retried when they are bound.
            self.reserve(key, info, node.clone());
            self.select_node(key, &volumes.waiting, &node).await?;
            return Ok((false, Some(PROVISIONING_RETRY_PERIOD)));
        }
        self.snapshot.lock().assume(key.clone(), info, &node);
        self.start_binding(pod, devices, node);
        // If the binding fails, the pod is retried.
        Ok((true, Some(BINDING_RETRY_PERIOD)))
    }

    /// Gives a pod its devices, and then its node, in the background.
    fn start_binding(&self, pod: Arc<Pod>, mut devices: PodDevices, node: String) {
        let reservations = devices.allocations(&node);
        self.reserve_devices(&reservations);
        let this = self.clone();
        tasks::spawn("binding", async move {
            let bound = match this.bind_claims(&pod, &reservations).await {
                Ok(()) => this.bind(&pod, &node).await.map_err(BindingError::Api),
                Err(error) => Err(error),
            };
            if let Err(error) = bound {
                tracing::debug!(pod = %pod.key(), %error, "failed to bind a pod");
                this.unreserve_devices(&pod, &reservations).await;
                this.snapshot.lock().remove_pod(&pod.key());
            }
        });
    }

    /// Says why a pod's claims keep it from all nodes.
    async fn record_claims_error(&self, pod: &Pod, error: ClaimsError) -> Result<(), kube::Error> {
        match error {
            ClaimsError::Waiting => Ok(()),
            ClaimsError::Unschedulable(why) => {
                let why = plan::unresolvable_message(self.snapshot.lock().known(), &why);
                self.record_unschedulable(pod, &why).await
            }
            ClaimsError::Failed(why) => {
                let why = format!("running \"DynamicResources\" filter plugin: {why}");
                self.record_failure(pod, "SchedulerError", &why).await
            }
        }
    }

    /// Tries to preempt pods of lower priority, and records why no node fits (upstream's `handleSchedulingFailure`).
    async fn handle_failure(
        &self,
        key: &Key,
        info: &Arc<PodInfo>,
        volumes: &PodVolumes,
        devices: &mut PodDevices,
        fit_error: &FitError,
    ) -> Result<(), kube::Error> {
        let mut reason = fit_error.message();
        if let Some(claim) = devices.to_deallocate(&info.pod.uid().unwrap_or_default()).cloned() {
            self.deallocate(&claim).await?;
        }
        let found = preemption::find_candidate(info, &self.snapshot.lock(), volumes, devices, fit_error, self);
        match found {
            Ok(preemption) => self.preempt(key, info, &preemption).await?,
            Err(why) if fit_error.rejections.is_empty() => tracing::debug!(%why, "no node fits the pod"),
            Err(why) => reason = format!("{reason} preemption: {why}"),
        }
        self.record_unschedulable(&info.pod, &reason).await
    }

    /// Tells the provisioners of claims which node was chosen.
    async fn select_node(&self, key: &Key, claims: &[WaitingClaim], node: &str) -> Result<(), kube::Error> {
        for claim in claims.iter().map(|claim| &claim.name) {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
            let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
            api.patch(claim, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }

    /// Evicts the victims, and nominates the pod on their node.
    async fn preempt(&self, key: &Key, info: &Arc<PodInfo>, found: &Preemption) -> Result<(), kube::Error> {
        self.snapshot.lock().nominate(key.clone(), info.clone(), &found.node);
        for victim in &found.victims {
            let Some(pod) = self.pods.get(victim) else { continue };
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &victim.namespace);
            let message = format!("{}: preempting to accommodate a higher priority pod", scheduler_name(&info.pod));
            let patch = Patch::Strategic(
                json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True",
                "reason": "PreemptionByScheduler", "message": message, "lastTransitionTime": apimachinery::clock::now_rfc3339()}]}}),
            );
            let marked = api.patch_status(&victim.name, &PatchParams::default(), &patch).await.map(|_| ());
            ignore_not_found(marked)?;
            ignore_not_found(api.delete(&victim.name, &DeleteParams::default()).await.map(|_| ()))?;
            let preemptor = info.pod.object_ref(&());
            self.recorder_for(&info.pod).acting("Preempting", Some(preemptor)).normal(
                &*pod,
                "Preempted",
                format!("Preempted by pod {} on node {}", info.pod.uid().unwrap_or_default(), found.node),
            );
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = Patch::Strategic(json!({"status": {"nominatedNodeName": found.node}}));
        ignore_not_found(api.patch_status(&key.name, &PatchParams::default(), &patch).await.map(|_| ()))
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let binding = json!({"apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name_any(), "namespace": pod.namespace(), "uid": pod.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let _: serde_json::Value =
            api.create_subresource("binding", &pod.name_any(), &PostParams::default(), &binding).await?;
        let text =
            format!("Successfully assigned {}/{} to {node}", pod.namespace().unwrap_or_default(), pod.name_any());
        self.recorder_for(pod).acting("Binding", None).normal(pod, "Scheduled", text);
        Ok(())
    }

    async fn record_unschedulable(&self, pod: &Pod, message: &str) -> Result<(), kube::Error> {
        self.record_failure(pod, "Unschedulable", message).await
    }

    async fn record_failure(&self, pod: &Pod, reason: &str, message: &str) -> Result<(), kube::Error> {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        let told = conditions.and_then(|c| c.iter().find(|c| c.type_ == "PodScheduled"));
        if told.is_some_and(|c| c.message.as_deref() == Some(message)) {
            return Ok(());
        }
        self.recorder_for(pod).acting("Scheduling", None).warning(pod, "FailedScheduling", message);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let patch = Patch::Strategic(json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False",
            "reason": reason, "message": message, "lastTransitionTime": apimachinery::clock::now_rfc3339()}]}}));
        ignore_not_found(api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.map(|_| ()))
    }
}
