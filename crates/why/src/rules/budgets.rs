//! Disruption budgets: those that keep a node from being drained, and those that never let a pod go.

use serde_json::Value;

use super::pod;
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, int, is_true, name, namespace, selects, text};
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of budgets.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for budget in s.all(Kind::PodDisruptionBudget) {
        let Some(selector) = object::selector(budget, "/spec/selector") else { continue };
        let space = namespace(budget);
        if !s.knows(Kind::Pod, space) {
            continue;
        }
        let pods: Vec<&Value> = s
            .within(Kind::Pod, space)
            .filter(|pod| selects(&selector, pod) && !["Succeeded", "Failed"].contains(&text(pod, "/status/phase")))
            .collect();
        out.extend(judge(s, budget, &pods));
    }
}

fn judge(s: &Snapshot, budget: &Value, pods: &[&Value]) -> Option<Finding> {
    let object = ObjectRef::of(Kind::PodDisruptionBudget, budget);
    let show = format!("kubectl -n {} describe pdb {}", namespace(budget), name(budget));
    if pods.is_empty() {
        let says = "it selects no pod, so it protects nothing";
        return Some(Finding::new(&codes::BUDGET_SELECTS_NOTHING, object, says).next(show));
    }
    let allowed = int(budget, "/status/disruptionsAllowed").unwrap_or(0);
    let (healthy, desired, expected) = (
        int(budget, "/status/currentHealthy").unwrap_or(0),
        int(budget, "/status/desiredHealthy").unwrap_or(0),
        int(budget, "/status/expectedPods").unwrap_or(0),
    );
    if allowed > 0 || is_new(budget) {
        return None;
    }
    let figures = format!("{healthy} pods are healthy and {desired} of {expected} must be, so none may be evicted");
    let cordoned = pods.iter().find_map(|pod| {
        let node = s.get(Kind::Node, "", text(pod, "/spec/nodeName"))?;
        is_true(node, "/spec/unschedulable").then_some((*pod, node))
    });
    if let Some((pod, node)) = cordoned {
        let says = format!("it keeps node {} from being drained: {figures}", name(node));
        let mut finding =
            Finding::new(&codes::BUDGET_DRAIN, object, says).detail(format!("Pod {} is on that node", name(pod)));
        finding.because.extend(pods.iter().filter(|pod| !pod::is_ready(pod)).map(|pod| ObjectRef::of(Kind::Pod, pod)));
        let owner = pod::owner(s, pod);
        let scale = format!(
            "kubectl -n {} scale {} {} --replicas={}",
            owner.namespace,
            owner.kind.word(),
            owner.name,
            expected.saturating_add(1)
        );
        return Some(finding.follows("kubectl drain waits").next(scale).next(show));
    }
    if desired >= expected && expected > 0 {
        let says = format!("it never lets a pod be evicted: {desired} of {expected} must be healthy");
        return Some(
            Finding::new(&codes::BUDGET_IMPOSSIBLE, object, says)
                .follows("a node with one of them can't be drained")
                .next(show),
        );
    }
    None
}

/// Whether its controller hasn't looked at it yet.
fn is_new(budget: &Value) -> bool {
    int(budget, "/status/observedGeneration") < int(budget, "/metadata/generation")
        || budget.pointer("/status/expectedPods").is_none()
}
