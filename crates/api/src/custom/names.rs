//! Definitions themselves: their defaults, their checks, and whether their names are free.

use std::collections::HashSet;

use apimachinery::{Cause, ObjectExt as _, clock, names};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::rules::Rules;
use crate::Kind;

/// Names live as long as the process, each once: there are few, and they come from definitions, which only an
/// administrator writes. So a kind of a definition is as cheap to pass around as a built-in one.
static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
static LISTS: Mutex<Vec<&'static [&'static str]>> = Mutex::new(Vec::new());
static KINDS: Mutex<Vec<&'static Kind>> = Mutex::new(Vec::new());

pub(super) fn intern(text: &str) -> &'static str {
    let mut names = NAMES.lock();
    if let Some(found) = names.iter().find(|n| **n == text) {
        return found;
    }
    let kept: &'static str = Box::leak(text.into());
    names.push(kept);
    kept
}

pub(super) fn intern_list(texts: Vec<&'static str>) -> &'static [&'static str] {
    let mut lists = LISTS.lock();
    if let Some(found) = lists.iter().find(|l| **l == texts.as_slice()) {
        return found;
    }
    let kept: &'static [&'static str] = Box::leak(texts.into());
    lists.push(kept);
    kept
}

pub(super) fn intern_kind(kind: Kind) -> &'static Kind {
    let mut kinds = KINDS.lock();
    if let Some(found) = kinds.iter().find(|k| k.is_same_in_all(&kind)) {
        return found;
    }
    let kept: &'static Kind = Box::leak(Box::new(kind));
    kinds.push(kept);
    kept
}

/// Fills in what a definition leaves out.
pub fn default(object: &mut Value) {
    let kind = object.str_at(&["spec", "names", "kind"]).to_string();
    let spec = object.child_mut("spec");
    spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
        names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
    }
}

/// Checks a definition that is about to be stored.
pub fn check(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let text = |path: &[&str]| spec.str_at(path).to_string();
    let (group, plural) = (text(&["group"]), text(&["names", "plural"]));
    for (path, value) in [("spec.group", &group), ("spec.names.plural", &plural)] {
        if value.is_empty() {
            causes.push(Cause::required(path, ""));
        } else if let Err(why) = names::dns1123_subdomain(value) {
            causes.push(Cause::invalid(path, &json!(value), &why.to_string()));
        }
    }
    if !group.is_empty() && !group.contains('.') {
        causes.push(Cause::invalid("spec.group", &json!(group), "should be a domain with at least one dot"));
    }
    let expected = format!("{plural}.{group}");
    if object.name() != expected {
        let why = format!("must be spec.names.plural+\".\"+spec.group: {expected:?}");
        causes.push(Cause::invalid("metadata.name", &json!(object.name()), &why));
    }
    if text(&["names", "kind"]).is_empty() {
        causes.push(Cause::required("spec.names.kind", ""));
    }
    match spec.str_at(&["scope"]) {
        "Namespaced" | "Cluster" => {}
        "" => causes.push(Cause::required("spec.scope", "")),
        _ => causes.push(Cause::not_supported("spec.scope", &spec["scope"], &["Cluster", "Namespaced"])),
    }
    if !matches!(spec.str_at(&["conversion", "strategy"]), "" | "None" | "Webhook") {
        let value = spec.at(&["conversion", "strategy"]);
        causes.push(Cause::not_supported("spec.conversion.strategy", value, &["None", "Webhook"]));
    }
    if spec.at(&["conversion", "strategy"]) == "Webhook" {
        let at = "spec.conversion.webhook";
        let config = spec.at(&["conversion", "webhook", "clientConfig"]);
        if config["url"].is_string() == config["service"].is_object() {
            let why = "exactly one of url or service is required";
            causes.push(Cause::required(format!("{at}.clientConfig"), why));
        }
        if spec.array_at(&["conversion", "webhook", "conversionReviewVersions"]).is_empty() {
            causes.push(Cause::required(format!("{at}.conversionReviewVersions"), ""));
        }
    }
    check_versions(spec.array_at(&["versions"]), old, causes);
    if let Some(old) = old {
        for path in ["scope", "group"] {
            if old["spec"][path] != spec[path] {
                causes.push(Cause::invalid(format!("spec.{path}"), &spec[path], "field is immutable"));
            }
        }
        for path in ["kind", "plural"] {
            let value = spec.at(&["names", path]);
            if old.at(&["spec", "names", path]) != value {
                causes.push(Cause::invalid(format!("spec.names.{path}"), value, "field is immutable"));
            }
        }
    }
}

fn check_versions(versions: &[Value], old: Option<&Value>, causes: &mut Vec<Cause>) {
    if versions.is_empty() {
        causes.push(Cause::required("spec.versions", "must have at least one version"));
        return;
    }
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &json!(versions.len()), why));
    }
    let mut seen = HashSet::new();
    for (i, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{i}]");
        let name = version.str_at(&["name"]);
        if let Err(why) = names::dns1123_label(name) {
            causes.push(Cause::invalid(format!("{at}.name"), &json!(name), &why.to_string()));
        }
        if !seen.insert(name) {
            causes.push(Cause::duplicate(format!("{at}.name"), &json!(name)));
        }
        let schema = version.at(&["schema", "openAPIV3Schema"]);
        let path = format!("{at}.schema.openAPIV3Schema");
        if !schema.is_object() {
            causes.push(Cause::required(path, "schemas are required"));
        } else if schema["type"] != "object" {
            let why = "must be object at the root";
            causes.push(Cause::invalid(format!("{path}.type"), &schema["type"], why));
        } else {
            check_structural(schema, &path, 0, causes);
            let mut found = Vec::new();
            Rules::compile(schema, &path, &mut found);
            // What was let in before (by an older server) stays.
            let before = old.map(|old| old.array_at(&["spec", "versions"])).unwrap_or_default();
            if let Some(before) = before.iter().find(|v| v["name"] == name).filter(|_| !found.is_empty()) {
                let mut known = Vec::new();
                Rules::compile(before.at(&["schema", "openAPIV3Schema"]), &path, &mut known);
                found.retain(|cause| !known.contains(cause));
            }
            causes.extend(found);
        }
    }
}

/// The rules for structural schemas that defaulting and pruning rely on (KEP-1111, "structural schema").
fn check_structural(schema: &Value, path: &str, depth: usize, causes: &mut Vec<Cause>) {
    if depth > 64 {
        causes.push(Cause::invalid(path, &Value::Null, "is nested too deeply"));
        return;
    }
    let free = schema["x-kubernetes-int-or-string"] == true || schema["x-kubernetes-preserve-unknown-fields"] == true;
    if schema["type"].as_str().is_none_or(str::is_empty) && !free {
        causes.push(Cause::required(format!("{path}.type"), "must not be empty for specified object fields"));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(why) = expressions::regular(pattern)
    {
        causes.push(Cause::invalid(format!("{path}.pattern"), &schema["pattern"], &why));
    }
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        check_structural(of, &format!("{path}.properties[{name}]"), depth + 1, causes);
    }
    for part in ["items", "additionalProperties"] {
        if schema[part].is_object() {
            check_structural(&schema[part], &format!("{path}.{part}"), depth + 1, causes);
        }
    }
    if schema["type"] == "array" && !schema["items"].is_object() {
        causes.push(Cause::required(format!("{path}.items"), "must be specified"));
    }
}

/// Writes whether a definition's names are free into its status. `others` are the kinds of all other definitions and the
/// built-in ones of its group.
pub fn establish(object: &mut Value, others: &[&'static Kind]) {
    let names = object["spec"]["names"].clone();
    let text = |key: &str| names.str_at(&[key]).to_string();
    let taken = |wanted: &str, of: &dyn Fn(&Kind) -> Vec<String>| {
        !wanted.is_empty() && others.iter().any(|k| of(k).iter().any(|n| n == wanted))
    };
    let resources = |k: &Kind| {
        let mut all = vec![k.plural().to_string(), k.singular()];
        all.extend(k.short_names.iter().map(|s| (*s).to_string()));
        all
    };
    let mut wanted = vec![("plural", text("plural")), ("singular", text("singular"))];
    wanted.extend(names.strings_at(&["shortNames"]).into_iter().map(|s| ("shortName", s.to_string())));
    let mut conflict = wanted
        .iter()
        .find(|(_, name)| taken(name, &resources))
        .map(|(what, name)| (format!("{}Conflict", capital(what)), format!("{name:?} is already in use")));
    if taken(&text("kind"), &|k: &Kind| vec![k.kind.to_string(), format!("{}List", k.kind)]) {
        conflict = Some(("KindConflict".into(), format!("{:?} is already in use", text("kind"))));
    }
    let storage: Vec<String> = object
        .array_at(&["spec", "versions"])
        .iter()
        .filter(|v| v["storage"] == true)
        .map(|v| v.str_at(&["name"]).to_string())
        .collect();
    let mut stored: Vec<String> =
        object.strings_at(&["status", "storedVersions"]).into_iter().map(String::from).collect();
    stored.extend(storage.into_iter().filter(|s| !stored.contains(s)).collect::<Vec<_>>());
    let old = object.array_at(&["status", "conditions"]).to_vec();
    let condition = |kind: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        let same = old.iter().find(|c| c["type"] == kind && c["status"] == status);
        let since = same.map_or_else(|| clock::now_rfc3339().into(), |c| c["lastTransitionTime"].clone());
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
    };
    let conditions = match &conflict {
        None => vec![
            condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
            condition("Established", true, "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        Some((reason, message)) => vec![
            condition("NamesAccepted", false, reason, message),
            condition("Established", false, "NotAccepted", "not all names are accepted"),
        ],
    };
    let mut kept: Vec<Value> =
        old.iter().filter(|c| c["type"] != "NamesAccepted" && c["type"] != "Established").cloned().collect();
    kept.splice(0..0, conditions);
    object["status"] = json!({"conditions": kept, "storedVersions": stored,
        "acceptedNames": if conflict.is_none() { names } else { json!({"plural": "", "kind": ""}) }});
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
