//! The status of an admission policy says whether its expressions fit the kinds that it matches (type checking).

use std::time::Duration;

use api::custom::Definition;
use informer::{CustomResourceDefinition, Informer, Key, Keyed as _};
use k8s_openapi::api::admissionregistration::v1::{
    ExpressionWarning, TypeChecking, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyStatus,
};
use kube::ResourceExt as _;
use serde_json::Value;

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::dynamic::request;
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result, ignore};

pub fn start(context: Context) {
    let policies = context.informers.of::<ValidatingAdmissionPolicy>();
    let definitions = context.informers.of::<CustomResourceDefinition>();
    let mut controller = Controller::of(&context, &policies);
    let all = policies.clone();
    controller.watch(&definitions, move |change| {
        let group = &change.object().spec.group;
        all.list().iter().filter(|policy| names(policy, group)).map(|policy| policy.key()).collect::<Vec<_>>()
    });
    controller.run("validating-admission-policy-status", 1, PolicyStatusController { context, policies, definitions });
}

struct PolicyStatusController {
    context: Context,
    policies: Informer<ValidatingAdmissionPolicy>,
    definitions: Informer<CustomResourceDefinition>,
}

/// Whether a policy is about kinds of a group, or takes its parameters from there.
fn names(policy: &ValidatingAdmissionPolicy, group: &str) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let rules = spec.match_constraints.iter().flat_map(|of| of.resource_rules.iter().flatten());
    let params = spec.param_kind.as_ref().and_then(|of| of.api_version.as_deref()?.split_once('/'));
    rules.flat_map(|rule| rule.api_groups.iter().flatten()).any(|of| of == group)
        || params.is_some_and(|(of, _)| of == group)
}

impl Reconcile for PolicyStatusController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(policy) = self.policies.get(key) else { return Ok(None) };
        let Ok(object) = serde_json::to_value(&*policy) else { return Ok(None) };
        let mut about = Vec::new();
        for definition in self.definitions.list().iter().filter(|of| names(&policy, &of.spec.group)) {
            // The cache has no schemas.
            let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}", definition.name_any());
            match request(&self.context.client, "GET", &path, &Value::Null).await {
                Ok(object) => about.extend(Definition::read(&object)),
                Err(error) => ignore(Err::<(), _>(error), &[404])?,
            }
        }
        let warnings = api::type_checking::warnings(&object, &about);
        let warnings: Vec<ExpressionWarning> =
            serde_json::from_value(warnings.into()).map_err(kube::Error::SerdeError)?;
        let status = ValidatingAdmissionPolicyStatus {
            observed_generation: policy.metadata.generation,
            type_checking: Some(TypeChecking { expression_warnings: Some(warnings).filter(|w| !w.is_empty()) }),
            ..policy.status.clone().unwrap_or_default()
        };
        let written = patch_status_if_changed(&self.context, policy.as_ref(), policy.status.as_ref(), &status).await;
        ignore(written, &[409]).map(|()| None)
    }
}
