//! ServiceAccount: a pod's account, the volume with its token, and its pull secrets.

use std::time::Duration;

use api::{kinds, static_pods};
use apimachinery::{ObjectExt as _, Status};
use serde_json::{Value, json};

use super::push;
use crate::ApiServer;
use crate::registry::{generated_name, object_key};

/// Where containers find the token.
const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Sets the account of a new pod and mounts its token.
///
/// # Errors
/// 403 without such an account.
pub fn admit(server: &ApiServer, pod: &mut Value) -> Result<(), Status> {
    let name = match pod.str_at(&["spec", "serviceAccountName"]) {
        "" => "default".to_string(),
        name => name.to_string(),
    };
    pod["spec"]["serviceAccountName"] = name.as_str().into();
    pod["spec"]["serviceAccount"] = name.as_str().into();
    let key = object_key(pod.namespace(), &name);
    let Some(account) = server.cache.of(kinds::SERVICE_ACCOUNTS).get(&key) else {
        let why = format!("error looking up service account {key}: serviceaccount {name:?} not found");
        return Err(kinds::PODS.forbidden(pod.name(), &why));
    };
    let account = account.parse();
    if pod["spec"]["imagePullSecrets"].is_null() && !account.array_at(&["imagePullSecrets"]).is_empty() {
        pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    let automount = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(pod);
    }
    Ok(())
}

fn mount_token(pod: &mut Value) {
    let mounted = |c: &Value| c.array_at(&["volumeMounts"]).iter().any(|m| m["mountPath"] == TOKEN_MOUNT);
    let lists = ["containers", "initContainers"];
    let any = lists.iter().any(|list| pod.array_at(&["spec", list]).iter().any(|c| !mounted(c)));
    if !any {
        return;
    }
    let volume = generated_name("kube-api-access-");
    for list in lists {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if mounted(container) {
                continue;
            }
            let mount = json!({"name": volume, "readOnly": true, "mountPath": TOKEN_MOUNT});
            push(container, "volumeMounts", mount);
        }
    }
    let source = json!({"name": volume, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}});
    push(&mut pod["spec"], "volumes", source);
}

/// Waits a moment for the service account of a pod: the namespace may be so new that its controller is still at it.
pub async fn wait_for_account(server: &ApiServer, namespace: &str, pod: &Value) {
    if static_pods::is_mirror(pod) {
        return;
    }
    let name = match pod.str_at(&["spec", "serviceAccountName"]) {
        "" => "default",
        name => name,
    };
    let key = object_key(namespace, name);
    let accounts = server.cache.of(kinds::SERVICE_ACCOUNTS);
    let exists = || accounts.get(&key).is_some() || server.cache.of(kinds::NAMESPACES).get(namespace).is_none();
    let wait = async {
        while !exists() {
            let revision = server.cache.revision();
            if exists() {
                return;
            }
            server.cache.wait_for(revision + 1).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), wait).await;
}
