//! Deployments: a ReplicaSet for each version of the template, and the way from the old ones to the new one.

mod plan;
mod sets;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result, adoption, ignore, pods};
use plan::{Share, Size};
use sets::Made;

pub fn start(context: Context) {
    let (deployments, cache) = (context.informers.of::<Deployment>(), context.informers.of::<ReplicaSet>());
    let mut controller = Controller::of(&context, &deployments);
    controller.owns(&deployments, &cache);
    controller.run("deployment", 4, DeploymentController { context, deployments, cache });
}

fn size(set: &ReplicaSet) -> Size {
    let status = set.status.clone().unwrap_or_default();
    Size {
        wanted: set.spec.replicas.unwrap_or(0),
        available: status.available_replicas.unwrap_or(0),
        present: status.replicas.max(status.terminating_replicas.unwrap_or(0)),
    }
}

fn surge(spec: &DeploymentSpec) -> i32 {
    plan::fences(spec).0
}

/// A Deployment's sets: that of its template, and the others from old to new.
struct Sets {
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    /// Whether sets with pods were scaled last when their Deployment wanted another number.
    fn is_resized(&self, wanted: i32) -> bool {
        let active = self.all().filter(|s| s.spec.replicas.unwrap_or(0) > 0);
        active.into_iter().any(|s| sets::desired(s).is_some_and(|before| before != wanted))
    }
}

/// What the set of a new template begins with: what the first step of the roll-out would give it. What is resized in the same breath is scaled
/// first.
fn first_size(spec: &DeploymentSpec, sets: &Sets) -> i32 {
    if sets.is_resized(spec.replicas.unwrap_or(1)) {
        return 0;
    }
    let old: Vec<Size> = sets.old.iter().map(|s| size(s)).collect();
    plan::roll(spec, Size { wanted: 0, available: 0, present: 0 }, &old).0
}

struct DeploymentController {
    context: Context,
    deployments: Informer<Deployment>,
    cache: Informer<ReplicaSet>,
}

impl Reconcile for DeploymentController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(None) };
        let spec = &deployment.spec;
        if deployment.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        adoption::adopt_and_release(&self.context, &self.cache, deployment.as_ref(), |_| true).await?;
        let paused = spec.paused == Some(true);
        let mut sets = self.sets(&deployment);
        let newest = sets.all().map(|s| sets::revision(s)).max().unwrap_or(0);
        let mut failure = None;
        match &sets.new {
            Some(new) => {
                let others = sets.old.iter().map(|s| sets::revision(s)).max().unwrap_or(0);
                sets::update(self, &deployment, new, others).await?;
            }
            None if paused => {}
            None => match sets::create(self, &deployment, newest + 1, first_size(spec, &sets)).await {
                Ok(Made::Set) => {}
                Ok(Made::Collision) => return Ok(Some(Duration::ZERO)),
                Err(error) => {
                    if !pods::is_of_namespace_that_ends(&error) {
                        let text = status::refused(&deployment, &error);
                        self.context.events.warning(deployment.as_ref(), "ReplicaSetCreateError", text);
                    }
                    failure = Some(error);
                }
            },
        }
        sets = self.sets(&deployment);
        self.write_revision(&deployment, &sets).await?;
        if failure.is_none() {
            self.scale_all(&deployment, spec, &sets, paused).await?;
            sets = self.sets(&deployment);
            let of_no_use = sets.new.as_ref().is_some_and(|n| status::is_complete(spec, n, &sets.old)) || paused;
            if of_no_use {
                self.clean_up(spec, &sets.old).await?;
            }
        }
        let again = self.write_status(&deployment, &sets, failure.as_ref()).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(again),
        }
    }
}

impl DeploymentController {
    fn sets(&self, deployment: &Deployment) -> Sets {
        let uid = deployment.uid().unwrap_or_default();
        let all = self.cache.list_in(&deployment.namespace().unwrap_or_default()).into_iter();
        let mut old: Vec<Arc<ReplicaSet>> = all.filter(|s| pods::is_owned_by(&s.metadata, &uid)).collect();
        old.sort_by_key(|s| (s.metadata.creation_timestamp.as_ref().map(|t| t.0), s.name_any()));
        let new = old.iter().position(|s| sets::is_of(s, &deployment.spec.template)).map(|at| old.remove(at));
        old.sort_by_key(|s| sets::revision(s));
        Sets { new, old }
    }

    /// `kubectl rollout history` finds the version in force by this.
    async fn write_revision(&self, deployment: &Deployment, sets: &Sets) -> Result {
        let Some(new) = &sets.new else { return Ok(()) };
        let number = sets::revision(new).to_string();
        if deployment.annotations().get(sets::REVISION) == Some(&number) {
            return Ok(());
        }
        let namespace = deployment.namespace().unwrap_or_default();
        let api: Api<Deployment> = Api::namespaced(self.context.client.clone(), &namespace);
        let patch = json!({"metadata": {"annotations": {sets::REVISION: number}}});
        ignore(api.patch(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, &[404])
    }

    async fn scale_all(&self, deployment: &Deployment, spec: &DeploymentSpec, sets: &Sets, paused: bool) -> Result {
        let wanted = spec.replicas.unwrap_or(1);
        let active: Vec<&Arc<ReplicaSet>> = sets.all().filter(|s| s.spec.replicas.unwrap_or(0) > 0).collect();
        if paused || sets.is_resized(wanted) {
            // What has the pods keeps its part of them; the roll-out goes on in the next round.
            let alone = match active.as_slice() {
                [] => sets.new.as_ref().or(sets.old.last()),
                [only] => Some(*only),
                _ => None,
            };
            if let Some(alone) = alone {
                return sets::scale(self, deployment, alone, wanted).await;
            }
            let shares: Vec<Share> = active
                .iter()
                .map(|s| Share {
                    replicas: s.spec.replicas.unwrap_or(0),
                    of_at_most: sets::at_most(s).unwrap_or(0),
                    revision: sets::revision(s),
                })
                .collect();
            for (set, replicas) in active.iter().zip(plan::share(wanted, surge(spec), &shares)) {
                sets::scale(self, deployment, set, replicas).await?;
            }
            return Ok(());
        }
        let Some(new) = &sets.new else { return Ok(()) };
        let sizes: Vec<Size> = sets.old.iter().map(|s| size(s)).collect();
        let (new_wanted, olds) = plan::roll(spec, size(new), &sizes);
        sets::scale(self, deployment, new, new_wanted).await?;
        for (set, wanted) in sets.old.iter().zip(olds) {
            sets::scale(self, deployment, set, wanted).await?;
        }
        Ok(())
    }

    /// Removes old sets beyond the history's limit.
    async fn clean_up(&self, spec: &DeploymentSpec, old: &[Arc<ReplicaSet>]) -> Result {
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let is_settled = |s: &ReplicaSet| {
            let seen = s.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
            s.metadata.deletion_timestamp.is_none() && s.metadata.generation.unwrap_or(0) <= seen
        };
        let is_empty = |s: &&Arc<ReplicaSet>| size(s).wanted == 0 && size(s).present == 0 && is_settled(s);
        let empty: Vec<_> = old.iter().filter(is_empty).collect();
        for set in empty.iter().take(empty.len().saturating_sub(limit)) {
            let api: Api<ReplicaSet> =
                Api::namespaced(self.context.client.clone(), &set.namespace().unwrap_or_default());
            ignore(api.delete(&set.name_any(), &DeleteParams::background()).await, &[404])?;
        }
        Ok(())
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        sets: &Sets,
        failure: Option<&kube::Error>,
    ) -> Result<Option<Duration>> {
        // The revision that was just written must not hide what the status says.
        let deployment = self.deployments.get(&deployment.key()).unwrap_or_else(|| Arc::new(deployment.clone()));
        let facts =
            status::Facts { new: sets.new.as_deref(), old: &sets.old, failure, now: apimachinery::clock::now() };
        let (status, again) = status::compute(&deployment, &facts);
        patch_status_if_changed(&self.context, deployment.as_ref(), deployment.status.as_ref(), &status).await?;
        Ok(again)
    }
}
