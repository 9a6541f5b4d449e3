//! `LimitRange`: bounds and defaults of what the Pods and claims of a namespace ask for.

use apimachinery::{Cause, Quantity};
use serde_json::{Map, Value, json};

use super::GROUP;
use crate::defaults::{child, default, items, spec};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field, invalid_text};

pub static KIND: Kind = Kind {
    short_names: &["limits"],
    strategy: Strategy { made_by_updates: true, defaults, validate, ..Strategy::PLAIN },
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

/// How much more than its request a limit may be: at least as much, and no more than the bounds allow at all.
fn ratio(limit: &Field<'_>, name: &str, bounds: Option<(Quantity, Quantity)>, causes: &mut Causes) {
    let value = limit.at("maxLimitRequestRatio").at(name).value;
    let Some(most) = Quantity::from_json(value) else { return };
    let (path, text) = (format!("{}.maxLimitRequestRatio[{name}]", limit.path), value.as_str().unwrap_or(""));
    if most < Quantity::from_int(1) {
        causes.push(invalid_text(&path, text, &format!("ratio {text} is less than 1")));
    }
    if let Some((least, highest)) = bounds.filter(|(least, _)| least.milli() > 0) {
        let bound = highest.milli() as f64 / least.milli() as f64;
        if most.milli() as f64 / 1000.0 > bound {
            let why = format!("ratio {text} is greater than max/min = {bound:.6}");
            causes.push(invalid_text(&path, text, &why));
        }
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
        if limit.at("type").text() == "PersistentVolumeClaim" && of("min", "storage").or(of("max", "storage")).is_none()
        {
            let why = "either minimum or maximum storage value is required, but neither was provided";
            causes.push(Cause::required(format!("{}.limits", limit.path), why));
        }
        for name in resources {
            ratio(&limit, name, of("min", name).zip(of("max", name)), causes);
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
