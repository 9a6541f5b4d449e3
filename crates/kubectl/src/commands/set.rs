//! `set image|env|resources|serviceaccount|selector|subject`: changes of one part of objects.

mod env;
mod rbac;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::common::{DryRun, each, targets, told, write};
use super::{Command, run, usage};
use crate::client::{Call, MERGE_PATCH, STRATEGIC_PATCH};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{Flag, common as f, text, text_or};
use crate::select::Target;
use crate::threeway;

pub const COMMAND: Command = Command {
    name: "set",
    about: "Set specific features on objects",
    commands: &[&IMAGE, &RESOURCES, &SELECTOR, &rbac::SUBJECT, &SERVICE_ACCOUNT, &env::COMMAND],
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
    f::ALL,
    f::LOCAL,
    f::RESOURCE_VERSION,
];
const WITH_SELECTOR: &[Flag] = &[f::SELECTOR];

const IMAGE: Command = Command {
    name: "image",
    about: "Update the image of a pod template",
    flags: &[FLAGS, WITH_SELECTOR],
    run: run!(image),
    ..Command::NONE
};
const RESOURCES: Command = Command {
    name: "resources",
    about: "Update resource requests/limits on objects with pod templates",
    flags: &[
        FLAGS,
        WITH_SELECTOR,
        &[
            text_or("containers", "*", "Of these containers").short('c'),
            text("limits", "cpu=…,memory=…"),
            text("requests", "cpu=…,memory=…"),
        ],
    ],
    run: run!(resources),
    ..Command::NONE
};
const SELECTOR: Command = Command {
    name: "selector",
    about: "Set the selector on a resource",
    flags: &[FLAGS],
    run: run!(selector),
    ..Command::NONE
};
const SERVICE_ACCOUNT: Command = Command {
    name: "serviceaccount",
    aliases: &["sa"],
    about: "Update the service account of a resource",
    flags: &[FLAGS],
    run: run!(service_account),
    ..Command::NONE
};

/// The path of the pod's spec in an object, if it has one.
fn spec_path(object: &Value) -> Option<&'static str> {
    match object["kind"].as_str()? {
        "Pod" => Some("/spec"),
        "CronJob" => Some("/spec/jobTemplate/spec/template/spec"),
        _ if object.pointer("/spec/template/spec").is_some() => Some("/spec/template/spec"),
        _ => None,
    }
}

/// Writes what was changed in an object, and tells of it.
async fn changed(cx: &Context, target: &Target, after: Value, done: &str) -> Result<()> {
    if cx.args.is("local") || DryRun::of(cx)? == DryRun::Client {
        return told(cx, &after, done);
    }
    let resource = &target.resource;
    let (patch, content_type) = match api::find(&resource.group, &resource.version, &resource.plural) {
        Some(kind) => (
            threeway::strategic(&target.object, &after, &target.object, &api::merge::BuiltinStrategy::of(kind)),
            STRATEGIC_PATCH,
        ),
        None => (threeway::merge(&target.object, &after, &target.object), MERGE_PATCH),
    };
    if patch == json!({}) {
        return Ok(());
    }
    let path = target.path();
    let call = write(cx, Call::new("PATCH", &path).content_type(content_type).body(&patch), "kubectl-set")?;
    let made = cx.json(call).await?;
    told(cx, &made, done)
}

/// Words that name objects, and `KEY=VALUE` words.
fn split(words: &[String]) -> (Vec<String>, Vec<String>) {
    words.iter().cloned().partition(|w| !w.contains('='))
}

async fn image(cx: Arc<Context>) -> Result<()> {
    let (words, pairs) = split(&cx.args.words);
    if words.is_empty() && cx.args.many("filename").is_empty() && cx.args.text("kustomize").is_empty() {
        return fail("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    if pairs.is_empty() {
        return fail("at least one image update is required");
    }
    let images: Vec<(String, String)> =
        pairs.iter().filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    if images.len() > 1 && images.iter().any(|(name, _)| name == "*") {
        return fail(
            "all containers are already specified by *, but saw more than one container_name=container_image pairs",
        );
    }
    let (found, errors) = targets(&cx, &words).await?;
    each(&found, errors, |target| image_one(&cx, target, &images)).await
}

async fn image_one(cx: &Context, target: &Target, images: &[(String, String)]) -> Result<()> {
    let mut after = target.object.clone();
    let Some(path) = spec_path(&after) else {
        return fail(format!("the object is not a pod or does not have a pod template: {}", target.shown()));
    };
    for (name, image) in images {
        let mut found = false;
        for list in ["initContainers", "containers"] {
            let containers = after.pointer_mut(&format!("{path}/{list}")).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter(|c| name == "*" || c["name"] == name.as_str()) {
                container["image"] = image.clone().into();
                found = true;
            }
        }
        if !found {
            return fail(format!("unable to find container named {name:?}"));
        }
    }
    changed(cx, target, after, "image updated").await
}

fn amounts(text: &str) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let Some((resource, amount)) = part.split_once('=') else {
            return fail(format!("invalid argument syntax {part}, expected <resource>=<value>"));
        };
        all.insert(resource.into(), amount.into());
    }
    Ok(all)
}

async fn resources(cx: Arc<Context>) -> Result<()> {
    let (limits, requests) = (amounts(cx.args.text("limits"))?, amounts(cx.args.text("requests"))?);
    if limits.is_empty() && requests.is_empty() {
        return fail("you must specify an update to requests or limits (in the form of --requests/--limits)");
    }
    let (found, errors) = targets(&cx, &cx.args.words).await?;
    each(&found, errors, |target| resources_one(&cx, target, &limits, &requests)).await
}

async fn resources_one(
    cx: &Context,
    target: &Target,
    limits: &Map<String, Value>,
    requests: &Map<String, Value>,
) -> Result<()> {
    let mut after = target.object.clone();
    let Some(path) = spec_path(&after) else {
        return fail(format!("the object is not a pod or does not have a pod template: {}", target.shown()));
    };
    let wanted = cx.args.text("containers");
    let mut found = false;
    let containers = after.pointer_mut(&format!("{path}/containers")).and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten().filter(|c| wanted == "*" || c["name"] == wanted) {
        found = true;
        for (field, amounts) in [("limits", limits), ("requests", requests)] {
            for (resource, amount) in amounts {
                container["resources"][field][resource] = amount.clone();
            }
        }
    }
    if !found {
        return fail(format!("unable to find container named {wanted}"));
    }
    changed(cx, target, after, "resource requirements updated").await
}

async fn service_account(cx: Arc<Context>) -> Result<()> {
    let Some((account, words)) = cx.args.words.split_last() else { return fail("serviceaccount is required") };
    if words.is_empty() && cx.args.many("filename").is_empty() {
        return usage(&cx, "one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    let (found, errors) = targets(&cx, words).await?;
    each(&found, errors, |target| service_account_one(&cx, target, account)).await
}

async fn service_account_one(cx: &Context, target: &Target, account: &str) -> Result<()> {
    let mut after = target.object.clone();
    let spec = spec_path(&after).and_then(|path| after.pointer_mut(path));
    let Some(spec) = spec else {
        return fail(format!("the object is not a pod or does not have a pod template: {}", target.shown()));
    };
    spec["serviceAccountName"] = account.into();
    changed(cx, target, after, "serviceaccount updated").await
}

async fn selector(cx: Arc<Context>) -> Result<()> {
    let Some((text, words)) = cx.args.words.split_last() else {
        return fail("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    };
    let wanted = super::common::label_map(text)?;
    let (found, errors) = targets(&cx, words).await?;
    each(&found, errors, |target| selector_one(&cx, target, &wanted)).await
}

async fn selector_one(cx: &Context, target: &Target, wanted: &Value) -> Result<()> {
    if !target.resource.is("", "services") {
        return fail("setting a selector is only supported for Services");
    }
    let mut after = target.object.clone();
    after["spec"]["selector"] = wanted.clone();
    changed(cx, target, after, "selector updated").await
}
