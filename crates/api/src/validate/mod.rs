//! What upstream refuses, field by field. Each check appends a [`Cause`]; the API server turns the list into one
//! `Invalid` answer.

mod meta;
mod pod;
mod policies;
mod storage;
mod workloads;

use apimachinery::{Cause, ObjectExt as _, names};
use serde_json::{Value, json};

use crate::Kind;

pub use meta::metadata;
pub use policies::POLICY_VARIABLES;

/// Checks an object that is about to be stored. `old` is the stored one, for an update.
pub fn check(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    metadata(kind, object, old, &mut causes);
    match (kind.group, kind.plural) {
        ("", "pods") => pod::pod(object, old, &mut causes),
        ("", "services") => service(object, old, &mut causes),
        ("", "configmaps") => data_keys(object, old, &["data", "binaryData"], &mut causes),
        ("", "secrets") => secret(object, old, &mut causes),
        ("", "persistentvolumeclaims") => storage::claim(object, old, &mut causes),
        ("", "persistentvolumes") => storage::volume(object, old, &mut causes),
        ("storage.k8s.io", "storageclasses") => storage::class(object, old, &mut causes),
        ("apps", _) => workloads::apps(kind.plural, object, old, &mut causes),
        ("batch", _) => workloads::batch(kind.plural, object, old, &mut causes),
        ("rbac.authorization.k8s.io", _) => rbac(kind.plural, object, old, &mut causes),
        ("scheduling.k8s.io", "priorityclasses") => immutable(object, old, &["value"], "value", &mut causes),
        ("admissionregistration.k8s.io", plural) => policies::admission(plural, object, &mut causes),
        ("networking.k8s.io", "ingresses") => ingress(object, &mut causes),
        ("discovery.k8s.io", "endpointslices") => {
            one_of(object, &["addressType"], "addressType", &["IPv4", "IPv6", "FQDN"], &mut causes);
            immutable(object, old, &["addressType"], "addressType", &mut causes);
        }
        _ => {}
    }
    causes
}

const IMMUTABLE: &str = "field is immutable";

/// Refuses a change of the field at `path`.
fn immutable(object: &Value, old: Option<&Value>, path: &[&str], field: &str, causes: &mut Vec<Cause>) {
    if let Some(old) = old
        && old.at(path) != object.at(path)
    {
        causes.push(Cause::invalid(field, object.at(path), IMMUTABLE));
    }
}

/// Demands that the field at `path` is one of `allowed`.
fn one_of(object: &Value, path: &[&str], field: &str, allowed: &[&str], causes: &mut Vec<Cause>) {
    match object.at(path) {
        Value::Null => causes.push(Cause::required(field, "")),
        value if value.as_str().is_some_and(|v| allowed.contains(&v)) => {}
        value => causes.push(Cause::not_supported(field, value, allowed)),
    }
}

/// Demands an integer of at least zero, if there is one.
fn not_negative(object: &Value, path: &[&str], causes: &mut Vec<Cause>) {
    if object.i64_at(path).is_some_and(|n| n < 0) {
        let field = path.join(".");
        causes.push(Cause::invalid(field, object.at(path), "must be greater than or equal to 0"));
    }
}

/// A port number from 1 to 65535.
fn port_number(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    if !value.as_i64().is_some_and(|p| (1..=65535).contains(&p)) {
        causes.push(Cause::invalid(field, value, "must be between 1 and 65535, inclusive"));
    }
}

/// A port number or the name of one.
fn port_or_name(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    match value.as_str() {
        Some(name) => {
            if let Err(why) = names::port_name(name) {
                causes.push(Cause::invalid(field, value, &why));
            }
        }
        None => port_number(value, field, causes),
    }
}

fn service(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let kind = spec.str_at(&["type"]);
    one_of(object, &["spec", "type"], "spec.type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], causes);
    one_of(object, &["spec", "sessionAffinity"], "spec.sessionAffinity", &["ClientIP", "None"], causes);
    let ports = spec.array_at(&["ports"]);
    let headless = spec.str_at(&["clusterIP"]) == "None";
    if ports.is_empty() && kind != "ExternalName" && !headless {
        causes.push(Cause::required("spec.ports", ""));
    }
    if kind == "ExternalName" && spec.str_at(&["externalName"]).is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let detail = format!("may not be set to 'None' for {kind} services");
        causes.push(Cause::invalid("spec.clusterIPs[0]", &json!("None"), &detail));
    }
    if let Some(ip) = spec.get("clusterIP").and_then(Value::as_str)
        && !ip.is_empty()
        && ip != "None"
        && ip.parse::<std::net::IpAddr>().is_err()
    {
        causes.push(Cause::invalid("spec.clusterIPs", &json!([ip]), "must be a valid IP address, (e.g. 10.9.8.7)"));
    }
    let mut seen = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{i}].{name}");
        port_number(&port["port"], &field("port"), causes);
        port_or_name(&port["targetPort"], &field("targetPort"), causes);
        let protocol = &port["protocol"];
        if !matches!(protocol.as_str(), Some("TCP" | "UDP" | "SCTP")) {
            causes.push(Cause::not_supported(field("protocol"), protocol, &["SCTP", "TCP", "UDP"]));
        }
        let name = port.str_at(&["name"]);
        if name.is_empty() && ports.len() > 1 {
            causes.push(Cause::required(field("name"), ""));
        } else if !name.is_empty() {
            if let Err(why) = names::dns1123_label(name) {
                causes.push(Cause::invalid(field("name"), &port["name"], &why));
            }
            if seen.contains(&name) {
                causes.push(Cause::duplicate(field("name"), &port["name"]));
            }
            seen.push(name);
        }
        if port.get("nodePort").is_some_and(|n| n != 0) && kind == "ClusterIP" {
            causes.push(Cause::forbidden(field("nodePort"), "may not be used when `type` is 'ClusterIP'"));
        }
    }
    // Once given, an address stays, unless the service stops having one.
    if let Some(old) = old
        && kind != "ExternalName"
        && !matches!(old.str_at(&["spec", "type"]), "ExternalName")
        && !old.str_at(&["spec", "clusterIP"]).is_empty()
        && old.str_at(&["spec", "clusterIP"]) != spec.str_at(&["clusterIP"])
    {
        causes.push(Cause::invalid("spec.clusterIPs[0]", &json!([spec.str_at(&["clusterIP"])]), IMMUTABLE));
    }
}

fn data_keys(object: &Value, old: Option<&Value>, maps: &[&str], causes: &mut Vec<Cause>) {
    for map in maps {
        for key in object[*map].as_object().into_iter().flat_map(|m| m.keys()) {
            let ok = !key.is_empty()
                && key.len() <= 253
                && key != "."
                && key != ".."
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !ok {
                let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
                causes.push(Cause::invalid(format!("{map}[{key}]"), &json!(key), detail));
            }
        }
        if let Some(old) = old
            && old["immutable"] == true
            && old[*map] != object[*map]
        {
            causes.push(Cause::forbidden(*map, "field is immutable when `immutable` is set"));
        }
    }
    if let Some(old) = old
        && old["immutable"] == true
        && object["immutable"] != true
    {
        causes.push(Cause::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    let size: usize = maps
        .iter()
        .flat_map(|m| object[*m].as_object().into_iter().flat_map(|m| m.values()))
        .map(|v| v.as_str().map_or(0, str::len))
        .sum();
    if size > 1 << 20 {
        let detail = "Too long: may not be more than 1048576 bytes".to_string();
        causes.push(Cause { reason: "FieldValueTooLong", field: String::new(), message: detail });
    }
}

fn secret(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    data_keys(object, old, &["data"], causes);
    immutable(object, old, &["type"], "type", causes);
    let needs = |key: &'static str, causes: &mut Vec<Cause>| {
        if object["data"].get(key).is_none() {
            causes.push(Cause::required(format!("data[{key}]"), ""));
        }
    };
    match object.str_at(&["type"]) {
        "kubernetes.io/tls" => {
            needs("tls.crt", causes);
            needs("tls.key", causes);
        }
        "kubernetes.io/dockerconfigjson" => needs(".dockerconfigjson", causes),
        "kubernetes.io/dockercfg" => needs(".dockercfg", causes),
        "kubernetes.io/ssh-auth" => needs("ssh-privatekey", causes),
        _ => {}
    }
}

fn rbac(plural: &str, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if plural.ends_with("bindings") {
        immutable(object, old, &["roleRef"], "roleRef", causes);
        let role_kinds: &[&str] = if plural == "rolebindings" { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        one_of(object, &["roleRef", "kind"], "roleRef.kind", role_kinds, causes);
        if object.str_at(&["roleRef", "name"]).is_empty() {
            causes.push(Cause::required("roleRef.name", ""));
        }
        for (i, subject) in object.array_at(&["subjects"]).iter().enumerate() {
            let kind = format!("subjects[{i}].kind");
            one_of(subject, &["kind"], &kind, &["ServiceAccount", "User", "Group"], causes);
            if subject.str_at(&["name"]).is_empty() {
                causes.push(Cause::required(format!("subjects[{i}].name"), ""));
            }
            if subject["kind"] == "ServiceAccount" && subject.str_at(&["namespace"]).is_empty() {
                causes.push(Cause::required(format!("subjects[{i}].namespace"), ""));
            }
        }
        return;
    }
    for (i, rule) in object.array_at(&["rules"]).iter().enumerate() {
        if rule.array_at(&["verbs"]).is_empty() {
            causes.push(Cause::required(format!("rules[{i}].verbs"), "verbs must contain at least one value"));
        }
        let paths = !rule.array_at(&["nonResourceURLs"]).is_empty();
        if paths && plural == "roles" {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            causes.push(Cause::invalid(format!("rules[{i}].nonResourceURLs"), &rule["nonResourceURLs"], detail));
        }
        if !paths && rule.array_at(&["resources"]).is_empty() {
            let detail = "resource rules must supply at least one resource";
            causes.push(Cause::required(format!("rules[{i}].resources"), detail));
        }
    }
}

fn ingress(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    if spec["rules"].is_null() && spec["defaultBackend"].is_null() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        causes.push(Cause::invalid("spec", spec, detail));
    }
    for (i, rule) in spec.array_at(&["rules"]).iter().enumerate() {
        for (j, path) in rule.array_at(&["http", "paths"]).iter().enumerate() {
            let field = |name: &str| format!("spec.rules[{i}].http.paths[{j}].{name}");
            let types = &["Exact", "ImplementationSpecific", "Prefix"];
            one_of(path, &["pathType"], &field("pathType"), types, causes);
            let text = path.str_at(&["path"]);
            if !text.starts_with('/') && path.str_at(&["pathType"]) != "ImplementationSpecific" {
                causes.push(Cause::invalid(field("path"), &path["path"], "must be an absolute path"));
            }
            if path["backend"]["service"].is_null() && path["backend"]["resource"].is_null() {
                causes.push(Cause::required(field("backend"), "a service or a resource must be specified"));
            }
        }
    }
}
