//! Defaults of `resource.k8s.io/v1`.

use serde_json::{Map, Value};

use super::{child, default_number, default_text, items, spec};

pub(super) fn devices(plural: &str, object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    let claim = match plural {
        "resourceclaims" => Some(spec),
        "resourceclaimtemplates" => child(spec, "spec"),
        _ => None,
    };
    let Some(devices) = claim.and_then(|claim| child(claim, "devices")) else { return };
    for asked in items(devices, "requests") {
        if let Some(exact) = child(asked, "exactly") {
            request(exact);
        }
        items(asked, "firstAvailable").for_each(request);
    }
}

fn request(of: &mut Map<String, Value>) {
    default_text(of, "allocationMode", "ExactCount");
    if of.get("allocationMode").is_some_and(|mode| mode == "ExactCount") {
        default_number(of, "count", 1);
    }
}
