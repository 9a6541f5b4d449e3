//! Takes pods that have ended out of the claims that they used, gives devices back that nobody uses, and deletes claims that were made for
//! a pod that is gone.

use std::time::Duration;

use informer::{Informer, Key, Pod, resource_claims};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt as _};

use super::is_done;
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore};

/// Upstream's `resourceapi.Finalizer`, which the scheduler sets.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

pub fn start(context: Context) {
    let (claims, all) = (context.informers.of::<ResourceClaim>(), context.informers.of::<Pod>());
    let mut controller = Controller::of(&context, &claims);
    controller.watch(&all, |change| {
        let pod = change.object();
        let namespace = pod.namespace().unwrap_or_default();
        let matters = matches!(change, informer::Change::Deleted(_)) || is_done(pod);
        let names = resource_claims(pod).filter_map(|(_, claim)| claim.name()).filter(|_| matters);
        names.map(|name| Key::new(&namespace, name)).collect::<Vec<_>>()
    });
    controller.run("resource-claims", 2, ResourceClaimController { context, claims, all });
}

struct ResourceClaimController {
    context: Context,
    claims: Informer<ResourceClaim>,
    all: Informer<Pod>,
}

/// What is to be done about a claim.
#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    /// Write who still uses it; nobody has no devices.
    Release(Vec<ResourceClaimConsumerReference>),
    /// Nobody uses it, and it is being deleted: its devices are given back, and it may go.
    Finish,
}

/// `is_gone` says whether a pod that is entered doesn't use it any more.
fn plan(claim: &ResourceClaim, is_gone: impl Fn(&ResourceClaimConsumerReference) -> bool) -> Action {
    let users = claim.status.as_ref().and_then(|status| status.reserved_for.clone()).unwrap_or_default();
    let before = users.len();
    let is_pod = |user: &ResourceClaimConsumerReference| {
        user.resource == "pods" && user.api_group.as_deref().unwrap_or_default().is_empty()
    };
    // Of other users it isn't known whether they are there; they stay.
    let remaining: Vec<_> = users.into_iter().filter(|user| !is_pod(user) || !is_gone(user)).collect();
    let has_finalizer = claim.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    if remaining.len() < before {
        return Action::Release(remaining);
    }
    match remaining.is_empty() && has_finalizer && claim.metadata.deletion_timestamp.is_some() {
        true => Action::Finish,
        false => Action::Nothing,
    }
}

impl Reconcile for ResourceClaimController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(claim) = self.claims.get(key) else { return Ok(None) };
        let api: Api<ResourceClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let mut gone = Vec::new();
        for user in claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten()) {
            if user.resource == "pods" && self.is_gone(key, user).await? {
                gone.push(user.uid.clone());
            }
        }
        let is_unused = match plan(&claim, |user| gone.contains(&user.uid)) {
            Action::Nothing => claim.status.as_ref().is_none_or(|s| s.reserved_for.as_ref().is_none_or(Vec::is_empty)),
            Action::Release(remaining) => {
                let is_unused = remaining.is_empty();
                self.release(&api, &claim, remaining).await?;
                is_unused
            }
            Action::Finish => {
                self.release(&api, &claim, Vec::new()).await?;
                true
            }
        };
        if is_unused {
            self.delete_of_done(&api, &claim, key).await?;
        }
        Ok(None)
    }
}

impl ResourceClaimController {
    /// Whether a pod that is entered in a claim doesn't use it any more. That one is gone is believed of the API alone: the cache may not have it yet.
    async fn is_gone(&self, claim: &Key, user: &ResourceClaimConsumerReference) -> Result<bool> {
        if let Some(pod) = self.all.get(&Key::new(&claim.namespace, &user.name)) {
            return Ok(pod.metadata.uid.as_deref() != Some(&user.uid) || is_done(&pod));
        }
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &claim.namespace);
        let found = api.get_opt(&user.name).await?;
        Ok(found.is_none_or(|pod| pod.metadata.uid.as_deref() != Some(&user.uid)))
    }

    /// Writes who still uses a claim; if nobody does, its devices are given back, and it may be deleted.
    async fn release(
        &self,
        api: &Api<ResourceClaim>,
        claim: &ResourceClaim,
        remaining: Vec<ResourceClaimConsumerReference>,
    ) -> Result {
        let mut claim = claim.clone();
        let has_finalizer = claim.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        let is_unused = remaining.is_empty();
        let status = claim.status.get_or_insert_default();
        status.reserved_for = Some(remaining);
        if is_unused && has_finalizer {
            status.allocation = None;
            status.devices = None;
        }
        let mut claim = api.replace_status(&claim.name_any(), &PostParams::default(), &claim).await?;
        let is_allocated = claim.status.as_ref().is_some_and(|status| status.allocation.is_some());
        if has_finalizer && !is_allocated {
            claim.metadata.finalizers.iter_mut().for_each(|all| all.retain(|finalizer| finalizer != FINALIZER));
            ignore(api.replace(&claim.name_any(), &PostParams::default(), &claim).await, &[404])?;
        }
        Ok(())
    }

    /// Deletes a claim that was made for a pod which has ended. Of pods that are deleted the garbage collector does.
    async fn delete_of_done(&self, api: &Api<ResourceClaim>, claim: &ResourceClaim, key: &Key) -> Result {
        let owner = claim.owner_references().iter().find(|o| o.controller == Some(true) && o.kind == "Pod");
        let Some(owner) = owner.filter(|_| claim.metadata.deletion_timestamp.is_none()) else { return Ok(()) };
        let Some(pod) = self.all.get(&Key::new(&key.namespace, &owner.name)) else { return Ok(()) };
        if pod.metadata.uid.as_deref() != Some(&owner.uid) || is_done(&pod) {
            let preconditions = Some(Preconditions { uid: claim.uid(), resource_version: None });
            let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
            ignore(api.delete(&claim.name_any(), &parameters).await, &[404, 409])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(users: serde_json::Value, is_deleting: bool) -> ResourceClaim {
        let mut claim = json!({"metadata": {"name": "c", "finalizers": [FINALIZER]}, "spec": {},
            "status": {"allocation": {}, "reservedFor": users}});
        if is_deleting {
            claim["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn pods_that_are_gone_are_taken_out_and_other_users_stay() {
        let users = json!([{"resource": "pods", "name": "a", "uid": "a"}, {"resource": "pods", "name": "b", "uid": "b"},
            {"apiGroup": "example.com", "resource": "pods", "name": "c", "uid": "a"}]);
        let gone = |uid: &'static str| move |user: &ResourceClaimConsumerReference| user.uid == uid;
        let Action::Release(remaining) = plan(&claim(users.clone(), false), gone("a")) else { panic!() };
        assert_eq!(remaining.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(plan(&claim(users, true), gone("z")), Action::Nothing);
        assert_eq!(
            plan(&claim(json!([]), false), gone("z")),
            Action::Nothing,
            "what nobody uses keeps its devices until then"
        );
        assert_eq!(plan(&claim(json!([]), true), gone("z")), Action::Finish);
        let one = json!([{"resource": "pods", "name": "a", "uid": "a"}]);
        assert_eq!(plan(&claim(one, true), gone("a")), Action::Release(Vec::new()));
    }
}
