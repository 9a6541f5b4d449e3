//! What may change of a pod that exists.

use apimachinery::{Cause, ObjectExt as _};
use serde_json::{Map, Value};

use super::validate::spec;

pub(super) fn is_gated(pod: &Value) -> bool {
    !pod.array_at(&["spec", "schedulingGates"]).is_empty()
}

/// Of a pod's spec little may change: images, the deadline, tolerations added, gates removed, and while it has gates,
/// where it may go (KEP-3521, KEP-3838). The node comes by the binding subresource.
pub(super) fn may_change(object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let gated = is_gated(old);
    let (mut frozen_new, mut frozen_old) = (object["spec"].clone(), old["spec"].clone());
    for frozen in [&mut frozen_new, &mut frozen_old] {
        thaw(frozen, gated);
    }
    if frozen_new != frozen_old {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", detail));
    }
    for gate in object.array_at(&["spec", "schedulingGates"]) {
        if !old.array_at(&["spec", "schedulingGates"]).contains(gate) {
            let name = gate.str_at(&["name"]);
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            causes.push(Cause::forbidden("spec.schedulingGates", &why));
        }
    }
    let deadline = |pod: &Value| pod.at(&["spec", "activeDeadlineSeconds"]).as_i64();
    if let Some(was) = deadline(old) {
        const FIELD: &str = "spec.activeDeadlineSeconds";
        match deadline(object) {
            None => {
                causes.push(Cause::invalid(FIELD, &Value::Null, "must not update from a positive integer to nil value"))
            }
            Some(is) if is > was => {
                let why = format!("must be less than or equal to previous value {was}");
                causes.push(Cause::invalid(FIELD, &is.into(), &why));
            }
            _ => {}
        }
    }
    let bare = |toleration: &Value| {
        let mut bare = toleration.clone();
        bare.as_object_mut().map(|t| t.remove("tolerationSeconds"));
        bare
    };
    let tolerations: Vec<Value> = object.array_at(&["spec", "tolerations"]).iter().map(bare).collect();
    if !old.array_at(&["spec", "tolerations"]).iter().all(|t| tolerations.contains(&bare(t))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        causes.push(Cause::forbidden("spec.tolerations", detail));
    }
    if gated {
        may_narrow(object, old, causes);
    }
}

/// A gated pod's choice of nodes may only become smaller.
fn may_narrow(object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let selector = |pod: &Value| pod.at(&["spec", "nodeSelector"]).as_object().cloned().unwrap_or_default();
    let new = selector(object);
    if !selector(old).iter().all(|(key, value)| new.get(key) == Some(value)) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        causes.push(Cause::invalid("spec.nodeSelector", &object["spec"]["nodeSelector"], why));
    }
    const TERMS: [&str; 5] =
        ["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    const FIELD: &str = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (terms, before) = (object.array_at(&TERMS), old.array_at(&TERMS));
    if before.is_empty() {
        return;
    }
    if terms.len() != before.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return causes.push(Cause::invalid(FIELD, &terms.to_vec().into(), why));
    }
    for (i, (term, was)) in terms.iter().zip(before).enumerate() {
        let kept = ["matchExpressions", "matchFields"].iter().all(|list| {
            let (is, was) = (term.array_at(&[list]), was.array_at(&[list]));
            was.iter().all(|wanted| is.contains(wanted))
        });
        // A term without any wish matches no node; with one it would match more.
        let matched_none = ["matchExpressions", "matchFields"].iter().all(|list| was.array_at(&[list]).is_empty());
        if !kept || (matched_none && term != was) {
            let why = "only additions are allowed (no mutations or deletions)";
            causes.push(Cause::invalid(format!("{FIELD}[{i}]"), term, why));
        }
    }
}

/// A pod's quality of service is fixed when it is made.
pub fn resize(object: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Vec::new();
    let causes = &mut found;
    spec(&object["spec"], "spec", &[], causes);
    let class = |pod: &Value| super::qos_class(&pod["spec"]);
    if class(object) != class(old) {
        let why = "Pod QOS Class may not change as a result of resizing";
        causes.push(Cause::invalid("metadata.labels", &Value::from(class(object)), why));
    }
    for (list, field, new, before) in each_resource(object, old) {
        if !matches!(field.as_str(), "cpu" | "memory") && new != before {
            let why = "only cpu and memory resources are mutable";
            causes.push(Cause::forbidden(format!("spec.{list}"), why));
        }
    }
    found
}

/// The amounts of all containers that are in either of two pods: list, resource, new and old amount.
fn each_resource<'a>(new: &'a Value, old: &'a Value) -> Vec<(&'static str, String, &'a Value, &'a Value)> {
    let mut all = Vec::new();
    for list in ["containers", "initContainers"] {
        let (new, old) = (new.array_at(&["spec", list]), old.array_at(&["spec", list]));
        for (a, b) in new.iter().zip(old) {
            for kind in ["requests", "limits"] {
                let (a, b) = (a.at(&["resources", kind]), b.at(&["resources", kind]));
                let names = a.as_object().into_iter().chain(b.as_object()).flat_map(|m| m.keys());
                all.extend(names.map(|name| (list, name.clone(), a.at(&[name]), b.at(&[name]))));
            }
        }
    }
    all
}

fn thaw(spec: &mut Value, gated: bool) {
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(c) = container.as_object_mut() {
                c.remove("image");
            }
        }
    }
    let Some(map) = spec.as_object_mut() else { return };
    for field in ["activeDeadlineSeconds", "tolerations", "ephemeralContainers", "schedulingGates"] {
        map.remove(field);
    }
    if !gated {
        return;
    }
    map.remove("nodeSelector");
    if let Some(affinity) = map.get_mut("affinity").and_then(Value::as_object_mut) {
        if let Some(node) = affinity.get_mut("nodeAffinity").and_then(Value::as_object_mut) {
            node.remove("requiredDuringSchedulingIgnoredDuringExecution");
        }
        affinity.retain(|_, part| part.as_object().is_none_or(|p| !p.is_empty()));
    }
    if map.get("affinity").and_then(Value::as_object).is_some_and(Map::is_empty) {
        map.remove("affinity");
    }
}
