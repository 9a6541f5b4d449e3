//! `create`: objects of files, and generators of objects of a few words.

mod batch;
mod configmap;
mod deployment;
mod ingress;
mod policy;
mod rbac;
mod secret;
mod service;
mod token;

use std::sync::Arc;

use serde_json::Value;

use super::common::{DryRun, LAST_APPLIED, keep_config, told, validated, write};
use super::{Command, run, usage};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Error, Result, all, fail};
use crate::flags::{Flag, common as f, switch, text};
use crate::print::go_json;
use crate::select;

const MANAGER: &str = "kubectl-create";

pub const COMMAND: Command = Command {
    name: "create",
    aliases: &[],
    about: "Create a resource from a file or from stdin",
    flags: &[
        FLAGS,
        &[
            f::FILENAME,
            f::KUSTOMIZE,
            f::RECURSIVE,
            f::SELECTOR,
            switch("edit", "Edit the resource first"),
            text("raw", "Path of the server to which the file is posted"),
            switch("windows-line-endings", "For --edit"),
        ],
    ],
    commands: &[
        &deployment::COMMAND,
        &batch::JOB,
        &batch::CRONJOB,
        &configmap::COMMAND,
        &secret::COMMAND,
        &service::COMMAND,
        &rbac::SERVICE_ACCOUNT,
        &policy::NAMESPACE,
        &rbac::ROLE,
        &rbac::CLUSTER_ROLE,
        &rbac::ROLE_BINDING,
        &rbac::CLUSTER_ROLE_BINDING,
        &policy::QUOTA,
        &policy::BUDGET,
        &policy::PRIORITY_CLASS,
        &ingress::COMMAND,
        &token::COMMAND,
    ],
    run: run!(create),
};

/// Flags of all generators.
const FLAGS: &[Flag] = &[
    f::OUTPUT,
    f::TEMPLATE,
    f::ALLOW_MISSING,
    f::SHOW_MANAGED_FIELDS,
    f::DRY_RUN,
    f::FIELD_MANAGER,
    f::SAVE_CONFIG,
    f::VALIDATE,
];

async fn create(cx: Arc<Context>) -> Result<()> {
    if cx.args.many("filename").is_empty() && cx.args.text("kustomize").is_empty() {
        if let Some(word) = cx.args.words.first() {
            return usage(&cx, &format!("Unexpected args: [{word}]"));
        }
        return fail("must specify one of -f and -k");
    }
    if !cx.args.words.is_empty() {
        return usage(&cx, &format!("Unexpected args: [{}]", cx.args.words.join(" ")));
    }
    let raw = cx.args.text("raw");
    if !raw.is_empty() {
        let [document] = &crate::files::read(&cx).await?.all[..] else {
            return fail("--raw can only use a single local file or stdin");
        };
        let answer = cx.json(Call::new("POST", raw).body(&document.object)).await?;
        return crate::print::line(&answer.to_string());
    }
    let selection = select::select(&cx, &[]).await?;
    if selection.targets.is_empty() {
        return fail("no objects passed to create");
    }
    let mut errors = Vec::new();
    for target in selection.targets {
        let mut object = target.object.clone();
        if cx.args.is("save-config") {
            keep_config(&mut object);
        }
        let path = target.resource.path(&target.namespace, "");
        let made = post(&cx, &path, object).await;
        match made {
            Ok(object) => told(&cx, &object, "created")?,
            Err(error) => errors.push(error.with_prefix(&format!("error when creating {:?}", target.source))),
        }
    }
    all(errors)
}

async fn post(cx: &Context, path: &str, object: Value) -> Result<Value> {
    if DryRun::of(cx)? == DryRun::Client {
        return Ok(object);
    }
    let call = validated(cx, write(cx, Call::new("POST", path).body(&object), MANAGER)?)?;
    cx.json(call).await
}

/// Creates what a generator made, and tells of it.
///
/// # Errors
/// When the server refuses it.
pub async fn finish(cx: &Context, plural: &str, namespaced: bool, mut object: Value) -> Result<()> {
    let namespace = cx.namespace()?;
    let dry = DryRun::of(cx)?;
    if namespaced && (dry == DryRun::No || dry == DryRun::Server || cx.has_explicit_namespace()) {
        object["metadata"]["namespace"] = namespace.clone().into();
    }
    if cx.args.is("save-config") {
        let text = typed(&object) + "\n";
        object["metadata"]["annotations"][LAST_APPLIED] = text.into();
    }
    let version = object["apiVersion"].as_str().unwrap_or("").to_string();
    let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let path = if namespaced { format!("{root}/namespaces/{namespace}/{plural}") } else { format!("{root}/{plural}") };
    let made = post(cx, &path, object)
        .await
        .map_err(|error| Error::Message(format!("failed to create {}: {}", what(&cx.args.command), error.text())))?;
    told(cx, &made, "created")
}

/// JSON in the order of a Go type: what it is, its metadata, then the rest.
fn typed(object: &Value) -> String {
    let first = ["kind", "apiVersion", "metadata"];
    let rest = object.as_object().into_iter().flatten().map(|(k, _)| k.as_str()).filter(|k| !first.contains(k));
    let members = first.into_iter().chain(rest).map(|key| format!("{}:{}", Value::from(key), go_json(&object[key])));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// What the command `create WHAT` creates.
fn what(command: &str) -> &str {
    command.split(' ').nth(1).unwrap_or("")
}

/// The one name that a generator needs.
///
/// # Errors
/// When there is none, or several.
pub fn name(cx: &Context) -> Result<String> {
    match &cx.args.words[..] {
        [name] => Ok(name.clone()),
        words => usage(cx, &format!("exactly one NAME is required, got {}", words.len())),
    }
}
