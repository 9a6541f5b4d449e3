//! `Event` as `events.k8s.io` shows it: the same objects as the core group's, with other names of fields.

use super::GROUP;
use crate::kinds::{EVENTS, Kind};

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
    ..Kind::namespaced(GROUP, "v1", "Event", "events")
};
