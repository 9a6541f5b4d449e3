//! `drain`

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::common::DryRun;
use super::{chosen, mark};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Result, fail};
use crate::print::line;
use crate::select::Target;

const MIRROR: &str = "kubernetes.io/config.mirror";

pub async fn drain(cx: Arc<Context>) -> Result<()> {
    let nodes = chosen(&cx).await?;
    for node in &nodes {
        mark(&cx, node, true).await?;
    }
    for node in &nodes {
        one(&cx, node).await?;
    }
    Ok(())
}

/// What a drain does with a pod.
enum Plan {
    Evict,
    Leave,
    /// It goes, with these words.
    Warn(&'static str),
    /// It can't go without a flag.
    Refuse(&'static str),
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}

fn plan(cx: &Context, pod: &Value) -> Plan {
    let args = &cx.args;
    let ended = ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
    if !pod["metadata"]["annotations"][MIRROR].is_null() {
        return Plan::Leave;
    }
    let owners = pod["metadata"]["ownerReferences"].as_array();
    let owner = owners.into_iter().flatten().find(|o| o["controller"] == true);
    if owner.is_some_and(|o| o["kind"] == "DaemonSet") && !ended {
        return if args.is("ignore-daemonsets") {
            Plan::Leave
        } else {
            Plan::Refuse("cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)")
        };
    }
    if ended {
        return Plan::Evict;
    }
    let local = pod["spec"]["volumes"].as_array().into_iter().flatten().any(|v| v["emptyDir"].is_object());
    if local && !args.is("delete-emptydir-data") {
        return Plan::Refuse("cannot delete Pods with local storage (use --delete-emptydir-data to override)");
    }
    match (owner.is_some(), args.is("force")) {
        (true, _) => Plan::Evict,
        (false, true) => Plan::Warn("deleting Pods that declare no controller"),
        (false, false) => Plan::Refuse("cannot delete Pods that declare no controller (use --force to override)"),
    }
}

/// A reason, and the pod that it is about.
type Told = (&'static str, String);

async fn one(cx: &Context, node: &Target) -> Result<()> {
    let call = Call::new("GET", "/api/v1/pods")
        .query("fieldSelector", format!("spec.nodeName={}", node.name))
        .maybe("labelSelector", cx.args.text("pod-selector"));
    let found = cx.json(call).await?;
    let mut goes: Vec<&Value> = Vec::new();
    let (mut notes, mut refused): (Vec<Told>, Vec<Told>) = Default::default();
    for pod in found["items"].as_array().into_iter().flatten() {
        let shown = format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        match plan(cx, pod) {
            Plan::Leave if pod["metadata"]["annotations"][MIRROR].is_null() => {
                notes.push(("ignoring DaemonSet-managed Pods", shown))
            }
            Plan::Leave => {}
            Plan::Evict => goes.push(pod),
            Plan::Warn(why) => {
                notes.push((why, shown));
                goes.push(pod);
            }
            Plan::Refuse(why) => refused.push((why, shown)),
        }
    }
    if !refused.is_empty() {
        return fail(format!(
            "unable to drain node {:?} due to error: {}, continuing command...\nThere are pending nodes to be drained:\n {}\n{}",
            node.name,
            join(&refused),
            node.name,
            join(&refused)
        ));
    }
    if !notes.is_empty() {
        eprintln!("Warning: {}", join(&notes));
    }
    let dry = DryRun::of(cx)?;
    if dry != DryRun::No {
        for pod in &goes {
            line(&format!(
                "evicting pod {}/{} ({})",
                text(pod, "/metadata/namespace"),
                text(pod, "/metadata/name"),
                if dry == DryRun::Client { "dry run" } else { "server dry run" }
            ))?;
        }
        return line(&format!(
            "node/{} drained{}",
            node.name,
            if dry == DryRun::Client { " (dry run)" } else { " (server dry run)" }
        ));
    }
    let limit = cx.args.duration("timeout")?;
    let deadline =
        (limit > 0).then(|| Instant::now().checked_add(Duration::from_nanos(limit.unsigned_abs()))).flatten();
    let all = goes.iter().map(|pod| remove(cx, pod, deadline));
    crate::error::all(futures::future::join_all(all).await.into_iter().filter_map(Result::err).collect())?;
    line(&format!("node/{} drained", node.name))
}

/// Reasons, each with its pods.
fn join(all: &[Told]) -> String {
    let mut reasons: Vec<&str> = all.iter().map(|(why, _)| *why).collect();
    reasons.dedup();
    reasons.sort_unstable();
    reasons.dedup();
    let part = |why: &str| {
        format!(
            "{why}: {}",
            all.iter().filter(|(w, _)| *w == why).map(|(_, pod)| pod.clone()).collect::<Vec<_>>().join(", ")
        )
    };
    reasons.into_iter().map(part).collect::<Vec<_>>().join("; ")
}

/// Evicts a pod, as often as a disruption budget says no, and waits until it is gone.
async fn remove(cx: &Context, pod: &Value, deadline: Option<Instant>) -> Result<()> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let mut options = json!({});
    let grace = cx.args.number("grace-period")?;
    if grace >= 0 {
        options["gracePeriodSeconds"] = grace.into();
    }
    let is_late = || deadline.is_some_and(|at| Instant::now() > at);
    loop {
        eprintln!("evicting pod {namespace}/{name}");
        let outcome = if cx.args.is("disable-eviction") {
            cx.send(Call::new("DELETE", &path).body(&options)).await
        } else {
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}, "deleteOptions": options});
            cx.send(Call::new("POST", &format!("{path}/eviction")).body(&eviction)).await
        };
        match outcome {
            Ok(_) => break,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.reason() == "TooManyRequests" && !is_late() => {
                eprintln!("error when evicting pods/{name:?} -n {namespace:?} (will retry after 5s): {}", error.text());
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            Err(error) => return Err(error.with_prefix(&format!("error when evicting pods/{name:?} -n {namespace:?}"))),
        }
    }
    loop {
        match cx.get(&path).await {
            Err(error) if error.is_not_found() => break,
            Err(error) => return Err(error),
            Ok(current) if current["metadata"]["uid"] != pod["metadata"]["uid"] => break,
            Ok(_) if is_late() => {
                return fail(format!(
                    "error when waiting for pod {name:?} in namespace {namespace:?} to terminate: global timeout reached"
                ));
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
    line(&format!("pod/{name} evicted"))
}
