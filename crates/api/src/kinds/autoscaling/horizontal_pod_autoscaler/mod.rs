//! `HorizontalPodAutoscaler`: as many Pods as metrics ask for.

pub mod v1;

use apimachinery::{Cause, ObjectExt as _, Quantity, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, Column, NAME, Printer, age, int, name, number, text};
use crate::defaults::{child, default, default_list, set, spec};
use crate::kinds::{ALL, Kind, Strategy, Subresource};
use crate::validate::field::{Causes, Field};
use crate::validate::status;

pub static KIND: Kind = Kind {
    short_names: &["hpa"],
    categories: ALL,
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        defaults,
        validate,
        validate_status: Some(validate_status),
        printer: Printer { columns: COLUMNS, row },
        convert: v1::convert,
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
};

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default(spec, "minReplicas", || json!(1));
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
    set(object.as_object_mut(), "status", json!({"desiredReplicas": 0, "currentMetrics": null}));
}

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    let (least, most) = (spec.at("minReplicas"), spec.at("maxReplicas"));
    let minimum = least.value.as_i64().unwrap_or(1);
    if minimum < 0 {
        least.invalid("must be greater than or equal to 0", causes);
    }
    // Where there are no pods, only what is told by others can ask for some (KEP-2021).
    let is_foreign = |metric: Field<'_>| ["External", "Object"].contains(&metric.at("type").text());
    if minimum == 0 && !spec.at("metrics").items().any(is_foreign) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        spec.at("metrics").forbid(why, causes);
    }
    match most.value.as_i64().unwrap_or(0) {
        n if n < 1 => most.invalid("must be greater than 0", causes),
        n if n < minimum => most.invalid("must be greater than or equal to `minReplicas`", causes),
        _ => {}
    }
    let target = spec.at("scaleTargetRef");
    for field in ["kind", "name"] {
        if target.at(field).require("", causes) {
            target.at(field).is(names::path_segment, causes);
        }
    }
    for metric in spec.at("metrics").items() {
        self::metric(&metric, causes);
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.at("behavior").at(direction);
        let window = rules.at("stabilizationWindowSeconds");
        if window.value.as_i64().is_some_and(|n| n < 0) {
            window.invalid("must be greater than or equal to zero", causes);
        }
        if window.value.as_i64().is_some_and(|n| n > 3600) {
            window.invalid("must be less than or equal to 3600", causes);
        }
        rules.at("selectPolicy").one_of(&["Disabled", "Max", "Min"], causes);
        if rules.is_set() && rules.at("policies").is_set() {
            rules.at("policies").require("must specify at least one Policy", causes);
        }
        for policy in rules.at("policies").items() {
            policy.at("type").must_be(&["Percent", "Pods"], causes);
            if policy.at("value").value.as_i64().unwrap_or(0) <= 0 {
                policy.at("value").invalid("must be greater than zero", causes);
            }
            let period = policy.at("periodSeconds");
            match period.value.as_i64().unwrap_or(0) {
                n if n <= 0 => period.invalid("must be greater than zero", causes),
                n if n > 1800 => period.invalid("must be less than or equal to 1800", causes),
                _ => {}
            }
        }
    }
}

fn validate_status(object: &Value, _: &Value, causes: &mut Causes) {
    status::counts(&status::of(object), &["currentReplicas", "desiredReplicas"], causes);
}

fn metric(metric: &Field<'_>, causes: &mut Causes) {
    const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
    metric.at("type").must_be(TYPES, causes);
    let (field, named) = match metric.at("type").text() {
        "ContainerResource" => ("containerResource", &["name", "container"][..]),
        "External" => ("external", &[][..]),
        "Object" => ("object", &[][..]),
        "Pods" => ("pods", &[][..]),
        "Resource" => ("resource", &["name"][..]),
        _ => return,
    };
    let source = metric.at(field);
    if !source.is_set() {
        causes.push(Cause::required(source.path, "must populate information for the given metric source"));
        return;
    }
    for name in named {
        source.at(name).require("", causes);
    }
    if named.is_empty() {
        source.at("metric").at("name").require("must specify a metric name", causes);
    }
    let target = source.at("target");
    target.at("type").must_be(&["AverageValue", "Utilization", "Value"], causes);
    let set = ["averageUtilization", "averageValue", "value"].map(|f| target.at(f));
    if set.iter().all(|f| !f.is_set()) {
        causes.push(Cause::required(&target.path, "must specify a target value"));
    }
    set[0].positive(causes);
    for amount in &set[1..] {
        if amount.is_set()
            && let Some(amount_value) = amount.quantity(causes)
            && amount_value <= Quantity::ZERO
        {
            amount.invalid("must be positive", causes);
        }
    }
}

const COLUMNS: &[Column] =
    &[NAME, text("Reference"), text("Targets"), text("MinPods"), text("MaxPods"), number("Replicas"), AGE];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let target = &o["spec"]["scaleTargetRef"];
    let min = o.i64_at(&["spec", "minReplicas"]).map_or("<unset>".into(), |n| n.to_string());
    vec![
        name(o),
        format!("{}/{}", target.str_at(&["kind"]), target.str_at(&["name"])).into(),
        targets(o).into(),
        min.into(),
        json!(int(o, &["spec", "maxReplicas"])),
        json!(int(o, &["status", "currentReplicas"])),
        age(o, now),
    ]
}

/// What an autoscaler aims at and where it is: `cpu: 35%/20%`, for its first two metrics.
fn targets(autoscaler: &Value) -> String {
    const SHOWN: usize = 2;
    let metrics = autoscaler.array_at(&["spec", "metrics"]);
    if metrics.is_empty() {
        return "<none>".into();
    }
    let reached = autoscaler.array_at(&["status", "currentMetrics"]);
    let shown = metrics.iter().take(SHOWN).enumerate();
    let list: Vec<String> = shown.map(|(i, metric)| target(metric, reached.get(i).unwrap_or(&Value::Null))).collect();
    let more = match metrics.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!(" + {more} more..."),
        _ => String::new(),
    };
    format!("{}{more}", list.join(", "))
}

fn target(metric: &Value, reached: &Value) -> String {
    let of = match metric.str_at(&["type"]) {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".into(),
    };
    let (wanted, current) = (&metric[of]["target"], &reached[of]["current"]);
    let amount = |of: &Value, key: &str| of[key].as_str().map(String::from);
    let known = |amount: Option<String>| amount.unwrap_or_else(|| "<unknown>".into());
    match of {
        "resource" | "containerResource" => {
            let name = metric[of].str_at(&["name"]);
            if let Some(average) = amount(wanted, "averageValue") {
                return format!("{name}: {}/{average}", known(amount(current, "averageValue")));
            }
            let percent = |of: &Value| of.i64_at(&["averageUtilization"]).map(|n| format!("{n}%"));
            format!("{name}: {}/{}", known(percent(current)), percent(wanted).unwrap_or_else(|| "<auto>".into()))
        }
        _ => {
            let Some(average) = amount(wanted, "averageValue") else {
                return format!(
                    "{}/{}",
                    known(amount(current, "value")),
                    amount(wanted, "value").unwrap_or_else(|| "0".into())
                );
            };
            let unit = if of == "pods" { "" } else { " (avg)" };
            format!("{}/{average}{unit}", known(amount(current, "averageValue")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_autoscalers_are_told_as_kubectl_tells_them() {
        let resource = |wanted: Value| json!({"type": "Resource", "resource": {"name": "cpu", "target": wanted}});
        let percent = resource(json!({"type": "Utilization", "averageUtilization": 20}));
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"averageValue": "5"}}});
        let external = json!({"type": "External", "external": {"target": {"value": "9"}}});
        let reached = json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 35, "averageValue": "7m"}}}]);
        for (metrics, reached, want) in [
            (json!([percent]), json!([]), "cpu: <unknown>/20%"),
            (json!([percent]), reached.clone(), "cpu: 35%/20%"),
            (json!([resource(json!({"averageValue": "1"}))]), reached, "cpu: 7m/1"),
            (json!([percent, pods, external]), json!([]), "cpu: <unknown>/20%, <unknown>/5 + 1 more..."),
            (json!([external]), json!([{"external": {"current": {"value": "3"}}}]), "3/9"),
            (json!([]), json!([]), "<none>"),
        ] {
            let object = json!({"spec": {"metrics": metrics}, "status": {"currentMetrics": reached}});
            assert_eq!(targets(&object), want);
        }
    }
}
