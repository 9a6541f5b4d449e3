//! What is checked of a definition that is about to be stored (upstream's `apiextensions/validation`).

use apimachinery::{Cause, ObjectExt as _, names};
use serde_json::{Value, json};

use super::approval;
use crate::structural::{Rules, field_at, structure};
use crate::validate::IMMUTABLE;
use crate::validate::field::{Causes, Field, too_many};

/// How many fields objects can be selected by.
const MAX_SELECTABLE: usize = 8;

/// Appends what is wrong with a definition; `old` is the stored one, for an update.
pub fn check(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    approval::check(object, old, causes);
    // The status has writers of its own.
    if old.is_some_and(|old| old["spec"] == object["spec"]) {
        return;
    }
    let spec = Field::new(&object["spec"], "spec");
    identity(object, &spec, causes);
    conversion(&spec.at("conversion"), causes);
    versions(&spec, old, causes);
    stored(object, causes);
    if spec.at("preserveUnknownFields").value == true {
        let why =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        spec.at("preserveUnknownFields").invalid(why, causes);
    }
    if let Some(old) = old {
        let is_established =
            old.array_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Established" && c["status"] == "True");
        let frozen =
            [("scope", is_established), ("names.kind", is_established), ("group", true), ("names.plural", true)];
        for (path, _) in frozen.into_iter().filter(|(_, frozen)| *frozen) {
            let keys: Vec<&str> = std::iter::once("spec").chain(path.split('.')).collect();
            if old.at(&keys) != object.at(&keys) {
                causes.push(Cause::invalid(format!("spec.{path}"), object.at(&keys), IMMUTABLE));
            }
        }
    }
}

/// The group, the scope and the names.
fn identity(object: &Value, spec: &Field<'_>, causes: &mut Causes) {
    let (group, of) = (spec.at("group"), spec.at("names"));
    let expected = format!("{}.{}", of.at("plural").text(), group.text());
    if object.name() != expected {
        let why = format!("must be spec.names.plural+\".\"+spec.group: {expected:?}");
        causes.push(Cause::invalid("metadata.name", &json!(object.name()), &why));
    }
    if group.require("", causes) {
        match names::dns1123_subdomain(group.text()) {
            Err(why) => group.invalid(&why, causes),
            Ok(()) if !group.text().contains('.') => group.invalid("should be a domain with at least one dot", causes),
            Ok(()) => {}
        }
    }
    spec.at("scope").must_be(&["Cluster", "Namespaced"], causes);
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = of.at(field);
        if !name.require("", causes) {
            continue;
        }
        let mixed = matches!(field, "kind" | "listKind");
        let text = if mixed { name.text().to_lowercase() } else { name.text().into() };
        if let Err(why) = names::dns1035_label(&text) {
            let before = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            name.invalid(&format!("{before}{why}"), causes);
        }
    }
    if !of.at("kind").is_empty() && of.at("kind").text() == of.at("listKind").text() {
        of.at("listKind").invalid("kind and listKind may not be the same", causes);
    }
    for name in ["shortNames", "categories"].iter().flat_map(|list| of.at(list).items()) {
        name.is_if_said(names::dns1035_label, causes);
    }
}

/// Paths are those of upstream's internal type, which its messages have.
fn conversion(of: &Field<'_>, causes: &mut Causes) {
    of.at("strategy").must_be(&["None", "Webhook"], causes);
    let webhook = of.at("webhook");
    let client = Field::new(webhook.at("clientConfig").value, "spec.conversion.webhookClientConfig");
    let reviews = Field::new(webhook.at("conversionReviewVersions").value, "spec.conversion.conversionReviewVersions");
    if of.at("strategy").text() != "Webhook" {
        for field in [client, reviews].into_iter().filter(|field| !field.is_empty()) {
            field.forbid("should not be set when strategy is not set to Webhook", causes);
        }
        return;
    }
    if !client.is_set() {
        causes.push(Cause::required(&client.path, "required when strategy is set to Webhook"));
    } else if client.at("url").is_set() == client.at("service").is_set() {
        causes.push(Cause::required(&client.path, "exactly one of url or service is required"));
    } else if client.at("service").is_set() {
        for (field, why) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
            client.at("service").at(field).require(why, causes);
        }
    } else if !client.at("url").text().starts_with("https://") {
        let why = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
        client.at("url").invalid(why, causes);
    }
    if !reviews.require("", causes) {
        return;
    }
    let all = reviews.texts();
    for (i, version) in reviews.items().enumerate() {
        if all[..i].contains(&version.text()) {
            version.invalid("duplicate version", causes);
        }
        version.is_if_said(names::dns1035_label, causes);
    }
    if !all.iter().any(|version| matches!(*version, "v1" | "v1beta1")) {
        reviews.invalid("must include at least one of v1, v1beta1", causes);
    }
}

/// A version that objects may still be kept in has to stay.
fn stored(object: &Value, causes: &mut Causes) {
    let stored = Field::new(object.at(&["status", "storedVersions"]), "status.storedVersions");
    let versions = object.array_at(&["spec", "versions"]);
    if stored.is_empty() {
        return stored.invalid("must have at least one stored version", causes);
    }
    for version in versions.iter().filter(|v| v["storage"] == true && !stored.texts().contains(&v.str_at(&["name"]))) {
        stored.invalid(&format!("must have the storage version {}", version.str_at(&["name"])), causes);
    }
    for kept in stored.items().filter(|kept| versions.iter().all(|v| v["name"] != *kept.value)) {
        let name = kept.text();
        let why = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a \
             storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        kept.invalid(&why, causes);
    }
}

fn versions(spec: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    let all = spec.at("versions");
    let list = all.value.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return causes.push(Cause::required(&all.path, "must have at least one version"));
    }
    let names: Vec<&str> = list.iter().map(|v| v.str_at(&["name"])).collect();
    if names.iter().enumerate().any(|(i, name)| names[..i].contains(name)) {
        all.invalid("must contain unique version names", causes);
    }
    if list.iter().filter(|v| v["storage"] == true).count() != 1 {
        all.invalid("must have exactly one version marked as storage version", causes);
    }
    for version in all.items() {
        version.at("name").is_if_said(names::dns1035_label, causes);
        deprecation(&version, causes);
    }
    for part in ["schema", "subresources", "additionalPrinterColumns", "selectableFields"] {
        // Upstream keeps what is the same in all versions apart from them, and its messages say so.
        let is_shared = list.iter().all(|v| v[part] == list[0][part]);
        let shared = if part == "schema" { "spec.validation".to_string() } else { format!("spec.{part}") };
        for version in all.items().take(if is_shared { 1 } else { usize::MAX }) {
            let path = if is_shared { shared.clone() } else { version.at(part).path };
            let of = Field::new(version.at(part).value, path);
            match part {
                "schema" => schema(&of, &version, old, causes),
                "subresources" => subresources(&of, causes),
                "additionalPrinterColumns" => of.items().for_each(|column| printer_column(&column, causes)),
                _ => selectable(&of, version.value.at(&["schema", "openAPIV3Schema"]), causes),
            }
        }
    }
}

fn deprecation(version: &Field<'_>, causes: &mut Causes) {
    let warning = version.at("deprecationWarning");
    if !warning.is_set() {
        return;
    }
    if version.at("deprecated").value != true {
        return warning.invalid("can only be set for deprecated versions", causes);
    }
    if warning.text().len() > 256 {
        warning.invalid("must be <= 256 characters long", causes);
    }
    if warning.text().is_empty() {
        warning.invalid("must not be an empty string", causes);
    }
    if let Some(at) = warning.text().char_indices().find(|(_, c)| c.is_control()).map(|(at, _)| at) {
        let why = format!("must only contain printable UTF-8 characters; non-printable character found at index {at}");
        warning.invalid(&why, causes);
    }
}

fn schema(of: &Field<'_>, version: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    let root = of.at("openAPIV3Schema");
    if !root.value.is_object() {
        return causes.push(Cause::required(version.at("schema").at("openAPIV3Schema").path, "schemas are required"));
    }
    let found = schema_causes(version.value, &root.path);
    // What was let in before, perhaps by an older server, stays.
    let name = version.at("name").text();
    let before = old.into_iter().flat_map(|old| old.array_at(&["spec", "versions"])).find(|v| v["name"] == name);
    let known = match before {
        Some(before) if !found.is_empty() => schema_causes(before, &root.path),
        _ => Vec::new(),
    };
    causes.extend(found.into_iter().filter(|cause| !known.contains(cause)));
}

fn schema_causes(version: &Value, path: &str) -> Causes {
    let mut causes = Vec::new();
    let root = version.at(&["schema", "openAPIV3Schema"]);
    let with_status = version.at(&["subresources", "status"]).is_object();
    structure::check(root, path, with_status, &mut causes);
    if causes.is_empty() {
        let rules = Rules::compile(root, path, &mut causes);
        if let Some(rules) = rules.filter(|_| causes.is_empty()) {
            rules.check_defaults(root, path, &mut causes);
        }
    }
    causes
}

fn simple_path(field: &Field<'_>, causes: &mut Causes) -> bool {
    if !field.text().starts_with('.') {
        field.invalid("must be a simple json path starting with .", causes);
        return false;
    }
    true
}

fn subresources(of: &Field<'_>, causes: &mut Causes) {
    let scale = of.at("scale");
    if !scale.is_set() {
        return;
    }
    for (field, below) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let path = scale.at(field);
        if path.require("", causes) && simple_path(&path, causes) && !path.text().starts_with(below) {
            path.invalid(&format!("should be a json path under {}", below.trim_end_matches('.')), causes);
        }
    }
    let selector = scale.at("labelSelectorPath");
    let below = [".spec.", ".status."].iter().any(|below| selector.text().starts_with(below));
    if !selector.is_empty() && simple_path(&selector, causes) && !below {
        selector.invalid("should be a json path under either .spec or .status", causes);
    }
}

fn printer_column(column: &Field<'_>, causes: &mut Causes) {
    column.at("name").require("", causes);
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    let (kind, format) = (column.at("type"), column.at("format"));
    let why = format!("must be one of {}", TYPES.join(","));
    if kind.require(&why, causes) && !TYPES.contains(&kind.text()) {
        kind.invalid(&why, causes);
    }
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if !format.is_empty() && !FORMATS.contains(&format.text()) {
        format.invalid(&format!("must be one of {}", FORMATS.join(",")), causes);
    }
    let path = Field::new(column.at("jsonPath").value, format!("{}.JSONPath", column.path));
    if path.require("", causes) {
        simple_path(&path, causes);
    }
}

fn selectable(of: &Field<'_>, schema: &Value, causes: &mut Causes) {
    let mut seen = Vec::new();
    for field in of.items() {
        let path = field.at("jsonPath");
        if !path.require("", causes) {
            continue;
        }
        if path.text().starts_with(".metadata") {
            path.invalid("must not point to fields in metadata", causes);
            continue;
        }
        let Some(found) = field_at(schema, path.text(), false) else {
            path.invalid("is an invalid path: does not refer to a valid field", causes);
            continue;
        };
        if !matches!(found["type"].as_str(), Some("string" | "boolean" | "integer")) {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                       formats are allowed.";
            path.invalid(why, causes);
        }
        if seen.contains(&path.text()) {
            causes.push(Cause::duplicate(&path.path, path.value));
        }
        seen.push(path.text());
    }
    too_many(of, MAX_SELECTABLE, causes);
}
