//! What claims, their templates and device classes may ask for (upstream's `pkg/apis/resource/validation`).

use apimachinery::{Cause, ObjectExt as _};
use expressions::device;
use serde_json::Value;

use crate::validate::field::{Causes, Field, too_many};

/// Upstream's `DeviceRequestsMaxSize`, `FirstAvailableDeviceRequestMaxSize` and `DeviceSelectorsMaxSize`.
const MAX_REQUESTS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_SELECTORS: usize = 32;

/// The spec of a claim, its own or that of a template, at `path`.
pub fn claim(spec: &Value, path: &str, causes: &mut Causes) {
    let devices = format!("{path}.devices");
    let requests = spec.array_at(&["devices", "requests"]);
    if requests.len() > MAX_REQUESTS {
        let list = Field::new(spec.at(&["devices", "requests"]), format!("{devices}.requests"));
        return too_many(&list, MAX_REQUESTS, causes);
    }
    for (number, asked) in requests.iter().enumerate() {
        let path = format!("{devices}.requests[{number}]");
        name(asked, &path, &requests[..number], causes);
        match (asked.get("exactly"), asked.array_at(&["firstAvailable"])) {
            (Some(_), [_, ..]) => {
                let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                causes.push(Cause::invalid(path, asked, why));
            }
            (Some(exact), []) => request(exact, &format!("{path}.exactly"), causes),
            (None, []) => {
                causes.push(Cause::required(path, "exactly one of `exactly` or `firstAvailable` is required"));
            }
            (None, list) if list.len() > MAX_ALTERNATIVES => {
                let list = Field::new(&asked["firstAvailable"], format!("{path}.firstAvailable"));
                too_many(&list, MAX_ALTERNATIVES, causes);
            }
            (None, list) => {
                for (number, one) in list.iter().enumerate() {
                    let path = format!("{path}.firstAvailable[{number}]");
                    name(one, &path, &list[..number], causes);
                    request(one, &path, causes);
                }
            }
        }
    }
    for (number, constraint) in spec.array_at(&["devices", "constraints"]).iter().enumerate() {
        let is_known = ["matchAttribute", "distinctAttribute"].iter().any(|key| constraint.get(key).is_some());
        if !is_known {
            causes.push(Cause::required(format!("{devices}.constraints[{number}].matchAttribute"), ""));
        }
    }
}

/// Requests are called by names that no other one beside them has.
fn name(asked: &Value, path: &str, before: &[Value], causes: &mut Causes) {
    let name = asked.str_at(&["name"]);
    let path = format!("{path}.name");
    if name.is_empty() {
        causes.push(Cause::required(path, ""));
    } else if let Err(why) = apimachinery::names::dns1123_label(name) {
        causes.push(Cause::invalid(path, &asked["name"], &why));
    } else if before.iter().any(|other| other.str_at(&["name"]) == name) {
        causes.push(Cause::duplicate(path, &asked["name"]));
    }
}

fn request(of: &Value, path: &str, causes: &mut Causes) {
    if of.str_at(&["deviceClassName"]).is_empty() {
        causes.push(Cause::required(format!("{path}.deviceClassName"), ""));
    }
    selectors(&of["selectors"], &format!("{path}.selectors"), causes);
    let count = &of["count"];
    match of.str_at(&["allocationMode"]) {
        "ExactCount" if count.as_i64().is_none_or(|count| count <= 0) => {
            causes.push(Cause::invalid(format!("{path}.count"), count, "must be greater than zero"));
        }
        "All" if !count.is_null() => {
            let why = "must not be specified when allocationMode is 'All'";
            causes.push(Cause::invalid(format!("{path}.count"), count, why));
        }
        "ExactCount" | "All" => {}
        _ => {
            let modes = &["All", "ExactCount"];
            causes.push(Cause::not_supported(format!("{path}.allocationMode"), &of["allocationMode"], modes));
        }
    }
}

/// Selectors of devices, of which each is an expression.
pub fn selectors(selectors: &Value, path: &str, causes: &mut Causes) {
    let list = Field::new(selectors, path);
    let before = causes.len();
    too_many(&list, MAX_SELECTORS, causes);
    if causes.len() > before {
        return;
    }
    for (number, selector) in selectors.as_array().into_iter().flatten().enumerate() {
        let Some(cel) = selector.get("cel") else {
            causes.push(Cause::required(format!("{path}[{number}].cel"), ""));
            continue;
        };
        let path = format!("{path}[{number}].cel.expression");
        let source = cel.str_at(&["expression"]);
        if source.len() > device::MAX_BYTES {
            let message = format!("Too long: may not be more than {} bytes", device::MAX_BYTES);
            causes.push(Cause { reason: "FieldValueTooLong", field: path, message });
        } else if source.is_empty() {
            causes.push(Cause::required(path, ""));
        } else if let Err(why) = device::compile(source) {
            causes.push(Cause::invalid(path, &cel["expression"], &format!("compilation failed: {why}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_that_make_no_sense_are_refused_with_their_place() {
        let told = |requests: Value| {
            let mut causes = Causes::default();
            claim(&json!({"devices": {"requests": requests}}), "spec", &mut causes);
            causes.iter().map(|cause| cause.field.clone()).collect::<Vec<_>>()
        };
        let exact = |more: Value| {
            let mut exact = json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1});
            more.as_object().unwrap().iter().for_each(|(key, value)| exact[key] = value.clone());
            json!([{"name": "r", "exactly": exact}])
        };
        assert!(told(exact(json!({}))).is_empty());
        assert_eq!(told(exact(json!({"count": 0}))), ["spec.devices.requests[0].exactly.count"]);
        assert_eq!(told(exact(json!({"deviceClassName": ""}))), ["spec.devices.requests[0].exactly.deviceClassName"]);
        assert_eq!(told(exact(json!({"allocationMode": "Some"}))), ["spec.devices.requests[0].exactly.allocationMode"]);
        let selector = |expression: &str| exact(json!({"selectors": [{"cel": {"expression": expression}}]}));
        assert!(told(selector("device.attributes['a'].b == 1")).is_empty());
        for wrong in ["device.colour", "1", "device.attributes[", ""] {
            let place = "spec.devices.requests[0].exactly.selectors[0].cel.expression";
            assert_eq!(told(selector(wrong)), [place], "{wrong}");
        }
        assert_eq!(told(json!([{"name": "r"}])), ["spec.devices.requests[0]"]);
        let twice = json!({"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "All"}});
        assert_eq!(told(json!([twice, twice])), ["spec.devices.requests[1].name"]);
        let sub = json!({"name": "s", "deviceClassName": "c", "allocationMode": "All", "count": 1});
        let path = "spec.devices.requests[0].firstAvailable[0].count";
        assert_eq!(told(json!([{"name": "r", "firstAvailable": [sub]}])), [path]);
    }
}
