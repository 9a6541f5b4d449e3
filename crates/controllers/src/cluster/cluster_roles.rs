//! ClusterRoles that aggregate others hold the rules of those that their selectors choose.

use std::time::Duration;

use apimachinery::LabelSelector;
use informer::{Informer, Key, Keyed as _};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore, pods};

pub fn start(context: Context) {
    let roles = context.informers.of::<ClusterRole>();
    let mut controller = Controller::about(&context, &roles);
    let all = roles.clone();
    // All roles that may have selected it, or select it now, and itself.
    controller.watch(&roles, move |_| {
        let all = all.list();
        all.iter().filter(|role| role.aggregation_rule.is_some()).map(|role| role.key()).collect::<Vec<_>>()
    });
    controller.run("clusterrole-aggregation", 1, ClusterRoleAggregation { context, roles });
}

struct ClusterRoleAggregation {
    context: Context,
    roles: Informer<ClusterRole>,
}

/// The rules of all chosen roles, in the order of their names, each once.
fn union(of: &ClusterRole, roles: &[std::sync::Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let selectors = of.aggregation_rule.as_ref().and_then(|a| a.cluster_role_selectors.as_ref());
    let selectors: Vec<LabelSelector> = selectors.into_iter().flatten().filter_map(pods::selector).collect();
    let mut rules: Vec<PolicyRule> = Vec::new();
    let chosen = roles.iter().filter(|r| {
        r.name_any() != of.name_any() && selectors.iter().any(|s| s.matches_map(r.metadata.labels.as_ref()))
    });
    for rule in chosen.flat_map(|r| r.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    rules
}

impl Reconcile for ClusterRoleAggregation {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(role) = self.roles.get(key).filter(|r| r.aggregation_rule.is_some()) else { return Ok(None) };
        let rules = union(&role, &self.roles.list());
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(None);
        }
        let api: Api<ClusterRole> = Api::all(self.context.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"uid": role.uid()}, "rules": rules}));
        ignore(api.patch(&key.name, &PatchParams::default(), &patch).await, &[404, 409]).map(|()| None)
    }
}
