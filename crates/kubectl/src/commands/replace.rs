//! `replace`

use std::sync::Arc;

use serde_json::json;

use super::common::{DryRun, keep_config, pause, told, validated, write};
use super::{Command, run};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Result, all, fail};
use crate::flags::{Flag, common as f, optional_text, switch, text, text_or};
use crate::select::{self, Target};

pub const COMMAND: Command = Command {
    name: "replace",
    about: "Replace a resource by file name or stdin",
    flags: &[FLAGS],
    run: run!(replace),
    ..Command::NONE
};

const FLAGS: &[Flag] = &[
    f::OUTPUT,
    f::TEMPLATE,
    f::ALLOW_MISSING,
    f::SHOW_MANAGED_FIELDS,
    f::DRY_RUN,
    f::FIELD_MANAGER,
    f::SAVE_CONFIG,
    f::VALIDATE,
    f::FILENAME,
    f::KUSTOMIZE,
    f::RECURSIVE,
    f::SUBRESOURCE,
    f::TIMEOUT,
    switch("force", "Delete and create"),
    switch("wait", "Wait for the deletion"),
    text_or("grace-period", "-1", "Seconds that the old object has"),
    optional_text("cascade", "background", "background", "What becomes of dependents"),
    text("raw", "Path of the server to which the file is put"),
];

async fn replace(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    if args.many("filename").is_empty() && args.text("kustomize").is_empty() {
        return fail("must specify one of -f and -k");
    }
    let selection = select::select(&cx, &[]).await?;
    let mut errors = Vec::new();
    for target in &selection.targets {
        if let Err(error) = one(&cx, target).await {
            errors.push(error.with_prefix(&format!("error when replacing {:?}", target.source)));
        }
    }
    all(errors)
}

async fn one(cx: &Context, target: &Target) -> Result<()> {
    let mut object = target.object.clone();
    if cx.args.is("save-config") {
        keep_config(&mut object);
    }
    if DryRun::of(cx)? == DryRun::Client {
        return told(cx, &object, "replaced");
    }
    if cx.args.is("force") {
        let path = target.path();
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background", "gracePeriodSeconds": 0});
        match cx.send(Call::new("DELETE", &path).body(&options)).await {
            Ok(_) => crate::print::line(&format!("{} {:?} deleted", target.resource.qualified(), target.name))?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        while cx.get(&path).await.is_ok() {
            pause().await;
        }
        let list = target.resource.path(&target.namespace, "");
        let call = validated(cx, write(cx, Call::new("POST", &list).body(&object), "kubectl-replace")?)?;
        return told(cx, &cx.json(call).await?, "replaced");
    }
    let mut path = target.path();
    if !cx.args.text("subresource").is_empty() {
        path = format!("{path}/{}", cx.args.text("subresource"));
    }
    // An object without a version replaces whatever is there.
    let call = validated(cx, write(cx, Call::new("PUT", &path).body(&object), "kubectl-replace")?)?;
    told(cx, &cx.json(call).await?, "replaced")
}
