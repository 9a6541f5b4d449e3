//! Kinds of `resource.k8s.io`.

pub(crate) mod device_class;
pub(crate) mod device_taint_rule;
pub(crate) mod resource_claim;
pub(crate) mod resource_claim_template;
pub(crate) mod resource_slice;
mod validate;

use serde_json::{Map, Value};

use crate::defaults::{child, default_number, default_text, items};

const GROUP: &str = "resource.k8s.io";

table! {
    DEVICE_CLASSES = device_class;
    DEVICE_TAINT_RULES = device_taint_rule;
    RESOURCE_CLAIMS = resource_claim;
    RESOURCE_CLAIM_TEMPLATES = resource_claim_template;
    RESOURCE_SLICES = resource_slice;
}

/// The spec of a claim, its own or that of a template.
fn default_claim(claim: &mut Map<String, Value>) {
    let Some(devices) = child(claim, "devices") else { return };
    for asked in items(devices, "requests") {
        if let Some(exact) = child(asked, "exactly") {
            default_request(exact);
        }
        items(asked, "firstAvailable").for_each(default_request);
    }
}

/// When a device was tainted: now, if that isn't said.
fn default_taint(taint: &mut Map<String, Value>) {
    default_text(taint, "timeAdded", &apimachinery::clock::now_rfc3339());
}

fn default_request(of: &mut Map<String, Value>) {
    default_text(of, "allocationMode", "ExactCount");
    if of.get("allocationMode").is_some_and(|mode| mode == "ExactCount") {
        default_number(of, "count", 1);
    }
}
