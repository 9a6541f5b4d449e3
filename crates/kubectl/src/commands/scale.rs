//! `scale` and `autoscale`

use std::sync::Arc;

use serde_json::json;

use super::common::{DryRun, each, pause, targets, told, write};
use super::{Command, run, usage};
use crate::client::{Call, MERGE_PATCH};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::flags::{Flag, common as f, text, text_or};
use crate::select::Target;

pub const SCALE: Command = Command {
    name: "scale",
    about: "Set a new size for a deployment, replica set, or replication controller",
    flags: &[
        FLAGS,
        &[
            text("replicas", "The new number"),
            text_or("current-replicas", "-1", "Only if there are as many now"),
            f::RESOURCE_VERSION,
            f::TIMEOUT,
        ],
    ],
    run: run!(scale),
    ..Command::NONE
};

pub const AUTOSCALE: Command = Command {
    name: "autoscale",
    about: "Auto-scale a deployment, replica set, stateful set, or replication controller",
    flags: &[
        FLAGS,
        &[
            text_or("min", "-1", "Least number of pods"),
            text_or("max", "-1", "Largest number of pods"),
            text("cpu", "Target of CPU: 80%, or an amount as 500m"),
            text("memory", "Target of memory: 60%, or an amount"),
            text("cpu-percent", "Target of CPU in percent of requests"),
            text("name", "Name of the autoscaler"),
            f::FIELD_MANAGER,
            f::SAVE_CONFIG,
        ],
    ],
    run: run!(autoscale),
    ..Command::NONE
};

const FLAGS: &[Flag] = &[
    f::OUTPUT,
    f::TEMPLATE,
    f::ALLOW_MISSING,
    f::SHOW_MANAGED_FIELDS,
    f::DRY_RUN,
    f::FILENAME,
    f::KUSTOMIZE,
    f::RECURSIVE,
    f::SELECTOR,
    f::ALL,
];

async fn scale(cx: Arc<Context>) -> Result<()> {
    if !cx.args.given("replicas") {
        return fail("required flag(s) \"replicas\" not set");
    }
    let replicas = cx.args.number("replicas")?;
    if replicas < 0 {
        return fail("The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0");
    }
    let (found, errors) = targets(&cx, &cx.args.words).await?;
    if found.is_empty() && errors.is_empty() {
        return fail("no objects passed to scale");
    }
    each(&found, errors, |target| scale_one(&cx, target, replicas)).await
}

async fn scale_one(cx: &Context, target: &Target, replicas: i64) -> Result<()> {
    let path = format!("{}/scale", target.path());
    let expected = cx.args.number("current-replicas")?;
    if expected >= 0 {
        let current = cx.get(&path).await?["spec"]["replicas"].as_i64().unwrap_or(0);
        if current != expected {
            return fail(format!("Expected replicas to be {expected}, was {current}"));
        }
    }
    let mut patch = json!({"spec": {"replicas": replicas}});
    if !cx.args.text("resource-version").is_empty() {
        patch["metadata"]["resourceVersion"] = cx.args.text("resource-version").into();
    }
    if DryRun::of(cx)? == DryRun::Client {
        return told(cx, &target.object, "scaled");
    }
    let call = write(cx, Call::new("PATCH", &path).content_type(MERGE_PATCH).body(&patch), "")?;
    cx.json(call).await?;
    let limit = cx.args.duration("timeout")?;
    if limit > 0 {
        let begun = std::time::Instant::now();
        while cx.get(&path).await?["status"]["replicas"].as_i64().unwrap_or(0) != replicas {
            if begun.elapsed().as_nanos() > u128::from(limit.unsigned_abs()) {
                return fail("timed out waiting for the condition");
            }
            pause().await;
        }
    }
    told(cx, &target.object, "scaled")
}

async fn autoscale(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    if !args.given("max") {
        return fail("required flag(s) \"max\" not set");
    }
    let (min, max) = (args.number("min")?, args.number("max")?);
    if max < 1 {
        return fail(format!("--max=MAXPODS is required and must be at least 1, max: {max}"));
    }
    if max < min {
        return fail(format!("--max=MAXPODS must be larger or equal to --min=MINPODS, max: {max}, min: {min}"));
    }
    let mut metrics = Vec::new();
    for resource in ["cpu", "memory"] {
        let mut target = args.text(resource).to_string();
        if resource == "cpu" && !args.text("cpu-percent").is_empty() && args.text("cpu-percent") != "-1" {
            target = format!("{}%", args.text("cpu-percent"));
        }
        if target.is_empty() {
            continue;
        }
        let target = match target.strip_suffix('%') {
            Some(percent) => match percent.parse::<i64>() {
                Ok(percent) => json!({"type": "Utilization", "averageUtilization": percent}),
                Err(_) => return fail(format!("invalid {resource} percentage: {percent}")),
            },
            None => json!({"type": "AverageValue", "averageValue": target}),
        };
        metrics.push(json!({"type": "Resource", "resource": {"name": resource, "target": target}}));
    }
    let (found, errors) = targets(&cx, &args.words).await?;
    if found.is_empty() && errors.is_empty() {
        return usage(&cx, "no objects passed to autoscale");
    }
    each(&found, errors, |target| autoscale_one(&cx, target, (min, max), &metrics)).await
}

async fn autoscale_one(
    cx: &Context,
    target: &Target,
    (min, max): (i64, i64),
    metrics: &[serde_json::Value],
) -> Result<()> {
    // What can't be scaled has no autoscaler.
    cx.get(&format!("{}/scale", target.path())).await?;
    let name = if cx.args.text("name").is_empty() { target.name.as_str() } else { cx.args.text("name") };
    let mut autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
        "spec": {"maxReplicas": max, "scaleTargetRef": {"apiVersion": target.resource.api_version(), "kind": target.resource.kind, "name": target.name}}});
    if min > 0 {
        autoscaler["spec"]["minReplicas"] = min.into();
    }
    if !metrics.is_empty() {
        autoscaler["spec"]["metrics"] = metrics.into();
    }
    if DryRun::of(cx)? == DryRun::Client {
        return told(cx, &autoscaler, "autoscaled");
    }
    let path = format!("/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers", target.namespace);
    let call = write(cx, Call::new("POST", &path).body(&autoscaler), "kubectl-autoscale")?;
    let made = cx.json(call).await?;
    told(cx, &made, "autoscaled")
}
