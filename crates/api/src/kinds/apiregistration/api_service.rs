//! `APIService`: who serves a version of a group.

use apimachinery::{ObjectExt as _, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, text};
use crate::defaults::{child, default, spec};
use crate::kinds::{API_EXTENSIONS, Kind, Strategy, Subresource};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    categories: API_EXTENSIONS,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        updates_name_version: true,
        name: names::path_segment,
        defaults: |object| {
            if let Some(service) = spec(object).and_then(|spec| child(spec, "service")) {
                default(service, "port", || json!(443));
            }
        },
        validate,
        printer: Printer { columns: &[NAME, text("Service"), text("Available"), AGE], row },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "APIService", "apiservices")
};

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    let (group, version) = (spec.at("group").text(), spec.at("version").text());
    let wanted = format!("{version}.{group}");
    let name = object.at("metadata").at("name");
    if name.text() != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        name.invalid(&why, causes);
    }
    spec.at("version").require("", causes);
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let field = spec.at(field);
        if !field.value.as_i64().is_some_and(|n| (1..=most).contains(&n)) {
            field.invalid(&format!("must be positive and less than {most}"), causes);
        }
    }
    let service = spec.at("service");
    let unchecked = spec.at("insecureSkipTLSVerify").value == true;
    if !service.is_set() {
        if !spec.at("caBundle").is_empty() {
            spec.at("caBundle").invalid("local APIServices may not have a caBundle", causes);
        }
        return;
    }
    service.at("namespace").require("", causes);
    service.at("name").require("", causes);
    if unchecked && !spec.at("caBundle").is_empty() {
        spec.at("insecureSkipTLSVerify").invalid("may not be true if caBundle is present", causes);
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let service = match o.str_at(&["spec", "service", "name"]) {
        "" => "Local".to_string(),
        service => format!("{}/{service}", o.str_at(&["spec", "service", "namespace"])),
    };
    let available = o.array_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Available");
    let available = match available.map(|c| (c.str_at(&["status"]), c.str_at(&["reason"]))) {
        None => "Unknown".to_string(),
        Some((status, reason)) if status == "True" || reason.is_empty() => status.into(),
        Some((status, reason)) => format!("{status} ({reason})"),
    };
    vec![name(o), service.into(), available.into(), age(o, now)]
}
