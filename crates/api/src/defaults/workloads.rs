//! Deployments, StatefulSets and their kin.

use serde_json::{Map, Value, json};

use super::{child, default, default_list, default_text, items, spec, template};

fn template_labels(spec: &Map<String, Value>) -> Option<Value> {
    spec.get("template")?.get("metadata")?.get("labels").cloned()
}

pub fn replication_controller(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default(spec, "replicas", || json!(1));
    template(spec.get_mut("template"));
    if let Some(labels) = template_labels(spec) {
        default(spec, "selector", || labels);
    }
    super::set(object.as_object_mut(), "status", json!({"replicas": 0}));
}

pub fn apps(plural: &str, object: &mut Value) {
    if plural == "controllerrevisions" {
        return;
    }
    let Some(spec) = spec(object) else { return };
    template(spec.get_mut("template"));
    match plural {
        "deployments" => deployment(spec),
        "replicasets" => default(spec, "replicas", || json!(1)),
        "statefulsets" => stateful_set(spec),
        "daemonsets" => daemon_set(spec),
        _ => {}
    }
    let status = match plural {
        "statefulsets" => json!({"replicas": 0, "availableReplicas": 0}),
        "replicasets" => json!({"replicas": 0}),
        "daemonsets" => json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0
        }),
        _ => json!({}),
    };
    super::set(object.as_object_mut(), "status", status);
}

fn deployment(spec: &mut Map<String, Value>) {
    default(spec, "replicas", || json!(1));
    default(spec, "revisionHistoryLimit", || json!(10));
    default(spec, "progressDeadlineSeconds", || json!(600));
    default(spec, "strategy", || json!({}));
    let Some(strategy) = child(spec, "strategy") else { return };
    default_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        default(strategy, "rollingUpdate", || json!({}));
        if let Some(rolling) = child(strategy, "rollingUpdate") {
            default(rolling, "maxUnavailable", || json!("25%"));
            default(rolling, "maxSurge", || json!("25%"));
        }
    }
}

fn stateful_set(spec: &mut Map<String, Value>) {
    default(spec, "replicas", || json!(1));
    default(spec, "revisionHistoryLimit", || json!(10));
    default_text(spec, "podManagementPolicy", "OrderedReady");
    default(spec, "persistentVolumeClaimRetentionPolicy", || json!({}));
    if let Some(policy) = child(spec, "persistentVolumeClaimRetentionPolicy") {
        default_text(policy, "whenDeleted", "Retain");
        default_text(policy, "whenScaled", "Retain");
    }
    default(spec, "updateStrategy", || json!({}));
    if let Some(strategy) = child(spec, "updateStrategy") {
        if strategy.get("type").is_none_or(|kind| kind == "") {
            default(strategy, "rollingUpdate", || json!({}));
        }
        default_text(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            default(rolling, "partition", || json!(0));
            default(rolling, "maxUnavailable", || json!(1));
        }
    }
    for claim in items(spec, "volumeClaimTemplates") {
        default(claim, "kind", || json!("PersistentVolumeClaim"));
        default(claim, "apiVersion", || json!("v1"));
        default(claim, "status", || json!({"phase": "Pending"}));
        if let Some(claim_spec) = child(claim, "spec") {
            super::claim_spec(claim_spec);
        }
    }
}

fn daemon_set(spec: &mut Map<String, Value>) {
    default(spec, "revisionHistoryLimit", || json!(10));
    default(spec, "updateStrategy", || json!({}));
    if let Some(strategy) = child(spec, "updateStrategy") {
        default_text(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            default(strategy, "rollingUpdate", || json!({}));
            if let Some(rolling) = child(strategy, "rollingUpdate") {
                default(rolling, "maxUnavailable", || json!(1));
                default(rolling, "maxSurge", || json!(0));
            }
        }
    }
}

pub fn batch(plural: &str, object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    match plural {
        "jobs" => job(spec),
        "cronjobs" => {
            default_text(spec, "concurrencyPolicy", "Allow");
            default(spec, "suspend", || json!(false));
            default(spec, "successfulJobsHistoryLimit", || json!(3));
            default(spec, "failedJobsHistoryLimit", || json!(1));
            if let Some(template_spec) = child(spec, "jobTemplate").and_then(|t| child(t, "spec")) {
                template(template_spec.get_mut("template"));
            }
        }
        _ => {}
    }
    super::set(object.as_object_mut(), "status", json!({}));
}

fn job(spec: &mut Map<String, Value>) {
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        default(spec, "completions", || json!(1));
    }
    default(spec, "parallelism", || json!(1));
    let per_index = spec.contains_key("backoffLimitPerIndex");
    default(spec, "backoffLimit", || json!(if per_index { i64::from(i32::MAX) } else { 6 }));
    default(spec, "completionMode", || json!("NonIndexed"));
    default(spec, "suspend", || json!(false));
    default(spec, "manualSelector", || json!(false));
    for rule in child(spec, "podFailurePolicy").into_iter().flat_map(|policy| items(policy, "rules")) {
        for condition in items(rule, "onPodConditions") {
            default_text(condition, "status", "True");
        }
    }
    let policy = spec.contains_key("podFailurePolicy");
    default(spec, "podReplacementPolicy", || json!(if policy { "Failed" } else { "TerminatingOrFailed" }));
    template(spec.get_mut("template"));
}

pub fn autoscaler(version: &str, object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default(spec, "minReplicas", || json!(1));
    if version == "v1" {
        default(spec, "targetCPUUtilizationPercentage", || json!(80));
        super::set(object.as_object_mut(), "status", json!({"currentReplicas": 0, "desiredReplicas": 0}));
        return;
    }
    default_list(spec, "metrics", || {
        json!([{"type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}])
    });
    if let Some(behavior) = child(spec, "behavior") {
        let up = json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]);
        let down = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
        for (direction, policies, window) in [("scaleUp", up, Some(0)), ("scaleDown", down, None)] {
            default(behavior, direction, || json!({}));
            let Some(rules) = child(behavior, direction) else { continue };
            if let Some(window) = window {
                default(rules, "stabilizationWindowSeconds", || json!(window));
            }
            default(rules, "selectPolicy", || json!("Max"));
            default(rules, "policies", || policies);
        }
    }
    super::set(object.as_object_mut(), "status", json!({"desiredReplicas": 0, "currentMetrics": null}));
}
