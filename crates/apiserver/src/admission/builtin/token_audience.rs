//! ServiceAccountNodeAudienceRestriction (a part of NodeRestriction): a kubelet gets tokens for those audiences alone for which its pods mount
//! some, by themselves or by the drivers of their volumes, and for those that a rule allows it.

use api::{Kind, kinds};
use apimachinery::{ObjectExt as _, Status};
use serde_json::Value;

use crate::ApiServer;
use crate::authentication::{NODES, User};
use crate::authorization::{self, Attributes};
use crate::registry::object_key;

/// `account` is the account whose token is asked for, `pod` the one that it is bound to, `audiences` what the kubelet said.
///
/// # Errors
/// 403 for an audience for which the pod needs no token, and for several at once.
pub fn restrict(server: &ApiServer, user: &User, account: &Value, pod: &str, audiences: &[&str]) -> Result<(), Status> {
    if !user.name.starts_with("system:node:") || !user.is_in(NODES) {
        return Ok(());
    }
    let (namespace, name) = (account.namespace(), account.name());
    let refuse = |why: &str| Err(kinds::SERVICE_ACCOUNTS.forbidden(name, why));
    let audience = match audiences {
        [] => "",
        [audience] => audience,
        _ => return refuse("node may only request 0 or 1 audiences"),
    };
    let found = object(server, kinds::PODS, namespace, pod);
    if found.is_some_and(|pod| needs(server, &pod, audience)) {
        return Ok(());
    }
    let verb = "request-serviceaccounts-token-audience";
    let wanted = Attributes { verb, group: "", resource: audience, namespace, name, path: "" };
    if authorization::allows(server, user, &wanted) {
        return Ok(());
    }
    refuse(&format!("{} is not authorized to request tokens for audience {audience:?}", user.name))
}

fn object(server: &ApiServer, kind: &'static Kind, namespace: &str, name: &str) -> Option<Value> {
    server.cache.of(kind).get(&object_key(namespace, name)).map(|entry| entry.parse())
}

/// Whether a pod mounts tokens for an audience, or a driver of its volumes asks for such.
fn needs(server: &ApiServer, pod: &Value, audience: &str) -> bool {
    pod.array_at(&["spec", "volumes"]).iter().any(|volume| {
        let mut sources = volume.array_at(&["projected", "sources"]).iter();
        sources.any(|source| {
            let token = source.at(&["serviceAccountToken"]);
            token.is_object() && token.str_at(&["audience"]) == audience
        }) || driver_of(server, pod, volume).is_some_and(|driver| asks(server, &driver, audience))
    })
}

/// The storage driver of a volume, if it has one.
fn driver_of(server: &ApiServer, pod: &Value, volume: &Value) -> Option<String> {
    let inline = volume.str_at(&["csi", "driver"]);
    if !inline.is_empty() {
        return Some(inline.into());
    }
    let claim = match volume.str_at(&["persistentVolumeClaim", "claimName"]) {
        "" if volume.at(&["ephemeral"]).is_object() => format!("{}-{}", pod.name(), volume.str_at(&["name"])),
        "" => return None,
        claim => claim.into(),
    };
    let claim = object(server, kinds::PERSISTENT_VOLUME_CLAIMS, pod.namespace(), &claim)?;
    let bound = object(server, kinds::PERSISTENT_VOLUMES, "", claim.str_at(&["spec", "volumeName"]))?;
    Some(bound.str_at(&["spec", "csi", "driver"]).to_string()).filter(|driver| !driver.is_empty())
}

fn asks(server: &ApiServer, driver: &str, audience: &str) -> bool {
    let driver = object(server, kinds::CSI_DRIVERS, "", driver);
    let requests = driver.as_ref().map(|driver| driver.array_at(&["spec", "tokenRequests"])).unwrap_or_default();
    requests.iter().any(|request| request.str_at(&["audience"]) == audience)
}
