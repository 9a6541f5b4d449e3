//! What upstream refuses, field by field. Each check appends a [`Cause`]; the API server turns the list into one
//! `Invalid` answer.

mod cluster;
mod container;
pub(crate) mod field;
mod meta;
mod network;
mod placement;
mod pod;
mod policies;
mod storage;
mod volumes;
mod workloads;

use apimachinery::{Cause, ObjectExt as _, names};
use serde_json::{Value, json};

use crate::Kind;
use field::Field;

pub use meta::{embedded as embedded_metadata, metadata};
pub use policies::POLICY_VARIABLES;

/// Checks an object that is about to be stored. `old` is the stored one, for an update.
pub fn check(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    metadata(kind, object, old, &mut causes);
    (kind.strategy.validate)(object, old, &mut causes);
    let root = Field::root(object);
    let into = &mut causes;
    match (kind.group, kind.plural()) {
        ("", "pods") => pod::pod(object, old, into),
        ("", "podtemplates") => workloads::pod_template(object, into),
        ("", "services") => network::service(&root, old, into),
        ("", "endpoints") => network::endpoints(&root, into),
        ("", "configmaps") => data_keys(object, old, &["data", "binaryData"], into),
        ("", "secrets") => secret(object, old, into),
        ("", "persistentvolumeclaims") => storage::claim(object, old, into),
        ("", "persistentvolumes") => storage::volume(object, old, into),
        ("", "replicationcontrollers") => workloads::replication_controller(object, into),
        ("", "nodes") => cluster::node(&root, old, into),
        ("", "resourcequotas") => cluster::quota(&root, old, into),
        ("", "limitranges") => cluster::limit_range(&root, into),
        ("" | "events.k8s.io", "events") => event(kind, object, old, into),
        ("storage.k8s.io", plural) => storage::storage(plural, object, old, into),
        ("apps", _) => workloads::apps(kind.plural(), object, old, into),
        ("batch", _) => workloads::batch(kind.plural(), object, old, into),
        ("autoscaling", "horizontalpodautoscalers") => {
            let mut newest = object.clone();
            crate::versions::convert(kind, &mut newest, "autoscaling/v2");
            cluster::autoscaler(&Field::root(&newest), into);
        }
        ("policy", _) => cluster::budget(&root, into),
        ("rbac.authorization.k8s.io", _) => rbac(kind.plural(), object, old, into),
        ("scheduling.k8s.io", "priorityclasses") => cluster::priority_class(&root, old, into),
        ("node.k8s.io", _) => cluster::runtime_class(&root, old, into),
        ("coordination.k8s.io", _) => cluster::lease(&root, into),
        ("certificates.k8s.io", _) => cluster::signing_request(&root, old, into),
        ("admissionregistration.k8s.io", plural) => policies::admission(plural, object, into),
        ("apiregistration.k8s.io", _) => cluster::api_service(&root, into),
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => cluster::flow_schema(&root, into),
        ("flowcontrol.apiserver.k8s.io", _) => cluster::priority_level(&root, into),
        ("networking.k8s.io", "ingresses") => network::ingress(&root, into),
        ("networking.k8s.io", "ingressclasses") => network::ingress_class(&root, old, into),
        ("networking.k8s.io", "networkpolicies") => network::policy(&root, into),
        ("discovery.k8s.io", "endpointslices") => network::endpoint_slice(&root, old, into),
        _ => {}
    }
    causes
}

/// Events are judged as those of the core group, those of the newer one more strictly.
fn event(kind: &Kind, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let core = |event: &Value| {
        let mut event = event.clone();
        crate::versions::convert(kind, &mut event, "v1");
        event
    };
    let (object, old, strict) = (core(object), old.map(core), kind.group == "events.k8s.io");
    cluster::event(&Field::root(&object), strict, causes);
    if strict {
        cluster::new_event(&Field::root(&object), old.as_ref(), causes);
    }
}

/// Checks a pod whose containers got other resources through `resize` (KEP-1287).
pub fn resize(pod: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    pod::resize(pod, old, &mut causes);
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
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            if object["metadata"]["annotations"][ACCOUNT].as_str().is_none_or(str::is_empty) {
                causes.push(Cause::required(format!("metadata.annotations[{ACCOUNT}]"), ""));
            }
        }
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
            // In a RoleBinding it is the binding's own unless it is said.
            let anywhere = plural == "clusterrolebindings";
            if anywhere && subject["kind"] == "ServiceAccount" && subject.str_at(&["namespace"]).is_empty() {
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
