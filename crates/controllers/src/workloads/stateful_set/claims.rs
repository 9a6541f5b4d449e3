//! The claims of a StatefulSet's pods. They outlive pods and set, and are found again by their names, unless the set's
//! retention policy says otherwise (KEP-1847): then they get owners, with which the garbage collector removes them.

use std::sync::Arc;

use informer::{Key, Pod};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::plan::Shape;
use super::{StatefulSetController, ordinal};
use crate::toolkit::{Result, ignore, pods};

/// The object with which a claim is deleted: its set, its pod, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    Set,
    Pod,
}

/// `surplus`: the set is scaled down below the pod.
fn owner(delete_with_set: bool, delete_when_scaled: bool, surplus: bool) -> Owner {
    match (delete_with_set, delete_when_scaled && surplus) {
        (_, true) => Owner::Pod,
        (true, false) => Owner::Set,
        (false, false) => Owner::Nobody,
    }
}

impl StatefulSetController {
    /// Makes the claims of a pod that aren't there. Returns the name of one that is being deleted, if there is one: neither can it be used
    /// nor made anew before it is gone.
    ///
    /// # Errors
    /// The API refuses a claim, as a quota makes it do.
    pub(super) async fn ensure_claims(
        &self,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        pod: &str,
    ) -> Result<Option<String>> {
        let namespace = set.namespace().unwrap_or_default();
        let mut going = None;
        for template in spec.volume_claim_templates.iter().flatten() {
            let name = format!("{}-{pod}", template.name_any());
            match self.claims.get(&Key::new(&namespace, &name)) {
                Some(claim) if claim.metadata.deletion_timestamp.is_some() => going = Some(name),
                Some(_) => {}
                None => self.create_claim(set, template, &name, pod, &namespace).await?,
            }
        }
        Ok(going)
    }

    async fn create_claim(
        &self,
        set: &StatefulSet,
        template: &PersistentVolumeClaim,
        name: &str,
        pod: &str,
        namespace: &str,
    ) -> Result {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(namespace.into()),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), namespace);
        let created = match api.create(&PostParams::default(), &claim).await {
            // It is there, only not shown yet.
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
            created => created?,
        };
        let text = format!("create Claim {name} Pod {pod} in StatefulSet {} success", set.name_any());
        self.context.events.normal(set, "SuccessfulCreate", text);
        let (key, uid) = (Key::new(namespace, name), created.uid());
        self.claims.wait_for(&key, |c| c.is_some_and(|c| c.uid() == uid)).await;
        Ok(())
    }

    /// Gives the claims of all pods the owners that the retention policy wants.
    ///
    /// # Errors
    /// The API refuses the owners of a claim that is there and unchanged.
    pub(super) async fn update_owners(&self, set: &StatefulSet, shape: Shape, mine: &[Arc<Pod>]) -> Result {
        let policy = set.spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
        let deletes = |when: &Option<String>| when.as_deref() == Some("Delete");
        let range = shape.range();
        let namespace = set.namespace().unwrap_or_default();
        for template in set.spec.volume_claim_templates.iter().flatten() {
            for pod in mine {
                let Some(number) = ordinal(&set.name_any(), &pod.name_any()) else { continue };
                let name = format!("{}-{}", template.name_any(), pod.name_any());
                let Some(claim) = self.claims.get(&Key::new(&namespace, &name)) else { continue };
                let surplus = !range.contains(&number);
                let wanted = owner(deletes(&policy.when_deleted), deletes(&policy.when_scaled), surplus);
                self.set_owner(set, pod, &claim, wanted).await?;
            }
        }
        Ok(())
    }

    async fn set_owner(&self, set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim, wanted: Owner) -> Result {
        let reference = match wanted {
            Owner::Nobody => None,
            Owner::Set => Some(pods::owner(set)),
            Owner::Pod => Some(pods::owner(pod)),
        };
        let of_ours = |o: &&OwnerReference| [set.uid(), pod.uid()].contains(&Some(o.uid.clone()));
        let held = claim.owner_references().iter().filter(of_ours).map(|o| &o.uid);
        if held.eq(reference.iter().map(|r| &r.uid)) {
            return Ok(());
        }
        let mut new: Vec<OwnerReference> = claim.owner_references().iter().filter(|o| !of_ours(o)).cloned().collect();
        // The owner of a claim isn't its controller.
        new.extend(reference.map(|r| OwnerReference { controller: None, block_owner_deletion: None, ..r }));
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.context.client.clone(), &claim.namespace().unwrap_or_default());
        let change = json!({"metadata": {"ownerReferences": new, "resourceVersion": claim.resource_version()}});
        let changed = match api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(change)).await {
            // Another write was faster: the next reconciliation sees it.
            Err(error) => return ignore(Err::<(), _>(error), &[404, 409]),
            Ok(changed) => changed,
        };
        let version = changed.resource_version();
        let key = Key::new(&claim.namespace().unwrap_or_default(), &claim.name_any());
        self.claims.wait_for(&key, |c| c.is_none_or(|c| c.resource_version() == version)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_says_with_whom_a_claim_goes() {
        assert_eq!(owner(false, false, true), Owner::Nobody);
        assert_eq!(owner(true, false, true), Owner::Set);
        assert_eq!(owner(false, true, false), Owner::Nobody);
        assert_eq!(owner(false, true, true), Owner::Pod);
        assert_eq!(owner(true, true, false), Owner::Set);
        assert_eq!(owner(true, true, true), Owner::Pod);
    }
}
