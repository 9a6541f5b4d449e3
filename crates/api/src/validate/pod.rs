//! Pods, and the templates of pods.

use apimachinery::{Cause, ObjectExt as _, Quantity, names};
use serde_json::{Value, json};

use super::{one_of, port_number, port_or_name};

pub fn pod(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(old) = old else {
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
    }
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
    let containers = spec.array_at(&["containers"]);
    if containers.is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    one_of(spec, &["restartPolicy"], &format!("{path}.restartPolicy"), &["Always", "Never", "OnFailure"], causes);
    let dns = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    one_of(spec, &["dnsPolicy"], &format!("{path}.dnsPolicy"), dns, causes);
    for field in ["hostname", "subdomain"] {
        let value = spec.str_at(&[field]);
        if !value.is_empty()
            && let Err(why) = names::dns1123_label(value)
        {
            causes.push(Cause::invalid(format!("{path}.{field}"), &spec[field], &why));
        }
    }
    super::meta::labels(&spec["nodeSelector"], &format!("{path}.nodeSelector"), causes);
    let mut volumes = volume_names(spec, path, causes);
    volumes.extend(claimed);
    let mut seen = Vec::new();
    for list in ["initContainers", "containers"] {
        for (i, c) in spec.array_at(&[list]).iter().enumerate() {
            container(c, &format!("{path}.{list}[{i}]"), &volumes, causes);
            let name = c.str_at(&["name"]);
            if seen.contains(&name) {
                causes.push(Cause::duplicate(format!("{path}.{list}[{i}].name"), &c["name"]));
            }
            seen.push(name);
        }
    }
}

fn volume_names<'a>(spec: &'a Value, path: &str, causes: &mut Vec<Cause>) -> Vec<&'a str> {
    let mut volumes = Vec::new();
    for (i, volume) in spec.array_at(&["volumes"]).iter().enumerate() {
        let name = volume.str_at(&["name"]);
        let field = format!("{path}.volumes[{i}].name");
        if name.is_empty() {
            causes.push(Cause::required(field, ""));
        } else if let Err(why) = names::dns1123_label(name) {
            causes.push(Cause::invalid(field, &volume["name"], &why));
        } else if volumes.contains(&name) {
            causes.push(Cause::duplicate(field, &volume["name"]));
        }
        let sources = volume.as_object().map_or(0, |v| v.len().saturating_sub(1));
        if sources > 1 {
            causes.push(Cause::forbidden(format!("{path}.volumes[{i}]"), "may not specify more than 1 volume type"));
        }
        volumes.push(name);
    }
    volumes
}

fn container(c: &Value, path: &str, volumes: &[&str], causes: &mut Vec<Cause>) {
    let name = c.str_at(&["name"]);
    if name.is_empty() {
        causes.push(Cause::required(format!("{path}.name"), ""));
    } else if let Err(why) = names::dns1123_label(name) {
        causes.push(Cause::invalid(format!("{path}.name"), &c["name"], &why));
    }
    if c.str_at(&["image"]).is_empty() {
        causes.push(Cause::required(format!("{path}.image"), ""));
    }
    let pull = &["Always", "IfNotPresent", "Never"];
    one_of(c, &["imagePullPolicy"], &format!("{path}.imagePullPolicy"), pull, causes);
    let mut port_names = Vec::new();
    for (i, port) in c.array_at(&["ports"]).iter().enumerate() {
        let field = |f: &str| format!("{path}.ports[{i}].{f}");
        port_number(&port["containerPort"], &field("containerPort"), causes);
        if !port["hostPort"].is_null() && port["hostPort"] != 0 {
            port_number(&port["hostPort"], &field("hostPort"), causes);
        }
        let name = port.str_at(&["name"]);
        if !name.is_empty() {
            if let Err(why) = names::port_name(name) {
                causes.push(Cause::invalid(field("name"), &port["name"], &why));
            }
            if port_names.contains(&name) {
                causes.push(Cause::duplicate(field("name"), &port["name"]));
            }
            port_names.push(name);
        }
    }
    for (i, env) in c.array_at(&["env"]).iter().enumerate() {
        if env.str_at(&["name"]).is_empty() {
            causes.push(Cause::required(format!("{path}.env[{i}].name"), ""));
        }
        if !env.str_at(&["value"]).is_empty() && !env["valueFrom"].is_null() {
            let detail = "may not be specified when `value` is not empty";
            causes.push(Cause::invalid(format!("{path}.env[{i}].valueFrom"), &json!(""), detail));
        }
    }
    mounts(c, path, volumes, causes);
    resources(&c["resources"], &format!("{path}.resources"), causes);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !c[probe].is_null() {
            check_probe(&c[probe], &format!("{path}.{probe}"), causes);
        }
    }
}

fn mounts(c: &Value, path: &str, volumes: &[&str], causes: &mut Vec<Cause>) {
    let mut targets = Vec::new();
    for (i, mount) in c.array_at(&["volumeMounts"]).iter().enumerate() {
        let field = |f: &str| format!("{path}.volumeMounts[{i}].{f}");
        let (name, target) = (mount.str_at(&["name"]), mount.str_at(&["mountPath"]));
        if name.is_empty() {
            causes.push(Cause::required(field("name"), ""));
        } else if !volumes.contains(&name) {
            causes.push(Cause::not_found(field("name"), &mount["name"]));
        }
        if target.is_empty() {
            causes.push(Cause::required(field("mountPath"), ""));
        } else if targets.contains(&target) {
            causes.push(Cause::invalid(field("mountPath"), &mount["mountPath"], "must be unique"));
        }
        targets.push(target);
        let sub = mount.str_at(&["subPath"]);
        if sub.starts_with('/') {
            causes.push(Cause::invalid(field("subPath"), &mount["subPath"], "must be a relative path"));
        } else if sub.split('/').any(|s| s == "..") {
            causes.push(Cause::invalid(field("subPath"), &mount["subPath"], "must not contain '..'"));
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

fn check_probe(probe: &Value, path: &str, causes: &mut Vec<Cause>) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    match handlers.iter().filter(|h| !probe[**h].is_null()).count() {
        0 => causes.push(Cause::required(path, "must specify a handler type")),
        1 => {}
        _ => causes.push(Cause::forbidden(path, "may not specify more than 1 handler type")),
    }
    for handler in ["httpGet", "tcpSocket"] {
        if !probe[handler].is_null() {
            port_or_name(&probe[handler]["port"], &format!("{path}.{handler}.port"), causes);
        }
    }
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        if probe.i64_at(&[field]).is_some_and(|n| n < 0) {
            let detail = "must be greater than or equal to 0";
            causes.push(Cause::invalid(format!("{path}.{field}"), &probe[field], detail));
        }
    }
}
