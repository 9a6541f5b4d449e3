//! Whether a definition's schema is structural (KEP-1111) and its defaults are valid: upstream's `ValidateStructural` and
//! `ValidateDefaults`. Schemas are walked with a stack of their own, as deep as somebody nests them.

use apimachinery::Cause;
use serde_json::{Value, json};

use super::extensions::extensions;
use super::{
    EMBEDDED, IDENTITY, INT_OR_STRING, JUNCTORS, LIST_KEYS, LIST_TYPE, MAP_TYPE, PRESERVE, RULES, has, is_zero, text,
};
use super::{validation, values};
use crate::validate::field::Causes;

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
            values::prune(of, &mut pruned, "", false, &mut unknown);
            let at = format!("{path}.default");
            if !unknown.is_empty() {
                causes.push(Cause::invalid(&at, default, "must not have unknown fields"));
            }
            causes.extend(validation::check(of, default, None, Some(&at)));
            validation::embedded_at(of, default, &at, causes);
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
