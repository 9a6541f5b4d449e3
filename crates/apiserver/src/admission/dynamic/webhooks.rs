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
use super::conditions::{Facts, request};
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
    let hooks = matching(server, kinds::MUTATING_WEBHOOK_CONFIGURATIONS, attributes, object)?;
    let mut mutation = Mutation::default();
    let mut seen: Vec<Value> = Vec::new();
    for hook in &hooks {
        ask_to_change(server, hook, attributes, object, &mut mutation).await?;
        seen.push(object.clone());
    }
    // A webhook with `reinvocationPolicy: IfNeeded` is asked again about what later ones changed.
    for (hook, seen) in hooks.iter().zip(&seen) {
        if hook["reinvocationPolicy"] == "IfNeeded" && seen != object {
            ask_to_change(server, hook, attributes, object, &mut mutation).await?;
        }
    }
    Ok(mutation)
}

async fn ask_to_change(
    server: &ApiServer,
    hook: &Value,
    attributes: &AdmissionAttributes<'_>,
    object: &mut Value,
    mutation: &mut Mutation,
) -> Result<(), Status> {
    let Some(answer) = ask(server, hook, attributes, object).await? else { return Ok(()) };
    mutation.warnings.extend(answer.strings_at(&["warnings"]).into_iter().map(String::from));
    let Some(encoded) = answer["patch"].as_str() else { return Ok(()) };
    let changed = || -> Result<Value, String> {
        let bytes = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
        let (patch, _) = api::decode::json(&bytes).map_err(|e| e.to_string())?;
        let mut changed = object.clone();
        patch::json_patch(&mut changed, &patch).map_err(|e| e.to_string())?;
        bounded::check_result(&changed).map_err(|why| format!("of the object that results, {why}"))?;
        Ok(changed)
    };
    match changed() {
        Ok(changed) => {
            mutation.is_changed |= changed != *object;
            *object = changed;
        }
        Err(why) => failed(hook, &format!("its patch can't be applied: {why}"))?,
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
    let hooks = matching(server, kinds::VALIDATING_WEBHOOK_CONFIGURATIONS, attributes, object)?;
    let answers = futures::future::join_all(hooks.iter().map(|hook| ask(server, hook, attributes, object))).await;
    let mut warnings = Vec::new();
    for answer in answers {
        if let Some(answer) = answer? {
            warnings.extend(answer.strings_at(&["warnings"]).into_iter().map(String::from));
        }
    }
    Ok(warnings)
}

/// The webhooks whose rules, selectors and conditions fit, in the order of their configurations' names.
fn matching(
    server: &Arc<ApiServer>,
    configured_as: &'static Kind,
    attributes: &AdmissionAttributes<'_>,
    object: &Value,
) -> Result<Vec<Value>, Status> {
    let configurations = server.cache.of(configured_as);
    let mut hooks = Vec::new();
    if configurations.len() == 0 {
        return Ok(hooks);
    }
    for entry in configurations.list(&Filter::default()).0 {
        let configuration = entry.parse();
        for hook in configuration.array_at(&["webhooks"]) {
            if hook_fits(server, hook, attributes, object) && conditions_fit(server, hook, attributes, object)? {
                hooks.push(hook.clone());
            }
        }
    }
    Ok(hooks)
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
    let facts = Facts::gather(server, attributes, object);
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
    attributes: &AdmissionAttributes<'_>,
    object: &Value,
) -> Result<Option<Value>, Status> {
    let name = hook.str_at(&["name"]);
    if attributes.dry_run && !matches!(hook.str_at(&["sideEffects"]), "None" | "NoneOnDryRun") {
        let text = format!("admission webhook {name:?} does not support dry run because it has side effects");
        return Err(Status::bad_request(text));
    }
    let review = review(attributes, object);
    let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30);
    let answer = tokio::time::timeout(
        Duration::from_secs(seconds),
        egress::post(server, &hook["clientConfig"], Some(seconds), &review),
    )
    .await;
    // In the words of Go's client, which people and upstream's tests look for.
    let late = || format!("Post {:?}: context deadline exceeded", egress::url(&hook["clientConfig"], seconds));
    let answer = answer.unwrap_or_else(|_| Err(late()));
    let response = answer.and_then(|answer| {
        let response = &answer["response"];
        match response["uid"] == review["request"]["uid"] {
            true => Ok(response.clone()),
            false => Err("its answer is to another request (the uid differs)".into()),
        }
    });
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
    let status = &response["status"];
    let code =
        status["code"].as_u64().and_then(|c| u16::try_from(c).ok()).filter(|c| (400..600).contains(c)).unwrap_or(403);
    let why = match (status.str_at(&["message"]), status.str_at(&["reason"])) {
        ("", "") => "without explanation".to_string(),
        ("", reason) => format!(": {reason}"),
        (message, _) => format!(": {message}"),
    };
    let why =
        if why.starts_with(':') { format!("denied the request{why}") } else { format!("denied the request {why}") };
    Err(Status::new(code, "Forbidden", format!("admission webhook {name:?} {why}")))
}

fn review(attributes: &AdmissionAttributes<'_>, object: &Value) -> Value {
    let mut request = request(attributes);
    request["uid"] = uuid::Uuid::new_v4().to_string().into();
    request["object"] = if attributes.operation == Operation::Delete { Value::Null } else { object.clone() };
    request["oldObject"] = attributes.old.cloned().unwrap_or(Value::Null);
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
}
