//! `cordon`, `uncordon`, `drain`, `taint`

mod drain;

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::{DryRun, each, targets, told, write};
use super::{Command, run, usage};
use crate::client::{Call, MERGE_PATCH};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{Flag, common as f, switch, switched_on, text, text_or};
use crate::print::line;
use crate::select::Target;

const SELECT: &[Flag] = &[f::SELECTOR, f::DRY_RUN];

pub const CORDON: Command = Command {
    name: "cordon",
    about: "Mark node as unschedulable",
    flags: &[SELECT],
    run: run!(cordon),
    ..Command::NONE
};
pub const UNCORDON: Command = Command {
    name: "uncordon",
    about: "Mark node as schedulable",
    flags: &[SELECT],
    run: run!(cordon),
    ..Command::NONE
};
pub const DRAIN: Command = Command {
    name: "drain",
    about: "Drain node in preparation for maintenance",
    flags: &[
        SELECT,
        &[
            f::CHUNK_SIZE,
            f::TIMEOUT,
            switch("force", "Also pods without a controller"),
            text_or("grace-period", "-1", "Seconds that pods have to end in; -1 is their own"),
            switch("ignore-daemonsets", "Leave pods of daemon sets"),
            switch("delete-emptydir-data", "Also pods with emptyDir volumes"),
            switch("disable-eviction", "Delete rather than evict"),
            text("pod-selector", "Labels of the pods"),
            text_or("skip-wait-for-delete-timeout", "0", "Don't wait for pods that end for more seconds than these"),
        ],
    ],
    run: run!(drain::drain),
    ..Command::NONE
};
pub const TAINT: Command = Command {
    name: "taint",
    about: "Update the taints on one or more nodes",
    flags: &[&[
        f::OUTPUT,
        f::TEMPLATE,
        f::ALLOW_MISSING,
        f::SHOW_MANAGED_FIELDS,
        f::SELECTOR,
        f::DRY_RUN,
        f::FIELD_MANAGER,
        f::ALL,
        f::OVERWRITE,
        f::VALIDATE,
        switched_on("wait", "Accepted for scripts' sake"),
    ]],
    run: run!(taint),
    ..Command::NONE
};

/// The nodes of the words or the selector.
async fn chosen(cx: &Context) -> Result<Vec<Target>> {
    let args = &cx.args;
    if args.words.is_empty() && args.text("selector").is_empty() {
        return usage(cx, &format!("USAGE: {} NODE [flags]", args.command));
    }
    if !args.words.is_empty() && !args.text("selector").is_empty() {
        return fail("error: cannot specify both a node name and a --selector option");
    }
    let words: Vec<String> = std::iter::once("nodes".to_string())
        .chain(args.words.iter().map(|w| w.rsplit('/').next().unwrap_or(w).to_string()))
        .collect();
    let (found, errors) = targets(cx, &words).await?;
    crate::error::all(errors)?;
    Ok(found)
}

async fn cordon(cx: Arc<Context>) -> Result<()> {
    let found = chosen(&cx).await?;
    let wanted = cx.args.command == "cordon";
    each(&found, Vec::new(), |target| mark(&cx, target, wanted)).await
}

/// Marks a node as unschedulable or not.
async fn mark(cx: &Context, target: &Target, unschedulable: bool) -> Result<()> {
    let (word, already) =
        if unschedulable { ("cordoned", "already cordoned") } else { ("uncordoned", "already uncordoned") };
    let is = target.object["spec"]["unschedulable"] == true;
    let suffix = match DryRun::of(cx)? {
        DryRun::No => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    };
    if is == unschedulable {
        return line(&format!("node/{} {already}{suffix}", target.name));
    }
    if DryRun::of(cx)? != DryRun::Client {
        let patch = json!({"spec": {"unschedulable": if unschedulable { Value::from(true) } else { Value::Null }}});
        let path = target.path();
        cx.json(write(cx, Call::new("PATCH", &path).content_type(MERGE_PATCH).body(&patch), "")?).await?;
    }
    line(&format!("node/{} {word}{suffix}", target.name))
}

/// A taint to set or, without a value, to remove.
struct Taint {
    key: String,
    value: Option<String>,
    effect: String,
}

fn read(spec: &str) -> Result<Taint> {
    let removes = spec.ends_with('-');
    let body = spec.strip_suffix('-').unwrap_or(spec);
    let (pair, effect) = body.split_once(':').unwrap_or((body, ""));
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) || removes && effect.is_empty();
    if key.is_empty() || (!removes && effect.is_empty()) {
        return fail(format!("invalid taint spec: {spec}"));
    }
    if !known {
        return fail(format!("invalid taint effect: {effect}, unsupported taint effect"));
    }
    if let Err(problem) = apimachinery::names::qualified_name(key) {
        return fail(format!("invalid taint spec: {spec}, {problem}"));
    }
    Ok(Taint { key: key.into(), value: (!removes).then(|| value.into()), effect: effect.into() })
}

async fn taint(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    let is_taint = |w: &&String| w.contains(':') || w.contains('=') || w.ends_with('-');
    let (words, specs): (Vec<&String>, Vec<&String>) = args.words.iter().partition(|w| !is_taint(w));
    let words: Vec<String> = words.into_iter().cloned().collect();
    if words.is_empty() {
        return fail("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    if specs.is_empty() {
        return fail("at least one taint update is required");
    }
    let taints = specs.into_iter().map(|s| read(s)).collect::<Result<Vec<_>>>()?;
    let (found, errors) = targets(&cx, &words).await?;
    each(&found, errors, |target| taint_one(&cx, target, &taints)).await
}

async fn taint_one(cx: &Context, target: &Target, taints: &[Taint]) -> Result<()> {
    if !target.resource.is("", "nodes") {
        return fail(format!("invalid resource type {}, only node types are supported", target.resource.plural));
    }
    let before = target.object["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut after = before.clone();
    for taint in taints {
        let same = |t: &Value| {
            t["key"] == taint.key.as_str() && (taint.effect.is_empty() || t["effect"] == taint.effect.as_str())
        };
        let held = after.iter().position(same);
        match (&taint.value, held) {
            (None, None) => {
                return fail(format!(
                    "taint {:?} not found",
                    if taint.effect.is_empty() { taint.key.clone() } else { format!("{}:{}", taint.key, taint.effect) }
                ));
            }
            (None, Some(_)) => after.retain(|t| !same(t)),
            (Some(value), held) => {
                if held.is_some() && !cx.args.is("overwrite") {
                    return fail(format!(
                        "node {} already has {} taint(s) with same effect(s) and --overwrite is false",
                        target.name, taint.key
                    ));
                }
                after.retain(|t| !same(t));
                let mut made = json!({"key": taint.key, "effect": taint.effect});
                if !value.is_empty() {
                    made["value"] = value.clone().into();
                }
                after.push(made);
            }
        }
    }
    let done = match (taints.iter().any(|t| t.value.is_some()), taints.iter().any(|t| t.value.is_none())) {
        (true, true) => "modified",
        (true, false) => "tainted",
        _ => "untainted",
    };
    if DryRun::of(cx)? == DryRun::Client {
        return told(cx, &target.object, done);
    }
    // Two that taint at once must not undo each other.
    let patch = json!({"metadata": {"resourceVersion": target.object["metadata"]["resourceVersion"]}, "spec": {"taints": after}});
    let path = target.path();
    let made =
        cx.json(write(cx, Call::new("PATCH", &path).content_type(MERGE_PATCH).body(&patch), "kubectl-taint")?).await?;
    told(cx, &made, done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read() {
        let taint = read("a=b:NoSchedule").unwrap();
        assert_eq!((taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()), ("a", Some("b"), "NoSchedule"));
        assert!(
            read("a:NoExecute-").unwrap().value.is_none()
                && read("a-").is_ok()
                && read("a:NoSchedule").unwrap().value.is_some()
        );
        assert!(read("a=b").is_err() && read("a=b:Never").is_err() && read(":NoSchedule").is_err());
    }
}
