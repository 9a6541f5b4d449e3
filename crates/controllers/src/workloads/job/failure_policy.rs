//! What the pod failure policy of a Job says of a pod that failed (KEP-3329).

use informer::Pod;
use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyRule};
use kube::ResourceExt as _;

/// What the pod failure policy says of a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Count,
    Ignore,
    FailJob(String),
    FailIndex,
}

pub(super) fn rules(spec: &JobSpec) -> &[PodFailurePolicyRule] {
    spec.pod_failure_policy.as_ref().map(|p| p.rules.as_slice()).unwrap_or_default()
}

pub(super) fn judge(rules: &[PodFailurePolicyRule], pod: &Pod) -> Verdict {
    let status = pod.status.clone().unwrap_or_default();
    for (number, rule) in rules.iter().enumerate() {
        let by_code = rule.on_exit_codes.as_ref().and_then(|codes| {
            let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
            statuses
                .filter(|c| codes.container_name.as_ref().is_none_or(|n| *n == c.name))
                .filter_map(|c| Some((c.name.clone(), c.state.as_ref()?.terminated.as_ref()?.exit_code)))
                .find(|(_, code)| *code != 0 && (codes.operator == "In") == codes.values.contains(code))
        });
        let by_condition = rule.on_pod_conditions.iter().flatten().find(|wanted| {
            let fits = |c: &informer::pod::PodCondition| {
                c.type_ == wanted.type_ && Some(c.status.as_str()) == wanted.status.as_deref().or(Some("True"))
            };
            status.conditions.iter().flatten().any(fits)
        });
        let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        let why = match (by_code, by_condition) {
            (Some((container, code)), _) => {
                format!("Container {container} for pod {name} failed with exit code {code}")
            }
            (None, Some(condition)) => format!("Pod {name} has condition {}", condition.type_),
            (None, None) => continue,
        };
        let why = format!("{why} matching {} rule at index {number}", rule.action);
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailJob" => Verdict::FailJob(why),
            "FailIndex" => Verdict::FailIndex,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}
