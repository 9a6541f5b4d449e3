//! What an OpenAPI schema may have in a definition (upstream's `ValidateCustomResourceDefinitionOpenAPISchema`): unsupported fields,
//! list and map types, and the form of validation rules.

use apimachinery::{Cause, ObjectExt as _};
use serde_json::{Map, Value, json};

use super::{EMBEDDED, IDENTITY, JUNCTORS, LIST_KEYS, LIST_TYPE, MAP_TYPE, PRESERVE, RULES, has, text};
use crate::validate::field::Causes;

/// A schema anywhere in the definition's.
struct Part<'a> {
    of: &'a Value,
    path: String,
    is_root: bool,
    /// Within the metadata of a resource.
    in_metadata: bool,
    /// Why it can't have a default.
    no_default: Option<String>,
}

pub(super) fn extensions(schema: &Value, path: &str, causes: &mut Causes) {
    let root = Part { of: schema, path: path.into(), is_root: true, in_metadata: false, no_default: None };
    let mut todo = vec![root];
    while let Some(part) = todo.pop() {
        let Part { of, path, .. } = &part;
        if of.is_null() {
            continue;
        }
        unsupported(&part, causes);
        lists_and_maps(of, path, causes);
        rules(&part, causes);
        let below = |of, path: String| Part {
            of,
            path,
            is_root: false,
            in_metadata: part.in_metadata,
            no_default: part.no_default.clone(),
        };
        if of["additionalProperties"].is_object() {
            let mut values = below(&of["additionalProperties"], format!("{path}.additionalProperties"));
            if part.in_metadata {
                values.no_default = Some("inside additionalProperties applying to object metadata".into());
            }
            todo.push(values);
        }
        for (key, property) in of["properties"].as_object().into_iter().flatten() {
            let mut property = below(property, format!("{path}.properties[{key}]"));
            if (part.is_root || of[EMBEDDED] == true) && IDENTITY.contains(&key.as_str()) {
                property.in_metadata = true;
                if part.is_root {
                    property.no_default = Some(format!("in top-level {key}"));
                }
            }
            todo.push(property);
        }
        if of["items"].is_object() {
            todo.push(below(&of["items"], format!("{path}.items")));
        }
        for junctor in JUNCTORS {
            for (i, more) in of[junctor].as_array().into_iter().flatten().enumerate() {
                todo.push(below(more, format!("{path}.{junctor}[{i}]")));
            }
        }
        todo.push(below(&of["not"], format!("{path}.not")));
    }
}

/// Fields of JSON schemas that definitions can't have.
fn unsupported(part: &Part<'_>, causes: &mut Causes) {
    let Part { of, path, .. } = part;
    let at = |part: &str| format!("{path}.{part}");
    const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
    if has(of, "type") && !TYPES.contains(&text(of, "type")) {
        causes.push(Cause::not_supported(at("type"), &of["type"], &TYPES));
    }
    if text(of, "type") == "null" {
        causes.push(Cause::forbidden(at("type"), "type cannot be set to null, use nullable as an alternative"));
    }
    if !of["default"].is_null()
        && let Some(why) = &part.no_default
    {
        causes.push(Cause::forbidden(at("default"), &format!("must not be set {why}")));
    }
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let set =
            if matches!(key, "id" | "patternProperties" | "definitions") { has(of, key) } else { !of[key].is_null() };
        if set {
            causes.push(Cause::forbidden(at(key), &format!("{key} is not supported")));
        }
    }
    if of["items"].is_array() {
        causes.push(Cause::forbidden(at("items"), "items must be a schema object and not an array"));
    }
    if part.in_metadata && of[EMBEDDED] == true {
        causes.push(Cause::forbidden(at(EMBEDDED), "must not be used inside of resource meta"));
    }
    if of["uniqueItems"] == true {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        causes.push(Cause::forbidden(at("uniqueItems"), why));
    }
    let additional = &of["additionalProperties"];
    if has(of, "properties") && (additional.is_object() || *additional == false) {
        let why = "additionalProperties and properties are mutual exclusive";
        causes.push(Cause::forbidden(at("additionalProperties"), why));
    }
    if of[PRESERVE] == false {
        causes.push(Cause::invalid(at(PRESERVE), &of[PRESERVE], "must be true or undefined"));
    }
}

fn lists_and_maps(of: &Value, path: &str, causes: &mut Causes) {
    let at = |part: &str| format!("{path}.{part}");
    for (extension, kind, allowed) in
        [(MAP_TYPE, "object", &["atomic", "granular"][..]), (LIST_TYPE, "array", &["atomic", "set", "map"][..])]
    {
        if of[extension].is_null() {
            continue;
        }
        if text(of, "type") != kind {
            let why = format!("must be {kind} if {extension} is specified");
            causes.push(match text(of, "type") {
                "" => Cause::required(at("type"), &why),
                _ => Cause::invalid(at("type"), &of["type"], &why),
            });
        }
        if !allowed.contains(&text(of, extension)) {
            causes.push(Cause::not_supported(at(extension), &of[extension], allowed));
        }
    }
    let items = &of["items"];
    let list = of[LIST_TYPE].as_str();
    if list == Some("set") && text(of, "type") == "array" {
        let within = match text(items, "type") {
            "array" if has(items, LIST_TYPE) && items[LIST_TYPE] != "atomic" => Some(LIST_TYPE),
            "object" if items[MAP_TYPE] != "atomic" => Some(MAP_TYPE),
            _ => None,
        };
        if let Some(extension) = within {
            let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
            causes.push(Cause::invalid(at(&format!("items.{extension}")), &items[LIST_TYPE], why));
        }
    }
    if has(of, LIST_KEYS) && list != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        causes.push(match list {
            None => Cause::required(at(LIST_TYPE), why),
            Some(_) => Cause::invalid(at(LIST_TYPE), &of[LIST_TYPE], why),
        });
    }
    if matches!(list, Some("set" | "map")) && items["nullable"] == true {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {}", list.unwrap_or_default());
        causes.push(Cause::forbidden(at("items.nullable"), &why));
    }
    if list == Some("map") {
        keys(of, path, causes);
    }
}

/// The keys of a list that is a map.
fn keys(of: &Value, path: &str, causes: &mut Causes) {
    let at = |part: &str| format!("{path}.{part}");
    let keys = of.strings_at(&[LIST_KEYS]);
    if keys.is_empty() {
        causes.push(Cause::required(at(LIST_KEYS), "must not be empty if x-kubernetes-list-type is map"));
    }
    let items = &of["items"];
    if items.is_null() {
        causes.push(Cause::required(at("items"), "must have a schema if x-kubernetes-list-type is map"));
        return;
    }
    if items["type"] != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        causes.push(Cause::invalid(at("items.type"), &json!(text(items, "type")), why));
        return;
    }
    let (none, required) = (Map::new(), items.strings_at(&["required"]));
    let properties = items["properties"].as_object().unwrap_or(&none);
    for (i, key) in keys.iter().enumerate() {
        if keys[..i].contains(key) {
            causes.push(Cause::invalid(at(LIST_KEYS), &of[LIST_KEYS], "must not contain duplicate entries"));
        }
        let Some(property) = properties.get(*key) else {
            let why = "entries must all be names of item properties";
            causes.push(Cause::invalid(at(LIST_KEYS), &of[LIST_KEYS], why));
            continue;
        };
        let at = |part: &str| format!("{path}.items.properties[{key}].{part}");
        if matches!(text(property, "type"), "array" | "object") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            causes.push(Cause::invalid(at("type"), &items["type"], why));
        }
        if !required.contains(key) && property["default"].is_null() {
            let why =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            causes.push(Cause::required(at("default"), why));
        }
        if property["nullable"] == true {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            causes.push(Cause::forbidden(at("nullable"), why));
        }
    }
}

/// What is wrong with rules before they are compiled.
fn rules(part: &Part<'_>, causes: &mut Causes) {
    for (i, rule) in part.of.array_at(&[RULES]).iter().enumerate() {
        let at = |field: &str| format!("{}.{RULES}[{i}].{field}", part.path);
        let said = |field: &str| rule[field].as_str().unwrap_or("");
        let breaks = |text: &str| text.contains(['\n', '\r']);
        let (source, message) = (said("rule").trim(), said("message").trim());
        if source.is_empty() {
            causes.push(Cause::required(at("rule"), "rule is not specified"));
        } else if !said("message").is_empty() && message.is_empty() {
            causes.push(Cause::invalid(at("message"), &rule["message"], "must be non-empty if specified"));
        } else if breaks(message) {
            causes.push(Cause::invalid(at("message"), &rule["message"], "must not contain line breaks"));
        } else if breaks(source) && message.is_empty() {
            let why = "message must be specified if rule contains line breaks";
            causes.push(Cause::required(at("message"), why));
        }
        if !said("messageExpression").is_empty() && said("messageExpression").trim().is_empty() {
            let why = "messageExpression must be non-empty if specified";
            causes.push(Cause::required(at("messageExpression"), why));
        }
        let field = said("fieldPath");
        if field.is_empty() {
            continue;
        }
        if field.trim().is_empty() {
            causes.push(Cause::invalid(at("fieldPath"), &rule["fieldPath"], "must be non-empty if specified"));
        } else if breaks(field) {
            causes.push(Cause::invalid(at("fieldPath"), &rule["fieldPath"], "must not contain line breaks"));
        } else if field_at(part.of, field, true).is_none() {
            causes.push(Cause::invalid(at("fieldPath"), &rule["fieldPath"], "must be a valid path"));
        }
    }
}

/// The schema that a path such as `.spec.list['a.b']` leads to.
pub fn field_at<'a>(schema: &'a Value, path: &str, in_lists: bool) -> Option<&'a Value> {
    let mut of = schema;
    let mut rest = path;
    while !rest.is_empty() {
        let (name, after) = if let Some(quoted) = rest.strip_prefix("['").filter(|_| in_lists) {
            quoted.split_once("']")?
        } else {
            let plain = rest.strip_prefix('.')?;
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            plain.split_at(end)
        };
        if name.is_empty() {
            return None;
        }
        let property = of["properties"].as_object().and_then(|all| all.get(name));
        of = property.or_else(|| Some(&of["additionalProperties"]).filter(|of| of.is_object()))?;
        rest = after;
    }
    Some(of).filter(|_| !path.is_empty())
}
