//! `Event`.

use super::GROUP;
use crate::kinds::Kind;

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

pub static KIND: Kind =
    Kind { short_names: &["ev"], selectable: FIELDS, ..Kind::namespaced(GROUP, "v1", "Event", "events") };
