//! `Event`: what happened to an object.

use apimachinery::{ObjectExt as _, clock, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{Column, Printer, name, text, wide};
use crate::kinds::{Absent, Kind, SelectedField, Strategy};
use crate::validate::field::{Causes, Field, invalid_text};

const FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "type",
    "source",
];

pub static KIND: Kind = Kind {
    short_names: &["ev"],
    selectable: FIELDS,
    strategy: Strategy {
        made_by_updates: true,
        validate: |event, _, causes| check(event, false, causes),
        printer: Printer { columns: COLUMNS, row },
        convert,
        // One of the newer kind has no source, but a controller that reports it; it is chosen by either name.
        selected: &[SelectedField::new("source", "source.component", Absent::As("reportingComponent"))],
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "Event", "events")
};

/// What fields of an event are called in the core group, and in `events.k8s.io`.
const EVENT_NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Calls an event's fields as the group of `version` does.
pub fn convert(event: &mut Value, version: &str) {
    let to_core = version == KIND.version;
    let Some(map) = event.as_object_mut() else { return };
    for (core, newer) in EVENT_NAMES {
        let (from, to) = if to_core { (newer, core) } else { (core, newer) };
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}

/// `newer` for an event that is written through `events.k8s.io`, in the core group's form.
pub fn check(event: &Value, newer: bool, causes: &mut Causes) {
    let object = Field::root(event);
    let (of, namespace) = (object.at("involvedObject").at("namespace"), object.at("metadata").at("namespace").text());
    let timed = !object.at("eventTime").is_empty();
    // Events of objects without a namespace are in `default`, or in the system's.
    let fits = match (of.is_empty(), timed) {
        (true, false) => namespace == "default",
        (true, true) => ["default", "kube-system"].contains(&namespace),
        (false, false) => of.text() == namespace,
        (false, true) => true,
    };
    if !fits {
        of.invalid("does not match event.namespace", causes);
    }
    if !timed {
        return;
    }
    let controller = object.at("reportingComponent");
    let named = if newer { Field::new(controller.value, "reportingController") } else { controller };
    if named.require("", causes) {
        named.is(names::qualified_name, causes);
    }
    for (field, most) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        if object.at(field).require("", causes) && object.at(field).text().len() > most {
            causes.push(invalid_text(field, "", &format!("can have at most {most} characters")));
        }
    }
    if object.at("message").text().len() > 1024 {
        causes.push(invalid_text("message", "", "can have at most 1024 characters"));
    }
}

pub const COLUMNS: &[Column] = &[
    text("Last Seen"),
    text("Type"),
    text("Reason"),
    text("Object"),
    wide("Subobject"),
    wide("Source"),
    text("Message"),
    wide("First Seen"),
    wide("Count"),
    Column { name: "Name", kind: "string", wide: true },
];

pub fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let first = [o.str_at(&["firstTimestamp"]), o.str_at(&["eventTime"]), o.meta("creationTimestamp")];
    let first = first.into_iter().find(|t| !t.is_empty()).unwrap_or("");
    let last = [o.str_at(&["series", "lastObservedTime"]), o.str_at(&["lastTimestamp"]), first];
    let last = last.into_iter().find(|t| !t.is_empty()).unwrap_or("");
    let object = &o["involvedObject"];
    let target = format!("{}/{}", object.str_at(&["kind"]).to_ascii_lowercase(), object.str_at(&["name"]));
    let source = [o.str_at(&["source", "component"]), o.str_at(&["reportingComponent"])];
    let source = source.into_iter().find(|s| !s.is_empty()).unwrap_or("").to_string();
    let host = o.str_at(&["source", "host"]);
    let source = if host.is_empty() { source } else { format!("{source}, {host}") };
    let count = o.i64_at(&["series", "count"]).or_else(|| o.i64_at(&["count"])).unwrap_or(1);
    vec![
        clock::age(last, now).into(),
        o.str_at(&["type"]).into(),
        o.str_at(&["reason"]).into(),
        target.into(),
        object.str_at(&["fieldPath"]).into(),
        source.into(),
        o.str_at(&["message"]).trim().into(),
        clock::age(first, now).into(),
        json!(count),
        name(o),
    ]
}
