//! `explain`: what the server's OpenAPI says of a kind and its fields.

use std::sync::Arc;

use serde_json::Value;

use super::{Command, run, usage};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{switch, text, text_or};
use crate::print::say;
use crate::resources::Resource;

/// Fields in fields are shown no deeper.
const MAX_DEPTH: usize = 32;
/// Characters of a line of text.
const WIDTH: usize = 76;

pub const COMMAND: Command = Command {
    name: "explain",
    about: "Get documentation for a resource",
    flags: &[&[
        switch("recursive", "All fields, by their names alone"),
        text("api-version", "Of this version: group/version"),
        text_or("output", "plaintext", "plaintext").short('o'),
        text_or("max-depth", "0", "With --recursive no deeper; 0 is no limit"),
    ]],
    run: run!(explain),
    ..Command::NONE
};

async fn explain(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    let [word] = &args.words[..] else {
        return match args.words.len() {
            0 => fail(
                "You must specify the type of resource to explain. Use \"kubectl api-resources\" for a complete list of supported resources.",
            ),
            _ => usage(&cx, "We accept only this format: explain RESOURCE"),
        };
    };
    if !["plaintext", "plaintext-openapiv2"].contains(&args.text("output")) {
        return fail(format!("unrecognized output format: {}. Available formats: plaintext", args.text("output")));
    }
    let (resource, path) = find(&cx, word).await?;
    let root = if resource.group.is_empty() { "api".to_string() } else { format!("apis/{}", resource.group) };
    let document = cx.get(&format!("/openapi/v3/{root}/{}", resource.version)).await?;
    let Some(mut at) = schema_of(&document, &resource) else {
        return fail(format!(
            "couldn't find resource for \"{}/{}, Kind={}\"",
            resource.group, resource.version, resource.kind
        ));
    };
    let mut out = String::new();
    if !resource.group.is_empty() {
        out += &format!("GROUP:      {}\n", resource.group);
    }
    out += &format!("KIND:       {}\nVERSION:    {}\n\n", resource.kind, resource.version);
    for name in &path {
        let Some(found) = field(&document, at, name) else {
            say(&out)?;
            return fail(format!("field {name:?} does not exist"));
        };
        at = found;
    }
    if let Some(name) = path.last() {
        out += &format!("FIELD: {name} <{}>{}\n\n\n", guess(&document, at), enumeration(at, true));
    }
    let mut texts = Vec::new();
    descriptions(&document, at, &mut texts, 0);
    let texts = if texts.is_empty() { vec!["<empty>".to_string()] } else { texts };
    out += "DESCRIPTION:\n";
    for line in texts.iter().flat_map(|text| wrap(text)) {
        out += &format!("    {line}\n");
    }
    out += "    \n";
    let mut fields = String::new();
    let limit = usize::try_from(args.number("max-depth")?).unwrap_or(0);
    let limit = if limit == 0 { MAX_DEPTH } else { limit.min(MAX_DEPTH) };
    list(&document, at, 1, if args.is("recursive") { limit } else { 0 }, &mut Vec::new(), &mut fields);
    if !fields.is_empty() {
        out += &format!("FIELDS:\n{fields}");
    }
    say(&(out + "\n"))
}

/// The resource of `deployments.spec.replicas`, and the names of the fields: a group may be in front of them.
async fn find(cx: &Context, word: &str) -> Result<(Arc<Resource>, Vec<String>)> {
    let parts: Vec<&str> = word.split('.').collect();
    let resources = cx.resources().await?;
    let version = cx.args.text("api-version");
    if !version.is_empty() {
        let plural = resources.find(parts[0])?.plural.clone();
        let found = resources.0.iter().find(|r| r.plural == plural && r.api_version() == version).cloned();
        let found = found
            .ok_or_else(|| Error::Plain(format!("couldn't find resource for \"{version}, Resource={plural}\"")))?;
        return Ok((found, parts[1..].iter().map(|p| (*p).to_string()).collect()));
    }
    let first = resources.find(parts[0]).map_err(|error| Error::Plain(error.text()))?;
    // `ingresses.networking.k8s.io.spec` names a group that is known.
    for end in (2..=parts.len()).rev() {
        if let Ok(found) = resources.find(&parts[..end].join("."))
            && found.group == parts[1..end].join(".")
        {
            return Ok((found, parts[end..].iter().map(|p| (*p).to_string()).collect()));
        }
    }
    Ok((first, parts[1..].iter().map(|p| (*p).to_string()).collect()))
}

fn schema_of<'a>(document: &'a Value, resource: &Resource) -> Option<&'a Value> {
    let is_own = |schema: &&Value| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.into_iter().flatten().any(|k| {
            k["group"] == resource.group.as_str()
                && k["version"] == resource.version.as_str()
                && k["kind"] == resource.kind.as_str()
        })
    };
    document["components"]["schemas"].as_object()?.values().find(is_own)
}

/// What a reference leads to; a schema without one is itself.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let name = schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/components/schemas/"));
    name.map_or(schema, |name| &document["components"]["schemas"][name])
}

/// The schemas that a field's own stands for: itself, what it refers to, what its items and values are.
fn inner<'a>(document: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let resolved = resolve(document, schema);
    let mut all: Vec<&Value> = resolved["allOf"].as_array().into_iter().flatten().collect();
    all.extend([&resolved["items"], &resolved["additionalProperties"]].into_iter().filter(|s| s.is_object()));
    all
}

fn field<'a>(document: &'a Value, schema: &'a Value, name: &str) -> Option<&'a Value> {
    let mut open = vec![schema];
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for schema in open {
            let found = &resolve(document, schema)["properties"][name];
            if found.is_object() {
                return Some(found);
            }
            next.extend(inner(document, schema));
        }
        open = next;
    }
    None
}

/// Not deeper than `MAX_DEPTH`.
fn descriptions(document: &Value, schema: &Value, texts: &mut Vec<String>, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    let own = |s: &Value| s["description"].as_str().filter(|d| !d.is_empty()).map(String::from);
    texts.extend(own(resolve(document, schema)));
    for schema in inner(document, schema) {
        descriptions(document, schema, texts, depth.saturating_add(1));
    }
}

/// Not deeper than `MAX_DEPTH`.
fn guess(document: &Value, schema: &Value) -> String {
    let mut prefix = String::new();
    let mut at = schema;
    for _ in 0..MAX_DEPTH {
        if at["items"].is_object() {
            prefix += "[]";
            at = &at["items"];
        } else if at["additionalProperties"].is_object() {
            prefix += "map[string]";
            at = &at["additionalProperties"];
        } else if at["allOf"].as_array().is_some_and(|all| all.len() == 1) && !at["properties"].is_object() {
            at = &at["allOf"][0];
        } else {
            break;
        }
    }
    let name = match at["$ref"].as_str() {
        Some(reference) => match resolve(document, at)["type"].as_str() {
            None | Some("object") => reference.rsplit(['/', '.']).next().unwrap_or("Object"),
            Some(kind) => kind,
        },
        None => match at["type"].as_str() {
            None | Some("object") => "Object",
            Some(kind) => kind,
        },
    };
    prefix + name
}

/// The values that a field may have: below each other of one field, in a line of several.
fn enumeration(schema: &Value, is_long: bool) -> String {
    let Some(all) = schema["enum"].as_array() else { return String::new() };
    let shown: Vec<String> = all
        .iter()
        .map(|v| v.as_str().map_or(v.to_string(), |t| if t.is_empty() { "\"\"".into() } else { t.into() }))
        .collect();
    if is_long {
        return format!("\nENUM:{}", shown.iter().map(|v| format!("\n    {v}")).collect::<String>());
    }
    let more = if shown.len() > 4 { ", ...." } else { "" };
    format!("\n  enum: {}{more}", shown.iter().take(4).cloned().collect::<Vec<_>>().join(", "))
}

/// Not deeper than `limit`, and no reference within itself.
fn list(document: &Value, schema: &Value, level: usize, limit: usize, seen: &mut Vec<String>, out: &mut String) {
    let reference = schema["$ref"].as_str().unwrap_or("").to_string();
    if !reference.is_empty() && seen.contains(&reference) {
        return;
    }
    seen.push(reference);
    let resolved = resolve(document, schema);
    let required = resolved["required"].as_array();
    for (name, own) in resolved["properties"].as_object().into_iter().flatten() {
        let indent = "  ".repeat(level);
        let needed = required.is_some_and(|all| all.iter().any(|r| r == name.as_str()));
        let mark = if needed { " -required-" } else { "" };
        *out += &format!("{indent}{name}\t<{}>{mark}{}\n", guess(document, own), enumeration(own, false));
        if limit == 0 {
            let text = own["description"].as_str().filter(|d| !d.is_empty()).unwrap_or("<no description>");
            for line in wrap(text) {
                *out += &format!("{indent}  {line}\n");
            }
            out.push('\n');
        } else if level < limit {
            list(document, own, level.saturating_add(1), limit, seen, out);
        }
    }
    for schema in inner(document, schema) {
        list(document, schema, level, limit, seen, out);
    }
    seen.pop();
}

/// Lines of words.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ').filter(|w| !w.is_empty()) {
            if !line.is_empty() && line.chars().count().saturating_add(word.chars().count()).saturating_add(1) > WIDTH {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}
