//! Admission policies are told whether their expressions go with the kinds that they are about.

use std::time::Duration;

use api::custom::Definition;
use informer::{Informer, Key, Keyed as _, Queue};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::toolkit::{Context, Result, ignore};

pub fn start(context: Context) {
    let policies = context.informers.of::<ValidatingAdmissionPolicy>();
    let definitions = context.informers.of::<CustomResourceDefinition>();
    let queue = Queue::of(&policies, context.events.clone());
    let add = queue.clone();
    policies.on_change(move |change| add.add(change.object().key()));
    let (add, all) = (queue.clone(), policies.clone());
    definitions.on_change(move |change| {
        let group = &change.object().spec.group;
        all.list().iter().filter(|policy| names(policy, group)).for_each(|policy| add.add(policy.key()));
    });
    queue.work("validating-admission-policy-status", 1, move |key| {
        let (context, policies, definitions) = (context.clone(), policies.clone(), definitions.clone());
        async move {
            informer::synced!(policies, definitions);
            reconcile(&context, &policies, &definitions, &key).await.map(|()| None::<Duration>)
        }
    });
}

/// Whether a policy is about kinds of a group, or takes its parameters from there.
fn names(policy: &ValidatingAdmissionPolicy, group: &str) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let rules = spec.match_constraints.iter().flat_map(|of| of.resource_rules.iter().flatten());
    let params = spec.param_kind.as_ref().and_then(|of| of.api_version.as_deref()?.split_once('/'));
    rules.flat_map(|rule| rule.api_groups.iter().flatten()).any(|of| of == group)
        || params.is_some_and(|(of, _)| of == group)
}

async fn reconcile(
    context: &Context,
    policies: &Informer<ValidatingAdmissionPolicy>,
    definitions: &Informer<CustomResourceDefinition>,
    key: &Key,
) -> Result {
    let Some(policy) = policies.get(key) else { return Ok(()) };
    let Ok(object) = serde_json::to_value(&*policy) else { return Ok(()) };
    let about = definitions.list();
    let about = about.iter().filter(|of| names(&policy, &of.spec.group));
    let about = about.filter_map(|of| Definition::read(&serde_json::to_value(&**of).ok()?)).collect::<Vec<_>>();
    let warnings = api::type_checking::warnings(&object, &about);
    let warnings = if warnings.is_empty() { Value::Null } else { warnings.into() };
    let (generation, status) = (policy.metadata.generation, &object["status"]);
    if status["observedGeneration"] == json!(generation)
        && status["typeChecking"].is_object()
        && status["typeChecking"]["expressionWarnings"] == warnings
    {
        return Ok(());
    }
    let patch = json!({"metadata": {"uid": policy.uid()}, "status": {
        "observedGeneration": generation, "typeChecking": {"expressionWarnings": warnings}}});
    let api: Api<ValidatingAdmissionPolicy> = Api::all(context.client.clone());
    let done = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
    ignore(done, &[404, 409])
}
