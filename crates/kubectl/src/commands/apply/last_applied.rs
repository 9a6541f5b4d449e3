//! `apply view-last-applied`, `apply set-last-applied`

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::common::{DryRun, LAST_APPLIED, each, keep_config, targets, told, write};
use super::super::{Command, run};
use crate::client::{Call, MERGE_PATCH};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{common as f, switch, text_or};
use crate::print::{line, say, yaml};
use crate::select::{self, Target};

pub const VIEW: Command = Command {
    name: "view-last-applied",
    about: "View the latest last-applied-configuration annotations of a resource",
    flags: &[&[
        f::FILENAME,
        f::KUSTOMIZE,
        f::RECURSIVE,
        f::SELECTOR,
        f::ALL,
        text_or("output", "yaml", "yaml or json").short('o'),
    ]],
    run: run!(view),
    ..Command::NONE
};

pub const SET: Command = Command {
    name: "set-last-applied",
    about: "Set the last-applied-configuration annotation on a live object to match the contents of a file",
    flags: &[&[
        f::FILENAME,
        f::OUTPUT,
        f::TEMPLATE,
        f::ALLOW_MISSING,
        f::SHOW_MANAGED_FIELDS,
        f::DRY_RUN,
        switch("create-annotation", "Also where there is none"),
    ]],
    run: run!(set),
    ..Command::NONE
};

async fn view(cx: Arc<Context>) -> Result<()> {
    let (found, errors) = targets(&cx, &cx.args.words).await?;
    each(&found, errors, |target| view_one(&cx, target)).await
}

async fn view_one(cx: &Context, target: &Target) -> Result<()> {
    let Some(text) = target.object["metadata"]["annotations"][LAST_APPLIED].as_str() else {
        return Ok(());
    };
    let value: Value = serde_json::from_str(text)?;
    match cx.args.text("output") {
        "yaml" => say(&yaml::write(&value)),
        "json" => line(&super::super::info::two_spaces(&value)),
        other => fail(format!(
            "Unexpected -o output mode: {other}, the flag 'output' must be one of yaml|json\nSee 'kubectl apply view-last-applied -h' for help and examples"
        )),
    }
}

async fn set(cx: Arc<Context>) -> Result<()> {
    let selection = select::select(&cx, &[]).await?;
    each(&selection.targets, Vec::new(), |target| set_one(&cx, target)).await
}

async fn set_one(cx: &Context, target: &Target) -> Result<()> {
    let path = target.path();
    let current =
        cx.get(&path).await.map_err(|error| if error.is_not_found() { Error::Message(error.text()) } else { error })?;
    if current["metadata"]["annotations"][LAST_APPLIED].is_null() && !cx.args.is("create-annotation") {
        return fail(format!(
            "no last-applied-configuration annotation found on resource: {}, to create the annotation, run the command with --create-annotation",
            target.name
        ));
    }
    let mut wanted = target.object.clone();
    keep_config(&mut wanted);
    let patch = json!({"metadata": {"annotations": {LAST_APPLIED: wanted["metadata"]["annotations"][LAST_APPLIED]}}});
    if DryRun::of(cx)? == DryRun::Client {
        return told(cx, &current, "configured");
    }
    let made = cx
        .json(write(cx, Call::new("PATCH", &path).content_type(MERGE_PATCH).body(&patch), "kubectl-last-applied")?)
        .await?;
    told(cx, &made, "configured")
}
