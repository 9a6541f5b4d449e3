//! `delete`

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::DryRun;
use super::{Command, run};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Result, all, fail};
use crate::flags::{Flag, common as f, optional_text, switch, switched_on, text, text_or};
use crate::print::line;
use crate::select::{self, Target};

pub const COMMAND: Command = Command {
    name: "delete",
    about: "Delete resources by file names, stdin, resources and names, or by resources and label selector",
    flags: &[FLAGS],
    run: run!(delete),
    ..Command::NONE
};

const FLAGS: &[Flag] = &[
    f::FILENAME,
    f::KUSTOMIZE,
    f::RECURSIVE,
    f::SELECTOR,
    f::FIELD_SELECTOR,
    f::ALL_NAMESPACES,
    f::ALL,
    f::DRY_RUN,
    f::TIMEOUT,
    optional_text(
        "cascade",
        "background",
        "background",
        "background, orphan or foreground: what becomes of dependents",
    ),
    switch("force", "Don't wait for the objects' confirmation"),
    text_or("grace-period", "-1", "Seconds to end in; -1 is the object's own, 1 with --now"),
    switch("ignore-not-found", "What isn't there is no error"),
    switch("interactive", "Ask before deleting").short('i'),
    switch("now", "The same as --grace-period=1"),
    switched_on("wait", "Wait until they are gone"),
    text("output", "name for short output").short('o'),
    text("raw", "Path of the server that is deleted"),
];

async fn delete(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    if !args.text("raw").is_empty() {
        let answer = cx.json(Call::new("DELETE", args.text("raw"))).await?;
        return line(&answer.to_string());
    }
    let mut grace = args.number("grace-period")?;
    if args.is("now") {
        if grace != -1 {
            return fail("--now and --grace-period cannot be specified together");
        }
        grace = 1;
    }
    if grace == 0 && !args.is("force") {
        // Without force the object may still confirm its end.
        grace = 1;
    }
    if args.is("force") && grace > 0 {
        return fail("--force and --grace-period greater than 0 cannot be specified together");
    }
    if args.is("force") {
        eprintln!(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely."
        );
        grace = 0;
    }
    if !args.text("output").is_empty() && args.text("output") != "name" {
        return fail(format!("unexpected -o output mode: {}. We only support '-o name'", args.text("output")));
    }
    let options = options(&cx, grace)?;
    let (targets, mut errors) = chosen(&cx).await?;
    if cx.has_explicit_namespace() && targets.iter().any(|t| !t.resource.namespaced) {
        eprintln!("Warning: deleting cluster-scoped resources, not scoped to the provided namespace");
    }
    if !confirmed(&cx, &targets)? {
        return line("deletion is cancelled");
    }
    let dry = DryRun::of(&cx)?;
    let mut waiting = Vec::new();
    for target in &targets {
        match one(&cx, target, &options, dry).await {
            Ok(uid) => {
                let done = if args.is("force") { "force deleted" } else { "deleted" };
                say_deleted(&cx, target, done, dry)?;
                waiting.push((target, uid));
            }
            Err(error) if error.is_not_found() && args.is("ignore-not-found") => {}
            Err(error) => errors.push(error),
        }
    }
    if targets.is_empty() && errors.is_empty() {
        return line("No resources found");
    }
    if errors.is_empty() && args.is("wait") && dry == DryRun::No {
        wait(&cx, &waiting).await?;
    }
    all(errors)
}

fn options(cx: &Context, grace: i64) -> Result<Value> {
    let policy = match cx.args.text("cascade") {
        "background" | "true" => "Background",
        "orphan" | "false" => "Orphan",
        "foreground" => "Foreground",
        other => {
            return fail(format!(
                "invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
            ));
        }
    };
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
    if grace >= 0 {
        options["gracePeriodSeconds"] = grace.into();
    }
    if DryRun::of(cx)? == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    Ok(options)
}

/// What is to be deleted. Named objects aren't asked for before.
async fn chosen(cx: &Context) -> Result<(Vec<Target>, Vec<crate::error::Error>)> {
    let args = &cx.args;
    let selection = select::select(cx, &args.words).await?;
    let every = args.is("all") || !selection.selector.is_empty() || !selection.field_selector.is_empty();
    if !selection.lists.is_empty() && !every {
        return fail("resource(s) were provided, but no name was specified");
    }
    if selection.lists.is_empty() {
        return Ok((selection.targets, Vec::new()));
    }
    let (found, errors) = select::load(cx, &selection).await;
    Ok((found, errors))
}

fn confirmed(cx: &Context, targets: &[Target]) -> Result<bool> {
    if !cx.args.is("interactive") || targets.is_empty() {
        return Ok(true);
    }
    line("You are about to delete the following resource(s):")?;
    for target in targets {
        line(&target.shown())?;
    }
    crate::print::say("Do you want to continue? (y/N): ")?;
    let answer = bounded::line(&mut std::io::stdin().lock(), 1024)?.unwrap_or_default();
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// Deletes one; returns the uid of what goes, if the server says it.
async fn one(cx: &Context, target: &Target, options: &Value, dry: DryRun) -> Result<String> {
    if dry == DryRun::Client {
        cx.get(&target.path()).await?;
        return Ok(String::new());
    }
    let path = target.path();
    let answer = cx.json(Call::new("DELETE", &path).body(options)).await?;
    let uid = answer["details"]["uid"].as_str().or_else(|| answer["metadata"]["uid"].as_str());
    Ok(uid.unwrap_or("").into())
}

fn say_deleted(cx: &Context, target: &Target, done: &str, dry: DryRun) -> Result<()> {
    if cx.args.text("output") == "name" {
        return line(&target.shown());
    }
    let suffix = match dry {
        DryRun::No => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    };
    let place =
        if target.namespace.is_empty() { String::new() } else { format!(" from {} namespace", target.namespace) };
    line(&format!("{} {:?} {done}{place}{suffix}", target.resource.qualified(), target.name))
}

/// Waits until objects are gone, or others of their names are there.
async fn wait(cx: &Context, waiting: &[(&Target, String)]) -> Result<()> {
    let limit = cx.args.duration("timeout")?;
    let begun = Instant::now();
    for (target, uid) in waiting {
        loop {
            match cx.get(&target.path()).await {
                Err(error) if error.is_not_found() => break,
                // Who may delete need not be allowed to read.
                Err(error) if ["Forbidden", "MethodNotAllowed"].contains(&error.reason()) => break,
                Err(error) => return Err(error),
                Ok(object) if !uid.is_empty() && object["metadata"]["uid"] != uid.as_str() => break,
                Ok(_) => {}
            }
            if limit > 0 && begun.elapsed() > Duration::from_nanos(limit.unsigned_abs()) {
                return fail(format!(
                    "timed out waiting for the condition on {}/{}",
                    target.resource.plural, target.name
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}
