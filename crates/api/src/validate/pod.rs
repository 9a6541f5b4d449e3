//! Pods, and the templates of pods.

use apimachinery::{Cause, ObjectExt as _, Quantity, names};
use serde_json::Value;

use super::container::{self, Role, Surroundings};
use super::field::{Field, too_many};
use super::{placement, volumes};

pub fn pod(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(old) = old else {
        if !object.array_at(&["spec", "ephemeralContainers"]).is_empty() {
            let field = "spec.ephemeralContainers";
            causes.push(Cause::forbidden(field, "cannot be set on create"));
        }
        return spec(&object["spec"], "spec", &[], causes);
    };
    // Of a pod's spec little may change: images, the deadline, tolerations added, gates removed.
    let mut frozen_new = object["spec"].clone();
    let mut frozen_old = old["spec"].clone();
    for frozen in [&mut frozen_new, &mut frozen_old] {
        thaw(frozen);
    }
    if old.str_at(&["spec", "nodeName"]).is_empty() {
        // Bound through the binding subresource.
        frozen_new["nodeName"] = Value::Null;
        frozen_old["nodeName"] = Value::Null;
    }
    if frozen_new != frozen_old {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", detail));
    } else if object["spec"] != old["spec"] {
        spec(&object["spec"], "spec", &[], causes);
        let kept = |t: &Value| object.array_at(&["spec", "tolerations"]).contains(t);
        if !old.array_at(&["spec", "tolerations"]).iter().all(kept) {
            let detail = "existing toleration can not be modified except its tolerationSeconds";
            // Only the seconds of a toleration may change.
            let same_but_seconds = |a: &Value, b: &Value| {
                let bare = |t: &Value| {
                    let mut t = t.clone();
                    t.as_object_mut().map(|t| t.remove("tolerationSeconds"));
                    t
                };
                bare(a) == bare(b)
            };
            let still = |t: &Value| object.array_at(&["spec", "tolerations"]).iter().any(|n| same_but_seconds(n, t));
            if !old.array_at(&["spec", "tolerations"]).iter().all(still) {
                causes.push(Cause::forbidden("spec.tolerations", detail));
            }
        }
    }
}

/// A pod's quality of service is fixed when it is made.
pub fn resize(object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    spec(&object["spec"], "spec", &[], causes);
    let class = |pod: &Value| crate::defaults::qos_class(&pod["spec"]);
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

fn thaw(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(c) = container.as_object_mut() {
                c.remove("image");
            }
        }
    }
    if let Some(map) = spec.as_object_mut() {
        for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "ephemeralContainers"] {
            map.remove(field);
        }
        map.remove("schedulingGates");
    }
}

/// A pod's or a template's spec at `path`. `claimed` are volumes that come from elsewhere (claim templates).
pub fn spec(spec: &Value, path: &str, claimed: &[&str], causes: &mut Vec<Cause>) {
    let spec = Field::new(spec, path);
    spec.at("containers").require("", causes);
    spec.at("restartPolicy").must_be(&["Always", "Never", "OnFailure"], causes);
    spec.at("terminationGracePeriodSeconds").not_negative(causes);
    spec.at("activeDeadlineSeconds").range(1, i64::from(i32::MAX), causes);
    for field in ["hostname", "subdomain"] {
        spec.at(field).is(names::dns1123_label, causes);
    }
    for field in ["nodeName", "serviceAccountName", "priorityClassName", "runtimeClassName", "schedulerName"] {
        spec.at(field).is(names::dns1123_subdomain, causes);
    }
    spec.at("preemptionPolicy").one_of(&["Never", "PreemptLowerPriority"], causes);
    spec.at("os").at("name").one_of(&["linux", "windows"], causes);
    dns(&spec, causes);
    pod_security(&spec, causes);
    placement::check(&spec, causes);
    for alias in spec.at("hostAliases").items() {
        alias.at("ip").address(causes);
        for name in alias.at("hostnames").items() {
            name.is(names::dns1123_subdomain, causes);
        }
    }
    for (_, amount) in spec.at("overhead").entries() {
        amount.quantity(causes);
    }
    let mut volumes = volumes::check(&spec.at("volumes"), causes);
    volumes.extend(claimed);
    containers(&spec, &volumes, causes);
}

fn containers(spec: &Field<'_>, volumes: &[&str], causes: &mut Vec<Cause>) {
    let around = Surroundings { volumes, host_network: *spec.at("hostNetwork").value == true };
    let (mut seen, mut host_ports) = (Vec::new(), Vec::new());
    for (list, role) in
        [("containers", Role::Main), ("initContainers", Role::Init), ("ephemeralContainers", Role::Ephemeral)]
    {
        for c in spec.at(list).items() {
            container::check(&c, role, &around, causes);
            let name = c.at("name");
            if seen.contains(&name.text()) {
                causes.push(Cause::duplicate(&name.path, name.value));
            }
            seen.push(name.text());
            // Init containers come one after the other.
            let ports = c.at("ports").items().filter(|_| role == Role::Main);
            for port in ports.filter(|p| p.at("hostPort").value.as_i64().unwrap_or(0) != 0) {
                let of = |key: &str| port.at(key).value;
                let taken = (of("hostPort"), of("hostIP"), of("protocol"));
                if host_ports.contains(&taken) {
                    causes.push(Cause::duplicate(port.at("hostPort").path, taken.0));
                }
                host_ports.push(taken);
            }
        }
    }
}

fn dns(spec: &Field<'_>, causes: &mut Vec<Cause>) {
    spec.at("dnsPolicy").must_be(&["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], causes);
    let config = spec.at("dnsConfig");
    let servers = config.at("nameservers");
    if spec.at("dnsPolicy").text() == "None" {
        servers.require("must provide at least one DNS nameserver when `dnsPolicy` is None", causes);
    }
    too_many(&servers, 3, causes);
    for server in servers.items() {
        server.address(causes);
    }
    too_many(&config.at("searches"), 32, causes);
    for search in config.at("searches").items() {
        let name = search.text().trim_end_matches('.');
        if !search.text().is_empty() && !name.is_empty() && names::dns1123_subdomain(&name.replace('_', "-")).is_err() {
            search.invalid("must be a DNS subdomain", causes);
        }
    }
    for option in config.at("options").items() {
        option.at("name").require("must not be empty", causes);
    }
}

fn pod_security(spec: &Field<'_>, causes: &mut Vec<Cause>) {
    let context = spec.at("securityContext");
    if spec.at("shareProcessNamespace").value == true && spec.at("hostPID").value == true {
        spec.at("shareProcessNamespace").invalid("ShareProcessNamespace and HostPID cannot both be enabled", causes);
    }
    container::common_security(&context, causes);
    for group in context.at("supplementalGroups").items() {
        group.range(0, i64::from(i32::MAX), causes);
    }
    context.at("fsGroupChangePolicy").one_of(&["Always", "OnRootMismatch"], causes);
    context.at("supplementalGroupsPolicy").one_of(&["Merge", "Strict"], causes);
    context.at("sysctls").unique("name", causes);
    for sysctl in context.at("sysctls").items() {
        let name = sysctl.at("name");
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_./".contains(c);
        if name.require("", causes) && !name.text().chars().all(fits) {
            name.invalid("must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$", causes);
        }
    }
}

/// Quantities, none negative, and no request above its limit.
pub fn resources(resources: &Value, path: &str, causes: &mut Vec<Cause>) {
    let read = |list: &str, name: &str, value: &Value, causes: &mut Vec<Cause>| -> Option<Quantity> {
        let field = format!("{path}.{list}[{name}]");
        let text = value.as_str().map(String::from).unwrap_or_else(|| value.to_string());
        match text.parse::<Quantity>() {
            Ok(q) if q.is_negative() => {
                causes.push(Cause::invalid(field, value, "must be greater than or equal to 0"));
                None
            }
            Ok(q) => Some(q),
            Err(e) => {
                causes.push(Cause::invalid(field, value, &e.to_string()));
                None
            }
        }
    };
    for (name, value) in resources["limits"].as_object().into_iter().flatten() {
        read("limits", name, value, causes);
    }
    for (name, value) in resources["requests"].as_object().into_iter().flatten() {
        let request = read("requests", name, value, causes);
        let limit = &resources["limits"][name.as_str()];
        if limit.is_null() {
            continue;
        }
        let text = limit.as_str().map(String::from).unwrap_or_else(|| limit.to_string());
        if let (Some(request), Ok(limit)) = (request, text.parse::<Quantity>())
            && request > limit
        {
            let detail = format!("must be less than or equal to {name} limit of {text}");
            causes.push(Cause::invalid(format!("{path}.requests"), value, &detail));
        }
    }
}
