//! `Event` as `events.k8s.io` shows it: the same objects as the core group's, with other names of fields.

use serde_json::Value;

use super::GROUP;
use crate::columns::Printer;
use crate::kinds::{EVENTS, Kind, Strategy, event};
use crate::validate::IMMUTABLE;
use crate::validate::field::{Causes, Field, invalid_text};

/// What the core group's selectable fields are called here, in the same order; the source can't be chosen by.
const FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

pub static KIND: Kind = Kind {
    short_names: &["ev"],
    selectable: FIELDS,
    kept_as: Some(EVENTS),
    strategy: Strategy {
        made_by_updates: true,
        validate,
        printer: Printer { columns: event::COLUMNS, row: |event, now| event::row(&core(event), now) },
        convert: event::convert,
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "Event", "events")
};

/// The event as the core group has it.
fn core(event: &Value) -> Value {
    let mut event = event.clone();
    event::convert(&mut event, EVENTS.version);
    event
}

fn validate(event: &Value, old: Option<&Value>, causes: &mut Causes) {
    let (event, old) = (core(event), old.map(core));
    event::check(&event, true, causes);
    check(&Field::root(&event), old.as_ref(), causes);
}

/// What is demanded of events that are written through `events.k8s.io` beside that.
fn check(object: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    const FIXED: [&str; 12] = [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingInstance",
    ];
    let series = object.at("series");
    if series.is_set() && old.is_none_or(|old| old["series"] != *series.value) {
        if series.at("count").value.as_i64().unwrap_or(0) < 2 {
            causes.push(invalid_text("series.count", "", "should be at least 2"));
        }
        series.at("lastObservedTime").require("", causes);
    }
    if let Some(old) = old {
        FIXED.iter().for_each(|field| object.at(field).immutable(Some(old), causes));
        let controller = Field::new(object.at("reportingComponent").value, "reportingController");
        if old["reportingComponent"] != *controller.value {
            controller.invalid(IMMUTABLE, causes);
        }
        return;
    }
    object.at("eventTime").require("", causes);
    let kind = object.at("type");
    if !["Normal", "Warning"].contains(&kind.text()) {
        causes.push(invalid_text("type", "", &format!("has invalid value: {}", kind.text())));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if !object.at(field).is_empty() && *object.at(field).value != 0 {
            causes.push(invalid_text(field, "", "needs to be unset"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema;

    #[test]
    fn events_are_the_same_in_both_groups() {
        let kind = &KIND;
        assert_eq!(kind.kept_as(), Some(EVENTS));
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "p"},
            "message": "m", "reportingComponent": "c", "reportingInstance": "i", "source": {"component": "s"}, "count": 2,
            "firstTimestamp": "2024-01-01T00:00:00Z", "series": {"count": 3}, "type": "Normal"});
        let mut newer = core.clone();
        kind.convert(&mut newer, "events.k8s.io/v1");
        assert_eq!(
            (&newer["note"], &newer["regarding"]["name"], &newer["deprecatedCount"]),
            (&json!("m"), &json!("p"), &json!(2))
        );
        assert_eq!((&newer["reportingController"], newer.get("message")), (&json!("c"), None));
        let fields = schema::types().check(&kind.schema(), &mut newer.clone());
        assert_eq!((fields.unknown.len(), fields.mismatched.len()), (0, 0), "{fields:?}");
        kind.convert(&mut newer, "v1");
        assert_eq!(newer, core);
    }
}
