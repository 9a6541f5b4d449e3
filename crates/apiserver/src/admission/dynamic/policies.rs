//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: expressions that refuse or change objects (KEP-3488, KEP-3962).
//!
//! A policy says what; its bindings say where, and with which parameters.

use std::sync::Arc;

use api::{Kind, kinds};
use apimachinery::{LabelSelector, ObjectExt as _, Status, bounded, patch};
use expressions::{Budget, Scope};
use serde_json::{Map, Value, json};

use super::super::{AdmissionAttributes, Operation};
use super::conditions::{Facts, in_version};
use super::matching::resources_fit;
use crate::registry::Filter;
use crate::registry::object_key;
use crate::{ApiServer, audit};

/// The two kinds of policies, which differ in what they do, not in when.
struct Family {
    policies: &'static Kind,
    bindings: &'static Kind,
}

const VALIDATING: Family =
    Family { policies: kinds::VALIDATING_ADMISSION_POLICIES, bindings: kinds::VALIDATING_ADMISSION_POLICY_BINDINGS };
const MUTATING: Family =
    Family { policies: kinds::MUTATING_ADMISSION_POLICIES, bindings: kinds::MUTATING_ADMISSION_POLICY_BINDINGS };

/// A policy where one of its bindings applies it.
struct Application<'k> {
    /// In which version of the kind it is about the request.
    kind: &'k Kind,
    policy: Value,
    binding: Value,
    /// Parameters, or why there are none; `Null` for a policy without.
    parameters: Result<Vec<Value>, String>,
}

impl Application<'_> {
    fn ignores_failures(&self) -> bool {
        self.policy.at(&["spec", "failurePolicy"]) == "Ignore"
    }

    fn described(&self, family: &Family) -> String {
        format!("{} '{}' with binding '{}'", family.policies.kind, self.policy.name(), self.binding.name())
    }
}

/// The policies that are to be applied, by the names of policies and bindings.
fn applications<'k>(
    server: &Arc<ApiServer>,
    family: &Family,
    attributes: &AdmissionAttributes<'k>,
    object: &Value,
) -> Vec<Application<'k>> {
    let mut found = Vec::new();
    let policies = server.cache.of(family.policies);
    if policies.len() == 0 {
        return found;
    }
    let bindings: Vec<Value> =
        server.cache.of(family.bindings).list(&Filter::default()).0.iter().map(|b| b.parse()).collect();
    for policy in policies.list(&Filter::default()).0 {
        let policy = policy.parse();
        let Some(kind) = resources_fit(server, policy.at(&["spec", "matchConstraints"]), attributes, object) else {
            continue;
        };
        for binding in bindings.iter().filter(|b| b.str_at(&["spec", "policyName"]) == policy.name()) {
            if resources_fit(server, binding.at(&["spec", "matchResources"]), attributes, object).is_some() {
                let parameters = parameters(server, &policy, binding, attributes);
                found.push(Application { kind, policy: policy.clone(), binding: binding.clone(), parameters });
            }
        }
    }
    found
}

/// The objects that a binding names as a policy's parameters.
fn parameters(
    server: &Arc<ApiServer>,
    policy: &Value,
    binding: &Value,
    attributes: &AdmissionAttributes<'_>,
) -> Result<Vec<Value>, String> {
    let wanted = policy.at(&["spec", "paramKind"]);
    if !wanted.is_object() {
        return Ok(vec![Value::Null]);
    }
    let (version, name) = (wanted.str_at(&["apiVersion"]), wanted.str_at(&["kind"]));
    let kind = server.catalog.kinds().into_iter().find(|k| k.kind == name && k.api_version() == version);
    let unknown = || format!("failed to find resource referenced by paramKind: '{version}, Kind={name}'");
    let kind = kind.ok_or_else(unknown)?;
    let reference = binding.at(&["spec", "paramRef"]);
    let namespace = match (kind.namespaced, reference.str_at(&["namespace"])) {
        (false, _) => "",
        (true, "") => attributes.namespace,
        (true, namespace) => namespace,
    };
    if kind.namespaced && namespace.is_empty() {
        return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
    }
    let resource = server.cache.resource(kind).ok_or_else(unknown)?;
    let found: Vec<Value> = match reference.str_at(&["name"]) {
        "" => {
            let selector = LabelSelector::from_json(&reference["selector"]).map_err(|e| e.to_string())?;
            let filter = Filter { namespace: namespace.into(), ..Filter::default() };
            let all = resource.list(&filter).0;
            all.iter().filter(|e| selector.matches(|k| e.label(k))).map(|e| e.parse()).collect()
        }
        name => resource.get(&object_key(namespace, name)).iter().map(|e| e.parse()).collect(),
    };
    match (found.is_empty(), reference.str_at(&["parameterNotFoundAction"])) {
        (true, "Allow") | (false, _) => Ok(found),
        _ => Err("no params found for policy binding with `Deny` parameterNotFoundAction".into()),
    }
}

/// The variables of a policy, each of which sees those before it. One that can't be evaluated is missing, so that only
/// an expression that needs it fails.
fn variables(server: &ApiServer, policy: &Value, facts: &Facts, parameter: &Value, budget: &Budget) -> Value {
    let mut known = Map::new();
    for variable in policy.array_at(&["spec", "variables"]) {
        let so_far = Value::Object(known.clone());
        let scope = scope(facts, parameter, &so_far);
        let source = variable.str_at(&["expression"]);
        match Facts::evaluate(&server.expressions, source, |e| e.json(&scope, budget)) {
            Ok(value) => {
                known.insert(variable.str_at(&["name"]).into(), value);
            }
            Err(why) => {
                tracing::debug!(policy = policy.name(), %why, "failed to evaluate a variable of an admission policy")
            }
        }
    }
    Value::Object(known)
}

fn scope<'v>(facts: &'v Facts, parameter: &'v Value, variables: &'v Value) -> Scope<'v> {
    let mut scope = facts.scope();
    scope.bind("params", parameter);
    scope.bind("variables", variables);
    scope
}

/// Something that a policy found wrong.
struct Finding {
    message: String,
    reason: String,
}

impl Finding {
    fn failure(why: impl Into<String>) -> Self {
        Finding { message: why.into(), reason: String::new() }
    }
}

/// Refuses what a policy with a binding of action `Deny` forbids; returns what those of action `Warn` say.
///
/// # Errors
/// 422, or what its reason says, of the first validation that denies the object; failures of expressions deny it, too, unless
/// `failurePolicy` is `Ignore`.
pub async fn validate(
    server: &Arc<ApiServer>,
    attributes: &AdmissionAttributes<'_>,
    object: &Value,
) -> Result<Vec<String>, Status> {
    let mut warnings = Vec::new();
    let applications = applications(server, &VALIDATING, attributes, object);
    if applications.is_empty() {
        return Ok(warnings);
    }
    let mut versions: Vec<(&Kind, Facts)> = Vec::new();
    for application in &applications {
        if !versions.iter().any(|(kind, _)| std::ptr::eq(*kind, application.kind)) {
            let (shown, old) = both_in_version(server, attributes, application.kind, object).await?;
            let facts = Facts::gather(server, attributes, application.kind, &shown, old);
            versions.push((application.kind, facts));
        }
    }
    let budget = Budget::new(Budget::REQUEST);
    let mut noted = Vec::new();
    for application in &applications {
        let facts = versions.iter().find(|(kind, _)| std::ptr::eq(*kind, application.kind));
        let Some((_, facts)) = facts else { continue };
        let findings = findings(server, application, facts, &budget);
        let actions = application.binding.strings_at(&["spec", "validationActions"]);
        for (i, finding) in findings.into_iter().enumerate() {
            if actions.contains(&"Warn") {
                let of = application.described(&VALIDATING);
                warnings.push(format!("Validation failed for {of}: {}", finding.message));
            }
            if actions.contains(&"Audit") {
                noted.push(json!({"message": finding.message, "policy": application.policy.name(),
                    "binding": application.binding.name(), "expressionIndex": i, "validationActions": actions}));
            }
            if actions.contains(&"Deny") || actions.is_empty() {
                return Err(denial(application, attributes, &finding));
            }
        }
    }
    if !noted.is_empty() {
        audit::annotate("validation.policy.admission.k8s.io/validation_failure", || Value::from(noted).to_string());
    }
    Ok(warnings)
}

/// The object that is written, and the one that is there (null without one), in the version of `kind`.
async fn both_in_version(
    server: &ApiServer,
    attributes: &AdmissionAttributes<'_>,
    kind: &Kind,
    object: &Value,
) -> Result<(Value, Value), Status> {
    let old = attributes.old.unwrap_or(&Value::Null);
    Ok((in_version(server, attributes, kind, object).await?, in_version(server, attributes, kind, old).await?))
}

fn findings(server: &Arc<ApiServer>, application: &Application<'_>, facts: &Facts, budget: &Budget) -> Vec<Finding> {
    let ignores = application.ignores_failures();
    let or_ignored = |finding: Finding| if ignores { Vec::new() } else { vec![finding] };
    let policy = &application.policy;
    match facts.meet(&server.expressions, policy.array_at(&["spec", "matchConditions"]), budget) {
        Ok(true) => {}
        Ok(false) => return Vec::new(),
        Err(why) => return or_ignored(Finding::failure(why)),
    }
    let parameters = match &application.parameters {
        Ok(parameters) => parameters,
        Err(why) => return or_ignored(Finding::failure(format!("failed to configure binding: {why}"))),
    };
    let mut findings = Vec::new();
    for parameter in parameters {
        let variables = variables(server, policy, facts, parameter, budget);
        let scope = scope(facts, parameter, &variables);
        for validation in policy.array_at(&["spec", "validations"]) {
            let source = validation.str_at(&["expression"]);
            match Facts::evaluate(&server.expressions, source, |e| e.is_true(&scope, budget)) {
                Ok(true) => {}
                Ok(false) => {
                    let message = message(server, validation, &scope, budget);
                    findings.push(Finding { message, reason: validation.str_at(&["reason"]).into() });
                }
                Err(why) => {
                    let why = format!("expression '{source}' resulted in error: {why}");
                    findings.extend(or_ignored(Finding::failure(why)));
                }
            }
        }
        for annotation in policy.array_at(&["spec", "auditAnnotations"]) {
            let source = annotation.str_at(&["valueExpression"]);
            match Facts::evaluate(&server.expressions, source, |e| e.json(&scope, budget)) {
                // Null leaves it out.
                Ok(Value::String(text)) => {
                    audit::annotate(&format!("{}/{}", policy.name(), annotation.str_at(&["key"])), || text);
                }
                Ok(_) => {}
                Err(why) => {
                    let why = format!("audit annotation expression '{source}' resulted in error: {why}");
                    findings.extend(or_ignored(Finding::failure(why)));
                }
            }
        }
    }
    findings
}

fn message(server: &ApiServer, validation: &Value, scope: &Scope<'_>, budget: &Budget) -> String {
    let source = validation.str_at(&["messageExpression"]);
    let made = (!source.is_empty())
        .then(|| Facts::evaluate(&server.expressions, source, |e| e.text(scope, budget)).ok())
        .flatten()
        .filter(|m| !m.trim().is_empty() && !m.contains('\n'));
    made.unwrap_or_else(|| match validation.str_at(&["message"]).trim() {
        "" => format!("failed expression: {}", validation.str_at(&["expression"]).trim()),
        message => message.into(),
    })
}

/// The answer to a request that a policy denies.
fn denial(application: &Application<'_>, attributes: &AdmissionAttributes<'_>, finding: &Finding) -> Status {
    let why = format!("{} denied request: {}", application.described(&VALIDATING), finding.message);
    let mut status = attributes.kind.forbidden(attributes.name, &why);
    (status.code, status.reason) = match finding.reason.as_str() {
        "Forbidden" => (403, "Forbidden"),
        "Unauthorized" => (401, "Unauthorized"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    if let Some(details) = &mut status.details {
        details["causes"] = json!([{ "message": why }]);
    }
    status
}

/// Lets policies change an object, and returns whether they did. After webhooks changed it, only those that want to see that (`again`).
///
/// # Errors
/// 403 of a policy that fails and whose failures aren't ignored.
pub async fn mutate(
    server: &Arc<ApiServer>,
    attributes: &AdmissionAttributes<'_>,
    object: &mut Value,
    again: bool,
) -> Result<bool, Status> {
    let mut is_changed = false;
    if attributes.operation == Operation::Delete {
        return Ok(is_changed);
    }
    let budget = Budget::new(Budget::REQUEST);
    for application in applications(server, &MUTATING, attributes, object) {
        if again && application.policy.at(&["spec", "reinvocationPolicy"]) != "IfNeeded" {
            continue;
        }
        let (shown, old) = both_in_version(server, attributes, application.kind, object).await?;
        let changed = change(server, &application, attributes, (&shown, &old), &budget);
        match changed {
            Ok(changed) if changed == shown => {}
            Ok(changed) => {
                is_changed = true;
                *object = in_version(server, attributes, attributes.kind, &changed).await?;
            }
            Err(why) if application.ignores_failures() => {
                tracing::warn!(policy = application.policy.name(), %why, "an admission policy failed and is ignored (failurePolicy: Ignore)");
            }
            Err(why) => {
                let why = format!("{} failed: {why}", application.described(&MUTATING));
                return Err(attributes.kind.forbidden(attributes.name, &why));
            }
        }
    }
    Ok(is_changed)
}

fn change(
    server: &Arc<ApiServer>,
    application: &Application<'_>,
    attributes: &AdmissionAttributes<'_>,
    (object, old): (&Value, &Value),
    budget: &Budget,
) -> Result<Value, String> {
    let (policy, kind) = (&application.policy, application.kind);
    let mut current = object.clone();
    let first = Facts::gather(server, attributes, kind, &current, old.clone());
    if !first.meet(&server.expressions, policy.array_at(&["spec", "matchConditions"]), budget)? {
        return Ok(current);
    }
    for parameter in application.parameters.as_ref()? {
        for mutation in policy.array_at(&["spec", "mutations"]) {
            let facts = Facts::gather(server, attributes, kind, &current, old.clone());
            let variables = variables(server, policy, &facts, parameter, budget);
            let scope = scope(&facts, parameter, &variables);
            let field = if mutation["patchType"] == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" };
            let source = mutation.str_at(&[field, "expression"]);
            let made = Facts::evaluate(&server.expressions, source, |e| e.json(&scope, budget))
                .map_err(|why| format!("expression '{source}' resulted in error: {why}"))?;
            if field == "jsonPatch" {
                patch::json_patch(&mut current, &made).map_err(|e| format!("the patch can't be applied: {e}"))?;
            } else {
                if let Some(member) = ["apiVersion", "kind", "metadata.name", "metadata.namespace", "metadata.uid"]
                    .into_iter()
                    .find(|path| !made.at(&path.split('.').collect::<Vec<_>>()).is_null())
                {
                    return Err(format!("an apply configuration must not set {member}"));
                }
                current = server.catalog.typed(kind).merge(&current, &made);
            }
            bounded::check_result(&current).map_err(|why| format!("of the object that results, {why}"))?;
        }
    }
    Ok(current)
}
