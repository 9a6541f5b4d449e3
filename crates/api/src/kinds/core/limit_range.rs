//! `LimitRange`: bounds and defaults of what the Pods and claims of a namespace ask for.

use apimachinery::Quantity;
use serde_json::{Map, Value, json};

use super::GROUP;
use crate::defaults::{child, default, items, spec};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field, invalid_text};

pub static KIND: Kind = Kind {
    short_names: &["limits"],
    strategy: Strategy { defaults, validate, ..Strategy::PLAIN },
    ..Kind::namespaced(GROUP, "v1", "LimitRange", "limitranges")
};

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    for limit in items(spec, "limits") {
        if limit.get("type").and_then(Value::as_str) != Some("Container") {
            continue;
        }
        // A container's default limit is the maximum, its default request the default limit, else the minimum.
        if let Some(max) = limit.get("max").cloned() {
            default(limit, "default", || json!({}));
            fill(limit, "default", &max);
        }
        let from = limit.get("default").cloned();
        default(limit, "defaultRequest", || json!({}));
        if let Some(from) = from {
            fill(limit, "defaultRequest", &from);
        }
        if let Some(min) = limit.get("min").cloned() {
            fill(limit, "defaultRequest", &min);
        }
        if limit.get("defaultRequest") == Some(&json!({})) {
            limit.remove("defaultRequest");
        }
    }
}

fn fill(map: &mut Map<String, Value>, key: &str, from: &Value) {
    let Some(target) = child(map, key) else { return };
    for (k, v) in from.as_object().into_iter().flatten() {
        default(target, k, || v.clone());
    }
}

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    object.at("spec").at("limits").unique("type", causes);
    for limit in object.at("spec").at("limits").items() {
        limit.at("type").require("", causes);
        let of = |list: &str, name: &str| -> Option<Quantity> {
            let value = limit.at(list).at(name);
            value.is_set().then(|| Quantity::from_json(value.value)).flatten()
        };
        if limit.at("type").text() == "Pod" {
            for list in ["default", "defaultRequest"] {
                if !limit.at(list).is_empty() {
                    limit.at(list).forbid("may not be specified when `type` is 'Pod'", causes);
                }
            }
        }
        let mut resources: Vec<&str> = Vec::new();
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            for (name, amount) in limit.at(list).entries() {
                amount.quantity(causes);
                if !resources.contains(&name) {
                    resources.push(name);
                }
            }
        }
        for name in resources {
            // Each must not be above the next.
            let order = ["min", "defaultRequest", "default", "max"];
            for (i, low) in order.iter().enumerate() {
                for high in &order[i + 1..] {
                    let (Some(a), Some(b)) = (of(low, name), of(high, name)) else { continue };
                    if a > b {
                        let entry = limit.at(low);
                        let what = match *low {
                            "min" => "min value",
                            "defaultRequest" => "default request value",
                            _ => "default value",
                        };
                        let text = |list: &str| limit.at(list).at(name).value.as_str().unwrap_or("").to_string();
                        let what_high = match *high {
                            "max" => "max value",
                            "default" => "default limit value",
                            _ => "default request value",
                        };
                        let why = format!("{what} {} is greater than {what_high} {}", text(low), text(high));
                        causes.push(invalid_text(format!("{}[{name}]", entry.path), &text(low), &why));
                    }
                }
            }
        }
    }
}
