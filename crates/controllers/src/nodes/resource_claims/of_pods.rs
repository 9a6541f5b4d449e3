//! Makes the claims of pods that name a template, and says in the pod's status which they are. A pod that has a node without the scheduler's
//! help is entered into the claims that it may share.

use std::sync::Arc;
use std::time::Duration;

use informer::{ClaimName, Informer, Key, Keyed as _, Pod, is_made_for, is_reserved_for, resource_claims};
use k8s_openapi::api::core::v1::PodResourceClaim;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::is_done;
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore, pods};

/// Says for which entry of its pod a claim was made (upstream's `PodResourceClaimAnnotation`).
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// The longest beginning of a generated name, with which the API server makes a name of 63 characters.
const MAX_GENERATE_NAME: usize = 58;

pub fn start(context: Context) {
    let all = context.informers.of::<Pod>();
    let claims = context.informers.of::<ResourceClaim>();
    let templates = context.informers.of::<ResourceClaimTemplate>();
    let mut controller =
        Controller::of_some(&context, &all, |change| resource_claims(change.object()).next().is_some());
    // A claim that is deleted while its pod is there is created again.
    let known = all.clone();
    controller.watch(&claims, move |change| {
        let claim = change.object();
        let owner = claim.owner_references().iter().find(|o| o.controller == Some(true) && o.kind == "Pod");
        let key = owner.map(|o| Key::new(&claim.namespace().unwrap_or_default(), &o.name));
        key.filter(|key| known.get(key).is_some())
    });
    let known = all.clone();
    controller.watch(&templates, move |change| {
        let (namespace, name) = (change.object().namespace().unwrap_or_default(), change.object().name_any());
        let waits = |pod: &Arc<Pod>| {
            let is_of = |entry: &PodResourceClaim| entry.resource_claim_template_name.as_ref() == Some(&name);
            resource_claims(pod).any(|(entry, claim)| claim == ClaimName::Missing && is_of(entry))
        };
        known.list_in(&namespace).iter().filter(|pod| waits(pod)).map(|pod| pod.key()).collect::<Vec<_>>()
    });
    controller.run("resource-claims-of-pods", 2, ClaimsOfPodsController { context, all, claims, templates });
}

struct ClaimsOfPodsController {
    context: Context,
    all: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
}

/// The beginning of the name of a claim: of pod and entry, both shortened where that is needed.
fn generate_name(pod: &str, entry: &str) -> String {
    let whole = format!("{pod}-{entry}-");
    if whole.len() <= MAX_GENERATE_NAME {
        return whole;
    }
    // Names of objects are ASCII.
    let part = |of: &str| of.get(..of.len() * MAX_GENERATE_NAME / whole.len()).unwrap_or_default().to_string();
    format!("{}-{}", part(pod), part(entry))
}

impl Reconcile for ClaimsOfPodsController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(pod) = self.all.get(key).filter(|pod| !is_done(pod) && !pods::is_deleting(pod)) else {
            return Ok(None);
        };
        let mut new = Vec::new();
        for (entry, claim) in resource_claims(&pod) {
            match self.ensure(&pod, entry, claim).await {
                Ok(None) => {}
                Ok(Some(name)) => new.push(json!({"name": entry.name, "resourceClaimName": name})),
                Err(why) => {
                    let text = format!("PodResourceClaim {}: {}", entry.name, why.text());
                    self.context.events.warning(pod.as_ref(), "FailedResourceClaimCreation", text);
                    match why {
                        // The template's arrival is seen.
                        Failure::NoTemplate(_) => {}
                        Failure::Api(error) => return Err(error),
                    }
                }
            }
        }
        if !new.is_empty() {
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
            let patch =
                Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"resourceClaimStatuses": new}}));
            ignore(api.patch_status(&key.name, &PatchParams::default(), &patch).await, &[404, 409])?;
        }
        self.reserve(&pod).await?;
        Ok(None)
    }
}

/// Why a claim isn't made.
enum Failure {
    NoTemplate(String),
    Api(kube::Error),
}

impl Failure {
    fn text(&self) -> String {
        match self {
            Failure::NoTemplate(name) => {
                format!("resource claim template {name:?}: resourceclaimtemplate.resource.k8s.io {name:?} not found")
            }
            Failure::Api(error) => format!("create ResourceClaim: {}", informer::error_message(error)),
        }
    }
}

impl ClaimsOfPodsController {
    /// Makes the claim of an entry if it isn't there; its name, if the pod's status doesn't have it yet.
    async fn ensure(
        &self,
        pod: &Pod,
        entry: &PodResourceClaim,
        known: ClaimName<'_>,
    ) -> Result<Option<String>, Failure> {
        let Some(template) = entry.resource_claim_template_name.as_deref() else { return Ok(None) };
        let (namespace, uid) = (pod.namespace().unwrap_or_default(), pod.uid().unwrap_or_default());
        if known == ClaimName::NotNeeded {
            return Ok(None);
        }
        if let Some(name) = known.name()
            && self.claims.get(&Key::new(&namespace, name)).is_some_and(|claim| is_made_for(&claim, &uid))
        {
            return Ok(None);
        }
        let is_it = |claim: &Arc<ResourceClaim>| {
            is_made_for(claim, &uid) && claim.annotations().get(POD_CLAIM) == Some(&entry.name)
        };
        if let Some(present) = self.claims.list_in(&namespace).into_iter().find(is_it) {
            return Ok(Some(present.name_any()));
        }
        let found = self.templates.get(&Key::new(&namespace, template));
        let template = found.ok_or_else(|| Failure::NoTemplate(template.into()))?;
        let spec = template.spec.clone().unwrap_or_default();
        let mut claim = ResourceClaim { spec: spec.spec, ..ResourceClaim::default() };
        let metadata = spec.metadata.unwrap_or_default();
        claim.metadata.labels = metadata.labels;
        claim.metadata.annotations = metadata.annotations;
        claim.metadata.annotations.get_or_insert_default().insert(POD_CLAIM.into(), entry.name.clone());
        claim.metadata.generate_name = Some(generate_name(&pod.name_any(), &entry.name));
        claim.metadata.owner_references = Some(vec![pods::owner(pod)]);
        let api: Api<ResourceClaim> = Api::namespaced(self.context.client.clone(), &namespace);
        let created = api.create(&PostParams::default(), &claim).await.map_err(Failure::Api)?;
        // It can't be made twice.
        let shown = |claim: Option<&ResourceClaim>| claim.is_some();
        self.claims.wait_for(&created.key(), shown).await;
        Ok(Some(created.name_any()))
    }

    /// Enters a pod that has a node into its claims that have devices, as the scheduler does for the others.
    async fn reserve(&self, pod: &Pod) -> Result {
        let (namespace, uid) = (pod.namespace().unwrap_or_default(), pod.uid().unwrap_or_default());
        if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) {
            return Ok(());
        }
        for (_, name) in resource_claims(pod) {
            let Some(claim) = name.name().and_then(|name| self.claims.get(&Key::new(&namespace, name))) else {
                continue;
            };
            let is_allocated = claim.status.as_ref().is_some_and(|status| status.allocation.is_some());
            if !is_allocated || is_reserved_for(&claim, &uid) || claim.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let mut claim = (*claim).clone();
            let consumer = ResourceClaimConsumerReference {
                api_group: None,
                resource: "pods".into(),
                name: pod.name_any(),
                uid: uid.clone(),
            };
            claim.status.get_or_insert_default().reserved_for.get_or_insert_default().push(consumer);
            let api: Api<ResourceClaim> = Api::namespaced(self.context.client.clone(), &namespace);
            api.replace_status(&claim.name_any(), &PostParams::default(), &claim).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_claims_leave_room_for_what_makes_them_unique() {
        assert_eq!(generate_name("web", "gpu"), "web-gpu-");
        let long = generate_name(&"p".repeat(253), &"e".repeat(63));
        assert!(long.len() <= MAX_GENERATE_NAME && long.starts_with("ppp") && long.contains("-e"), "{long}");
    }
}
