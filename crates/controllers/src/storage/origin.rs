//! Claims whose volume is to begin with what another has (`dataSource`): a snapshot, or a claim of the same namespace. What
//! `local-path` has is on one node, so the new volume is there, too, whatever node its pod would fit best.

use apimachinery::Quantity;
use csi::local_path::{self, ContentSource, PROVISIONER};
use csi::snapshots::{VolumeSnapshot, VolumeSnapshotContent};
use informer::Key;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, TypedLocalObjectReference};
use kube::{Api, ResourceExt as _};
use placement::storage_amount;

use super::binding::Binder;
use crate::toolkit::{Context, Result};

/// What a volume of `local-path` is to be made of, and where that is.
pub struct Found {
    pub origin: ContentSource,
    pub node: String,
}

/// The inner error is the user's.
///
/// # Errors
/// The API can't be asked for the snapshot. (What is wrong with the source itself is the inner error.)
pub async fn find(
    context: &Context,
    binder: &Binder,
    claim: &PersistentVolumeClaim,
    source: &TypedLocalObjectReference,
) -> Result<Result<Found, String>> {
    let name = &source.name;
    match (source.api_group.as_deref().unwrap_or(""), source.kind.as_str()) {
        ("snapshot.storage.k8s.io", "VolumeSnapshot") => snapshot(context, claim, name).await,
        ("", "PersistentVolumeClaim") => Ok(other(binder, claim, name)),
        (group, kind) => Ok(Err(format!(
            "volumes of {PROVISIONER} are made of a VolumeSnapshot or a PersistentVolumeClaim, not of a {kind} of {group:?}"
        ))),
    }
}

fn other(binder: &Binder, claim: &PersistentVolumeClaim, name: &str) -> Result<Found, String> {
    let namespace = claim.namespace().unwrap_or_default();
    let source = binder.claims.get(&Key::new(&namespace, name));
    let source = source.ok_or_else(|| format!("the claim {name:?} isn't there"))?;
    let volume = source.spec.as_ref().and_then(|s| s.volume_name.as_ref());
    let volume = volume.and_then(|v| binder.volumes.get(&Key::new("", v)));
    let volume = volume.ok_or_else(|| format!("the claim {name:?} isn't bound to a volume yet"))?;
    let node = local_path::node_of(&volume)
        .ok_or_else(|| format!("the volume of claim {name:?} isn't one of {PROVISIONER}"))?;
    let has = storage_amount(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()));
    large_enough(claim, has, &format!("claim {name:?}"))?;
    Ok(Found { origin: ContentSource::Volume(volume.name_any()), node: node.clone() })
}

async fn snapshot(context: &Context, claim: &PersistentVolumeClaim, name: &str) -> Result<Result<Found, String>> {
    let namespace = claim.namespace().unwrap_or_default();
    let snapshots: Api<VolumeSnapshot> = Api::namespaced(context.client.clone(), &namespace);
    let Some(snapshot) = snapshots.get_opt(name).await? else {
        return Ok(Err(format!("the snapshot {name:?} isn't there")));
    };
    let status = snapshot.status.unwrap_or_default();
    let Some(content) = status.bound_volume_snapshot_content_name.filter(|_| status.ready_to_use == Some(true)) else {
        return Ok(Err(format!("the snapshot {name:?} isn't ready to use yet")));
    };
    let contents: Api<VolumeSnapshotContent> = Api::all(context.client.clone());
    let Some(content) = contents.get_opt(&content).await? else {
        return Ok(Err(format!("the content of snapshot {name:?} isn't there")));
    };
    let status = content.status.unwrap_or_default();
    let handle = status.snapshot_handle.unwrap_or_default();
    let Some((node, id)) = local_path::split_snapshot_handle(&handle).filter(|_| content.spec.driver == PROVISIONER)
    else {
        return Ok(Err(format!("the snapshot {name:?} is of driver {}, not of {PROVISIONER}", content.spec.driver)));
    };
    let has = status.restore_size.unwrap_or_default().to_string().parse().unwrap_or_default();
    Ok(large_enough(claim, has, &format!("snapshot {name:?}"))
        .map(|()| Found { origin: ContentSource::Snapshot(id.into()), node: node.into() }))
}

/// A volume can't be smaller than what it begins with.
fn large_enough(claim: &PersistentVolumeClaim, has: Quantity, what: &str) -> Result<(), String> {
    let wanted = storage_amount(claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()));
    if wanted < has {
        let (wanted, has) = (wanted.value(), has.value());
        return Err(format!("the requested volume size {wanted} is less than the size {has} of {what}"));
    }
    Ok(())
}
