//! `Node`: a machine that runs Pods.

use apimachinery::{Cause, ObjectExt as _, names};
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{AGE, Column, NAME, Printer, age, name, or_none, text, wide};
use crate::kinds::{Absent, Kind, SelectedField, Strategy, Subresource};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    short_names: &["no"],
    selectable: &["spec.unschedulable"],
    subresources: &[Subresource::Status, Subresource::NodeProxy],
    strategy: Strategy {
        validate,
        // It says at once how it is (upstream's `nodeStrategy`).
        created_with_status: true,
        printer: Printer { columns: COLUMNS, row },
        selected: &[SelectedField::new("spec.unschedulable", "spec.unschedulable", Absent::Is("false"))],
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "Node", "nodes")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    let mut seen = std::collections::HashSet::new();
    for taint in spec.at("taints").items() {
        let (key, effect) = (taint.at("key"), taint.at("effect"));
        if key.require("name part must be non-empty", causes) {
            key.is(names::qualified_name, causes);
        }
        taint.at("value").is(names::label_value, causes);
        effect.must_be(&["NoSchedule", "PreferNoSchedule", "NoExecute"], causes);
        let pair = (key.text(), effect.text());
        if !seen.insert(pair) {
            causes.push(Cause::duplicate(&taint.path, taint.value));
        }
    }
    let status = object.at("status");
    for list in ["capacity", "allocatable"] {
        for (_, amount) in status.at(list).entries() {
            amount.quantity(causes);
        }
    }
    let mut told = std::collections::HashSet::new();
    for address in status.at("addresses").items() {
        if !told.insert((address.at("type").text(), address.at("address").text())) {
            causes.push(Cause::duplicate(&address.path, address.value));
        }
    }
    if let Some(old) = old {
        for field in ["podCIDR", "providerID"] {
            let before = old["spec"][field].as_str().unwrap_or("");
            if !before.is_empty() && before != spec.at(field).text() {
                let why = format!("node updates may not change {field} except from \"\" to valid");
                spec.at(field).forbid(&why, causes);
            }
        }
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    text("Status"),
    text("Roles"),
    AGE,
    text("Version"),
    wide("Internal-IP"),
    wide("External-IP"),
    wide("OS-Image"),
    wide("Kernel-Version"),
    wide("Container-Runtime"),
];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let ready = o.array_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| c.str_at(&["status"])) {
        Some("True") => "Ready".to_string(),
        Some(_) => "NotReady".into(),
        None => "Unknown".into(),
    };
    if o["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let roles: std::collections::BTreeSet<&str> = o
        .labels()
        .into_iter()
        .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if k == "kubernetes.io/role" && !v.is_empty() => Some(v),
            _ => None,
        })
        .collect();
    let address = |kind: &str| {
        let found = o.array_at(&["status", "addresses"]).iter().find(|a| a["type"] == kind);
        or_none(found.map(|a| a.str_at(&["address"])).unwrap_or(""))
    };
    let info = |field: &str| -> Value {
        let text = o.str_at(&["status", "nodeInfo", field]);
        if text.is_empty() { "<unknown>".into() } else { text.into() }
    };
    // Since v1.36 with the architecture.
    let kernel =
        match (o.str_at(&["status", "nodeInfo", "kernelVersion"]), o.str_at(&["status", "nodeInfo", "architecture"])) {
            (kernel, architecture) if !kernel.is_empty() && !architecture.is_empty() => {
                format!("{kernel} ({architecture})").into()
            }
            _ => info("kernelVersion"),
        };
    vec![
        name(o),
        status.into(),
        or_none(&roles.into_iter().collect::<Vec<_>>().join(",")),
        age(o, now),
        o.str_at(&["status", "nodeInfo", "kubeletVersion"]).into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        kernel,
        info("containerRuntimeVersion"),
    ]
}
