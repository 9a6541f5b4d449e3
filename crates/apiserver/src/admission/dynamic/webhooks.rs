//! Admission webhooks (`admissionregistration.k8s.io/v1`): programs in the cluster that change or refuse objects.
//!
//! Mutating ones are asked one after the other, in the order of their names; then, once the object is as it will be
//! stored, all validating ones at once.
use std::sync::Arc;
use std::time::Duration;

use api::{Kind, kinds};
use apimachinery::{ObjectExt as _, Status, bounded, patch};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use expressions::Budget;
use serde_json::{Value, json};

use super::super::{AdmissionAttributes, Operation};
use super::Mutation;
use super::conditions::{Facts, in_version, request};
use super::matching::hook_fits;
use crate::registry::Filter;
use crate::{ApiServer, audit, egress};

/// Lets the mutating webhooks change an object.
///
/// # Errors
/// The Status of a webhook that refuses the object, 500 of one that can't be asked and whose failures aren't ignored.
pub async fn mutate(
    server: &Arc<ApiServer>,
    attributes: &AdmissionAttributes<'_>,
    object: &mut Value,
) -> Result<Mutation, Status> {
    let hooks = configured(server, kinds::MUTATING_WEBHOOK_CONFIGURATIONS);
    let mut mutation = Mutation::default();
    let mut asked: Vec<(&Value, Value)> = Vec::new();
    for hook in &hooks {
        // By what those before it have made of the object.
        let Some(kind) = fits(server, hook, attributes, object)? else { continue };
        ask_to_change(server, hook, kind, attributes, object, &mut mutation).await?;
        if hook["reinvocationPolicy"] == "IfNeeded" {
            asked.push((hook, object.clone()));
        }
    }
    // A webhook with `reinvocationPolicy: IfNeeded` is asked again about what later ones changed.
    for (hook, seen) in asked {
        if seen != *object
            && let Some(kind) = fits(server, hook, attributes, object)?
        {
            ask_to_change(server, hook, kind, attributes, object, &mut mutation).await?;
        }
    }
    Ok(mutation)
}

async fn ask_to_change(
    server: &ApiServer,
    hook: &Value,
    kind: &Kind,
    attributes: &AdmissionAttributes<'_>,
    object: &mut Value,
    mutation: &mut Mutation,
) -> Result<(), Status> {
    let shown = in_version(server, attributes, kind, object).await?;
    let Some(answer) = ask(server, hook, kind, attributes, &shown).await? else { return Ok(()) };
    mutation.warnings.extend(answer.strings_at(&["warnings"]).into_iter().map(String::from));
    let Some(encoded) = answer["patch"].as_str().filter(|patch| !patch.is_empty()) else { return Ok(()) };
    let changed = || -> Result<Value, String> {
        let bytes = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
        let (patch, _) = api::decode::json(&bytes).map_err(|e| e.to_string())?;
        let mut changed = shown.clone();
        patch::json_patch(&mut changed, &patch).map_err(|e| e.to_string())?;
        bounded::check_result(&changed).map_err(|why| format!("of the object that results, {why}"))?;
        Ok(changed)
    };
    // Whatever its policy for failures: it was asked, and wanted something.
    let changed = changed()
        .map_err(|why| Status::internal(format!("the patch of webhook {:?} can't be applied: {why}", hook["name"])))?;
    if changed != shown {
        mutation.is_changed = true;
        *object = in_version(server, attributes, attributes.kind, &changed).await?;
    }
    Ok(())
}

/// Asks the validating webhooks, and returns their warnings.
///
/// # Errors
/// The Status of a webhook that refuses the object, 500 of one that can't be asked and whose failures aren't ignored.
pub async fn validate(
    server: &Arc<ApiServer>,
    attributes: &AdmissionAttributes<'_>,
    object: &Value,
) -> Result<Vec<String>, Status> {
    let hooks = configured(server, kinds::VALIDATING_WEBHOOK_CONFIGURATIONS);
    let mut due = Vec::new();
    for hook in &hooks {
        due.extend(fits(server, hook, attributes, object)?.map(|kind| (hook, kind)));
    }
    let asking = due.into_iter().map(|(hook, kind)| async move {
        let shown = in_version(server, attributes, kind, object).await?;
        ask(server, hook, kind, attributes, &shown).await
    });
    let mut warnings = Vec::new();
    for answer in futures::future::join_all(asking).await {
        if let Some(answer) = answer? {
            warnings.extend(answer.strings_at(&["warnings"]).into_iter().map(String::from));
        }
    }
    Ok(warnings)
}

/// All webhooks of a sort, in the order of their configurations' names.
fn configured(server: &ApiServer, sort: &'static Kind) -> Vec<Value> {
    let configurations = server.cache.of(sort);
    if configurations.len() == 0 {
        return Vec::new();
    }
    let all = configurations.list(&Filter::default()).0;
    all.iter().flat_map(|entry| entry.parse().array_at(&["webhooks"]).to_vec()).collect()
}

/// Whether a webhook's rules, selectors and conditions fit, and in which version of the kind it is asked.
fn fits<'k>(
    server: &Arc<ApiServer>,
    hook: &Value,
    attributes: &AdmissionAttributes<'k>,
    object: &Value,
) -> Result<Option<&'k Kind>, Status> {
    match hook_fits(server, hook, attributes, object) {
        Some(kind) if conditions_fit(server, hook, attributes, object)? => Ok(Some(kind)),
        _ => Ok(None),
    }
}

fn conditions_fit(
    server: &Arc<ApiServer>,
    hook: &Value,
    attributes: &AdmissionAttributes<'_>,
    object: &Value,
) -> Result<bool, Status> {
    let conditions = hook.array_at(&["matchConditions"]);
    if conditions.is_empty() {
        return Ok(true);
    }
    let old = attributes.old.cloned().unwrap_or(Value::Null);
    let facts = Facts::gather(server, attributes, attributes.kind, object, old);
    match facts.meet(&server.expressions, conditions, &Budget::new(Budget::REQUEST)) {
        Ok(fits) => Ok(fits),
        Err(why) => failed(hook, &format!("its match conditions can't be evaluated: {why}")).map(|()| false),
    }
}

/// A webhook that can't be asked: an error, unless its policy says that it may be left out.
fn failed(hook: &Value, why: &str) -> Result<(), Status> {
    let name = hook.str_at(&["name"]);
    if hook["failurePolicy"] == "Ignore" {
        tracing::warn!(webhook = name, why, "an admission webhook failed and is ignored (failurePolicy: Ignore)");
        return Ok(());
    }
    Err(Status::internal(format!("failed calling webhook {name:?}: failed to call webhook: {why}")))
}

/// Asks one webhook. `None` if it failed and may be left out.
async fn ask(
    server: &ApiServer,
    hook: &Value,
    kind: &Kind,
    attributes: &AdmissionAttributes<'_>,
    object: &Value,
) -> Result<Option<Value>, Status> {
    let name = hook.str_at(&["name"]);
    if attributes.dry_run && !matches!(hook.str_at(&["sideEffects"]), "None" | "NoneOnDryRun") {
        return Err(Status::bad_request(format!("admission webhook {name:?} does not support dry run")));
    }
    let old = match attributes.old {
        Some(old) => in_version(server, attributes, kind, old).await?,
        None => Value::Null,
    };
    // The first that is known, in the order in which the webhook likes them.
    let versions = hook.strings_at(&["admissionReviewVersions"]);
    let version = versions.into_iter().find(|v| matches!(*v, "v1" | "v1beta1")).unwrap_or("v1");
    let review = review(attributes, kind, version, object, old);
    let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30);
    let answer = tokio::time::timeout(
        Duration::from_secs(seconds),
        egress::post(server, &hook["clientConfig"], Some(seconds), &review),
    )
    .await;
    // In the words of Go's client, which people and upstream's tests look for.
    let late = || format!("Post {:?}: context deadline exceeded", egress::url(&hook["clientConfig"], seconds));
    let answer = answer.unwrap_or_else(|_| Err(late()));
    let response = answer.and_then(|answer| read(&answer, &review));
    let response = match response {
        Ok(response) => response,
        Err(why) => return failed(hook, &why).map(|()| None),
    };
    for (key, value) in response["auditAnnotations"].as_object().into_iter().flatten() {
        audit::annotate(&format!("{name}/{key}"), || value.as_str().unwrap_or("").into());
    }
    if response["allowed"] == true {
        return Ok(Some(response));
    }
    Err(denial(name, &response["status"]))
}

/// The response in a webhook's answer to a review.
fn read(answer: &Value, review: &Value) -> Result<Value, String> {
    let response = &answer["response"];
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    // Of the older version less is asked.
    if review["apiVersion"] != "admission.k8s.io/v1" {
        return Ok(response.clone());
    }
    let of = |review: &Value| format!("{}, Kind={}", review.str_at(&["apiVersion"]), review.str_at(&["kind"]));
    if of(answer) != of(review) {
        return Err(format!("expected webhook response of {}, got {}", of(review), of(answer)));
    }
    let (uid, asked) = (&response["uid"], &review["request"]["uid"]);
    if uid != asked {
        return Err(format!("expected response.uid={asked}, got {uid}"));
    }
    let (patch, kind) = (response.str_at(&["patch"]), &response["patchType"]);
    match (patch.is_empty(), kind.is_null()) {
        (false, true) => Err("webhook returned response.patch but not response.patchType".into()),
        (true, false) => Err("webhook returned response.patchType but not response.patch".into()),
        (false, false) if kind != "JSONPatch" => Err(format!("unsupported patch type {kind}")),
        _ => Ok(response.clone()),
    }
}

/// What a webhook says of what it refuses, with its own words, code, reason and details.
fn denial(name: &str, status: &Value) -> Status {
    const REASONS: [&str; 19] = [
        "AlreadyExists",
        "BadRequest",
        "Conflict",
        "Expired",
        "Forbidden",
        "Gone",
        "InternalError",
        "Invalid",
        "MethodNotAllowed",
        "NotAcceptable",
        "NotFound",
        "RequestEntityTooLarge",
        "ServerTimeout",
        "ServiceUnavailable",
        "StoreReadError",
        "Timeout",
        "TooManyRequests",
        "Unauthorized",
        "UnsupportedMediaType",
    ];
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
    let code = if (400..600).contains(&code) { code } else { 400 };
    let said = status.str_at(&["reason"]);
    let why = match (status.str_at(&["message"]), said) {
        ("", "") => " without explanation".to_string(),
        ("", reason) => format!(": {reason}"),
        (message, _) => format!(": {message}"),
    };
    let reason = REASONS.into_iter().find(|reason| *reason == said).unwrap_or("");
    let mut denial = Status::new(code, reason, format!("admission webhook {name:?} denied the request{why}"));
    denial.details = Some(status["details"].clone()).filter(Value::is_object);
    denial
}

fn review(attributes: &AdmissionAttributes<'_>, kind: &Kind, version: &str, object: &Value, old: Value) -> Value {
    let mut request = request(attributes, kind);
    request["uid"] = uuid::Uuid::new_v4().to_string().into();
    request["object"] = if attributes.operation == Operation::Delete { Value::Null } else { object.clone() };
    request["oldObject"] = old;
    json!({"apiVersion": format!("admission.k8s.io/{version}"), "kind": "AdmissionReview", "request": request})
}
