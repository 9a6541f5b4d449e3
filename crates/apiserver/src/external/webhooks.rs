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
use bytes::Bytes;
use expressions::Budget;
use http::{Request, Uri, header};
use serde_json::{Value, json};

use super::Attempt;
use super::conditions::{Facts, request};
use super::matching::hook_fits;
use crate::object::Filter;
use crate::relay::{Target, connector, endpoint};
use crate::response;
use crate::{ApiServer, audit};

/// The largest answer that is read.
const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// Lets the mutating webhooks change an object, and returns their warnings.
pub async fn mutate(server: &Arc<ApiServer>, attempt: &Attempt<'_>, object: &mut Value) -> Result<Vec<String>, Status> {
    let hooks = matching(server, kinds::MUTATING_WEBHOOK_CONFIGURATIONS, attempt, object)?;
    let mut warnings = Vec::new();
    let mut seen: Vec<Value> = Vec::new();
    for hook in &hooks {
        ask_to_change(server, hook, attempt, object, &mut warnings).await?;
        seen.push(object.clone());
    }
    // Whoever wants to see what later ones changed is asked once more.
    for (hook, seen) in hooks.iter().zip(&seen) {
        if hook["reinvocationPolicy"] == "IfNeeded" && seen != object {
            ask_to_change(server, hook, attempt, object, &mut warnings).await?;
        }
    }
    Ok(warnings)
}

async fn ask_to_change(
    server: &ApiServer,
    hook: &Value,
    attempt: &Attempt<'_>,
    object: &mut Value,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let Some(answer) = ask(server, hook, attempt, object).await? else { return Ok(()) };
    warnings.extend(answer.strings_at(&["warnings"]).into_iter().map(String::from));
    let Some(encoded) = answer["patch"].as_str() else { return Ok(()) };
    let changed = || -> Result<Value, String> {
        let bytes = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
        let (patch, _) = api::decode::json(&bytes).map_err(|e| e.to_string())?;
        let mut changed = object.clone();
        patch::json_patch(&mut changed, &patch).map_err(|e| e.to_string())?;
        bounded::result(&changed).map_err(|why| format!("of the object that results, {why}"))?;
        Ok(changed)
    };
    match changed() {
        Ok(changed) => *object = changed,
        Err(why) => failed(hook, &format!("its patch can't be applied: {why}"))?,
    }
    Ok(())
}

/// Asks the validating webhooks, and returns their warnings.
pub async fn validate(server: &Arc<ApiServer>, attempt: &Attempt<'_>, object: &Value) -> Result<Vec<String>, Status> {
    let hooks = matching(server, kinds::VALIDATING_WEBHOOK_CONFIGURATIONS, attempt, object)?;
    let answers = futures::future::join_all(hooks.iter().map(|hook| ask(server, hook, attempt, object))).await;
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
    attempt: &Attempt<'_>,
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
            if hook_fits(server, hook, attempt, object) && conditions_fit(server, hook, attempt, object)? {
                hooks.push(hook.clone());
            }
        }
    }
    Ok(hooks)
}

fn conditions_fit(
    server: &Arc<ApiServer>,
    hook: &Value,
    attempt: &Attempt<'_>,
    object: &Value,
) -> Result<bool, Status> {
    let conditions = hook.array_at(&["matchConditions"]);
    if conditions.is_empty() {
        return Ok(true);
    }
    let facts = Facts::gather(server, attempt, object);
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
async fn ask(server: &ApiServer, hook: &Value, attempt: &Attempt<'_>, object: &Value) -> Result<Option<Value>, Status> {
    let name = hook.str_at(&["name"]);
    if attempt.dry_run && !matches!(hook.str_at(&["sideEffects"]), "None" | "NoneOnDryRun") {
        let text = format!("admission webhook {name:?} does not support dry run because it has side effects");
        return Err(Status::bad_request(text));
    }
    let review = review(attempt, object);
    let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30);
    let answer =
        tokio::time::timeout(Duration::from_secs(seconds), post(server, &hook["clientConfig"], Some(seconds), &review))
            .await;
    // In the words of Go's client, which people and upstream's tests look for.
    let late = || format!("Post {:?}: context deadline exceeded", address(&hook["clientConfig"], seconds));
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

fn review(attempt: &Attempt<'_>, object: &Value) -> Value {
    let mut request = request(attempt);
    request["uid"] = uuid::Uuid::new_v4().to_string().into();
    request["object"] = if attempt.operation == "DELETE" { Value::Null } else { object.clone() };
    request["oldObject"] = attempt.old.cloned().unwrap_or(Value::Null);
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
}

/// Sends a review to where `config` (`clientConfig`) says, and returns the answer. Who is asked may know after how many
/// seconds nobody waits any more.
pub async fn post(server: &ApiServer, config: &Value, seconds: Option<u64>, review: &Value) -> Result<Value, String> {
    let (target, mut path) = target(server, config)?;
    if let Some(seconds) = seconds {
        path = format!("{path}{}timeout={seconds}s", if path.contains('?') { '&' } else { '?' });
    }
    let name = target.tls.as_ref().map_or("", |(_, name)| name);
    let request = Request::post(path)
        .header(header::HOST, name)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(response::full(Bytes::from(review.to_string())))
        .map_err(|e| e.to_string())?;
    let answer = target.send(request).await.map_err(|status| status.message)?;
    let status = answer.status();
    let body = bounded::body(answer.into_body(), MAX_RESPONSE_BYTES).await.map_err(|e| e.to_string())?;
    if !status.is_success() {
        return Err(format!("it answered {status}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])));
    }
    serde_json::from_slice(&body).map_err(|e| format!("its answer is no JSON: {e}"))
}

/// The URL of a webhook as upstream writes it.
fn address(config: &Value, seconds: u64) -> String {
    if let Some(url) = config["url"].as_str() {
        return format!("{url}?timeout={seconds}s");
    }
    let service = &config["service"];
    let (namespace, name) = (service.str_at(&["namespace"]), service.str_at(&["name"]));
    let port = service["port"].as_u64().unwrap_or(443);
    let path = service.str_at(&["path"]);
    format!("https://{name}.{namespace}.svc:{port}/{}?timeout={seconds}s", path.trim_start_matches('/'))
}

fn target(server: &ApiServer, config: &Value) -> Result<(Target, String), String> {
    let bundle =
        STANDARD.decode(config.str_at(&["caBundle"])).map_err(|e| format!("its caBundle is no base64: {e}"))?;
    let tls = connector(Some(&String::from_utf8_lossy(&bundle)), None).map_err(|e| format!("its caBundle: {e}"))?;
    if let Some(url) = config["url"].as_str() {
        let uri: Uri = url.parse().map_err(|e| format!("{url:?} is no URL: {e}"))?;
        let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?.trim_matches(['[', ']']).to_string();
        let path = uri.path_and_query().map_or("/".into(), ToString::to_string);
        let (what, port) = (format!("the webhook {url}"), uri.port_u16().unwrap_or(443));
        return Ok((Target { what, port, tls: Some((tls, host.clone())), host, anywhere: true }, path));
    }
    let service = &config["service"];
    let (namespace, name) = (service.str_at(&["namespace"]), service.str_at(&["name"]));
    let port = service["port"].as_u64().unwrap_or(443).to_string();
    let (host, port) = endpoint(server, namespace, name, &port).map_err(|status| status.message)?;
    let path = Some(service.str_at(&["path"])).filter(|p| !p.is_empty()).unwrap_or("/");
    let what = format!("the webhook of service {namespace}/{name}");
    Ok((Target { what, host, port, tls: Some((tls, format!("{name}.{namespace}.svc"))), anywhere: false }, path.into()))
}
