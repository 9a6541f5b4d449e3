//! What upstream's built-in admission plugins add to objects and refuse, beyond plain defaults and checks.
//!
//! Here: NamespaceLifecycle, ServiceAccount, Priority, DefaultTolerationSeconds, DefaultStorageClass,
//! PodSecurity, StorageObjectInUseProtection, DefaultIngressClass, LimitRanger and ResourceQuota (in [`quota`]),
//! NodeRestriction, RuntimeClass, those of certificates, and the prevention of escalation.

mod certificates;
mod claims;
mod nodes;
mod pod_security;
mod runtime_class;
mod services;

use std::time::Duration;

use apimachinery::{ObjectExt as _, Status};
use serde_json::{Value, json};

use api::static_pods;
use api::{Kind, kinds};

use crate::ApiServer;
use crate::auth::{User, escalation};
use crate::cache::object_key;
use crate::external::Attempt;
use crate::handlers::write::generated_name;
use crate::object::Filter;
use crate::quota;

/// Admission plugins that are off unless an administrator turns them on, as upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    ExtendedResourceToleration,
    OwnerReferencesPermissionEnforcement,
}

impl std::str::FromStr for Plugin {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "ExtendedResourceToleration" => Ok(Plugin::ExtendedResourceToleration),
            "OwnerReferencesPermissionEnforcement" => Ok(Plugin::OwnerReferencesPermissionEnforcement),
            _ => Err(format!(
                "{name:?} can't be enabled: ExtendedResourceToleration and OwnerReferencesPermissionEnforcement can; \
                 upstream's default plugins are always on"
            )),
        }
    }
}

pub use nodes::{SERVER, restrict_token};
pub use pod_security::admit as pod_security;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
}

/// Changes an object on its way in.
pub fn mutate(
    server: &ApiServer,
    user: &User,
    kind: &Kind,
    operation: Operation,
    object: &mut Value,
) -> Result<(), Status> {
    if operation == Operation::Create {
        live_namespace(server, kind, object)?;
        if kind == kinds::PODS {
            pod(server, object)?;
        } else if kind == kinds::PERSISTENT_VOLUME_CLAIMS {
            default_storage_class(server, object);
            add_finalizer(object, "kubernetes.io/pvc-protection");
        } else if kind == kinds::PERSISTENT_VOLUMES {
            add_finalizer(object, "kubernetes.io/pv-protection");
        } else if kind == kinds::INGRESSES {
            default_ingress_class(server, object);
        } else if kind == kinds::CERTIFICATE_SIGNING_REQUESTS {
            certificates::note_user(user, object);
        }
    } else if kind == kinds::PODS {
        tolerations(object);
    }
    Ok(())
}

/// Says in a new pod's status that gates hold it back, whoever put them there.
pub fn tell_gates(kind: &Kind, pod: &mut Value) {
    if kind == kinds::PODS && !pod.array_at(&["spec", "schedulingGates"]).is_empty() {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": apimachinery::clock::now_rfc3339()});
        pod.child_mut("status").insert("conditions".into(), json!([condition]));
    }
}

/// Refuses an object whose form is right, for who sends it.
pub fn validate(server: &ApiServer, attempt: &Attempt<'_>, object: &Value) -> Result<(), Status> {
    nodes::restrict(attempt, object)?;
    certificates::check(server, attempt, object)?;
    escalation::check(server, attempt, object)?;
    claims::check(server, attempt, object)?;
    services::check(server, attempt, object)?;
    if server.config.plugins.contains(&Plugin::OwnerReferencesPermissionEnforcement) {
        escalation::check_owners(server, attempt, object)?;
    }
    Ok(())
}

fn live_namespace(server: &ApiServer, kind: &Kind, object: &Value) -> Result<(), Status> {
    if !kind.namespaced {
        return Ok(());
    }
    let namespaces = server.cache.of(kinds::NAMESPACES);
    let name = object.namespace();
    let Some(namespace) = namespaces.get(name) else {
        return Err(kinds::NAMESPACES.not_found(name));
    };
    if namespace.field(namespaces.kind, "status.phase") == "Terminating" {
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        return Err(kind.forbidden(object.name(), &why));
    }
    Ok(())
}

fn add_finalizer(object: &mut Value, finalizer: &str) {
    let mut all: Vec<String> = object.strings_at(&["metadata", "finalizers"]).into_iter().map(String::from).collect();
    if !all.iter().any(|f| f == finalizer) {
        all.push(finalizer.into());
        object.set_meta("finalizers", all);
    }
}

/// The newest object of a resource that an annotation marks as default.
fn marked_default(server: &ApiServer, kind: &'static Kind, annotation: &str) -> Option<String> {
    let objects = server.cache.of(kind).list(&Filter::default()).0;
    let marked = objects.iter().map(|e| e.parse()).filter(|o| o.at(&["metadata", "annotations", annotation]) == "true");
    let newest = marked.max_by(|a, b| {
        let key = |o: &Value| (o.meta("creationTimestamp").to_string(), std::cmp::Reverse(o.name().to_string()));
        key(a).cmp(&key(b))
    })?;
    Some(newest.name().into())
}

fn default_storage_class(server: &ApiServer, claim: &mut Value) {
    if !claim["spec"]["storageClassName"].is_null() {
        return;
    }
    let annotation = "storageclass.kubernetes.io/is-default-class";
    if let Some(class) = marked_default(server, kinds::STORAGE_CLASSES, annotation) {
        claim["spec"]["storageClassName"] = class.into();
    }
}

fn default_ingress_class(server: &ApiServer, ingress: &mut Value) {
    let by_annotation = !ingress.at(&["metadata", "annotations", "kubernetes.io/ingress.class"]).is_null();
    if !ingress["spec"]["ingressClassName"].is_null() || by_annotation {
        return;
    }
    let annotation = "ingressclass.kubernetes.io/is-default-class";
    if let Some(class) = marked_default(server, kinds::INGRESS_CLASSES, annotation) {
        ingress["spec"]["ingressClassName"] = class.into();
    }
}

fn pod(server: &ApiServer, pod: &mut Value) -> Result<(), Status> {
    // A mirror has what its node says, and no part in the API.
    if !static_pods::is_mirror(pod) {
        service_account(server, pod)?;
    }
    priority(server, pod)?;
    tolerations(pod);
    runtime_class::apply(server, pod)?;
    if server.config.plugins.contains(&Plugin::ExtendedResourceToleration) {
        runtime_class::tolerate_extended_resources(pod);
    }
    quota::apply_limit_defaults(server, pod);
    Ok(())
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
            server.cache.reached(revision + 1).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), wait).await;
}

const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn service_account(server: &ApiServer, pod: &mut Value) -> Result<(), Status> {
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

/// Appends to the list at `key`, made if it is missing.
fn push(object: &mut Value, key: &str, item: Value) {
    if !object[key].is_array() {
        object[key] = json!([]);
    }
    if let Some(list) = object[key].as_array_mut() {
        list.push(item);
    }
}

fn priority(server: &ApiServer, pod: &mut Value) -> Result<(), Status> {
    let classes = server.cache.of(kinds::PRIORITY_CLASSES);
    let name = pod.str_at(&["spec", "priorityClassName"]).to_string();
    let class = if name.is_empty() {
        let all = classes.list(&Filter::default()).0;
        let defaults = all.iter().map(|e| e.parse()).filter(|c| c["globalDefault"] == true);
        // Two can come into being at once: the lower one counts.
        defaults.min_by_key(|c| c.i64_at(&["value"]))
    } else {
        let Some(class) = classes.get(&name) else {
            let why = format!("no PriorityClass with name {name} was found");
            return Err(kinds::PODS.forbidden(pod.name(), &why));
        };
        Some(class.parse())
    };
    if let Some(class) = &class {
        pod["spec"]["priorityClassName"] = class.name().into();
    }
    let value: Value = class.as_ref().and_then(|c| c.i64_at(&["value"])).unwrap_or(0).into();
    let policy = class.as_ref().map_or("", |c| c.str_at(&["preemptionPolicy"]));
    let policy: Value = if policy.is_empty() { "PreemptLowerPriority" } else { policy }.into();
    for (field, what, computed) in [
        ("priority", "integer value of priority", value),
        ("preemptionPolicy", "string value of PreemptionPolicy", policy),
    ] {
        let said = &pod["spec"][field];
        if !said.is_null() && *said != computed {
            let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
            let why = format!(
                "the {what} ({}) must not be provided in pod spec; priority admission controller computed {} from the \
                 given PriorityClass name",
                plain(said),
                plain(&computed)
            );
            return Err(kinds::PODS.forbidden(pod.name(), &why));
        }
        pod["spec"][field] = computed;
    }
    Ok(())
}

/// Pods stay on a lost node for five minutes unless they say otherwise.
fn tolerations(pod: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = pod.array_at(&["spec", "tolerations"]).iter().any(|t| {
            let effect = t.str_at(&["effect"]);
            (t["key"] == key || (t["key"].is_null() && t["operator"] == "Exists"))
                && (effect.is_empty() || effect == "NoExecute")
        });
        if !tolerated {
            let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            push(&mut pod["spec"], "tolerations", toleration);
        }
    }
}
