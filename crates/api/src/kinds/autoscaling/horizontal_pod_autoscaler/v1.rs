//! `HorizontalPodAutoscaler` of `autoscaling/v1`, the older version.

use apimachinery::ObjectExt as _;
use serde_json::{Map, Value, json};

use super::super::GROUP;
use crate::columns::Printer;
use crate::defaults::{default, set, spec};
use crate::kinds::{ALL, Kind, Strategy, Subresource};
use crate::schema;

pub static KIND: Kind = Kind {
    short_names: &["hpa"],
    categories: ALL,
    has_generation: true,
    subresources: &[Subresource::Status],
    kept_as: Some(&super::KIND),
    strategy: Strategy {
        defaults,
        validate: |object, old, causes| {
            let mut newest = object.clone();
            to_v2(&mut newest);
            super::validate(&newest, old, causes);
        },
        validate_status: Some(super::validate_status),
        printer: Printer { columns: super::COLUMNS, row: super::row },
        convert,
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
};

/// Where `autoscaling/v1` carries what it has no field for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default(spec, "minReplicas", || json!(1));
    default(spec, "targetCPUUtilizationPercentage", || json!(80));
    set(object.as_object_mut(), "status", json!({"currentReplicas": 0, "desiredReplicas": 0}));
}

/// Between the two versions.
pub fn convert(object: &mut Value, version: &str) {
    if version == KIND.api_version() { to_v1(object) } else { to_v2(object) }
}

fn is_processor(metric: &Value, target: &[&str]) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu" && metric["resource"].at(target).is_i64()
}

/// Moves what has no field of its own into an annotation.
fn lay_down(object: &mut Value, annotation: &str, value: Value) {
    let nothing = match &value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    if !nothing {
        let text = value.to_string();
        let annotations = object.meta_mut().entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(annotation.into(), text.into());
        }
    }
}

fn take_up(object: &mut Value, annotation: &str, of: &str) -> Value {
    let meta = object.meta_mut();
    let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) else { return Value::Null };
    let taken = annotations.remove(annotation);
    if annotations.is_empty() {
        meta.remove("annotations");
    }
    let mut value = taken.and_then(|text| serde_json::from_str(text.as_str()?).ok()).unwrap_or(Value::Null);
    // Users write annotations: what isn't of the type that belongs there is dropped, as upstream does.
    let fits = |value: &mut Value| {
        schema::types().check(&format!("io.k8s.api.autoscaling.v2.{of}"), value).mismatched.is_empty()
    };
    let right = match &mut value {
        Value::Array(items) => items.iter_mut().all(|item| item.is_object() && fits(item)),
        whole => fits(whole),
    };
    if right { value } else { Value::Null }
}

fn part<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(key)?.as_object_mut()
}

fn to_v1(object: &mut Value) {
    let mut metrics = Vec::new();
    let mut behavior = Value::Null;
    if let Some(spec) = part(object, "spec") {
        metrics = spec.remove("metrics").and_then(|m| m.as_array().cloned()).unwrap_or_default();
        behavior = spec.remove("behavior").unwrap_or(Value::Null);
        let target: &[&str] = &["target", "averageUtilization"];
        if let Some(at) = metrics.iter().position(|m| is_processor(m, target)) {
            let found = metrics.remove(at);
            spec.insert("targetCPUUtilizationPercentage".into(), found["resource"].at(target).clone());
        }
    }
    let (mut current, mut conditions) = (Vec::new(), Value::Null);
    if let Some(status) = part(object, "status") {
        current = status.remove("currentMetrics").and_then(|m| m.as_array().cloned()).unwrap_or_default();
        conditions = status.remove("conditions").unwrap_or(Value::Null);
        let reached: &[&str] = &["current", "averageUtilization"];
        if let Some(found) = current.iter().find(|m| is_processor(m, reached)) {
            status.insert("currentCPUUtilizationPercentage".into(), found["resource"].at(reached).clone());
        }
    }
    lay_down(object, METRICS, metrics.into());
    lay_down(object, BEHAVIOR, behavior);
    lay_down(object, CURRENT, current.into());
    lay_down(object, CONDITIONS, conditions);
}

fn to_v2(object: &mut Value) {
    let metrics = take_up(object, METRICS, "MetricSpec");
    let behavior = take_up(object, BEHAVIOR, "HorizontalPodAutoscalerBehavior");
    let current = take_up(object, CURRENT, "MetricStatus");
    let conditions = take_up(object, CONDITIONS, "HorizontalPodAutoscalerCondition");
    if let Some(spec) = part(object, "spec") {
        let mut all = metrics.as_array().cloned().unwrap_or_default();
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            all.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !all.is_empty() {
            spec.insert("metrics".into(), all.into());
        }
        if behavior.is_object() {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = part(object, "status") {
        status.remove("currentCPUUtilizationPercentage");
        if current.is_array() {
            status.insert("currentMetrics".into(), current);
        }
        if conditions.is_array() {
            status.insert("conditions".into(), conditions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn autoscalers_survive_the_way_to_the_older_version_and_back() {
        let kind = kinds::HORIZONTAL_POD_AUTOSCALERS;
        let processor = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}});
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
        let new = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "metrics": [processor, memory], "behavior": {"scaleDown": {"selectPolicy": "Disabled"}}},
            "status": {"desiredReplicas": 1, "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": 7, "averageValue": "7m"}}}], "conditions": [{"type": "AbleToScale"}]}});
        let mut old = new.clone();
        kind.convert(&mut old, "autoscaling/v1");
        assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 60);
        assert_eq!(old["status"]["currentCPUUtilizationPercentage"], 7);
        assert!(old["spec"].get("metrics").is_none() && old["spec"].get("behavior").is_none());
        let mut back = old;
        kind.convert(&mut back, "autoscaling/v2");
        assert_eq!(back, new);
    }

    #[test]
    fn annotations_that_users_made_up_are_dropped() {
        let kind = &KIND;
        let mut object = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a", "annotations": {METRICS: "[1]", BEHAVIOR: "{\"scaleUp\": 1}", CURRENT: "nonsense"}},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 60}});
        kind.convert(&mut object, "autoscaling/v2");
        assert!(object["metadata"].get("annotations").is_none(), "{object}");
        assert_eq!(object["spec"]["metrics"].as_array().map(Vec::len), Some(1), "{object}");
        assert!(object["spec"].get("behavior").is_none(), "{object}");
    }
}
