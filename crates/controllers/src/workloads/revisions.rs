//! Revisions: the templates that a StatefulSet or DaemonSet has had, for `kubectl rollout history` and `undo`.

use std::collections::BTreeMap;
use std::collections::HashSet;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::json;

use crate::toolkit::{Result, ignore, pods};

/// The label of pods and revisions that says which revision they are of.
pub const LABEL: &str = "controller-revision-hash";

/// The name of the revision that holds `template`; made if it is new. `labels` are those of the owner's selector.
///
/// # Errors
/// The API refuses to list revisions, or the new one.
pub async fn ensure<K: Resource<DynamicType = ()>>(
    client: &Client,
    owner: &K,
    template: &PodTemplateSpec,
    labels: Option<&BTreeMap<String, String>>,
) -> Result<String> {
    let namespace = owner.namespace().unwrap_or_default();
    let hash = pods::content_hash(template);
    let name = format!("{}-{hash}", owner.name_any());
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &namespace);
    let all = adopt(&api, owner, labels, api.list(&ListParams::default()).await?.items).await?;
    let own = all.iter().filter(|r| pods::is_owned_by(&r.metadata, &owner.uid().unwrap_or_default()));
    let own: Vec<(String, i64)> = own.map(|r| (r.name_any(), r.revision.unwrap_or(0))).collect();
    let number = own.iter().map(|(_, n)| *n).max().unwrap_or(0) + 1;
    if own.iter().any(|(n, revision)| *n == name && *revision == number - 1) {
        return Ok(name);
    }
    let mut labels = labels.cloned().unwrap_or_default();
    labels.insert(LABEL.into(), hash);
    let revision = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": [pods::owner(owner)]},
        "data": {"spec": {"template": with_directive(template)}}, "revision": number});
    let revision: ControllerRevision = serde_json::from_value(revision).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &revision).await {
        // A template that comes back is the newest again.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let patch = Patch::Merge(json!({ "revision": number }));
            ignore(api.patch(&name, &PatchParams::default(), &patch).await, &[404])?;
        }
        other => other.map(|_| ())?,
    }
    Ok(name)
}

/// Takes in the revisions that an owner of the same pods left behind (a set that was deleted with `--cascade=orphan` and made anew), so that
/// the history goes on. Returns all revisions as they are then.
async fn adopt<K: Resource<DynamicType = ()>>(
    api: &Api<ControllerRevision>,
    owner: &K,
    labels: Option<&BTreeMap<String, String>>,
    mut all: Vec<ControllerRevision>,
) -> Result<Vec<ControllerRevision>> {
    let Some(labels) = labels.filter(|labels| !labels.is_empty()) else { return Ok(all) };
    for revision in &mut all {
        let meta = &revision.metadata;
        let fits = labels.iter().all(|(key, value)| revision.labels().get(key) == Some(value));
        if !fits || pods::controller_of(meta).is_some() || meta.deletion_timestamp.is_some() {
            continue;
        }
        let change = json!({"metadata": {"uid": meta.uid, "ownerReferences": [pods::owner(owner)]}});
        let adopted = api.patch(&revision.name_any(), &PatchParams::default(), &Patch::Strategic(change)).await;
        match adopted {
            Ok(adopted) => *revision = adopted,
            // It is gone, or another controller's.
            Err(error) => ignore(Err::<(), _>(error), &[404, 409, 422])?,
        }
    }
    Ok(all)
}

/// `kubectl rollout undo` sends a revision's data as a strategic patch, which must replace the template, not merge it.
fn with_directive(template: &PodTemplateSpec) -> serde_json::Value {
    let mut value = json!(template);
    value["$patch"] = "replace".into();
    value
}

/// The template of a revision, if it is still there.
///
/// # Errors
/// The API can't be asked, or what the revision holds is no template.
pub async fn template(client: &Client, namespace: &str, name: &str) -> Result<Option<PodTemplateSpec>> {
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), namespace);
    let Some(revision) = api.get_opt(name).await? else { return Ok(None) };
    let mut value = revision.data.0["spec"]["template"].clone();
    if let Some(map) = value.as_object_mut() {
        map.remove("$patch");
    }
    serde_json::from_value(value).map(Some).map_err(kube::Error::SerdeError)
}

/// Removes revisions beyond `limit` that are in no use; `live` are names that are.
///
/// # Errors
/// The API refuses to list revisions, or the deletion of one that is there.
pub async fn forget<K: Resource<DynamicType = ()>>(
    client: &Client,
    owner: &K,
    limit: Option<i32>,
    live: &HashSet<String>,
) -> Result {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &owner.namespace().unwrap_or_default());
    let all = api.list(&ListParams::default()).await?;
    let uid = owner.uid().unwrap_or_default();
    let mut old: Vec<&ControllerRevision> =
        all.iter().filter(|r| pods::is_owned_by(&r.metadata, &uid) && !live.contains(&r.name_any())).collect();
    old.sort_by_key(|r| r.revision.unwrap_or(0));
    let surplus = old.len().saturating_sub(limit);
    for revision in old.into_iter().take(surplus) {
        ignore(api.delete(&revision.name_any(), &DeleteParams::default()).await, &[404])?;
    }
    Ok(())
}
