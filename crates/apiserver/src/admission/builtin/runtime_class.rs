//! RuntimeClass (overhead, node selector and tolerations of its pods) and, where it is enabled, ExtendedResourceToleration.

use api::kinds;
use apimachinery::{ObjectExt as _, Status};
use serde_json::{Value, json};

use crate::ApiServer;

/// Sets overhead, node selector and tolerations of a new pod to those of its RuntimeClass.
///
/// # Errors
/// 403 without such a class, or when the pod names another overhead or node than its class.
pub fn admit(server: &ApiServer, pod: &mut Value) -> Result<(), Status> {
    let name = pod.str_at(&["spec", "runtimeClassName"]).to_string();
    let refuse = |pod: &Value, why: String| Err(kinds::PODS.forbidden(pod.name(), &format!("pod rejected: {why}")));
    if name.is_empty() {
        let costs = pod["spec"]["overhead"].as_object().is_some_and(|o| !o.is_empty());
        let why = "Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return if costs { refuse(pod, why.into()) } else { Ok(()) };
    }
    let Some(class) = server.cache.of(kinds::RUNTIME_CLASSES).get(&name) else {
        return refuse(pod, format!("RuntimeClass {name:?} not found"));
    };
    let class = class.parse();
    let (costs, said) = (class.at(&["overhead", "podFixed"]).clone(), &pod["spec"]["overhead"]);
    if !said.is_null() && *said != costs {
        return refuse(pod, "Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
    }
    if costs.is_object() {
        pod["spec"]["overhead"] = costs;
    }
    for (key, value) in class.at(&["scheduling", "nodeSelector"]).as_object().into_iter().flatten() {
        let other = &pod["spec"]["nodeSelector"][key];
        if !other.is_null() && other != value {
            return refuse(
                pod,
                format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {other}"
                ),
            );
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    for toleration in class.array_at(&["scheduling", "tolerations"]) {
        tolerate(pod, toleration.clone());
    }
    Ok(())
}

/// ExtendedResourceToleration: nodes with devices are often tainted with the devices' name, so that no other pods run there.
pub fn tolerate_extended_resources(pod: &mut Value) {
    let mut names = std::collections::BTreeSet::new();
    for list in ["containers", "initContainers"] {
        for container in pod.array_at(&["spec", list]) {
            let asked = container.at(&["resources", "requests"]).as_object().into_iter().flatten();
            names.extend(asked.map(|(name, _)| name.clone()).filter(|name| is_extended(name)));
        }
    }
    for name in names {
        tolerate(pod, json!({"key": name, "operator": "Exists", "effect": "NoSchedule"}));
    }
}

fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

fn tolerate(pod: &mut Value, toleration: Value) {
    if !pod.array_at(&["spec", "tolerations"]).contains(&toleration) {
        super::push(&mut pod["spec"], "tolerations", toleration);
    }
}
