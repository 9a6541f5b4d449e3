//! `rollout status|history|undo|restart|pause|resume`

mod history;
mod status;

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::{DryRun, each, targets, told, write};
use super::{Command, run};
use crate::client::{Call, STRATEGIC_PATCH};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{Flag, common as f, switched_on, text_or};
use crate::select::Target;

pub const COMMAND: Command = Command {
    name: "rollout",
    about: "Manage the rollout of a resource",
    commands: &[&HISTORY, &PAUSE, &RESTART, &RESUME, &STATUS, &UNDO],
    ..Command::NONE
};

const FLAGS: &[Flag] = &[f::FILENAME, f::KUSTOMIZE, f::RECURSIVE, f::SELECTOR];
const WRITES: &[Flag] = &[f::OUTPUT, f::TEMPLATE, f::ALLOW_MISSING, f::SHOW_MANAGED_FIELDS, f::FIELD_MANAGER];

const HISTORY: Command = Command {
    name: "history",
    about: "View rollout history",
    flags: &[
        FLAGS,
        &[
            f::OUTPUT,
            f::TEMPLATE,
            f::ALLOW_MISSING,
            f::SHOW_MANAGED_FIELDS,
            text_or("revision", "0", "Show this revision"),
        ],
    ],
    run: run!(history::history),
    ..Command::NONE
};
const STATUS: Command = Command {
    name: "status",
    about: "Show the status of the rollout",
    flags: &[
        FLAGS,
        &[
            switched_on("watch", "Until it is done").short('w'),
            text_or("revision", "0", "Of this revision"),
            f::TIMEOUT,
        ],
    ],
    run: run!(status::status),
    ..Command::NONE
};
const UNDO: Command = Command {
    name: "undo",
    about: "Undo a previous rollout",
    flags: &[
        FLAGS,
        &[
            f::OUTPUT,
            f::TEMPLATE,
            f::ALLOW_MISSING,
            f::SHOW_MANAGED_FIELDS,
            f::DRY_RUN,
            text_or("to-revision", "0", "To this revision; 0 is the one before"),
        ],
    ],
    run: run!(history::undo),
    ..Command::NONE
};
const RESTART: Command = Command {
    name: "restart",
    about: "Restart a resource",
    flags: &[FLAGS, WRITES],
    run: run!(restart),
    ..Command::NONE
};
const PAUSE: Command = Command {
    name: "pause",
    about: "Mark the provided resource as paused",
    flags: &[FLAGS, WRITES],
    run: run!(pause),
    ..Command::NONE
};
const RESUME: Command = Command {
    name: "resume",
    about: "Resume a paused resource",
    flags: &[FLAGS, WRITES],
    run: run!(resume),
    ..Command::NONE
};

async fn change(cx: &Context, target: &Target, patch: &Value, done: &str) -> Result<()> {
    let path = target.path();
    let call = write(cx, Call::new("PATCH", &path).content_type(STRATEGIC_PATCH).body(patch), "kubectl-rollout")?;
    let made = cx.json(call).await?;
    told(cx, &made, done)
}

/// What is rolled out.
fn is_rolled(target: &Target) -> bool {
    ["deployments", "daemonsets", "statefulsets"].iter().any(|plural| target.resource.is("apps", plural))
}

async fn restart(cx: Arc<Context>) -> Result<()> {
    require(&cx)?;
    let (found, errors) = targets(&cx, &cx.args.words).await?;
    each(&found, errors, |target| restart_one(&cx, target)).await
}

async fn restart_one(cx: &Context, target: &Target) -> Result<()> {
    if !is_rolled(target) {
        return fail(format!("{} {:?} restarting is not supported", target.resource.group_resource(), target.name));
    }
    if target.object["spec"]["paused"] == true {
        return fail(format!(
            "{} {:?} can't restart paused deployment (run rollout resume first)",
            target.resource.group_resource(),
            target.name
        ));
    }
    let now = apimachinery::clock::now_rfc3339();
    let patch =
        json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}});
    change(cx, target, &patch, "restarted").await
}

fn require(cx: &Context) -> Result<()> {
    if cx.args.words.is_empty() && cx.args.many("filename").is_empty() && cx.args.text("kustomize").is_empty() {
        return fail("required resource not specified");
    }
    Ok(())
}

async fn pause(cx: Arc<Context>) -> Result<()> {
    set_paused(&cx, true).await
}

async fn resume(cx: Arc<Context>) -> Result<()> {
    set_paused(&cx, false).await
}

async fn set_paused(cx: &Context, paused: bool) -> Result<()> {
    require(cx)?;
    let (found, errors) = targets(cx, &cx.args.words).await?;
    each(&found, errors, |target| pause_one(cx, target, paused)).await
}

async fn pause_one(cx: &Context, target: &Target, paused: bool) -> Result<()> {
    let (doing, done) = if paused { ("pausing", "paused") } else { ("resuming", "resumed") };
    if !target.resource.is("apps", "deployments") {
        return fail(format!("{} {:?} {doing} is not supported", target.resource.group_resource(), target.name));
    }
    if (target.object["spec"]["paused"] == true) == paused {
        let state = if paused { "is already paused" } else { "is not paused" };
        return fail(format!("{} {:?} {state}", target.resource.group_resource(), target.name));
    }
    let _ = DryRun::of(cx)?;
    change(cx, target, &json!({"spec": {"paused": if paused { Value::from(true) } else { Value::Null }}}), done).await
}
