//! Adoption and release: a controller's selector and its children's owner references say which child belongs to which owner, and each of the
//! two may change.

use std::fmt::Debug;

use apimachinery::LabelSelector;
use informer::{Change, Informer, Key, Keyed};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::toolkit::pods::{controller_key, controller_of, is_owned_by, owner, selector};
use crate::toolkit::{Context, Result, ignore};

/// A controller's object: what it selects is its own.
pub trait Selecting: Keyed + Resource<Scope = NamespaceResourceScope> {
    /// `None` if it selects nothing.
    fn selector(&self) -> Option<LabelSelector>;

    /// What keeps its pods from going before it has seen their end.
    const FINALIZER: Option<&str> = None;
}

macro_rules! selecting {
    ($($kind:ty),*) => { $(impl Selecting for $kind {
        fn selector(&self) -> Option<LabelSelector> {
            selector(&self.spec.selector)
        }
    })* };
}
selecting!(Deployment, ReplicaSet, StatefulSet, DaemonSet);

impl Selecting for ReplicationController {
    fn selector(&self) -> Option<LabelSelector> {
        let pairs = self.spec.as_ref()?.selector.as_ref().filter(|pairs| !pairs.is_empty())?;
        Some(LabelSelector::from_pairs(pairs))
    }
}

/// The keys of the owners to which a child belongs, belonged before a change, or could belong.
pub fn owners_of<O: Selecting, C: Keyed>(owners: &Informer<O>, change: &Change<C>) -> Vec<Key> {
    let kind = O::kind(&());
    let mut keys = Vec::new();
    if let Change::Applied { old: Some(old), .. } = change {
        keys.extend(controller_key(old.meta(), &kind));
    }
    let meta = change.object().meta();
    if let Some(key) = controller_key(meta, &kind) {
        keys.push(key);
    } else if controller_of(meta).is_none() {
        let all = owners.list_in(meta.namespace.as_deref().unwrap_or(""));
        let selecting = all.iter().filter(|o| o.selector().is_some_and(|s| s.matches_map(meta.labels.as_ref())));
        keys.extend(selecting.map(|owner| owner.key()));
    }
    keys
}

/// Adopts the matching orphans that `fits` accepts, and releases children that the selector of `of` no longer matches (upstream's
/// `ControllerRefManager`).
///
/// # Errors
/// The API's answer to the patch of a child, unless the child is gone or changed meanwhile.
pub async fn adopt_and_release<O, C>(
    context: &Context,
    cache: &Informer<C>,
    of: &O,
    fits: impl Fn(&C) -> bool,
) -> Result
where
    O: Selecting,
    C: Keyed + Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Debug,
{
    let (Some(selector), Some(uid)) = (of.selector(), of.meta().uid.clone()) else { return Ok(()) };
    let namespace = of.meta().namespace.clone().unwrap_or_default();
    let mut asked = false;
    for child in cache.list_in(&namespace) {
        let meta = child.meta();
        let chosen = selector.matches_map(meta.labels.as_ref());
        let mut change = json!({"uid": meta.uid});
        if is_owned_by(meta, &uid) && !chosen {
            change["ownerReferences"] = json!([{"$patch": "delete", "uid": uid}]);
            if let Some(finalizer) = O::FINALIZER {
                change["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
            }
        } else if chosen && controller_of(meta).is_none() && meta.deletion_timestamp.is_none() && fits(&child) {
            if !asked && !still_there(context, of).await? {
                return Ok(());
            }
            asked = true;
            change["ownerReferences"] = json!([owner(of)]);
            if let Some(finalizer) = O::FINALIZER {
                change["finalizers"] = json!([finalizer]);
            }
        } else {
            continue;
        }
        let api: Api<C> = Api::namespaced(context.client.clone(), &namespace);
        // The uid keeps it from one that took its name meanwhile.
        let patch = Patch::Strategic(json!({ "metadata": change }));
        let name = meta.name.clone().unwrap_or_default();
        match api.patch(&name, &PatchParams::default(), &patch).await {
            Ok(changed) => {
                let version = changed.meta().resource_version.clone();
                let seen = |c: Option<&C>| c.is_none_or(|c| c.meta().resource_version == version);
                cache.wait_for(&child.key(), seen).await;
            }
            Err(error) => ignore(Err::<(), _>(error), &[404, 409, 422])?,
        }
    }
    Ok(())
}

/// Whether an owner is really there and stays: the cache may be behind.
async fn still_there<O: Selecting>(context: &Context, of: &O) -> Result<bool> {
    let api: Api<O> = Api::namespaced(context.client.clone(), of.meta().namespace.as_deref().unwrap_or(""));
    let live = api.get_opt(of.meta().name.as_deref().unwrap_or("")).await?;
    Ok(live.is_some_and(|l| l.meta().uid == of.meta().uid && l.meta().deletion_timestamp.is_none()))
}
