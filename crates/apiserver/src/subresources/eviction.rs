//! The Eviction API (`pods/eviction`): deletes a pod if the disruption budget that covers it allows it.

use std::sync::Arc;

use api::kinds;
use api::kinds::Target;
use apimachinery::{LabelSelector, ObjectExt as _, Status, clock};
use http::{Request, Response};
use serde_json::{Value, json};

use super::{admission_attributes, set_condition};
use crate::ApiServer;
use crate::admission::{Operation, dynamic};
use crate::authentication::User;
use crate::pipeline::{WriteRequest, check_preconditions, decode};
use crate::registry::{Entry, Filter};
use crate::request::{DeleteOptions, ResourceRequest};
use crate::response::{self, Body};

/// Pods that a budget holds in `status.disruptedPods` at the most (upstream's `MaxDisruptedPodSize`).
const MAX_DISRUPTED_PODS: usize = 2000;

/// Evicts a pod.
///
/// # Errors
/// 429 when the pod's disruption budget doesn't allow it, 500 when several budgets cover the pod, and what the deletion refuses.
pub async fn create(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let eviction = decode::of_type(request, "io.k8s.api.policy.v1.Eviction").await?;
    if eviction.name() != info.path.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = DeleteOptions::from_json(&eviction["deleteOptions"], &info.query)?;
    let attributes = admission_attributes(user, info, Operation::Create, options.dry_run);
    dynamic::admit(server, &attributes, &eviction).await?;
    let entry = server.cache.stored(info.kind)?.get(&info.key()).ok_or_else(|| info.not_found())?;
    let pod = entry.parse();
    // Before the budget pays for it.
    check_preconditions(info.kind, &info.path.name, &pod, &options)?;
    take_from_budget(server, &entry, &pod, options.dry_run).await?;
    let write = WriteRequest::of(server, user, info)?.to(Target::Everything).admitted();
    if !options.dry_run && !pod.is_deleting() {
        write.update(with_disruption_target).await?;
    }
    // The pod's version is another one now, by the condition.
    let options = DeleteOptions { resource_version: String::new(), ..options };
    WriteRequest::of(server, user, info)?.delete(&options).await?;
    Ok(response::created())
}

/// A pod with the condition `DisruptionTarget` (KEP-3329).
fn with_disruption_target(current: &Value) -> Result<Value, Status> {
    let mut new = current.clone();
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": clock::now_rfc3339()});
    set_condition(&mut new, condition);
    Ok(new)
}

/// Takes the eviction from the budget that covers the pod. Pods that don't run, or are being deleted, cost no budget anything.
async fn take_from_budget(server: &Arc<ApiServer>, entry: &Entry, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let is_over = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending");
    if is_over || pod.is_deleting() {
        return Ok(());
    }
    let filter = Filter { namespace: entry.namespace().into(), ..Filter::default() };
    let budgets = server.cache.of(kinds::POD_DISRUPTION_BUDGETS).list(&filter).0;
    let covers = |budget: &Value| {
        let selector = &budget["spec"]["selector"];
        !selector.is_null() && LabelSelector::from_json(selector).is_ok_and(|s| s.matches(|k| entry.label(k)))
    };
    let mut covering = budgets.into_iter().filter(|budget| covers(&budget.parse()));
    let Some(budget) = covering.next() else { return Ok(()) };
    if covering.next().is_some() {
        let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        // Upstream gives no reason.
        return Err(Status::new(500, "", text));
    }
    let conditions = pod.array_at(&["status", "conditions"]);
    let is_ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let write = WriteRequest::by_server(server, budget_kind(), budget.namespace(), budget.name()).for_status();
    let taken = write.update(|budget| {
        let new = without_disruption(budget, entry.name(), is_ready)?;
        Ok(if dry_run { budget.clone() } else { new })
    });
    match taken.await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == "NotFound" => Ok(()),
        Err(status) if status.reason == "Conflict" => {
            let text = format!("couldn't update PodDisruptionBudget {:?} due to conflicts", budget.name());
            Err(Status::new(504, "Timeout", text))
        }
        Err(status) => Err(status),
    }
}

fn budget_kind() -> &'static api::Kind {
    kinds::POD_DISRUPTION_BUDGETS
}

/// The budget with one disruption less, or as it is if the eviction costs it nothing (upstream's `checkAndDecrement`).
fn without_disruption(budget: &Value, pod: &str, is_ready: bool) -> Result<Value, Status> {
    let count = |key: &str| budget.i64_at(&["status", key]).unwrap_or(0);
    let enough = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    if !is_ready && (always || enough) {
        return Ok(budget.clone());
    }
    let name = budget.name();
    if count("observedGeneration") < budget.i64_at(&["metadata", "generation"]).unwrap_or(0) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(too_many_disruptions(10, &why));
    }
    if budget["status"]["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED_PODS) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(budget_kind().forbidden(name, why));
    }
    if count("disruptionsAllowed") < 1 {
        return Err(too_many_disruptions(0, &why_none(budget)));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = (count("disruptionsAllowed") - 1).into();
    new["status"]["disruptedPods"][pod] = clock::now_rfc3339().into();
    Ok(new)
}

/// Why a budget lets no pod go. Where its pods couldn't be counted the numbers say nothing.
fn why_none(budget: &Value) -> String {
    let name = budget.name();
    let count = |key: &str| budget.i64_at(&["status", key]).unwrap_or(0);
    let conditions = budget.array_at(&["status", "conditions"]);
    let told = conditions.iter().find(|c| c["type"] == "DisruptionAllowed" && c["status"] == "False");
    let (reason, message) = told.map_or(("", ""), |c| (c.str_at(&["reason"]), c.str_at(&["message"])));
    let (needs, has) = (count("desiredHealthy"), count("currentHealthy"));
    match reason {
        "SyncFailed" if !message.is_empty() => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        ),
        _ if has <= needs => format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently"),
        _ if !message.is_empty() => {
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
        }
        _ => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

fn too_many_disruptions(retry_after_seconds: u32, why: &str) -> Status {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(text, retry_after_seconds);
    status.details.get_or_insert_default()["causes"] = json!([{"reason": "DisruptionBudget", "message": why}]);
    status
}
