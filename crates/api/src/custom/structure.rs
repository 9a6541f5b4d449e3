//! Whether a definition's schema is structural (KEP-1111), what an OpenAPI schema may have in a definition, and whether its
//! defaults are valid: upstream's `ValidateStructural`, `ValidateCustomResourceDefinitionOpenAPISchema` and `ValidateDefaults`.
//! Schemas are walked with a stack of their own, as deep as somebody nests them.

use apimachinery::{Cause, ObjectExt as _};
use serde_json::{Map, Value, json};

use super::{structural, validation};
use crate::validate::field::Causes;

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const LIST_TYPE: &str = "x-kubernetes-list-type";
const LIST_KEYS: &str = "x-kubernetes-list-map-keys";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const RULES: &str = "x-kubernetes-validations";
/// The members of every object of the API.
const IDENTITY: [&str; 3] = ["metadata", "kind", "apiVersion"];
/// Schemas that say more of a value whose structure stands elsewhere.
const JUNCTORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// Checks the schema of a version, which has the subresource `status` or not.
pub fn check(schema: &Value, path: &str, with_status: bool, causes: &mut Causes) {
    root(schema, path, with_status, causes);
    let before = causes.len();
    structure(schema, path, causes);
    if causes.len() == before {
        defaults(schema, path, causes);
    }
    extensions(schema, path, causes);
}

/// Whether a field is as if it weren't there.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or("")
}

fn has(schema: &Value, key: &str) -> bool {
    !is_zero(&schema[key])
}

/// The status is taken out of its schema, so the root may say nothing that is about both it and the rest.
fn root(schema: &Value, path: &str, with_status: bool, causes: &mut Causes) {
    const ALLOWED: &str = "Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength \
                           MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties \
                           ExternalDocs Example XPreserveUnknownFields XValidations";
    let is_allowed = |key: &str| match key {
        PRESERVE | RULES => true,
        _ => ALLOWED.split_whitespace().any(|field| field.eq_ignore_ascii_case(key)),
    };
    if with_status {
        let of = schema.as_object().into_iter().flatten();
        if has(schema, "type") && schema["type"] != "object" {
            let why =
                "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            causes.push(Cause::invalid(format!("{path}.type"), &schema["type"], why));
        } else if of.into_iter().any(|(key, value)| !is_zero(value) && !is_allowed(key)) {
            let why = format!(
                "only [{ALLOWED}] fields are allowed at the root of the schema if the status subresource is enabled"
            );
            causes.push(Cause::invalid(path, schema, &why));
        }
    }
    if schema["nullable"] == true {
        causes.push(Cause::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

fn structure(schema: &Value, path: &str, causes: &mut Causes) {
    let mut todo = vec![(schema, path.to_string(), Level::Root)];
    while let Some((of, path, level)) = todo.pop() {
        own_structure(of, &path, level, causes);
        said_elsewhere(of, &path, causes);
        for (key, property) in of["properties"].as_object().into_iter().flatten() {
            todo.push((property, format!("{path}.properties[{key}]"), Level::Field));
        }
        for (part, level) in [("items", Level::Item), ("additionalProperties", Level::Field)] {
            if of[part].is_object() {
                todo.push((&of[part], format!("{path}.{part}"), level));
            }
        }
    }
}

fn own_structure(of: &Value, path: &str, level: Level, causes: &mut Causes) {
    let at = |part: &str| format!("{path}.{part}");
    let (kind, embedded) = (text(of, "type"), of[EMBEDDED] == true);
    let (either, free) = (of[INT_OR_STRING] == true, of[PRESERVE] == true);
    if kind == "array" && of["items"].is_null() {
        causes.push(Cause::required(at("items"), "must be specified"));
    }
    let additional = !of["additionalProperties"].is_null();
    if additional && level == Level::Root {
        causes.push(Cause::forbidden(at("additionalProperties"), "must not be used at the root"));
    }
    for (extension, set) in [(PRESERVE, free), (EMBEDDED, embedded)] {
        if either && set {
            let why = "must be false if x-kubernetes-int-or-string is true";
            causes.push(Cause::invalid(at(extension), &json!(true), why));
        }
    }
    if embedded && kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        causes.push(match kind {
            "" => Cause::required(at("type"), why),
            _ => Cause::invalid(at("type"), &of["type"], why),
        });
    } else if kind.is_empty() && !either && !free {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        causes.push(Cause::required(at("type"), why));
    }
    if embedded && additional {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        causes.push(Cause::forbidden(at("additionalProperties"), why));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        causes.push(Cause::invalid(at("type"), &of["type"], "must be object at the root"));
    }
    if embedded && !free && !has(of, "properties") {
        let why =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        causes.push(Cause::required(at("properties"), why));
    }
    if level == Level::Root || embedded {
        identity(of, path, level, causes);
    }
    regular(of, path, causes);
}

/// What a resource's schema may say of the members that every object of the API has.
fn identity(of: &Value, path: &str, level: Level, causes: &mut Causes) {
    for (key, kind) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let member = &of["properties"][key];
        if member.is_object() && member["type"] != kind {
            let at = format!("{path}.properties[{key}].type");
            causes.push(Cause::invalid(at, &json!(text(member, "type")), &format!("must be {kind}")));
        }
    }
    let Some(metadata) = of["properties"]["metadata"].as_object().filter(|_| level == Level::Root) else { return };
    let named = |of: &Value| {
        of.as_object().is_some_and(|of| of.keys().all(|key| matches!(key.as_str(), "name" | "generateName")))
    };
    let more = metadata.iter().any(|(key, value)| match key.as_str() {
        "type" | "default" => false,
        "properties" => !named(value),
        _ => !is_zero(value),
    });
    if more {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        causes.push(Cause::forbidden(format!("{path}.properties[metadata]"), why));
    }
}

fn regular(of: &Value, path: &str, causes: &mut Causes) {
    if let Some(pattern) = of["pattern"].as_str()
        && let Err(why) = expressions::regular(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        causes.push(Cause::invalid(format!("{path}.pattern"), &of["pattern"], &why));
    }
}

/// `anyOf` an integer or a text, in this order, which says with `x-kubernetes-int-or-string` what is meant.
fn is_either(any_of: &Value) -> bool {
    *any_of == json!([{"type": "integer"}, {"type": "string"}])
}

/// A schema that says more of a value, beside the schema of its structure (none where there is none).
struct Said<'a> {
    more: &'a Value,
    path: String,
    structure: Option<&'a Value>,
    structure_path: String,
    /// Its `anyOf` is that of a number or text.
    either: bool,
}

/// What the junctors of `of` say must not be structure, and be about structure that there is.
fn said_elsewhere(of: &Value, path: &str, causes: &mut Causes) {
    let mut todo = Vec::new();
    junctors(of, path, Some((of, path)), is_either(&of["anyOf"]), &mut todo);
    while let Some(said) = todo.pop() {
        let Said { more, path, structure, structure_path, either } = said;
        said_as_more(more, &path, either, causes);
        regular(more, &path, causes);
        let Some(structure) = structure else {
            causes.push(Cause::required(structure_path, &format!("because it is defined in {path}")));
            continue;
        };
        junctors(more, &path, Some((structure, &structure_path)), either, &mut todo);
        if more["items"].is_object() {
            todo.push(Said {
                more: &more["items"],
                path: format!("{path}.items"),
                structure: Some(&structure["items"]).filter(|of| of.is_object()),
                structure_path: format!("{structure_path}.items"),
                either: false,
            });
        }
        for (key, property) in more["properties"].as_object().into_iter().flatten() {
            todo.push(Said {
                more: property,
                path: format!("{path}.properties[{key}]"),
                structure: Some(&structure["properties"][key]).filter(|of| of.is_object()),
                structure_path: format!("{structure_path}.properties[{key}]"),
                either: false,
            });
        }
    }
}

fn junctors<'a>(
    of: &'a Value,
    path: &str,
    structure: Option<(&'a Value, &str)>,
    skips_any: bool,
    todo: &mut Vec<Said<'a>>,
) {
    let mut add = |more: &'a Value, path: String, either: bool| {
        todo.push(Said {
            more,
            path,
            structure: structure.map(|(of, _)| of),
            structure_path: structure.map_or(String::new(), |(_, path)| path.into()),
            either,
        });
    };
    for junctor in JUNCTORS {
        for (i, more) in of[junctor].as_array().into_iter().flatten().enumerate() {
            if junctor == "anyOf" && skips_any {
                continue;
            }
            let either = junctor == "allOf" && i == 0 && is_either(&more["anyOf"]);
            add(more, format!("{path}.{junctor}[{i}]"), either);
        }
    }
    if of["not"].is_object() {
        add(&of["not"], format!("{path}.not"), false);
    }
}

fn said_as_more(more: &Value, path: &str, either: bool, causes: &mut Causes) {
    for (key, why) in [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        (PRESERVE, "must be false to be structural"),
        (EMBEDDED, "must be false to be structural"),
        (INT_OR_STRING, "must be false to be structural"),
        (LIST_KEYS, "must be empty to be structural"),
        (LIST_TYPE, "must be undefined to be structural"),
        (MAP_TYPE, "must be undefined to be structural"),
        (RULES, "must be empty to be structural"),
    ] {
        let set = match key {
            "additionalProperties" | "default" => !more[key].is_null(),
            _ => has(more, key),
        };
        if set && !(either && key == "anyOf") {
            causes.push(Cause::forbidden(format!("{path}.{key}"), why));
        }
    }
    if more["properties"]["metadata"].is_object() {
        let why = "must not be specified in a nested context";
        causes.push(Cause::forbidden(format!("{path}.properties[metadata]"), why));
    }
}

/// Defaults must be what the schema allows, and have nothing that it doesn't know.
fn defaults(schema: &Value, path: &str, causes: &mut Causes) {
    let mut todo = vec![(schema, path.to_string(), true)];
    while let Some((of, path, is_root)) = todo.pop() {
        let default = &of["default"];
        if !default.is_null() {
            let (mut pruned, mut unknown) = (default.clone(), Vec::new());
            structural::prune(of, &mut pruned, "", false, &mut unknown);
            let at = format!("{path}.default");
            if !unknown.is_empty() {
                causes.push(Cause::invalid(&at, default, "must not have unknown fields"));
            }
            validation::check_at(of, default, &at, causes);
        }
        let is_resource = is_root || of[EMBEDDED] == true;
        for (key, property) in of["properties"].as_object().into_iter().flatten() {
            // Defaults of metadata are looked at as parts of the resource.
            if !(is_resource && IDENTITY.contains(&key.as_str())) {
                todo.push((property, format!("{path}.properties[{key}]"), false));
            }
        }
        if of["items"].is_object() {
            todo.push((&of["items"], format!("{path}.items"), false));
        }
    }
}

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

fn extensions(schema: &Value, path: &str, causes: &mut Causes) {
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
