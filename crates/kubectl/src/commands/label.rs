//! `label` and `annotate`

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::common::{DryRun, each, pairs, targets, told, write};
use super::{Command, run};
use crate::client::{Call, MERGE_PATCH};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{Flag, common as f, switch};
use crate::print::{line, table};
use crate::select::Target;

pub const LABEL: Command = Command {
    name: "label",
    about: "Update the labels on a resource",
    flags: &[FLAGS],
    run: run!(change),
    ..Command::NONE
};
pub const ANNOTATE: Command = Command {
    name: "annotate",
    about: "Update the annotations on a resource",
    flags: &[FLAGS],
    run: run!(change),
    ..Command::NONE
};

const FLAGS: &[Flag] = &[
    f::OUTPUT,
    f::TEMPLATE,
    f::ALLOW_MISSING,
    f::SHOW_MANAGED_FIELDS,
    f::DRY_RUN,
    f::FIELD_MANAGER,
    f::FILENAME,
    f::KUSTOMIZE,
    f::RECURSIVE,
    f::SELECTOR,
    f::FIELD_SELECTOR,
    f::ALL_NAMESPACES,
    f::ALL,
    f::LOCAL,
    f::OVERWRITE,
    f::RESOURCE_VERSION,
    switch("list", "Show them"),
];

/// What differs between the two.
struct Words {
    field: &'static str,
    one: &'static str,
    done: &'static str,
    undone: &'static str,
    manager: &'static str,
}

const LABELS: Words =
    Words { field: "labels", one: "label", done: "labeled", undone: "unlabeled", manager: "kubectl-label" };
const ANNOTATIONS: Words = Words {
    field: "annotations",
    one: "annotation",
    done: "annotated",
    undone: "annotated",
    manager: "kubectl-annotate",
};

async fn change(cx: Arc<Context>) -> Result<()> {
    let words = if cx.args.command == "label" { LABELS } else { ANNOTATIONS };
    let (types, pairs) = pairs(&cx.args.words);
    if types.is_empty() && cx.args.many("filename").is_empty() && cx.args.text("kustomize").is_empty() {
        return fail("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    if pairs.is_empty() && !cx.args.is("list") {
        return fail(format!("at least one {} update is required", words.one));
    }
    let (mut set, mut remove) = (Map::new(), Vec::new());
    for pair in &pairs {
        match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                check(&words, pair, key, value)?;
                set.insert(key.into(), value.into());
            }
            None if pair.ends_with('-') => remove.push(pair.trim_end_matches('-').to_string()),
            _ => return fail(format!("unexpected {} format: {pair}", words.one)),
        }
    }
    if let Some(both) = remove.iter().find(|key| set.contains_key(*key)) {
        let text = if words.one == "label" {
            "can not both modify and remove a label in the same command".to_string()
        } else {
            format!("can not both modify and remove the following annotation(s) in the same command: {both}")
        };
        return fail(text);
    }
    let (found, errors) = targets(&cx, &types).await?;
    each(&found, errors, |target| one(&cx, target, &words, &set, &remove)).await
}

fn check(words: &Words, pair: &str, key: &str, value: &str) -> Result<()> {
    if words.one != "label" {
        return Ok(());
    }
    if let Err(problem) = apimachinery::names::label_value(value) {
        return fail(format!("invalid label value: {pair:?}: {problem}"));
    }
    if let Err(problem) = apimachinery::names::qualified_name(key) {
        return fail(format!("invalid label key: {pair:?}: {problem}"));
    }
    Ok(())
}

async fn one(cx: &Context, target: &Target, words: &Words, set: &Map<String, Value>, remove: &[String]) -> Result<()> {
    let before = &target.object["metadata"][words.field];
    if cx.args.is("list") {
        let all = table::label_text(before, "\n");
        return if all == "<none>" { Ok(()) } else { line(&all) };
    }
    if !cx.args.is("overwrite") {
        for (key, value) in set {
            let held = before[key].as_str();
            if let Some(held) = held.filter(|held| Some(*held) != value.as_str()) {
                return fail(match words.one {
                    "label" => format!("'{key}' already has a value ({held}), and --overwrite is false"),
                    _ => format!(
                        "--overwrite is false but found the following declared annotation(s): '{key}' already has a value ({held})"
                    ),
                });
            }
        }
    }
    let mut patch = json!({"metadata": {words.field: set}});
    let mut undone = false;
    for key in remove {
        if before[key].is_null() {
            if words.one == "label" {
                line(&format!("label {key:?} not found."))?;
            }
            continue;
        }
        undone = true;
        patch["metadata"][words.field][key] = Value::Null;
    }
    if !cx.args.text("resource-version").is_empty() {
        patch["metadata"]["resourceVersion"] = cx.args.text("resource-version").into();
    }
    let mut after = target.object.clone();
    apimachinery::patch::merge_patch(&mut after, &patch);
    let changed = after["metadata"][words.field] != *before;
    if !cx.args.is("local") && DryRun::of(cx)? != DryRun::Client && changed {
        let path = target.path();
        let call = write(cx, Call::new("PATCH", &path).content_type(MERGE_PATCH).body(&patch), words.manager)?;
        after = cx.json(call).await?;
    }
    let done = match (changed, set.is_empty(), undone) {
        (false, ..) if words.one == "label" => "not labeled",
        (true, true, true) => words.undone,
        _ => words.done,
    };
    told(cx, &after, done)
}
